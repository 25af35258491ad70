"""The schedule for sums that labels share out among rows: Y[v,d] = Σ_n [T[n] = v]·f(n,d), the gradient of a table.

    parallel over ranges of the rows v
      rows of the range = 0
      serial over n (what the label reads)
        v = T[n]; where it is in the range
          serial over d [lanes]
            Y[v,d] += f(n,d), summed over what else is bound

A term is looked at once a range instead of once a row. A row adds up in the order of n whoever has its range, so that the
result does not depend on the number of threads. What the equation does to the sum is left to a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from faltung.codegen import loops
from faltung.codegen.layout import Place
from faltung.codegen.loops import Expr, Int
from faltung.codegen.lower import Lowering, follows, scalar_places
from faltung.codegen.schedules.generic import sum_of_parts
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.graph.expr import Access, Reduce
from faltung.graph.index import Affine, Batch
from faltung.graph.recognise import labels
from faltung.graph.tensor import FLOATS

RANGES = 16  # of rows: units for threads
ROWS = 4 * RANGES  # below this the generic schedule, which looks at every term for every row, is as good


def scatter(task: Task) -> Plan | str:
    """Kernels for the equation, or why labels do not share out its terms."""
    eq, reduce = task.equation, task.equation.reduce
    found = [(v, label) for v, label in labels(eq, task.dtypes).items() if v in eq.free]
    if reduce is None or not found:
        return "no label says which row a term belongs to"
    row, label = found[0]
    if task.dtype not in FLOATS or not any(form.name == row for form in eq.lhs):
        return f"{row} is no axis of a sum of floats"
    rows = eq.extent[row]
    if isinstance(rows, Batch) or rows < ROWS:
        return f"{rows} rows are too few"
    if eq.expr is reduce and not task.aliases:
        return Plan((_Nest(task, reduce, row, label).work(),))
    two, held = sum_of_parts(task, 1)
    first = replace(eq, lhs=(Affine(), *eq.lhs), expr=reduce, shape=(1, *eq.shape), target="total")
    one = _Nest(replace(task, equation=first, result=held, aliases=()), reduce, row, label).work()
    arguments = tuple(-2 if a == RESULT else a for a in one.arguments)
    return Plan((replace(one, arguments=arguments), two), (held.size,))


class _Nest:
    """The kernel that adds terms to rows."""

    def __init__(self, task: Task, reduce: Reduce, row: str, label: Access) -> None:
        self.task, self.eq, self.reduce, self.row, self.label = task, task.equation, reduce, row, label
        self.k, self.memory, self.out = task.open()
        read = {n for form in label.index for n in form.names}
        self.outer = [i for i in (*self.eq.free, *reduce.indices) if i in read]
        self.lane = self._lane(read)
        order = [n for axis, _ in task.result.order for n in self.eq.lhs[axis].names]
        self.inner = sorted(dict.fromkeys(i for i in order if i != row), key=lambda i: i == self.lane)  # the lanes innermost
        self.rest = [i for i in reduce.indices if i not in read]
        self.lanes = task.lanes if self.lane is not None else 1

    def _lane(self, read: set[str]) -> str | None:
        """The index that is contiguous in the result and may count lanes in every read but the label's."""
        task, eq = self.task, self.eq
        reads = [a for a in eq.accesses if a is not self.label]
        for axis, form in enumerate(eq.lhs):
            i = form.name
            if i is None or i == self.row or i in read or task.lanes == 1:
                continue
            places = scalar_places(eq.extent) | {i: Place.split(Int(0), Int(0), task.lanes)}
            whole = task.result.block[axis] == 1 or eq.extent[i] == task.result.shape[axis]
            if whole and task.result.lane_stride(eq.lhs, i, places) == 1 and follows(reads, task.operands, i, places, task.lanes) is None:
                return i
        return None

    def work(self) -> Work:
        k, rows = self.k, self.eq.extent[self.row]
        assert isinstance(rows, int)
        with k.parallel(RANGES) as number:
            lo, hi = k.let(number * rows // RANGES, "from"), k.let((number + 1) * rows // RANGES, "to")
            with k.loop(self.row, lo, hi) as v, self._over(self.inner, {self.row: Place(v)}) as places:
                self._store(places, loops.const(0, loops.type_of(self.task.elem, self.lanes)))
            with self._over(self.outer, {}) as places:
                at = k.let(k.convert(self._lowering(places, 1).read(self.label, 0.0), "i64"), self.row)
                inner = [i for i in self.inner if i not in self.outer]
                with k.when((at >= lo) & (at < hi)), self._over(inner, places | {self.row: Place(at)}) as here:
                    self._add(here)
        return Work(k.finish(), (*self.task.used, RESULT), "scatter")

    @contextmanager
    def _over(self, indices: Sequence[str], places: dict[str, Place]) -> Iterator[dict[str, Place]]:
        """Loops over these indices, the lanes' in blocks; gives where they and `places` stand."""
        with ExitStack() as stack:
            for i in indices:
                extent = self.eq.extent[i]
                count: Expr = self.k.N if isinstance(extent, Batch) else Int(extent)
                if i == self.lane:
                    block = stack.enter_context(self.k.loop(i, 0, self.k.cdiv(count, self.lanes)))
                    places = places | {i: Place.split(block, Int(0), self.lanes)}
                else:
                    places = places | {i: Place(stack.enter_context(self.k.loop(i, 0, count)))}
            yield places

    def _lowering(self, places: dict[str, Place], lanes: int) -> Lowering:
        lane = self.lane if lanes > 1 else None
        return Lowering(self.k, self.memory, self.eq.extent, places, self.task.elem, lanes, lane, self._tail(places) if lane else None)

    def _tail(self, places: dict[str, Place]) -> Expr | None:
        """How many lanes of this block exist; None when always all do."""
        if self.lane is None:
            return None
        extent = self.eq.extent[self.lane]
        if isinstance(extent, int) and extent % self.lanes == 0:
            return None
        return self.k.let((self.k.N if isinstance(extent, Batch) else Int(extent)) - places[self.lane].value, "lanes")

    def _add(self, places: dict[str, Place]) -> None:
        """The term at this place to its row."""
        total = self.k.register("acc", loops.const(0, loops.type_of(self.task.elem, self.lanes)))
        with self._over(self.rest, places) as here:
            at = self._lowering(here, self.lanes)
            self.k.set(total, total + at.wide(at.number(self.reduce.body)))
        self._store(places, total, add=True)

    def _store(self, places: dict[str, Place], value: Expr, add: bool = False) -> None:
        k, layout, tail = self.k, self.out.layout, self._tail(places)
        padded = any(form.name == self.lane and layout.block[axis] == self.lanes for axis, form in enumerate(self.eq.lhs))
        mask = None if tail is None or padded else k.below(tail, self.lanes)
        address = layout.address(self.eq.lhs, places)
        old = k.load(self.out.buffer, address, self.lanes, mask) if add else None
        k.store(self.out.buffer, address, value if old is None else old + value, mask)
