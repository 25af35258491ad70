"""Convolutions of every kind beside PyTorch: forward, gradient of the input, gradient of the weights.

What is counted. Both sides find operands prepared and leave the result where the next layer would take it. Faltung: one
compiled graph computes the result and both gradients, and the time is that of the kernels of each, read from the
threads' clocks; operands come from another convolution, so that they lie as inside a network, and a copy into another
layout that a result needs in every run is charged to it. Inputs of up to 4 channels are plain arrays, as images are.
PyTorch: calls of `convolution` and `convolution_backward` on prepared tensors, in row-major order and with channels
last, whichever is faster; what a call on next to nothing takes is subtracted. Copying arguments in and results out is
counted on neither side.

Both are measured in turns, round by round, with as many threads; medians, and the median of the rounds' ratios.
Before anything is timed, the results must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from statistics import median
from typing import Any

import numpy as np

import faltung as ft
from bench.timing import table
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor
from faltung.runtime.model import Model
from faltung.runtime.threads import set_threads

PASSES = ("forward", "input", "weight")
ROUNDS, QUICK_ROUNDS = 11, 5
SLICE = 0.01  # seconds of calls in a round, on each side
PAUSE = 0.01  # between the sides: threads that have just worked spin before they sleep
SOURCE = 4  # channels of the input of the convolution that makes the operands
TOLERANCE = 3e-5  # relative, in the 2-norm
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Shape:
    """One convolution without bias; window, stride, dilation and padding are the same on all axes."""

    name: str
    batch: int
    c: int
    f: int
    groups: int
    extent: tuple[int, ...]
    kernel: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    padding: int = -1  # -1: what keeps the extent at stride 1

    @property
    def around(self) -> int:
        return self.dilation * (self.kernel - 1) // 2 if self.padding < 0 else self.padding

    @property
    def weights(self) -> tuple[int, ...]:
        window = (self.kernel,) * len(self.extent)
        return (self.c, self.f // self.groups, *window) if self.transposed else (self.f, self.c // self.groups, *window)

    def out(self) -> tuple[int, ...]:
        """Extents of the result."""
        reach = self.dilation * (self.kernel - 1) + 1
        if self.transposed:
            return tuple((e - 1) * self.stride - 2 * self.around + reach for e in self.extent)
        return tuple((e + 2 * self.around - reach) // self.stride + 1 for e in self.extent)

    def flops(self) -> int:
        """Two a product, products with the zeros of a border among them; the three passes have the same number."""
        positions = prod(self.extent if self.transposed else self.out())
        return 2 * self.batch * self.c * self.f // self.groups * self.kernel ** len(self.extent) * positions


# fmt: off
TABLE = [
    #     name                           N   C    F    groups extent        k   options
    Shape("depthwise 32 at 112",         1,  32,  32,  32,  (112, 112),     3),
    Shape("depthwise 96 at 112 /2",      1,  96,  96,  96,  (112, 112),     3, 2),
    Shape("depthwise 144 at 56",         1,  144, 144, 144, (56, 56),       3),
    Shape("depthwise 144 at 56 /2",      1,  144, 144, 144, (56, 56),       3, 2),
    Shape("depthwise 192 at 28, b8",     8,  192, 192, 192, (28, 28),       3),
    Shape("depthwise 384 at 14, b8",     8,  384, 384, 384, (14, 14),       3),
    Shape("depthwise 576 at 14 /2, b8",  8,  576, 576, 576, (14, 14),       3, 2),
    Shape("depthwise 960 at 7, b8",      8,  960, 960, 960, (7, 7),         3),
    Shape("depthwise 120 at 28 k5",      8,  120, 120, 120, (28, 28),       5),
    Shape("depthwise 96 at 56 k7",       1,  96,  96,  96,  (56, 56),       7),
    Shape("depthwise 50 at 30 d2",       8,  50,  50,  50,  (30, 30),       3, 1, 2),
    Shape("depthwise 3-D 32",            1,  32,  32,  32,  (16, 28, 28),   3),
    Shape("depthwise 1-D 256 k31",       8,  256, 256, 256, (400,),         31),
    Shape("channel multiplier 2",        8,  64,  128, 64,  (28, 28),       3),
    Shape("32 groups of 4",              1,  128, 128, 32,  (56, 56),       3),
    Shape("32 groups of 8, b8",          8,  256, 256, 32,  (14, 14),       3),
    Shape("32 groups of 16 /2",          1,  512, 512, 32,  (28, 28),       3, 2),
    Shape("8 groups of 32",              1,  256, 256, 8,   (28, 28),       3),
    Shape("4 groups of 4, b32",          32, 16,  16,  4,   (28, 28),       3),
    Shape("3 groups of 80, 1×1, b8",     8,  240, 240, 3,   (28, 28),       1),
    Shape("2 groups of 48→128 k5",       4,  96,  256, 2,   (27, 27),       5),
    Shape("stem 3→64 7×7 /2",            1,  3,   64,  1,   (224, 224),     7, 2),
    Shape("stem 3→32 3×3 /2, b8",        8,  3,   32,  1,   (112, 112),     3, 2),
    Shape("3→96 11×11 /4",               1,  3,   96,  1,   (224, 224),     11, 4, padding=2),
    Shape("1→20 5×5, b32",               32, 1,   20,  1,   (28, 28),       5, padding=0),
    Shape("20→50 5×5, b32",              32, 20,  50,  1,   (12, 12),       5, padding=0),
    Shape("10→20 3×3, b8",               8,  10,  20,  1,   (32, 32),       3),
    Shape("32→3 3×3",                    1,  32,  3,   1,   (96, 96),       3),
    Shape("64→1 1×1, b8",                8,  64,  1,   1,   (56, 56),       1),
    Shape("3→3 5×5, b8",                 8,  3,   3,   1,   (64, 64),       5),
    Shape("64→64 3×3",                   1,  64,  64,  1,   (56, 56),       3),
    Shape("128→128 3×3 /2, b8",          8,  128, 128, 1,   (28, 28),       3, 2),
    Shape("128→128 3×3 d4",              1,  128, 128, 1,   (28, 28),       3, 1, 4),
    Shape("256→256 1×1, b8",             8,  256, 256, 1,   (14, 14),       1),
    Shape("64→64 5×5 b32",               32, 64,  64,  1,   (14, 14),       5),
    Shape("1-D 64→64 k3",                8,  64,  64,  1,   (1000,),        3),
    Shape("1-D 64→64 k9 /2",             8,  64,  64,  1,   (1000,),        9, 2),
    Shape("1-D 64→64 k3 d8",             8,  64,  64,  1,   (1000,),        3, 1, 8),
    Shape("3-D 3→64",                    1,  3,   64,  1,   (16, 56, 56),   3),
    Shape("3-D 64→128",                  1,  64,  128, 1,   (8, 28, 28),    3),
    Shape("3-D 32→64 /2",                1,  32,  64,  1,   (16, 28, 28),   3, 2),
    Shape("transposed 64→32 k3",         1,  64,  32,  1,   (56, 56),       3, transposed=True),
    Shape("transposed 64→32 k4 /2",      1,  64,  32,  1,   (28, 28),       4, 2, transposed=True, padding=1),
    Shape("transposed 32→16 k3 /3",      8,  32,  16,  1,   (20, 20),       3, 3, transposed=True, padding=0),
    Shape("transposed 64 in 16 groups",  8,  64,  64,  16,  (28, 28),       4, 2, transposed=True, padding=1),
    Shape("transposed depthwise 64",     8,  64,  64,  64,  (28, 28),       4, 2, transposed=True, padding=1),
]
# fmt: on


@dataclass(frozen=True)
class Result:
    """One pass of one shape: seconds (medians), how many times as long PyTorch takes, and the schedules."""

    name: str
    which: str
    threads: int
    faltung_s: float
    torch_s: float
    ratio: float
    gflops: float
    error: float
    schedule: str


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code: 1 where results disagree."""
    parser = argparse.ArgumentParser(prog="python -m bench convolutions", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=None, help="shapes whose name contains this")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--shard", default="1/1", help="i/n: the i-th of n parts of the table")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    number, of = (int(word) for word in arguments.shard.split("/"))
    shapes = [s for s in TABLE if arguments.only is None or arguments.only in s.name][number - 1 :: of]
    set_threads(arguments.threads)
    found = [r for s in shapes for r in measure(s, arguments.passes, QUICK_ROUNDS if arguments.quick else ROUNDS, arguments.threads)]
    print(json.dumps([asdict(r) for r in found]) if arguments.json else report(found))
    wrong = [r for r in found if not r.error <= TOLERANCE]
    for r in wrong:
        print(f"{r.name}, {r.which}: the results differ by {r.error:.1e}", file=sys.stderr)
    return 1 if wrong else 0


def report(found: Sequence[Result]) -> str:
    """The table, and where Faltung is slower."""
    head = ["convolution", "pass", "Faltung ms", "PyTorch ms", "ratio", "GFLOP/s", "schedule"]
    rows = [[r.name, r.which, f"{1e3 * r.faltung_s:.3f}", f"{1e3 * r.torch_s:.3f}", f"{r.ratio:.2f}", f"{r.gflops:.0f}", r.schedule] for r in found]
    slower = sorted((r for r in found if r.ratio < 1), key=lambda r: r.ratio)
    lines = [f"  {r.ratio:.2f}  {r.name}, {r.which}: {r.schedule}" for r in slower]
    last = [f"slower than PyTorch in {len(slower)} of {len(found)}:", *lines] if slower else [f"slower than PyTorch in none of {len(found)}"]
    return "\n".join([table(head, rows), "", *last])


# ---- one shape ----


def measure(shape: Shape, passes: Sequence[str], rounds: int, threads: int) -> list[Result]:
    """The passes of one shape, both sides in turns."""
    import torch

    torch.set_num_threads(threads)
    model, values = compiled(shape)
    y, by_x, by_k, x, cotangent = model(*values.values())
    ours = dict(zip(PASSES, (y, by_x, by_k), strict=True))
    k = model.program.held[[t.name for t in model.program.held].index("K")].read()
    calls = {which: peers(shape, which, x, k, cotangent) for which in passes}
    kernels = {which: charged(model, n) for n, which in enumerate(PASSES)}
    nothing = overhead(shape)
    taken: dict[str, list[tuple[float, float]]] = {which: [] for which in passes}
    runs = _runs(lambda: model.measure(values, 1, lambda: 0.0))
    for _ in range(rounds):
        time.sleep(PAUSE)
        _, ticks = model.measure(values, runs + 1, lambda: 0.0)
        working = np.array([t for t, _ in ticks[1:]])[..., 1].max(axis=1)  # of the slowest thread; the first run wakes them
        for which in passes:
            times = []
            for call in calls[which]:
                time.sleep(PAUSE)
                times.append(max(_seconds(call) - nothing, 1e-7))
            taken[which].append((float(np.median(working[:, kernels[which]].sum(axis=1))), min(times)))
    found = []
    for which in passes:
        a, b = median(t for t, _ in taken[which]), median(t for _, t in taken[which])
        names = dict.fromkeys(model.program.steps[n].schedule for n in kernels[which])
        expected = np.asarray(calls[which][0]())
        error = float(np.linalg.norm(ours[which] - expected) / max(float(np.linalg.norm(expected)), 1e-30))
        ratio = median(t / f for f, t in taken[which])
        found.append(Result(shape.name, which, threads, a, b, ratio, shape.flops() / a / 1e9, error, " + ".join(names)))
    return found


def compiled(shape: Shape) -> tuple[Model, dict[str, Array]]:
    """A model that gives the result, both gradients and the operands; and arrays for its inputs."""
    generator = np.random.default_rng(0)
    k = ft.parameter(generator.standard_normal(shape.weights).astype(np.float32), "K")
    x = _operand("x", shape.c, shape.extent)
    transposed = {1: ft.conv_transpose1d, 2: ft.conv_transpose2d, 3: ft.conv_transpose3d}
    function = (transposed if shape.transposed else CONVOLUTIONS)[len(shape.extent)]
    y = function(x, k, stride=shape.stride, padding=shape.around, dilation=shape.dilation, groups=shape.groups)
    cotangent = _operand("cotangent", shape.f, shape.out())
    model = ft.compile([y, *ft.grad(y, [x, k], cotangent), x, cotangent])
    inputs = {t.name or "": tuple(shape.batch if isinstance(e, Batch) else e for e in t.shape) for t in model.program.inputs}
    return model, {name: generator.standard_normal(size).astype(np.float32) for name, size in inputs.items()}


CONVOLUTIONS = {1: ft.conv1d, 2: ft.conv2d, 3: ft.conv3d}


def _operand(name: str, channels: int, extent: tuple[int, ...]) -> Tensor:
    """An operand that a convolution computes, and that therefore lies as operands do inside a network; or a plain one."""
    if channels <= SOURCE:
        return ft.input(name, (None, channels, *extent))
    rank = len(extent)
    values = np.random.default_rng(channels).standard_normal((channels, SOURCE, *(1,) * rank)).astype(np.float32)
    return CONVOLUTIONS[rank](ft.input(name, (None, SOURCE, *extent)), ft.parameter(values, f"{name} source"))


def charged(model: Model, number: int) -> list[int]:
    """Numbers of the kernels that compute output `number`, with the copies of operands that only they need."""
    steps, result = model.program.steps, model.program.outputs[number]
    own = [n for n, s in enumerate(steps) if result in s.buffers and s.tensor is _last_writer(model, result)]
    tensor = steps[own[-1]].tensor
    own = [n for n, s in enumerate(steps) if s.tensor is tensor]
    read = {b for n in own for b in steps[n].buffers}
    others = {b for n, s in enumerate(steps) if n not in own and s.equation in s.tensor.equations for b in s.buffers}
    copies = [n for n, s in enumerate(steps) if s.equation not in s.tensor.equations and set(_written(s)) & read - others]
    return sorted({*copies, *own})


def _last_writer(model: Model, buffer: int) -> Tensor:
    return next(s.tensor for s in reversed(model.program.steps) if buffer in _written(s))


def _written(step: Any) -> list[int]:
    return [b for b, d in zip(step.buffers, step.kernel.buffers, strict=True) if d.written]


# ---- the peer ----


def peers(shape: Shape, which: str, x: Array, k: Array, cotangent: Array) -> list[Callable[[], Any]]:
    """PyTorch's calls for a pass: row-major operands, then channels last where there is such a format."""
    import torch

    formats = {1: [torch.contiguous_format], 2: [torch.contiguous_format, torch.channels_last], 3: [torch.contiguous_format, torch.channels_last_3d]}
    rank = len(shape.extent)
    settings = ([shape.stride] * rank, [shape.around] * rank, [shape.dilation] * rank, shape.transposed, [0] * rank, shape.groups)

    def call(layout: Any) -> Callable[[], Any]:
        a, w, g = (torch.from_numpy(np.ascontiguousarray(v)).contiguous(memory_format=layout) for v in (x, k, cotangent))
        if which == "forward":
            return lambda: torch.ops.aten.convolution(a, w, None, *settings)
        mask = [which == "input", which == "weight", False]
        return lambda: torch.ops.aten.convolution_backward(g, a, w, None, *settings, mask)[which == "weight"]

    return [call(layout) for layout in formats[rank]]


def overhead(shape: Shape) -> float:
    """Seconds of a PyTorch call that has next to nothing to compute."""
    import torch

    rank = len(shape.extent)
    a, w = torch.ones(1, 1, *(1,) * rank), torch.ones(1, 1, *(1,) * rank)
    call = lambda: torch.ops.aten.convolution(a, w, None, [1] * rank, [0] * rank, [1] * rank, False, [0] * rank, 1)  # noqa: E731
    return min(_seconds(call) for _ in range(3))


def _seconds(call: Callable[[], Any]) -> float:
    """Seconds a call, over a slice of time, after one that is not counted."""
    started = time.perf_counter()
    call()
    count = max(1, min(50, int(SLICE / max(time.perf_counter() - started, 1e-7))))
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


def _runs(call: Callable[[], Any]) -> int:
    """How many calls fill a slice of time."""
    call()
    started = time.perf_counter()
    call()
    return max(1, min(30, int(SLICE / (time.perf_counter() - started))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
