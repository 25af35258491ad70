"""What memory has to do with a kernel's time: plans that only move what a model moves, and that find everything near.

    movers(model, threads)   → the model's plan, in which every kernel has given way to one that computes nothing:
                               each thread reads the lines that the kernel reads, and writes those that it writes
    repeated(model, threads) → the model's plan, in which every kernel does each unit of its work TIMES times in turn

A run of the movers finds each line where a run of the model would: in the same cache of the same processor, touched last by
the same thread. So its clocks say how long memory takes, with no model of caches in between. Of what a thread reads and
writes in a step each line is moved once, all operands side by side from their first line to their last, as a kernel goes
through them; that it may read a line again is left out. What is reached is known from the kernels' loops (codegen/reach.py).

A unit that is done again finds its lines in the first levels of cache: what it takes more than that, a kernel waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from faltung.codegen.builder import Builder
from faltung.codegen.loops import For, Kernel, Var
from faltung.codegen.program import Program
from faltung.codegen.target import Target, host
from faltung.graph.cost import cost
from faltung.graph.index import Batch, Extent
from faltung.runtime import code, plan
from faltung.runtime.memory import Arena
from faltung.runtime.model import Model
from faltung.runtime.waits import Use

LINE = 64  # bytes
TURN = 32  # lines of the longest walk that are moved before those of the next one
SUMS = 8  # to which what is read is added in turns
TIMES = 3


@dataclass(frozen=True)
class Walk:
    """Lines of memory from `first` to before `last`, of which a thread reads or writes every `skip`-th."""

    first: int
    last: int
    written: bool = False
    skip: int = 1

    @property
    def lines(self) -> int:
        """How many are moved."""
        return -(-(self.last - self.first) // self.skip)

    @property
    def bytes(self) -> int:
        """What is moved: a line that is written is fetched before."""
        return LINE * self.lines * (1 + self.written)


def movers(model: Model, count: int) -> tuple[plan.Plan, list[int]]:
    """A plan that moves what so many threads move for one image, and the bytes that each of its steps moves."""
    whole = _settled(model, count)
    steps = [_walks(step, whole.addresses, model.program, number, count) for number, step in enumerate(whole.steps)]
    base = min(w.first for walks in steps for each in walks for w in each)
    target = host()
    kernels = [mover(target, walks, base) for walks in steps]
    loaded, sums = code.build(kernels, target), Arena(LINE * count)
    ready = [plan.Step(loaded.address(k), (0, 1), (count, 0), barrier) for k, barrier in zip(kernels, whole.barriers, strict=True)]
    return plan.Plan(ready, [base * LINE, sums.pointer(0)], (loaded, sums, model)), [sum(w.bytes for each in walks for w in each) for walks in steps]


def repeated(model: Model, count: int) -> plan.Plan:
    """A plan that does what so many threads do for one image, each unit of work TIMES times."""
    whole = _settled(model, count)
    kernels = [again(step.kernel) for step in model.program.steps]
    loaded = code.build(kernels, host())
    ready = [
        replace(step, kernel=loaded.address(k), total=k.units, barrier=barrier, uses=None)
        for step, k, barrier in zip(whole.steps, kernels, whole.barriers, strict=True)
    ]
    return plan.Plan(ready, whole.addresses, (loaded, model))


def again(kernel: Kernel) -> Kernel:
    """The kernel with TIMES units in place of each, which all do its work."""
    unit = Var("unit")
    body = For(kernel.variable, unit // TIMES, unit // TIMES + 1, 1, kernel.body)  # once
    return Kernel(kernel.name, kernel.buffers, unit, kernel.total * TIMES, (body,), kernel.sweep, kernel.private)


def _settled(model: Model, count: int) -> plan.Plan:
    """The model's plan, with the barriers that so many threads need for one image."""
    whole = model.plan
    assert whole is not None and not whole.rounds, "one image at a time has no rounds"
    whole.settle(count, 1)
    return whole


def mover(target: Target, walks: Sequence[Sequence[Walk]], base: int) -> Kernel:
    """A kernel with one unit for each thread, which goes its walks; `base` is the line at which memory begins for it."""
    lanes = target.lanes("f32")
    end = max((w.last for each in walks for w in each), default=base)
    k = Builder(code.PLACEHOLDER, lanes=lanes)
    memory = k.buffer("memory", size=((end - base) * LINE // 4, 0), written=True)
    total = k.buffer("total", size=(len(walks) * LINE // 4, 0), written=True)
    with k.parallel(len(walks)) as thread:
        sums = [k.register(f"sum{n}", 0) for n in range(SUMS)]
        for number, each in enumerate(walks):
            turns = -(-max((w.lines for w in each), default=0) // TURN)
            with k.when(thread.equals(number)), k.loop("turn", 0, turns) as turn:
                for w in each:
                    some = -(-w.lines // turns)
                    start = k.let(k.min(turn * some, w.lines - some) * w.skip + (w.first - base), "line")
                    for n in range(some):
                        for part in range(0, LINE // 4, lanes):
                            at = (start + n * w.skip) * (LINE // 4) + part
                            if w.written:
                                k.store(memory, at, k.const(1.0, lanes))
                            else:
                                k.set(sums[n % SUMS], sums[n % SUMS] + k.peek(memory, at))
        for other in sums[1:]:
            k.set(sums[0], sums[0] + other)
        k.store(total, thread * (LINE // 4), sums[0])
    return k.finish()


def _walks(step: plan.Step, addresses: Sequence[int], program: Program, number: int, count: int) -> list[list[Walk]]:
    """For each thread the lines that it moves in a step."""
    units, uses = sum(step.total), step.uses
    assert uses is not None, "no step of a model is of unknown reach"
    found: list[list[Walk]] = []
    for t in range(count):
        mine = slice(units * t // count, units * (t + 1) // count)
        walks = [w for use in uses for w in _reached(use, addresses[use.buffer], mine, _skip(program, number, use))]
        found.append([w for way in (False, True) for w in _distinct(w for w in walks if w.written is way)])
    for t, each in enumerate(found):  # where threads are said to write the same lines, the first does
        for earlier in found[:t]:
            each[:] = [w for walk in each for w in (_without(walk, earlier) if walk.written else [walk])]
    return found


def _reached(use: Use, address: int, units: slice, skip: int) -> Iterator[Walk]:
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
            yield Walk(int(address + a * use.bytes) // LINE, -int(-(address + b * use.bytes) // LINE), use.written, skip)


def _distinct(walks: Iterable[Walk]) -> Iterator[Walk]:
    """The walks without lines that one before has been at."""
    end = 0
    for w in sorted(walks, key=lambda w: w.first):
        if w.last > end:
            yield Walk(max(w.first, end), w.last, w.written, w.skip)
            end = w.last


def _without(walk: Walk, others: Iterable[Walk]) -> list[Walk]:
    """What is left of a walk without the lines that others write."""
    left = [(walk.first, walk.last)]
    for o in others:
        if o.written:
            left = [(a, b) for first, last in left for a, b in ((first, min(last, o.first)), (max(first, o.last), last)) if a < b]
    return [Walk(a, b, walk.written, walk.skip) for a, b in left]


def _skip(program: Program, number: int, use: Use) -> int:
    """One of how many lines of an operand a step reads: of one where it passes over rows and columns."""
    step, t = program.steps[number], program.slots[use.buffer].tensor
    operands = step.tensor.operands if step.equation in step.tensor.equations else (step.tensor,)
    if use.written or t is None or t not in operands:
        return 1
    read = cost(step.equation, operands, step.tensor.dtype, read=[operands.index(t)]).read
    return max(1, round(prod(map(for_one_image, t.shape)) * np.dtype(t.dtype).itemsize / read))


def for_one_image(extent: Extent) -> int:
    """An extent for one image."""
    return 1 if isinstance(extent, Batch) else extent
