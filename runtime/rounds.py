"""Which kernels of a run go in rounds of a few images, so that what passes between them stays in cache (micro-batches).

    rounds(program, batch, threads, cache) → kernels first … last, all of them for so many images, then for the next ones

A whole batch goes through one kernel after the other as long as that is no slower: weights are then read once. Where the
results of a kernel no longer stay in cache until the next one reads them, and weights are few, fewer bytes come from memory
if part of the images goes through several kernels first. What these leave to each other needs memory for one round only.

Bytes are counted by reuse distances: a kernel finds in cache what one before it left if what is touched by both and between
them fits. The cuts are those with the fewest bytes in all, by dynamic programming over kernels and numbers of images.

    whole batch     of all images what is not found, and all weights once
    in rounds       of all images what is not found in a round, or comes from outside of these kernels, and weights once
                    if a round fits into cache, else once a round

Only what does the same with every image, and nothing with two of them, can go in rounds (`separable`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from faltung.codegen.buffers import Life
from faltung.codegen.program import BYTES, Program, Slot, Step
from faltung.graph.expr import Access, Inside, Size, Value, walk
from faltung.graph.index import Affine, Batch

MOST_CHOICES = 12  # of images at a time: as many as there are threads, twice, four times as many
STAYS = 0.5  # of the last level of cache, which others use as well
ROUND = 80_000  # bytes that memory moves while threads go from one kernel to the next: 2 µs
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Rounds:
    """Kernels from `first` to before `last`, for so many `images` in a round."""

    first: int
    last: int
    images: int


def separable(step: Step) -> bool:
    """Whether a kernel's results for an image depend on what belongs to that image, and to none, alone."""
    eq, t = step.equation, step.tensor
    operands = t.operands if eq in t.equations else (t,)  # a copy into another layout reads the tensor itself
    own = (eq.lhs[0].name if eq.lhs else None) or ""
    opens = [name for name, extent in eq.extents if isinstance(extent, Batch)]
    if opens != [own]:
        return False
    for e in walk(eq.expr):
        if isinstance(e, Access):
            here = isinstance(operands[e.slot].shape[0], Batch) if e.index else False
            if any(form.coefficient(own) for form in e.index[here:]) or (here and e.index[0] != Affine.of(own)):
                return False
        numbered = isinstance(e, (Value, Inside)) and e.form.coefficient(own)
        if numbered or (isinstance(e, (Size, Inside)) and isinstance(e.extent, Batch)):
            return False
    return True


def rounds(program: Program, batch: int, threads: int, cache: int) -> list[Rounds]:
    """What of a run with so many images goes in rounds; `cache` is the bytes that the last level holds."""
    choices = [c for k in range(MOST_CHOICES) if (c := threads << k) < batch]
    passing, room = _Passing(program), cache * STAYS
    if not choices or batch * passing.live.max(initial=0) <= room:
        return []
    moved = _Moved(passing, batch, np.array(choices)[:, None], room)
    best = [0.0]  # bytes of all kernels before one
    way: list[Rounds] = []
    for k, begin in enumerate(_begins(program)):
        best.append(best[k] + moved.by(k))
        way.append(Rounds(k, k + 1, batch))
        if begin <= k:
            found = np.array(best[begin : k + 1]) + moved.since(begin, k)
            row, at = np.unravel_index(found.argmin(), found.shape)
            if found[row, at] < best[k + 1]:
                best[k + 1], way[k] = float(found[row, at]), Rounds(begin + int(at), k + 1, choices[row])
    taken, end = [], len(way)
    while end:
        taken.append(way[end - 1])
        end = taken[-1].first
    return [s for s in reversed(taken) if s.images < batch]


def inner(program: Program, found: Sequence[Rounds]) -> dict[int, Rounds]:
    """Buffers that are touched in the same rounds alone, and need room for the images of one."""
    where: dict[int, set[Rounds | None]] = {program.memory(n): {None} for n in program.outputs}
    for k, step in enumerate(program.steps):
        here = next((r for r in found if r.first <= k < r.last), None)
        for b in step.buffers:
            where.setdefault(program.memory(b), set()).add(here)
    temporary = {n for n, slot in enumerate(program.slots) if slot.kind == "temporary"}
    return {n: s for n, (s, *others) in where.items() if n in temporary and s is not None and not others}


def lives(program: Program, waits: Sequence[bool], found: Sequence[Rounds], within: dict[int, Rounds]) -> list[tuple[int, Life]]:
    """Lives of the buffers that are not persistent, where rounds begin and end at a barrier.

    What comes from outside, or goes there, is alive through all of the rounds.
    """
    epochs = np.cumsum(waits)
    spans = [(int(epochs[s.first]), int(epochs[s.last - 1])) for s in found]
    lives = []
    for n, life in program.lives(waits):
        if n in within:
            const, each = life.size
            life = replace(life, size=(const + each * within[n].images, 0))
        else:
            for start, end in spans:
                if life.first <= end and start <= life.last:
                    life = replace(life, first=min(life.first, start), last=max(life.last, end))
        lives.append((n, life))
    return lives


def _begins(program: Program) -> Iterator[int]:
    """For each step the first one from which on rounds may reach over it; the next one where none may."""
    written = {b for s in program.steps for b, d in zip(s.buffers, s.kernel.buffers, strict=True) if d.written}
    sizes = [program.slots[program.memory(b)].size for b in range(len(program.slots))]
    refused = {b for b, (const, each) in enumerate(sizes) if const and (each or b in written)}  # not of images alone
    begin = 0
    for k, step in enumerate(program.steps):
        if refused.intersection(step.buffers) or not separable(step):
            begin = k + 1
        yield begin


class _Moved:
    """Bytes between memory and the last level of cache, for a whole batch and for so many images at a time."""

    def __init__(self, passing: _Passing, batch: int, choices: Numbers, room: float) -> None:
        self.passing, self.batch, self.choices, self.room = passing, batch, choices, room
        self.times = -(-batch // choices)
        self.touched, self.weights = (np.cumsum([0.0, *x]) for x in (passing.touched, passing.weights))
        count = len(passing.live)
        self.missed = np.zeros((len(choices), count))  # of one image, by images and first kernel of rounds up to the present one
        self.live = np.zeros(count)  # of one image at most, by that kernel

    def by(self, k: int) -> float:
        """What kernel k moves for the whole batch; kernels are asked for in order."""
        p, missed, whole = self.passing, self.missed, 0.0
        self.live[: k + 1] = np.maximum(self.live[: k + 1], p.live[k])
        for before, size in p.found[k]:  # by a kernel before these rounds, or by one of them
            since, between = (total[k + 1] - total[max(before, 0)] for total in (self.touched, self.weights))
            far = before < 0 or self.batch * since + between > self.room
            whole += size * far
            missed[:, before + 1 : k + 1] += size * far
            missed[:, : before + 1] += size * (self.choices * since + between > self.room)
        missed[:, : k + 1] += p.made[k] * (self.choices * p.live[k] > self.room)
        return self.batch * (whole + p.made[k] * (self.batch * p.live[k] > self.room)) + float(p.weights[k])

    def since(self, first: int, k: int) -> Numbers:
        """What rounds up to kernel k move, by images and first kernel, from `first` on."""
        firsts = np.arange(first, k + 1)
        left = np.zeros(len(firsts))
        for made, size in self.passing.left[k]:
            left[: max(0, made + 1 - first)] += size * (self.batch * self.passing.live[k] > self.room)
        weights = self.weights[k + 1] - self.weights[firsts]
        again = np.where(weights + self.choices * self.live[firsts] > self.room, self.times, 1)
        found: Numbers = self.batch * (self.missed[:, firsts] + left) + weights * again + ROUND * self.times * (k + 1 - firsts)
        return found


class _Passing:
    """What passes between the steps of a program, in bytes of one image moved; what is written is read as well.

    For each step: what it finds, by the step that touched that memory before (-1: none), what it is the first to write,
    what lies there behind it for others, by the step that was the first to write it, what is alive, what it touches in
    all, and what belongs to no image.
    """

    def __init__(self, program: Program) -> None:
        count = len(program.steps)
        self.made, self.live, self.touched, self.weights = (np.zeros(count) for _ in range(4))
        self.found: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        self.left: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for k, step in enumerate(program.steps):
            now: dict[int, float] = {}
            for b, declared in zip(step.buffers, step.kernel.buffers, strict=True):
                slot, memory = program.slots[b], program.memory(b)
                if slot.size[1]:
                    now[memory] = now.get(memory, 0.0) + _image(slot) * (1 + declared.written)
                else:
                    self.weights[k] += slot.bytes[0]
            for memory, size in now.items():
                self.touched[k] += size
                if memory in first or program.slots[memory].kind == "input":
                    self.found[k].append((last.get(memory, -1), size))
                else:
                    self.made[k] += size
                first.setdefault(memory, k)
                last[memory] = k
        last |= dict.fromkeys(map(program.memory, program.outputs), count)
        for memory, k in first.items():
            size = program.slots[memory].bytes[1]
            self.live[k : last[memory] + 1] += size
            for n in range(k, min(last[memory], count)):
                self.left[n].append((k, 2 * size))


def _image(slot: Slot) -> float:
    """Bytes of one image, of a part's own elements alone."""
    if slot.inside is None or slot.layout is None:
        return slot.bytes[1]
    return BYTES[slot.dtype] * prod(e for e in slot.layout.shape if not isinstance(e, Batch))
