"""Every distinct convolution of six networks, where it stands in its network: how near to the peak, or to the memory, it runs.

Whole networks are run, one image at a time, and the threads' clocks are read kernel by kernel: so each layer finds its
operands where the layer before left them, and its weights where the rest of the network pushed them. What a layer computes
besides its sums (folded normalisation, activation, addition) is in its time and not in its flops.

    GFLOP/s    two for every product of the definition: Winograd's algorithm may exceed the peak
    %          of the multiply-add peak of all threads, measured before every run
    GB/s       weights and operands and the result moved once, in the kernels' time
    memory     the part of the time in which memory, at the bandwidths measured here with as many threads, moves these bytes:
               weights from the level in which all that a run touches fits, operands from, and the result to, the level in
               which the two of them fit
    bound      by what the layer is bound: `memory` where the bytes take longer than the products at the peak

A layer that stands in several places counts by the median of all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import faltung as ft
from bench.inference import NETWORKS
from bench.timing import table
from faltung import zoo
from faltung.codegen.buffers import place
from faltung.codegen.builder import Builder
from faltung.codegen.program import Program
from faltung.codegen.target import host
from faltung.graph.history import ITSELF
from faltung.graph.tensor import Tensor
from faltung.runtime import code, plan, profile, threads
from faltung.runtime.bandwidth import LEAST_BYTES, bandwidth
from faltung.runtime.facts import machine
from faltung.runtime.memory import Arena
from faltung.runtime.model import Model

ACCURACIES = ("strict", "balanced")
ENOUGH = 85  # % of the peak that a direct kernel should reach unless it is bound by memory
ROUNDS = 7  # of measuring bandwidth
LINES = 8  # vectors written in one turn


@dataclass(frozen=True)
class Level:
    """A level of memory: how many bytes all threads together keep there, and how many a second they read and write."""

    size: int
    read: float
    write: float


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
    channels, filters = _int(x[1]), _int(k[0])
    return Shape(channels, filters, channels // _int(k[1]), tuple(map(_int, x[2:])), tuple(map(_int, k[2:])), stride, padding)


def _int(extent: Any) -> int:
    assert isinstance(extent, int), "only the batch is open"
    return extent


@dataclass(frozen=True)
class Seen:
    """A convolution where it stands in a network: medians over the runs."""

    shape: Shape
    network: str
    threads: int
    accuracy: str
    schedule: str
    flops: int
    weights: int  # bytes
    moved: int  # bytes of operands and results, scratch memory among them, read and written
    seconds: float
    share: float  # of the peak
    peak: float
    memory_s: float  # in which memory moves the bytes


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
    gbytes: float  # a second
    memory: float  # % of the time
    bound: str

    @property
    def direct(self) -> bool:
        return not self.schedule.startswith("F(")

    @property
    def low(self) -> bool:
        """Whether it falls short of what a direct kernel should reach."""
        return self.direct and self.bound != "memory" and self.percent < ENOUGH


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
        levels = {count: bandwidths(count) for count in a.threads}
        found = [s for n in a.networks[number - 1 :: of] for accuracy in a.accuracy for s in measure(n, accuracy, levels)]
    if a.write:
        a.write.write_text(json.dumps([asdict(s) for s in found]), "utf-8")
    rows = layers(found)
    print(json.dumps([asdict(r) for r in rows]) if a.json else report(rows))
    return 0


def _seen(values: Mapping[str, Any]) -> Seen:
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values["shape"].items()}
    return Seen(**{**values, "shape": Shape(**fields)})


# ---- measuring ----


def bandwidths(count: int) -> list[Level]:
    """The second level of cache and what is behind it, nearest first, measured with `count` threads."""
    facts = machine()
    threads.set_threads(count)
    levels = [(facts.l2 * count, facts.l2 // 2), (facts.l3, facts.l3 // (2 * count)), (sys.maxsize, 2 * max(facts.l2, facts.l3) // count)]
    return [Level(size, max(bandwidth(each, threads.pool(), ROUNDS)), max(writing(each))) for size, each in levels if each]


def writing(size: int) -> list[float]:
    """Bytes a second that all threads write together, each over and over the `size` bytes of its own; a number for each round."""
    target, pool = host(), threads.pool()
    step, turns = LINES * target.vector_bytes, max(1, LEAST_BYTES // size)
    size -= size % step
    k = Builder("kernel", lanes=target.lanes("f32"))
    y = k.buffer("y", size=(0, size // 4), written=True)
    with k.parallel(k.N) as unit, k.loop("turn", 0, turns), k.loop("i", 0, size // 4, step // 4) as i:
        for n in range(LINES):
            k.store(y, unit * (size // 4) + i + n * (target.vector_bytes // 4), k.const(1.0, k.lanes))
    kernel = k.finish()
    loaded, arena = code.build([kernel], target), Arena(size * pool.count)
    ready = plan.Plan([plan.Step(loaded.address(kernel), (0,), (0, 1))], [arena.pointer(0)], (loaded, arena))
    seconds = [pool.measure(ready, pool.count)[..., 1].max() for _ in range(ROUNDS)]
    return [size * turns * pool.count / max(s, 1e-12) for s in seconds]


def measure(network: str, accuracy: str, levels: Mapping[int, Sequence[Level]]) -> list[Seen]:
    """All convolutions of a network, with each number of threads."""
    y = zoo.build(network).eval()(ft.input("image", (1, *zoo.TABLE[network].input)))
    model = ft.compile(y, accuracy=accuracy)
    found = []
    for count, memory in levels.items():
        threads.set_threads(count)
        found += seen(model, network, count, accuracy, memory)
    return found


def seen(model: Model, network: str, count: int, accuracy: str, memory: Sequence[Level]) -> list[Seen]:
    """The convolutions of a model, run now."""
    program = model.program
    sample = profile.sample(model, {})
    costs, working, peaks = profile.costs(program, sample.batch), sample.working, np.maximum(sample.peaks, 1.0)
    kernels: dict[Tensor, list[int]] = {}
    for n, step in enumerate(program.steps):
        if step.equation in step.tensor.equations:  # not a copy into another layout
            kernels.setdefault(step.tensor, []).append(n)
    held = {t: _held(program, numbers) for t, numbers in kernels.items()}
    every = sum(held.values()) + place([life for _, life in program.lives()], sample.batch)[1]
    found = []
    for t, numbers in kernels.items():
        written = next((p.tensor for p in program.history.parts(t) if p.how == ITSELF), None)
        described = shape(written) if written is not None else None
        if written is None or described is None:
            continue
        flops = 2 * prod(map(_int, written.shape)) * described.channels // described.groups * prod(described.window)
        seconds = working[:, numbers].sum(axis=1)
        read, written_to = sum(costs[n].read for n in numbers) - held[t], sum(costs[n].written for n in numbers)
        near = _level(memory, read + written_to)
        found.append(
            Seen(
                described, network, count, accuracy, program.steps[numbers[-1]].schedule, flops, held[t], read + written_to, float(median(seconds)),
                float(median(flops / seconds / peaks)), float(median(peaks)),
                held[t] / _level(memory, every).read + read / near.read + written_to / near.write,
            )
        )  # fmt: skip
    return found


def _held(program: Program, numbers: Iterable[int]) -> int:
    """Bytes of parameters, and of what is made from them, that these kernels read."""
    slots = [program.slots[b] for b in {b for n in numbers for b in program.steps[n].buffers}]
    return sum(s.bytes[0] for s in slots if s.persistent)


def _level(memory: Sequence[Level], size: int) -> Level:
    """The nearest level that has room for so many bytes."""
    return next(level for level in memory if size <= level.size)


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
    return Layer(
        name, ", ".join(dict.fromkeys(s.network for s in places)), first.threads, first.accuracy,
        max(dict.fromkeys(s.schedule for s in places), key=[s.schedule for s in places].count),
        gflops=median(s.flops / s.seconds for s in places) / 1e9, percent=100 * median(s.share for s in places),
        gbytes=median((s.weights + s.moved) / s.seconds for s in places) / 1e9,
        memory=100 * median(s.memory_s / s.seconds for s in places), bound="memory" if memory > arithmetic else "arithmetic",
    )  # fmt: skip


def report(rows: Sequence[Layer]) -> str:
    """A table for each accuracy and number of threads, and the direct kernels that fall short."""
    parts = []
    for accuracy, count in dict.fromkeys((r.accuracy, r.threads) for r in rows):
        chosen = [r for r in rows if (r.accuracy, r.threads) == (accuracy, count)]
        cells = [[r.name, f"{r.gflops:.0f}", f"{r.percent:.0f}", f"{r.gbytes:.0f}", f"{r.memory:.0f}", r.bound, r.schedule, r.networks] for r in chosen]
        direct, low = [r for r in chosen if r.direct], [r for r in chosen if r.low]
        title = f"{accuracy}, {count} thread{'s' * (count > 1)}: {len(chosen)} convolutions, {len(direct)} of them direct"
        bound = sum(r.bound == "memory" for r in direct)
        title += f"; of these {bound} are bound by memory, and of the others {len(low)} are below {ENOUGH} % of the peak"
        head = ["convolution", "GFLOP/s", "%", "GB/s", "memory %", "bound", "schedule", "networks"]
        parts.append(f"{title}\n\n{table(head, cells)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
