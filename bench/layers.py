"""Every distinct convolution of six networks, where it stands in its network: how near to the peak, or to the memory, it runs.

Whole networks are run, one image at a time, and the threads' clocks are read kernel by kernel: so each layer finds its
operands where the layer before left them, and its weights where the rest of the network pushed them. What a layer computes
besides its sums (folded normalisation, activation, addition) is in its time and not in its flops.

    GFLOP/s    two for every product of the definition: Winograd's algorithm may exceed the peak
    %          of the multiply-add peak of all threads, measured before every run
    GB/s       lines of memory that all threads move in the kernels' time: each thread what it reads, and what it writes
               twice, because a line is fetched before it is written
    memory     the part of the time in which memory moves these lines, one after another, at the bandwidths measured here
               with as many threads; that a copy takes as long as reading and writing apart do was tried. A line comes from
               the nearest level that holds all that was touched since the line itself was, in memory as it is placed
               (traffic.py, reuse.py): a result's lines are those of what lay there before. In a cache of one thread only
               what this thread touched counts, and no line that goes to and fro between threads
    from       the level that most of this part of the time goes to
    bound      by what the layer is bound: `memory` where the lines take longer than the products at the peak

Each kernel moves a line once: what it reads again is taken to be in its first level of cache. A layer that stands in
several places counts by the median of all of them.
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
from bench.traffic import Level, for_one_image, traffic
from faltung import zoo
from faltung.codegen.builder import Builder
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
VECTORS = 8  # written in one turn


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
    source: str  # the level that this takes longest for


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
    source: str
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
    """The caches and what is behind them, nearest first, measured with `count` threads."""
    facts = machine()
    threads.set_threads(count)
    #         level     holds           shared  measured in bytes for each thread
    levels = (("L1",     facts.l1,       False,  facts.l1 // 2),
              ("L2",     facts.l2,       False,  facts.l2 // 2),
              ("L3",     facts.l3,       True,   facts.l3 // (4 * count)),
              ("memory", sys.maxsize,    True,   2 * max(facts.l2, facts.l3) // count))  # fmt: skip
    return [
        Level(name, size, shared, max(bandwidth(each, threads.pool(), ROUNDS)), 2 * max(writing(each)))
        for name, size, shared, each in levels if each
    ]  # fmt: skip


def writing(size: int) -> list[float]:
    """Bytes a second that all threads write together, each over and over the `size` bytes of its own; a number for each round."""
    target, pool = host(), threads.pool()
    step, turns = VECTORS * target.vector_bytes, max(1, LEAST_BYTES // size)
    size -= size % step
    k = Builder("kernel", lanes=target.lanes("f32"))
    y = k.buffer("y", size=(0, size // 4), written=True)
    with k.parallel(k.N) as unit, k.loop("turn", 0, turns), k.loop("i", 0, size // 4, step // 4) as i:
        for n in range(VECTORS):
            k.store(y, unit * (size // 4) + i + n * (target.vector_bytes // 4), k.const(1.0, k.lanes))
    kernel = k.finish()
    loaded, arena = code.build([kernel], target), Arena(size * pool.count)
    ready = plan.Plan([plan.Step(loaded.address(kernel), (0,), (0, 1))], [arena.pointer(0)], (loaded, arena))
    seconds = [pool.measure(ready, pool.count)[..., 1].max() for _ in range(ROUNDS)]
    return [size * turns * pool.count / max(s, 1e-12) for s in seconds]


def measure(network: str, accuracy: str, levels: Mapping[int, Sequence[Level]]) -> list[Seen]:
    """All convolutions of a network, with each number of threads."""
    y = zoo.build(network).eval()(ft.input("image", (None, *zoo.TABLE[network].input)))
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
    working, peaks = sample.working, np.maximum(sample.peaks, 1.0)
    moves = traffic(model, count, memory)
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
        seconds = working[:, numbers].sum(axis=1)
        waited = np.sum([moves[n].seconds for n in numbers], axis=0)
        found.append(
            Seen(
                described, network, count, accuracy, program.steps[numbers[-1]].schedule, flops, round(sum(moves[n].bytes for n in numbers)),
                float(median(seconds)), float(median(flops / seconds / peaks)), float(median(peaks)), float(waited.sum()), memory[int(waited.argmax())].name,
            )
        )  # fmt: skip
    return found


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
        _usual(s.schedule for s in places),
        gflops=median(s.flops / s.seconds for s in places) / 1e9, percent=100 * median(s.share for s in places),
        gbytes=median(s.moved / s.seconds for s in places) / 1e9,
        memory=100 * median(s.memory_s / s.seconds for s in places), source=_usual(s.source for s in places),
        bound="memory" if memory > arithmetic else "arithmetic",
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
        cells = [[r.name, f"{r.gflops:.0f}", f"{r.percent:.0f}", f"{r.gbytes:.0f}", f"{r.memory:.0f}", r.source, r.bound, r.schedule, r.networks] for r in chosen]
        direct, low = [r for r in chosen if r.direct], [r for r in chosen if r.low]
        title = f"{accuracy}, {count} thread{'s' * (count > 1)}: {len(chosen)} convolutions, {len(direct)} of them direct"
        bound = sum(r.bound == "memory" for r in direct)
        title += f"; of these {bound} are bound by memory, and of the others {len(low)} are below {ENOUGH} % of the peak"
        head = ["convolution", "GFLOP/s", "%", "GB/s", "memory %", "from", "bound", "schedule", "networks"]
        parts.append(f"{title}\n\n{table(head, cells)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
