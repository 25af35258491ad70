"""Exact verification: every kernel's machine code held to its equation over the integers modulo a prime.

The graph is lowered as for a run, but floats are residues: lanes, layouts and tiles are the same (only what is chosen by
bytes may differ: a residue takes eight), and arithmetic has no rounding that a wrong index could hide in. Each kernel runs on random residues, in parts of its parallel range and the
last part first, and every element it computes must equal the equation, evaluated directly (residues.py). Besides,

    what no element lies in (the air of last blocks, scratch)    holds random residues before
    halos, operands, elements of other pieces, memory around     must be after what they were before

Quotients are those of the field, by inverses computed at run time. Functions without residues (exp, log, ...) stand for
one that has them (codegen/exact.py): loops and indices are verified, the functions themselves elsewhere. Equations that
have no value all the same are left out, with the reason; what reads their results gets random numbers for them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from faltung.codegen import interpret
from faltung.codegen.choose import Chooser
from faltung.codegen.element import PRIME
from faltung.codegen.loops import Kernel
from faltung.codegen.order import by_equation
from faltung.codegen.program import Program, Slot, Step, lower
from faltung.codegen.target import Target, host
from faltung.graph.equation import Equation
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.index import Batch, Extent
from faltung.graph.pipeline import optimise
from faltung.graph.room import amount, room
from faltung.graph.tensor import FLOATS, Tensor, topological
from faltung.runtime import code, image
from faltung.runtime.facts import measured
from faltung.runtime.model import Model
from faltung.runtime.outgrown import fitting
from faltung.runtime.residues import evaluate

Array = np.ndarray[Any, Any]

OK, FAILED, LEFT_OUT = "ok", "FAILED", "not exact"
MARGIN = 64  # elements of known content before and behind every buffer
CUTS = (0, 2, 3, 7)  # sevenths of the parallel range at which it is cut


# ---- what is reported ----


@dataclass(frozen=True)
class Line:
    """One equation of the program: what it is, which kernels compute it, and how they did. `detail` says why not well."""

    equation: str
    schedule: str
    verdict: str  # OK, FAILED or LEFT_OUT
    elements: int  # compared
    detail: str = ""

    def __str__(self) -> str:
        about = f"{self.schedule}; {self.elements} elements" if self.verdict != LEFT_OUT else ""
        return f"{self.verdict:9}  {self.equation}" + "".join(f"\n{'':11}{text}" for text in (about, self.detail) if text)


@dataclass(frozen=True)
class Report:
    """What `verify` found, a line an equation; prints as a table."""

    lines: tuple[Line, ...]

    @property
    def well(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Line, ...]:
        """The lines of kernels that are wrong."""
        return tuple(line for line in self.lines if line.verdict == FAILED)

    def count(self, verdict: str) -> int:
        """How many lines have the verdict."""
        return sum(line.verdict == verdict for line in self.lines)

    def __str__(self) -> str:
        elements = sum(line.elements for line in self.lines)
        total = (
            f"{self.count(OK)} equations exact in all of {elements} elements modulo {PRIME}, "
            f"{self.count(FAILED)} wrong, {self.count(LEFT_OUT)} not exact"
        )
        return "\n".join([*map(str, self.lines), total])


# ---- verification ----


def verify(
    what: Tensor | Sequence[Tensor] | Model,
    *,
    batch: int = 3,
    seed: int = 0,
    target: Target | None = None,
    accuracy: str = "balanced",
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Check every kernel that computes these tensors, or every kernel of a compiled model or training step.

    `batch` is the open batch size; `accuracy` is what tensors are compiled with, a model has its own. Nothing of a model is changed.
    `say` is told what is being done, a line at a time: large networks take minutes. Raises ShapeError for a batch that is
    negative, DTypeError for what is neither, OutOfMemory where residues for all buffers do not fit.
    """
    if batch < 0:
        raise ShapeError(f"verify: batch={batch}: give a size of at least 0")
    choose: Chooser = measured
    if isinstance(what, Model):
        outputs, updates = _graph_of(what.program)
        accuracy, choose = what.program.accuracy, what.program.choose
    else:
        given = [what] if isinstance(what, Tensor) else list(what) if isinstance(what, Sequence) else None
        if given is None or not all(isinstance(t, Tensor) for t in given):
            raise DTypeError(
                f"verify takes tensors (one, or a list of them) or what compile returned, got {type(what).__name__}; "
                "call a network on an input first: net(ft.input(…))"
            )
        outputs, updates = optimise(given), {}
    machine = host() if target is None else target
    if not any(t.dtype == "float32" for t in topological([*outputs, *updates])):  # residues as wide as the floats they stand for
        machine = replace(machine, vector_bytes=machine.vector_bytes // 2)
    say("choosing kernels over residues")
    program = lower(outputs, updates, machine, exact=True, accuracy=accuracy, choose=choose)
    with fitting(program, batch):
        say(f"compiling the kernels of {len(by_equation([*program.prepare, *program.steps]))} equations")
        return Report(tuple(Verification(program, batch, seed).lines(say)))


def _graph_of(program: Program) -> tuple[list[Tensor], dict[Tensor, Tensor]]:
    """Outputs and updates of the graph that a program computes."""
    held = {t: program.slots[n].tensor for t, n in program.buffer.items()}
    updates = {t: leaf for t, leaf in held.items() if leaf is not None and leaf is not t}
    outputs = [next(t for t, number in program.buffer.items() if number == n) for n in program.outputs]
    return outputs, updates


def _equation(step: Step) -> tuple[int, int]:
    return id(step.tensor), id(step.equation)


class Verification:
    """A program over residues on memory of its own, run equation by equation."""

    def __init__(self, program: Program, batch: int, seed: int) -> None:
        self.program, self.batch = program, batch
        self.random = np.random.default_rng(seed)
        size = sum((s.size[0] + s.size[1] * batch) * _kind(s).itemsize for s in program.slots)
        room(size, f"verify: memory of {amount(size)} for residues")
        self.code = code.build((s.kernel for s in (*program.prepare, *program.steps)), program.target)
        self.labels = max([2, *(e for t in program.buffer for e in t.shape if isinstance(e, int))])
        self.whole = [self._memory(s) for s in program.slots]
        self.whole = [self.whole[program.memory(n)] for n in range(len(program.slots))]
        for t, n in program.buffer.items():
            self._write(n, self._values(t))

    def lines(self, say: Callable[[str], None]) -> Iterator[Line]:
        """A line for every equation, in the order in which they run; what is left out comes last. `say` is told which one is looked at."""
        ahead = {_equation(group[0]): group for group in by_equation(self.program.prepare)}
        later = {_equation(s) for s in self.program.steps}
        groups = [group for key, group in ahead.items() if key not in later]
        groups += [[*ahead.get(_equation(rest[0]), ()), *rest] for rest in by_equation(self.program.steps)]  # transformed weights go with what reads them
        for k, group in enumerate(groups, 1):
            say(f"{k} of {len(groups)}: {str(group[-1].equation):.100}")
            yield self._check(group)
        for t, eq, reason in self.program.left_out:
            yield Line(str(eq), t.op, LEFT_OUT, 0, reason)

    # ---- memory ----

    def _memory(self, slot: Slot) -> Array:
        """Garbage with a margin on both sides; a halo that no kernel is to zero is zero."""
        kind = _kind(slot)
        count = slot.size[0] + slot.size[1] * self.batch
        whole = np.full(count + 2 * MARGIN, _canary(kind), kind)
        flat = whole[MARGIN : MARGIN + count]
        flat[:] = self.random.integers(0, 2 if kind.kind == "b" else PRIME, count).astype(kind)
        if not slot.shares:
            flat[self._halo(slot)] = 0
        return whole

    def _halo(self, slot: Slot) -> Array:
        """Which elements of a buffer are its halo: those that writing all of the tensor leaves alone."""
        assert slot.layout is not None
        mark = np.full(slot.size[0] + slot.size[1] * self.batch, -1, np.int8)
        slot.layout.write(mark, np.ones(self._shape(slot.layout.shape), np.int8), self.batch)
        return mark == -1

    def _flat(self, number: int) -> Array:
        return self.whole[number][MARGIN : self.whole[number].size - MARGIN]

    def _read(self, number: int) -> Array:
        layout = self.program.slots[number].layout
        assert layout is not None
        return layout.read(self._flat(number), self.batch)

    def _state(self, number: int, result: int) -> Array:
        """All of an operand's memory, or its elements where the result lies beside them in the same tensor."""
        beside = self.program.memory(number) == self.program.memory(result)
        return self._read(number) if beside else self.whole[number].copy()

    def _write(self, number: int, value: Array) -> None:
        """Put a value in place and leave the air around it as it is."""
        layout, flat = self.program.slots[number].layout, self._flat(number)
        assert layout is not None
        mark = np.zeros(flat.size, np.int8)
        layout.write(mark, np.ones(value.shape, np.int8), self.batch)
        new = flat.copy()
        layout.write(new, value, self.batch)
        flat[mark == 1] = new[mark == 1]

    def _values(self, t: Tensor) -> Array:
        shape = self._shape(t.shape)
        if t.dtype in FLOATS:
            return self.random.integers(0, PRIME, shape)
        return self.random.integers(0, 2 if t.dtype == "bool" else self.labels, shape).astype(t.dtype)

    def _shape(self, shape: Sequence[Extent]) -> tuple[int, ...]:
        return tuple(self.batch if isinstance(e, Batch) else e for e in shape)

    # ---- one equation ----

    def _check(self, steps: Sequence[Step]) -> Line:
        """Run the kernels of an equation and compare all that they have touched."""
        t, eq = steps[0].tensor, steps[0].equation
        copy = eq not in t.equations
        operands = [self.program.buffer[o] for o in ((t,) if copy else t.operands)]
        result = next(b for b, d in zip(steps[-1].buffers, steps[-1].kernel.buffers, strict=True) if d.written)
        values = [self._read(n) for n in operands]
        expected = self._read(result)
        evaluate(eq, values, expected, self.batch)
        scratch = {b for s in steps for b in s.buffers if self.program.slots[b].layout is None}
        kept = {n: self._state(n, result) for s in steps for n in s.buffers if n not in {result, *scratch}}
        for step in steps:
            self._run(step.kernel, [self._flat(b) for b in step.buffers])
        faults = [
            self._difference(eq, self._read(result), expected),
            *(f"operand {self._name(n)} was written to" for n, old in kept.items() if not np.array_equal(old, self._state(n, result))),
            *self._outside({result, *scratch}),
        ]
        self._write(result, expected)  # later kernels start from what is right
        found = [f for f in faults if f]
        schedule = ", ".join(dict.fromkeys(s.schedule for s in steps))
        elements = prod(self._shape([eq.extent[i] for i in eq.free]))
        return Line(str(eq), schedule, FAILED if found else OK, elements, "; ".join(found))

    def _run(self, kernel: Kernel, arrays: Sequence[Array]) -> None:
        """The kernel in unequal parts of its parallel range, the last part first."""
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        entry = image.ENTRY(self.code.address(kernel))
        own = np.full(kernel.offsets[-1] // 8, 77)
        total = int(interpret.Machine({}, self.batch).value(kernel.total))
        cuts = sorted({total * c // CUTS[-1] for c in CUTS})
        for lo, hi in reversed(list(zip(cuts, cuts[1:], strict=False))):
            entry(ctypes.addressof(pointers), self.batch, lo, hi, own.ctypes.data)

    def _difference(self, eq: Equation, got: Array, expected: Array) -> str:
        wrong = np.argwhere(got != expected)
        if not len(wrong):
            return ""
        at = tuple(int(i) for i in wrong[0])
        place = f"{eq.target}[{','.join(map(str, at))}]"
        return f"{place} is {got[at]}, the equation gives {expected[at]}; {len(wrong)} of {got.size} elements are wrong"

    def _outside(self, numbers: set[int]) -> Iterator[str]:
        """What a kernel has written where it must not: around its buffers, and anything but 0 into a halo."""
        for n in sorted({self.program.memory(n) for n in numbers}):
            slot, whole = self.program.slots[n], self.whole[n]
            edges = np.concatenate([whole[:MARGIN], whole[whole.size - MARGIN :]])
            if np.any(edges != _canary(edges.dtype)):
                yield f"memory around {self._name(n)} was written to"
            if slot.layout is not None and slot.layout.has_halo and np.any(self._flat(n)[self._halo(slot)]):
                yield f"the halo of {self._name(n)} is not zero"

    def _name(self, number: int) -> str:
        t = self.program.slots[number].tensor
        return (t.name or t.op) if t is not None else f"buffer {number}"


def _kind(slot: Slot) -> np.dtype[Any]:
    """What a buffer holds here: residues for floats."""
    return np.dtype(np.int64 if slot.dtype in FLOATS else slot.dtype)


def _canary(kind: np.dtype[Any]) -> Any:
    """What stands around a buffer: no residue, and no label."""
    return True if kind.kind == "b" else np.iinfo(kind).min
