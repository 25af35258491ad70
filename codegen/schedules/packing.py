"""Packing: points of a map that a contraction skips are left out before it reads the others many times.

    P[n, c, i, j] = A[n, c, s·i, s·j]        then the contraction, over P

Points that lie apart use a part of each line of cache, and a map whose size is a multiple of a large power of two puts the
same point of all channels into few sets of a cache: what should stay there for all filters does not. Copied together it
does (K. Goto and R. van de Geijn, Anatomy of high-performance matrix multiplication, 2008, pack for the same reason).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from faltung.codegen.layout import Layout
from faltung.codegen.schedules.generic import generic
from faltung.codegen.schedules.registers import LINE
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.graph.equation import Equation
from faltung.graph.expr import Access, replace as swap
from faltung.graph.index import Affine

SCRATCH = -2  # argument number of what is packed


def packed(task: Task, read: Access, then: Callable[[Task], Plan | str]) -> Plan | None:
    """The points that `read` reads, packed, and `then` the task that reads them there; it needs no scratch of its own.

    None where the read skips no points, where each fills its line of cache (16 channels in single precision do), and where it
    may meet a point again: where several indices walk along one axis (a window, the channels of a group).
    """
    eq, slot = task.equation, read.slot
    free = tuple(i for form in read.index for i in form.names)
    if slot in task.aliases or len(eq.read(slot)) != 1 or any(len(form.names) != 1 for form in read.index) or len({*free}) < len(free):
        return None
    steps = [form.coefficient(i) for i, form in zip(free, read.index, strict=True)]
    if min(steps) < 1 or max(steps) == 1 or any(form.den > 1 for form in read.index):
        return None
    lies = task.operands[slot]
    if min(lies.strides[axis, 0] for axis, s in enumerate(steps) if s > 1) * task.bytes >= LINE:
        return None
    shape = tuple(eq.extent[i] for i in free)
    layout = Layout(shape, lies.order, lies.block, ((0, 0),) * len(shape))
    plain = Access(slot, tuple(Affine.of(i) for i in free))
    copy = Equation(free, plain.index, read, tuple(zip(free, shape, strict=True)), shape, "P", eq.operands)
    made = generic(replace(task, equation=copy, result=layout, dtype=task.dtypes[slot], clears=False))
    copies = tuple(Work(w.kernel, tuple(SCRATCH if a == RESULT else a for a in w.arguments), "packing") for w in made.works)
    operands = (*task.operands[:slot], layout, *task.operands[slot + 1 :])
    plan = then(replace(task, equation=replace(eq, expr=swap(eq.expr, read, plain)), operands=operands))
    assert isinstance(plan, Plan) and not plan.scratch, plan
    works = (replace(w, arguments=tuple(SCRATCH if a == slot else a for a in w.arguments)) for w in plan.works)
    return Plan((*copies, *works), (layout.size,))
