"""Every distinct convolution of six networks, where it stands in its network: how near to the peak, or to the memory, it runs.

Whole networks are run, one image at a time, and the threads' clocks are read kernel by kernel: so each layer finds its
operands where the layer before left them, and its weights where the rest of the network pushed them. What a layer computes
besides its sums (folded normalisation, activation, addition) is in its time and not in its flops.

    GFLOP/s    two for every product of the definition: Winograd's algorithm may exceed the peak
    %          of the multiply-add peak of all threads, measured before every run
    near %     the same when each unit of a kernel's work is done again right after the first time: its lines are in the
               first levels of cache then (traffic.py)
    GB/s       lines of memory that all threads move in the kernels' time: each thread what it reads, and what it writes
               twice, because a line is fetched before it is written
    memory     the part of the time that memory takes to move these lines and nothing else: measured, in turns with the
               network, by a run of it in which every kernel has given way to one that reads and writes the same lines by the
               same threads (traffic.py). Each line is so where the network leaves it, be it in a cache or in that of
               another processor. Above 100 % the kernel moves them better than that
    bound      by what the layer is bound. `bandwidth`: the lines alone take longer than the products at the peak. `latency`:
               it falls short of 85 % of the peak, and does not when its lines are near: it waits for them. Together they are
               what A. Yasin calls memory bound (A Top-Down Method for Performance Analysis, ISPASS 2014)

Each line is moved once in a layer, though a kernel may read it again. A layer that stands in several places counts by
the median of all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from ctypes import c_uint8
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.ctypeslib import as_array
from numpy.typing import NDArray

import faltung as ft
from bench.inference import NETWORKS
from bench.timing import table
from bench.traffic import TIMES, for_one_image, movers, repeated
from faltung import zoo
from faltung.graph.history import ITSELF
from faltung.graph.tensor import Tensor
from faltung.runtime import profile, threads
from faltung.runtime.model import Model
from faltung.runtime.plan import Plan

Array = NDArray[np.float64]

ACCURACIES = ("strict", "balanced")
ENOUGH = 85  # % of the peak that a direct kernel should reach unless it is bound by memory
ROUNDS = 5  # of runs of the network, and of its lines alone
RUNS = 7  # in a round


@dataclass(frozen=True, order=True)
class Shape:
    """A convolution without what is fused with it; extents, window, stride and padding by axis."""

    channels: int
    filters: int
    groups: int
    extents: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __str__(self) -> str:
        window = "×".join(map(str, self.window))
        stride = f" /{self.stride[0]}" if set(self.stride) != {1} else ""
        groups = f" in {self.groups} groups" if self.groups > 1 else ""
        return f"{window}{stride} {self.channels}→{self.filters} at {self.extents[0]}{groups}"


def shape(t: Tensor) -> Shape | None:
    """The shape of a tensor that a convolution computes; None for any other."""
    if not t.op.startswith("conv"):
        return None
    x, k = (t.operands[slot].shape for slot in (0, 1))
    forms = t.equation.read(0)[0].index[2:]
    rows = [form.name for form in t.equation.lhs[2:]]
    stride = tuple(form.coefficient(row or "") for form, row in zip(forms, rows, strict=True))
    padding = tuple(-int(form.const) for form in forms)
    channels, filters = for_one_image(x[1]), for_one_image(k[0])
    return Shape(channels, filters, channels // for_one_image(k[1]), tuple(map(for_one_image, x[2:])), tuple(map(for_one_image, k[2:])), stride, padding)


@dataclass(frozen=True)
class Seen:
    """A convolution where it stands in a network: medians over the runs."""

    shape: Shape
    network: str
    threads: int
    accuracy: str
    schedule: str
    flops: int
    moved: int  # bytes
    seconds: float
    share: float  # of the peak
    peak: float
    memory_s: float  # in which memory moves the bytes
    near_s: float  # with all lines near


@dataclass(frozen=True)
class Layer:
    """A distinct convolution, with one way to compute it: medians over the places where it stands."""

    name: str
    networks: str
    threads: int
    accuracy: str
    schedule: str
    gflops: float
    percent: float
    near: float  # % of the peak
    gbytes: float  # a second
    memory: float  # % of the time
    bound: str

    @property
    def direct(self) -> bool:
        return not self.schedule.startswith("F(")

    @property
    def low(self) -> bool:
        """Whether it falls short of what a direct kernel should reach."""
        return self.direct and self.bound == "arithmetic" and self.percent < ENOUGH


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench layers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=sorted(zoo.TABLE), metavar="NAME")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--accuracy", nargs="+", choices=ACCURACIES, default=list(ACCURACIES))
    parser.add_argument("--shard", default="1/1", help="i/n: the i-th of n parts of the networks")
    parser.add_argument("--write", type=Path, help="keep what was measured in this file")
    parser.add_argument("--read", type=Path, nargs="+", help="print what these files hold instead of measuring")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args(argv)
    if a.read:
        found = [_seen(values) for file in a.read for values in json.loads(file.read_text("utf-8"))]
    else:
        number, of = (int(word) for word in a.shard.split("/"))
        found = [s for n in a.networks[number - 1 :: of] for accuracy in a.accuracy for s in measure(n, accuracy, a.threads)]
    if a.write:
        a.write.write_text(json.dumps([asdict(s) for s in found]), "utf-8")
    rows = layers(found)
    print(json.dumps([asdict(r) for r in rows]) if a.json else report(rows))
    return 0


def _seen(values: Mapping[str, Any]) -> Seen:
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values["shape"].items()}
    return Seen(**{**values, "shape": Shape(**fields)})


# ---- measuring ----


def measure(network: str, accuracy: str, counts: Sequence[int]) -> list[Seen]:
    """All convolutions of a network, with each number of threads."""
    y = zoo.build(network).eval()(ft.input("image", (None, *zoo.TABLE[network].input)))
    model = ft.compile(y, accuracy=accuracy, batch=1)
    found = []
    for count in counts:
        threads.set_threads(count)
        found += seen(model, network, count, accuracy)
    return found


def seen(model: Model, network: str, count: int, accuracy: str) -> list[Seen]:
    """The convolutions of a model, run now."""
    program = model.program
    working, peaks, moving, repeating, moved = _in_turns(model, count)
    kernels: dict[Tensor, list[int]] = {}
    for n, step in enumerate(program.steps):
        if step.equation in step.tensor.equations:  # not a copy into another layout
            kernels.setdefault(step.tensor, []).append(n)
    found = []
    for t, numbers in kernels.items():
        written = next((p.tensor for p in program.history.parts(t) if p.how == ITSELF), None)
        described = shape(written) if written is not None else None
        if written is None or described is None:
            continue
        flops = 2 * prod(map(for_one_image, written.shape)) * described.channels // described.groups * prod(described.window)
        seconds, memory, again = (a[:, numbers].sum(axis=1) for a in (working, moving, repeating))
        found.append(
            Seen(
                described, network, count, accuracy, program.steps[numbers[-1]].schedule, flops, sum(moved[n] for n in numbers),
                float(median(seconds)), float(median(flops / seconds / peaks)), float(median(peaks)), float(median(memory)), float(median(again) - median(seconds)) / (TIMES - 1),
            )
        )  # fmt: skip
    return found


def _in_turns(model: Model, count: int) -> tuple[Array, Array, Array, Array, list[int]]:
    """Seconds of the slowest thread (runs, kernels), the peak before each run, the same seconds of what only moves lines and
    of kernels that do each unit again, and the bytes that are moved.
    """
    profile.sample(model, {}, 1)  # there is a plan from now on
    (moves, moved), again = movers(model, count), repeated(model, count)
    inputs, gauge = _inputs(model), profile.peak("f32")

    def working(other: Plan) -> Array:
        gauge.measure()  # as before each of the samples: all threads are awake
        for lies, value in inputs:  # as a call writes them
            lies[:] = value
        return threads.pool().measure(other, 1)[..., 1].max(axis=0)

    samples, moving, repeating = [], [], []
    for _ in range(ROUNDS):
        samples.append(profile.sample(model, {}, RUNS))
        moving += [working(moves) for _ in range(RUNS)]
        repeating += [working(again) for _ in range(RUNS)]
    peaks = np.concatenate([s.peaks for s in samples])
    return np.concatenate([s.working for s in samples]), np.maximum(peaks, 1.0), np.array(moving), np.array(repeating), moved


def _inputs(model: Model) -> list[tuple[Array, Array]]:
    """The memory of each input for one image, and what stands there."""
    assert model.plan is not None
    places = [(number, slot) for number, slot in enumerate(model.program.slots) if slot.tensor in model.program.inputs]
    found = [as_array((c_uint8 * (sum(slot.size) * np.dtype(slot.dtype).itemsize)).from_address(model.plan.addresses[number])) for number, slot in places]
    return [(lies, lies.copy()) for lies in found]


# ---- what is shown ----


def layers(found: Sequence[Seen]) -> list[Layer]:
    """One row for each shape, number of threads and accuracy."""
    groups: dict[tuple[int, str, Shape], list[Seen]] = {}
    for s in found:
        groups.setdefault((s.threads, s.accuracy, s.shape), []).append(s)
    return [_layer(str(key[2]), groups[key]) for key in sorted(groups)]


def _layer(name: str, places: Sequence[Seen]) -> Layer:
    first = places[0]
    arithmetic = median(s.flops / s.peak for s in places)
    memory = median(s.memory_s for s in places)
    percent, near = (100 * median(shares) for shares in ([s.share for s in places], [s.flops / s.peak / s.near_s for s in places]))
    return Layer(
        name, ", ".join(dict.fromkeys(s.network for s in places)), first.threads, first.accuracy,
        _usual(s.schedule for s in places),
        gflops=median(s.flops / s.seconds for s in places) / 1e9, percent=percent, near=near,
        gbytes=median(s.moved / s.seconds for s in places) / 1e9,
        memory=100 * median(s.memory_s / s.seconds for s in places),
        bound="bandwidth" if memory > arithmetic else "latency" if percent < ENOUGH <= near else "arithmetic",
    )  # fmt: skip


def _usual(words: Iterable[str]) -> str:
    """The one that comes most often."""
    listed = list(words)
    return max(dict.fromkeys(listed), key=listed.count)


def report(rows: Sequence[Layer]) -> str:
    """A table for each accuracy and number of threads, and the direct kernels that fall short."""
    parts = []
    for accuracy, count in dict.fromkeys((r.accuracy, r.threads) for r in rows):
        chosen = [r for r in rows if (r.accuracy, r.threads) == (accuracy, count)]
        cells = [
            [r.name, f"{r.gflops:.0f}", f"{r.percent:.0f}", f"{r.near:.0f}", f"{r.gbytes:.0f}", f"{r.memory:.0f}", r.bound, r.schedule, r.networks]
            for r in chosen
        ]
        direct, low = [r for r in chosen if r.direct], [r for r in chosen if r.low]
        broad, late = (sum(r.bound == word for r in direct) for word in ("bandwidth", "latency"))
        title = f"{accuracy}, {count} thread{'s' * (count > 1)}: {len(chosen)} convolutions, {len(direct)} of them direct"
        title += f"; of these {broad} are bound by bandwidth, {late} by latency, and of the others {len(low)} are below {ENOUGH} % of the peak"
        head = ["convolution", "GFLOP/s", "%", "near %", "GB/s", "memory %", "bound", "schedule", "networks"]
        parts.append(f"{title}\n\n{table(head, cells)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
