"""Kernels of small programs over residues, run in the interpreter and watched: whether faults show.

    subject.broken()               why the program, lowered as the code is now, does not compute its outputs, or None
    subject.groups()               the kernels of each equation, with the memory before and after them
    group.tried(n, kernel)         what the equation does with kernel n replaced: why it fails, or whether anything is another
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from faltung.codegen import interpret
from faltung.codegen.buffers import Life, place
from faltung.codegen.check import reason_invalid
from faltung.codegen.choose import Choice, choose
from faltung.codegen.element import PRIME
from faltung.codegen.loops import Kernel
from faltung.codegen.order import by_equation
from faltung.codegen.program import Program, Slot, Step, lower
from faltung.codegen.schedules.filtering import tilings
from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.winograd import planned
from faltung.codegen.target import Target
from faltung.graph.errors import FaltungError
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import FLOATS, Tensor, topological
from faltung.runtime import residues
from tests.check import Array, sized
from tests.codegen.kernels import Bench, garbage, whole

LABELS = 6  # integers fed to inputs of labels lie below


# ---- running, and watching ----


class Race(FaltungError, RuntimeError):
    """Two units of the parallel range write the same element, or a unit writes it again."""


class Watched(interpret.Machine):
    """A machine that remembers what is read and written, and by which unit of the parallel range."""

    def __init__(self, kernel: Kernel, arrays: Mapping[str, Array], batch: int, once: bool) -> None:
        super().__init__(arrays, batch)
        self.once = once
        self.owner = {b.name: np.full(arrays[b.name].size, -1) for b in kernel.buffers if b.written}
        self.trace: list[tuple[str, str, bytes]] = []

    def places(self, buffer: Any, address: Any, stride: int, type: Any, mask: Any, what: str) -> tuple[Array, Array]:
        """The addresses, remembered. Raises Race when another unit has written there."""
        found, touched = super().places(buffer, address, stride, type, mask, what)
        own = found if mask is None else found[touched]
        if own.size:
            self.trace.append((what, buffer.name, own.tobytes()))
        if what == "write" and buffer.name in self.owner:  # private memory is rewritten by every unit
            owner = self.owner[buffer.name]
            others = owner[own]
            if np.any((others >= 0) & (self.once | (others != self.unit))):
                raise Race(f"units {self.unit} and {others.max()} both write {buffer.name}[{own}]")
            owner[own] = self.unit
        return found, touched


def once(step: Step) -> bool:
    """Whether the kernel writes each element once; only sums over images are added to image by image, and rows of a table."""
    return step.kernel.sweep is None and not step.schedule.startswith(("contraction, parts of the batch", "scatter"))


def run(kernel: Kernel, arrays: Sequence[Array], batch: int, alone: bool) -> Watched:
    """All units of a kernel, the last first; what the machine has seen. Raises OutOfBounds or Race."""
    machine = Watched(kernel, {b.name: a for b, a in zip(kernel.buffers, arrays, strict=True)}, batch, alone)
    with np.errstate(all="ignore"):
        machine.run(kernel, range(whole(kernel, batch))[::-1])
    return machine


Memory = dict[int, Array]  # by number of buffer
Trace = list[tuple[str, str, bytes]]  # accesses: whether read or write, of which buffer, where


@dataclass(frozen=True)
class Tried:
    """What an equation does with a kernel replaced.

    `inert`: what it does with the right one: the same reads in the same order, and the same writes. Then the kernel has
    no fault on this shape: code that is not reached, a stride of an index that is always 0, a bound that is never the
    one that counts. Elements of a halo do not count among the reads: they are 0. Neither do those of a part of a sum
    that had no terms.
    """

    broken: str | None
    inert: bool


@dataclass(frozen=True)
class Group:
    """The kernels of one equation, the memory of all buffers before, and what must stand in the result after."""

    steps: tuple[Step, ...]
    slots: Mapping[int, Slot]
    before: Memory
    result: int
    expected: Array
    batch: int

    def tried(self, number: int, kernel: Kernel) -> Tried:
        """What happens when kernel `number` is replaced."""
        reason = reason_invalid(kernel)
        if reason is not None:
            return Tried(reason, False)
        try:
            memory, same = self._run(number, kernel)
        except FaltungError as error:
            return Tried(f"{type(error).__name__}: {error}", False)
        return Tried(self._wrong(memory), same)

    def _wrong(self, memory: Memory) -> str | None:
        """What must not be in memory afterwards, if anything."""
        layout = self.slots[self.result].layout
        assert layout is not None
        if not np.array_equal(layout.read(memory[self.result], self.batch), self.expected):
            return "other values"
        if np.any(memory[self.result][halo(self.slots[self.result], self.batch)]):
            return "a halo that is not zero"
        written = {b for s in self.steps for b, d in zip(s.buffers, s.kernel.buffers, strict=True) if d.written}
        changed = [n for n, a in self.before.items() if n not in written and not np.array_equal(a, memory[n])]
        return f"operand {changed} was written to" if changed else None

    @cached_property
    def _right(self) -> list[tuple[Memory, Trace]]:
        """The memory after each of the right kernels, and what it touched."""
        found, memory = [], self.before
        for step in self.steps:
            found.append(self._step(step, step.kernel, memory))
            memory = found[-1][0]
        return found

    def _run(self, number: int, kernel: Kernel) -> tuple[Memory, bool]:
        """The memory after all kernels, one replaced, and whether everything was as with the right one.

        Kernels before it do what they always do, and so do those behind it that find the memory as it should be.
        """
        memory, trace = self._step(self.steps[number], kernel, self._right[number - 1][0] if number else self.before)
        right, touched = self._right[number]
        if all(np.array_equal(a, memory[n]) for n, a in right.items()):
            return self._right[-1][0], trace == touched
        same = trace == touched
        for step, (_, touched) in zip(self.steps[number + 1 :], self._right[number + 1 :], strict=True):
            memory, trace = self._step(step, step.kernel, memory)
            same = same and trace == touched
        return memory, same and all(np.array_equal(a, memory[n]) for n, a in self._right[-1][0].items())

    def _step(self, step: Step, kernel: Kernel, before: Memory) -> tuple[Memory, Trace]:
        """The memory after a kernel in place of a step's own, and what it touched but for zeros that are there for everybody."""
        memory = {n: a.copy() for n, a in before.items()}
        seen = run(kernel, [memory[b] for b in step.buffers], self.batch, once(step)).trace
        zeros = {}
        for b, declared in zip(step.buffers, step.kernel.buffers, strict=True):
            slot = self.slots[b]
            if slot.layout is not None and slot.layout.has_halo:
                zeros[declared.name] = halo(slot, self.batch)
            elif slot.layout is None and not declared.written:
                zeros[declared.name] = memory[b] == 0
        return memory, [a for a in seen if a[1] not in zeros or a[0] == "write" or not zeros[a[1]][np.frombuffer(a[2], np.int64)].all()]


def halo(slot: Slot, batch: int) -> Array:
    """Which elements of a buffer are its halo; of a part of another one, those of the whole."""
    layout = slot.layout
    assert layout is not None
    while layout.whole is not None:
        layout = layout.whole
    mark = np.full(layout.size[0] + layout.size[1] * batch, -1, np.int8)
    layout.write(mark, np.ones(sized(layout.shape, batch), np.int8), batch)
    return mark == -1


# ---- subjects ----


@dataclass(frozen=True)
class Subject:
    """Outputs of a graph and a batch size; `updates` maps outputs to the leaves that they replace."""

    name: str
    build: Callable[[], tuple[list[Tensor], dict[Tensor, Tensor]]]
    batch: int
    target: Target
    most: int = PRIME  # residues of the operands lie below: few values make ties
    labels: int = LABELS  # integers lie below
    tile: int = 0  # outputs of a tile of Winograd's algorithm along each axis, where that applies; 0: sums of products

    @cached_property
    def graph(self) -> tuple[list[Tensor], dict[Tensor, Tensor]]:
        """Outputs and updates, as written."""
        return self.build()

    @cached_property
    def values(self) -> dict[Tensor, Array]:
        """Random residues for the leaves, and all tensors by their equations, before any rewriting."""
        outputs, updates = self.graph
        generator, found = np.random.default_rng(len(self.name)), {}
        for t in topological([*outputs, *updates]):
            shape = sized(t.shape, self.batch)
            if t.is_leaf:
                found[t] = generator.integers(0, self.most if t.dtype in FLOATS else self.labels, shape)
                continue
            found[t] = np.zeros(shape, np.int64)
            for eq in t.equations:
                residues.evaluate(eq, [found[o] for o in t.operands], found[t], self.batch)
        return found

    def program(self) -> Program:
        """The graph through all passes and lowered, as it is now."""
        outputs, updates = self.graph
        found = optimise([*outputs, *updates])
        new = dict(zip(found[len(outputs) :], updates.values(), strict=True))
        if not self.tile:
            return lower(found[: len(outputs)], new, self.target, exact=True)
        return lower(found[: len(outputs)], new, self.target, exact=True, accuracy="fast", choose=self._tiled)

    def _tiled(self, task: Task) -> Choice:
        """Winograd's algorithm wherever it applies, whether or not it is estimated to pay."""
        found = tilings(task)
        if isinstance(found, str):
            return choose(task)
        return Choice("winograd", planned(task, min(found, key=lambda t: sum(abs(m - self.tile) for m in t.sizes))), ())

    def broken(self) -> str | None:
        """Why the program, as it is lowered now, does not compute what the graph says; None when it does."""
        try:
            program = self.program()
            return self._invalid(program) or self._wrong(program)
        except Exception as error:  # whatever a fault makes a schedule do, it is noticed
            return f"{type(error).__name__}: {error}"

    def _invalid(self, program: Program) -> str | None:
        if program.left_out:
            return f"left out: {program.left_out}"
        for step in (*program.prepare, *program.steps):
            if (reason := reason_invalid(step.kernel)) is not None:
                return reason
        return races(program.prepare) or races(program.steps)

    def _wrong(self, program: Program) -> str | None:
        bench = Arena(program, self.batch)
        for t in program.buffer:
            if t.is_leaf:
                bench.write(t, self.values[t])
        for step in (*program.prepare, *program.steps):
            run(step.kernel, [bench.arrays[b] for b in step.buffers], self.batch, once(step))
        outputs, updates = self.graph
        pairs = [*zip(program.outputs, outputs, strict=True), *((program.buffer[old], new) for new, old in updates.items())]
        for number, t in pairs:
            if not np.array_equal(bench.read(number), self.values[t]):
                return f"{t.name or t.op} has other values"
        return None

    def groups(self) -> list[Group]:
        """The kernels equation by equation; each finds right operands, and garbage elsewhere."""
        program = self.program()
        bench = Bench(program, self.batch, exact=True)
        generator = np.random.default_rng(1)
        for n, slot in enumerate(program.slots):
            if slot.inside is not None:
                continue
            noise = generator.integers(0, PRIME if slot.dtype in FLOATS else LABELS, bench.arrays[n].size).astype(bench.arrays[n].dtype)
            if not slot.shares:
                noise[halo(slot, self.batch)] = 0
            bench.arrays[n][:] = noise
        for t in program.buffer:
            if t.is_leaf:
                bench.write(t, self.values[t])
        found = []
        for steps in map(tuple, by_equation((*program.prepare, *program.steps))):
            t, eq = steps[0].tensor, steps[0].equation
            result = next(b for b, d in zip(steps[-1].buffers, steps[-1].kernel.buffers, strict=True) if d.written)
            operands = [t] if eq not in t.equations else list(t.operands)
            expected = bench.read(result)
            residues.evaluate(eq, [bench.read(program.buffer[o]) for o in operands], expected, self.batch)
            used = {b for s in steps for b in s.buffers}
            before = {b: bench.arrays[b].copy() for b in used}
            found.append(Group(steps, dict(enumerate(program.slots)), before, result, expected, self.batch))
            for step in steps:
                run(step.kernel, [bench.arrays[b] for b in step.buffers], self.batch, once(step))
        return found


class Arena(Bench):
    """Memory as the runtime plans it: temporaries share one arena by lifetime, full of garbage but for the halos that no kernel zeroes."""

    def __init__(self, program: Program, batch: int) -> None:
        super().__init__(program, batch, exact=True)
        lives = program.lives()
        offsets, total = place([life for _, life in lives], batch)
        memory = garbage(total // 4 + 16, np.dtype(np.int64)).view(np.uint8)
        for (number, life), at in zip(lives, offsets, strict=True):
            own = self.arrays[number]
            flat = memory[2 * at : 2 * at + own.nbytes].view(own.dtype)  # a residue takes the room of two f32
            if not life.shared:
                flat[:] = 0
            self.arrays[number] = flat
        self.arrays = [self.arrays[program.memory(n)] for n in range(len(self.arrays))]


@dataclass(frozen=True)
class Lifetimes:
    """Buffers with random lifetimes: those that are alive together must not overlap in the arena."""

    name: str

    def broken(self) -> str | None:
        """Which buffers overlap, if any do."""
        r = random.Random(0)
        for _ in range(60):
            starts = [r.randrange(6) for _ in range(8)]
            lives = [Life((r.randrange(1, 40) * 64, r.randrange(9)), s, s + r.randrange(4), r.random() < 0.8) for s in starts]
            offsets, total = place(lives, 5)
            spans = [(at, at + life.size[0] + life.size[1] * 5) for at, life in zip(offsets, lives, strict=True)]
            if any(end > total for _, end in spans):
                return "a buffer behind the end of the arena"
            for (a, one), (b, two) in combinations(zip(lives, spans, strict=True), 2):
                meet = not (a.shared and b.shared) or (a.first <= b.last and b.first <= a.last)
                if meet and one[0] < two[1] and two[0] < one[1]:
                    return f"{a} and {b} overlap: {one} and {two}"
        return None


def races(steps: Sequence[Step]) -> str | None:
    """Two steps without a barrier in between of which one writes what the other touches; None when there are none."""
    since = np.cumsum([step.barrier for step in steps])
    for (m, first), (n, second) in combinations(enumerate(steps), 2):
        if since[m] != since[n]:
            continue
        a, b = (({*s.buffers}, {x for x, d in zip(s.buffers, s.kernel.buffers, strict=True) if d.written}) for s in (first, second))
        if (a[1] & b[0] or a[0] & b[1]) and not (a[1] & b[1] and first.tensor is second.tensor):
            return f"steps {m} and {n} meet without a barrier"
    return None
