"""Kernels run on memory of the tests' own, in the interpreter or as machine code, to be compared with the equations.

Memory that a kernel may not rely on holds NaN (77 where there is no NaN): scratch, results, the air in last blocks.
A halo is zero, as the runtime promises. Every kernel is called twice, on parts of its parallel range cut at an odd
place: whoever relies on running in one piece is found out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from faltung.codegen import interpret, target as targets
from faltung.codegen.element import PRIME
from faltung.codegen.layout import Layout
from faltung.codegen.loops import Kernel
from faltung.codegen.program import Program, Slot, Step
from faltung.codegen.schedules.task import RESULT, Plan, Task
from faltung.codegen.target import Target
from faltung.graph.evaluate import EXACT, FLOAT, evaluate
from faltung.graph.tensor import Tensor
from faltung.runtime import code, image
from tests.check import Array

RUNNABLE = [row for row in targets.TABLE if targets.runs_here(row)]
RUNNABLE_IDS = [row.name for row in RUNNABLE]
GUARD, CANARY = 64, 0x55  # elements before and behind every buffer, and the byte they hold
Run = Callable[[Kernel, Sequence[Array], int, int, int], None]
Schedule = Callable[[Task], Plan | str]

# ---- two machines ----


def interpreted(kernel: Kernel, arrays: Sequence[Array], batch: int, lo: int, hi: int) -> None:
    """The part lo … hi in Python, every access checked."""
    named = {b.name: a for b, a in zip(kernel.buffers, arrays, strict=True)}
    interpret.run(kernel, named, batch, lo, hi)


def private(size: int) -> Array:
    """Memory of a call's own, of so many bytes."""
    return garbage(size // 8, np.dtype(np.float64))


def compiled(kernels: Sequence[Kernel], target: Target, private: Callable[[int], Array] = private) -> Run:
    """The kernels as machine code."""
    loaded = code.build(kernels, target)

    def run(kernel: Kernel, arrays: Sequence[Array], batch: int, lo: int, hi: int) -> None:
        for b, a in zip(kernel.buffers, arrays, strict=True):
            assert a.size >= b.extent(batch) and a.flags.c_contiguous
        own = private(kernel.offsets[-1])
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        image.ENTRY(loaded.address(kernel))(pointers, batch, lo, hi, own.ctypes.data)
        assert all(intact(a) for a in (*arrays, own)), f"kernel writes outside of its buffers: {kernel.buffers}"

    return run


def whole(kernel: Kernel, batch: int) -> int:
    """The parallel extent at a batch size."""
    machine = interpret.Machine({}, batch)
    return int(machine.value(kernel.total))


def in_parts(run: Run, kernel: Kernel, arrays: Sequence[Array], batch: int) -> None:
    """All of the kernel in two uneven parts."""
    total = whole(kernel, batch)
    cut = (2 * total + 2) // 5
    run(kernel, arrays, batch, 0, cut)
    run(kernel, arrays, batch, cut, total)


# ---- memory ----


def intact(a: Array) -> bool:
    """Whether nobody has written right before or behind memory that `garbage` made."""
    if not isinstance(a.base, np.ndarray) or a.base.size != a.size + 2 * GUARD:
        return True
    around = np.concatenate([a.base[:GUARD], a.base[-GUARD:]])
    return bool(np.all(around.view(np.uint8) == CANARY))


def dtype_of(dtype: str, exact: bool) -> np.dtype[Any]:
    """What NumPy calls an element in memory; residues are int64."""
    return np.dtype(np.int64 if exact and dtype in ("float32", "float64") else dtype)


def garbage(count: int, dtype: np.dtype[Any]) -> Array:
    """Memory that nobody has written."""
    guarded = np.empty(count + 2 * GUARD, dtype)
    guarded.view(np.uint8)[:] = CANARY
    flat = guarded[GUARD : GUARD + count]
    flat[:] = np.nan if dtype.kind == "f" else 1 if dtype.kind == "b" else 77
    return flat


def memory(layout: Layout, dtype: np.dtype[Any], batch: int, value: Array | None = None) -> Array:
    """Flat memory in a layout, zero in its halo and garbage elsewhere, holding `value` if there is one."""
    constant, per_batch = layout.size
    flat = garbage(constant + per_batch * batch, dtype)
    if layout.has_halo:
        flat[:] = 0
    if value is not None:
        put(layout, flat, batch, value)
    return flat


def put(layout: Layout, flat: Array, batch: int, value: Array) -> None:
    """Write a logical array, and garbage into what lies between its end and the end of a last block."""
    layout.write(flat, value, batch)
    if any(b > 1 for b in layout.block):
        kinds = np.full(flat.size, 2, np.int8)
        layout.write(kinds, np.ones(value.shape, np.int8), batch)
        air = kinds == 0
        flat[air] = garbage(int(air.sum()), flat.dtype)


def residues(value: Array, dtype: str) -> Array:
    """Rational numbers as integers modulo the prime; what is no float stays."""
    if dtype not in ("float32", "float64"):
        return np.asarray(value, dtype=np.float64).astype(dtype)
    if value.dtype == np.float64 and np.all(np.abs(value) < 2**53) and np.array_equal(value, np.round(value)):
        return value.astype(np.int64) % PRIME
    found = [_residue(Fraction(np.asarray(v).item())) for v in np.asarray(value, dtype=object).ravel().tolist()]
    return np.array(found, dtype=np.int64).reshape(np.shape(value))


def _residue(v: Fraction) -> int:
    return v.numerator * pow(v.denominator, -1, PRIME) % PRIME


# ---- one tensor ----


def compute(
    t: Tensor,
    feed: Mapping[Tensor, Array],
    layouts: Sequence[Layout],
    result: Layout,
    schedule: Schedule,
    target: Target,
    batch: int,
    *,
    machine: str = "interpreter",
    exact: bool = False,
) -> tuple[Array, Array, list[str]]:
    """A tensor by a schedule and by its equations, (got, expected, names of the kernels' schedules).

    Operands are computed by their equations and laid out as told.
    """
    arithmetic = EXACT if exact else FLOAT
    *values, expected = evaluate([*t.operands, t], feed, arithmetic)
    if exact:
        values = [residues(v, o.dtype) for v, o in zip(values, t.operands, strict=True)]
        expected = residues(expected, t.dtype)
    kinds = [dtype_of(o.dtype, exact) for o in t.operands]
    operands = [memory(m, d, batch, v.astype(d)) for m, d, v in zip(layouts, kinds, values, strict=True)]
    out = memory(result, dtype_of(t.dtype, exact), batch)
    dtypes = tuple(o.dtype for o in t.operands)
    plans = [schedule(Task(eq, tuple(layouts), dtypes, result, t.dtype, target, exact)) for eq in t.equations]
    for plan in plans:
        assert isinstance(plan, Plan), plan
    works = [(plan, w) for plan in plans if isinstance(plan, Plan) for w in plan.works]
    run = interpreted if machine == "interpreter" else compiled([w.kernel for _, w in works], target)
    scratch: dict[int, list[Array]] = {}
    for plan, work in works:
        held = scratch.setdefault(id(plan), [garbage(c + b * batch, out.dtype) for c, b in plan.scratch])
        arrays = [out if a == RESULT else held[-2 - a] if a < RESULT else operands[a] for a in work.arguments]
        in_parts(run, work.kernel, arrays, batch)
    return result.read(out, batch), np.asarray(expected), [w.schedule for _, w in works]


# ---- a whole program ----


class Bench:
    """A program on memory of its own, a buffer apart for every slot; stands in for the runtime's model."""

    def __init__(self, program: Program, batch: int, exact: bool = False) -> None:
        self.program, self.batch, self.exact = program, batch, exact
        arrays = [self._memory(s) for s in program.slots]
        self.arrays = [arrays[program.memory(n)] for n in range(len(arrays))]

    def _memory(self, slot: Slot) -> Array:
        dtype = dtype_of(slot.dtype, self.exact)
        if slot.layout is None:
            return garbage(slot.size[0] + slot.size[1] * self.batch, dtype)
        return memory(slot.layout, dtype, self.batch)

    def write(self, t: Tensor, value: Array) -> None:
        """Give a leaf its value."""
        number = self.program.buffer[t]
        layout = self.program.slots[number].layout
        assert layout is not None
        put(layout, self.arrays[number], self.batch, np.asarray(value).astype(self.arrays[number].dtype))

    def read(self, number: int) -> Array:
        """The logical array in a buffer."""
        layout = self.program.slots[number].layout
        assert layout is not None
        return layout.read(self.arrays[number], self.batch)

    def run(self, steps: Sequence[Step], run: Run = interpreted) -> None:
        """Run steps in order."""
        for step in steps:
            in_parts(run, step.kernel, [self.arrays[b] for b in step.buffers], self.batch)


def code_of(program: Program, private: Callable[[int], Array] = private) -> Run:
    """The program's kernels as machine code."""
    return compiled([s.kernel for s in (*program.prepare, *program.steps)], program.target, private)


def run_program(
    program: Program, feed: Mapping[Tensor, Array], batch: int, run: Run = interpreted, exact: bool = False
) -> Bench:
    """The program run once on the values of `feed`, and on what its other leaves hold."""
    bench = Bench(program, batch, exact)
    for t in program.buffer:
        if t.is_leaf:
            value = np.asarray(feed[t] if t in feed else t.read())
            bench.write(t, residues(value, t.dtype) if exact else value)
    bench.run([*program.prepare, *program.steps], run)
    return bench
