"""Single kernels: convolutions of ResNet-50 and their gradients, as a share of this machine's multiply-add peak.

Each shape goes through the whole pipeline: a graph, its derived gradient, a compiled model. What is timed is the
work of the threads inside the kernels of that one result, with the peak measured before every run; operands
come from another convolution, so that they lie as they do inside a network. Besides the kernels of the schedule
this counts any others that the result needs; copies of weights into another layout are made once and not counted.

The median is what one may expect while other programs run; the best is the fastest run against the fastest
measurement of the peak. A long kernel is interrupted more often than the short peak kernel, so on a busy machine
the two lie far apart, and only runs whose two numbers agree say something about the code.

    forward    Y      input      X̄, the gradient of X      weight     K̄, the gradient of K
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import faltung as ft
from bench.timing import table
from faltung.graph.tensor import Tensor
from faltung.runtime.model import Model
from faltung.runtime.profile import sample
from faltung.runtime.threads import set_threads

RUNS = 25
SOURCE = 4  # channels of the input of the convolution that makes the operands
SMALL = 14  # maps up to this size are measured at batch 8 too
MANY = 8


@dataclass(frozen=True)
class Shape:
    """A square convolution without bias: channels, filters, extent of X, kernel, stride; padding keeps the extent."""

    c: int
    f: int
    extent: int
    kernel: int
    stride: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def out(self) -> int:
        """Extent of Y."""
        return (self.extent + 2 * self.padding - self.kernel) // self.stride + 1

    def flops(self, batch: int) -> int:
        """Two a product; the three passes have the same number of products, but for what padding makes zero."""
        return 2 * batch * self.c * self.f * self.kernel**2 * self.out**2

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}×{self.kernel}{stride} {self.c}→{self.f} at {self.extent}"


# every distinct 3×3 and 1×1 convolution of ResNet-50, the stride in the 3×3
TABLE = [
    #     C     F     extent kernel stride
    Shape(64,   64,   56, 1),
    Shape(64,   256,  56, 1),
    Shape(256,  64,   56, 1),
    Shape(256,  128,  56, 1),
    Shape(128,  512,  28, 1),
    Shape(512,  128,  28, 1),
    Shape(512,  256,  28, 1),
    Shape(256,  1024, 14, 1),
    Shape(1024, 256,  14, 1),
    Shape(1024, 512,  14, 1),
    Shape(512,  2048, 7,  1),
    Shape(2048, 512,  7,  1),
    Shape(256,  512,  56, 1, 2),
    Shape(512,  1024, 28, 1, 2),
    Shape(1024, 2048, 14, 1, 2),
    Shape(64,   64,   56, 3),
    Shape(128,  128,  56, 3, 2),
    Shape(128,  128,  28, 3),
    Shape(256,  256,  28, 3, 2),
    Shape(256,  256,  14, 3),
    Shape(512,  512,  14, 3, 2),
    Shape(512,  512,  7,  3),
]  # fmt: skip

PASSES = ("forward", "input", "weight")
QUICK = (TABLE[0], TABLE[11], TABLE[15], TABLE[19])


@dataclass(frozen=True)
class Result:
    """Medians over the runs; `share` is of the peak measured before each run, `best` of the fastest run."""

    shape: Shape
    which: str
    batch: int
    threads: int
    schedule: str
    rate: float
    peak: float
    share: float
    best: float

    def to_dict(self) -> dict[str, Any]:
        shape = {"c": self.shape.c, "f": self.shape.f, "extent": self.shape.extent}
        shape |= {"kernel": self.shape.kernel, "stride": self.shape.stride}
        found = {"pass": self.which, "batch": self.batch, "threads": self.threads, "schedule": self.schedule}
        return shape | found | {"gflops": self.rate / 1e9, "peak_gflops": self.peak / 1e9, "share": self.share, "best": self.best}


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench kernels", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="four shapes, forward only")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=None)
    parser.add_argument("--batch", type=int, nargs="+", default=None, help="for all shapes; else 1, and 8 for small maps")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    passes = arguments.passes or (PASSES[:1] if arguments.quick else PASSES)
    found = []
    for threads in arguments.threads:
        set_threads(threads)
        for which in passes:
            for shape in QUICK if arguments.quick else TABLE:
                for batch in arguments.batch or ((1, MANY) if shape.extent <= SMALL else (1,)):
                    found.append(measure(shape, which, batch, arguments.runs, threads))
    if arguments.json:
        print(json.dumps([r.to_dict() for r in found]))
    else:
        print(_text(found))
    return 0


def measure(shape: Shape, which: str, batch: int, runs: int, threads: int) -> Result:
    """One pass of one shape."""
    model = compiled(shape, which)
    found = sample(model, {"batch": batch}, runs)
    kernels = of_result(model)
    seconds = found.working[:, kernels].sum(axis=1)
    rates = shape.flops(batch) / np.maximum(seconds, 1e-12)
    schedules = dict.fromkeys(model.program.steps[k].schedule for k in kernels)
    peaks = np.maximum(found.peaks, 1.0)  # 0 where the machine has no counter to read
    return Result(
        shape, which, batch, threads, " + ".join(schedules), rate=float(median(rates)), peak=float(median(peaks)),
        share=float(median(rates / peaks)), best=float(rates.max() / peaks.max()),
    )  # fmt: skip


def compiled(shape: Shape, which: str, accuracy: str = "strict") -> Model:
    """The model of one pass, at an open batch size; strict means the direct way."""
    generator = np.random.default_rng(0)
    k = ft.parameter(generator.standard_normal((shape.f, shape.c, shape.kernel, shape.kernel)).astype(np.float32), "K")
    if which == "forward":
        return ft.compile(_convolution(shape, _made("x", shape.c, shape.extent), k), accuracy=accuracy)
    cotangent = _made("y", shape.f, shape.out)
    if which == "input":
        x = ft.input("X", (None, shape.c, shape.extent, shape.extent))
        return ft.compile(ft.grad(_convolution(shape, x, k), x, cotangent), accuracy=accuracy)
    return ft.compile(ft.grad(_convolution(shape, _made("x", shape.c, shape.extent), k), k, cotangent), accuracy=accuracy)


def _convolution(shape: Shape, x: Tensor, k: Tensor) -> Tensor:
    return ft.conv2d(x, k, stride=shape.stride, padding=shape.padding)


def _made(name: str, channels: int, extent: int) -> Tensor:
    """An operand that a convolution computes, and that therefore lies as operands do inside a network."""
    values = np.random.default_rng(1).standard_normal((channels, SOURCE, 1, 1)).astype(np.float32)
    return ft.conv2d(ft.input(name, (None, SOURCE, extent, extent)), ft.parameter(values, f"{name} source"))


def of_result(model: Model) -> list[int]:
    """Numbers of the kernels that compute the model's one result."""
    steps, (number,) = model.program.steps, model.program.outputs
    result = next(s.tensor for s in reversed(steps) if number in s.buffers)
    return [n for n, s in enumerate(steps) if s.tensor is result]


def _text(found: Sequence[Result]) -> str:
    parts = []
    for threads, which in dict.fromkeys((r.threads, r.which) for r in found):
        chosen = [r for r in found if (r.threads, r.which) == (threads, which)]
        rows = [
            [str(r.shape), str(r.batch), f"{r.rate / 1e9:.0f}", f"{r.peak / 1e9:.0f}", f"{100 * r.share:.1f}", f"{100 * r.best:.1f}", r.schedule]
            for r in chosen
        ]
        title = f"{which}, {threads} thread{'s' * (threads != 1)}: median {100 * median(r.share for r in chosen):.1f} % of peak"
        parts.append(f"{title}\n{table(['convolution', 'batch', 'GFLOP/s', 'peak', '%', 'best', 'schedule'], rows)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
