"""What each kernel of a model moves between its threads and memory, and from which level of memory it comes.

What a thread reads and writes of a buffer is known by the units of work that it gets (codegen/reach.py), where the buffer
lies by the model's plan, and how far back its lines were touched by all steps of a run (reuse.py). Where a kernel passes
over rows and columns, their lines count as touched, but are not moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from bench.reuse import Found, Span, reuse
from faltung.codegen.program import Program
from faltung.graph.cost import cost
from faltung.graph.index import Batch, Extent
from faltung.runtime import plan
from faltung.runtime.model import Model
from faltung.runtime.waits import Use

LINE = 64  # bytes


@dataclass(frozen=True)
class Level:
    """A level of memory: how many bytes it holds, for each thread or shared by all, and how many a second all threads
    together read there, or write; a byte written is a byte read as well, and counts twice."""

    name: str
    size: int
    shared: bool
    read: float
    write: float


@dataclass(frozen=True)
class Traffic:
    """What a kernel moves: bytes of all threads, and the seconds of the slowest thread for each level."""

    bytes: float
    seconds: NDArray[np.float64]


def traffic(model: Model, count: int, memory: Sequence[Level]) -> list[Traffic]:
    """What each kernel of a model that has run moves between its threads and memory."""
    assert model.plan is not None and not model.plan.rounds, "one image at a time has no rounds"
    uses = [_uses(step, model.plan.addresses, model.program, number, count) for number, step in enumerate(model.plan.steps)]
    found = []
    for step, parts in zip(reuse([[[span for span, _ in spans] for spans in step] for step in uses]), uses, strict=True):
        seconds, total = np.zeros((count, len(memory))), 0.0
        for t, (each, spans) in enumerate(zip(step, parts, strict=True)):
            for f, (span, share) in zip(each, spans, strict=True):
                moved = np.bincount(_nearest(memory, f), weights=f.lines * (LINE * share * (1 + span.written)), minlength=len(memory))
                seconds[t] += moved / [(level.write if span.written else level.read) / count for level in memory]
                total += float(moved.sum())
        found.append(Traffic(total, seconds[seconds.sum(axis=1).argmax()]))
    return found


def _nearest(memory: Sequence[Level], f: Found) -> NDArray[np.intp]:
    """The number of the nearest level that still holds each of the lines."""
    held = [LINE * (f.shared if level.shared else f.own) <= level.size for level in memory[:-1]]
    return np.argmax([*held, np.ones(len(f.lines), bool)], axis=0)


def _uses(step: plan.Step, addresses: Sequence[int], program: Program, number: int, count: int) -> list[list[tuple[Span, float]]]:
    """For each thread the lines that it reads and writes in a step, and which part of them is moved."""
    units, uses = sum(step.total), step.uses
    assert uses is not None, "no step of a model is of unknown reach"
    found: list[list[tuple[Span, float]]] = [[] for _ in range(count)]
    for use in uses:
        spans = [list(_spans(use, addresses[use.buffer], slice(units * t // count, units * (t + 1) // count))) for t in range(count)]
        part = _once([s for each in spans for s in each]) if use.written else _part(program, number, use.buffer)
        for own, these in zip(found, spans, strict=True):
            own += [(span, part) for span in these]
    return found


def _once(spans: Sequence[Span]) -> float:
    """Which part of lines that threads are said to write is left when each is written by one of them."""
    lines, end = 0, 0
    for s in sorted(spans, key=lambda s: s.first):
        lines, end = lines + max(0, s.last - max(s.first, end)), max(end, s.last)
    return lines / max(1, sum(s.last - s.first for s in spans))


def _spans(use: Use, address: int, units: slice) -> Iterator[Span]:
    """The lines of a buffer that some units reach: where they lie all together, and there by the period."""
    plain, *others = (
        (r.period, r.first[units].min(initial=np.inf), r.last[units].max(initial=-np.inf)) if len(r.first) else (0, -np.inf, np.inf)
        for r in use.reaches
    )
    first, last = max(plain[1], 0), min(plain[2], sum(use.size))
    pieces = [(first, last)]
    for period, start, end in others:
        if end - start < period:
            turns = np.arange(np.floor((first - end) / period) + 1, np.ceil((last - start) / period)) * period
            pieces = [(max(first, start + turn), min(last, end + turn)) for turn in turns]
    for a, b in pieces:
        if a < b:
            yield Span(int(address + a * use.bytes) // LINE, -int(-(address + b * use.bytes) // LINE), use.written)


def _part(program: Program, number: int, buffer: int) -> float:
    """Which part of an operand's elements a step reads: less than all where it passes over rows and columns."""
    step, t = program.steps[number], program.slots[buffer].tensor
    operands = step.tensor.operands if step.equation in step.tensor.equations else (step.tensor,)
    if t is None or t not in operands:
        return 1.0
    read = cost(step.equation, operands, step.tensor.dtype, read=[operands.index(t)]).read
    return min(1.0, read / (prod(map(for_one_image, t.shape)) * np.dtype(t.dtype).itemsize))


def for_one_image(extent: Extent) -> int:
    """An extent for one image."""
    return 1 if isinstance(extent, Batch) else extent
