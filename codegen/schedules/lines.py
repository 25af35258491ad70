"""Sums of products along lines of memory: which index the lanes are, what the reads bring, and the products written out.

Lanes run along an index that lies without gaps, in one read and the result or, where it is summed, in both reads. The
other read brings one element for all lanes. A line may have up to FARTHEST elements from lane to lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from faltung.codegen.lanes import FARTHEST, load_apart
from faltung.codegen.layout import Place, Places, value_of
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.lower import follows, scalar_places
from faltung.codegen.schedules.products import Written
from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.tile import fixed
from faltung.graph.expr import Access
from faltung.graph.index import Batch
from faltung.graph.recognise import Contraction, orientations

SHORTEST = 4  # elements of a line that are worth a vector
MOST_SUMS = 4096  # vectors of sums that stay in cache
Point = Mapping[str, int]


@dataclass(frozen=True)
class Line:
    """An equation with lanes along index `lane`: `step` elements from one lane to the next in A, `gap` in the result."""

    roles: Contraction
    lane: str
    step: int
    gap: int


def lines(task: Task) -> Line | str:
    """The equation with lanes along its longest line, or the reason why there is none."""
    options = orientations(task.equation)
    if not options:
        return "it is no sum of products"
    found = [_seen(task, c) for c in options]
    ways = [way for way in found if isinstance(way, Line)]
    return ways[0] if ways else "; ".join(dict.fromkeys(way for way in found if isinstance(way, str)))


def _seen(task: Task, c: Contraction) -> Line | str:
    """The equation with lanes, or why there are none."""
    eq = task.equation
    if task.dtype not in ("float32", "float64") or any(task.dtypes[x.slot] != task.dtype for x in (c.a, c.b)):
        return "its operands are not floats of one type"
    if not any(not isinstance(eq.extent[i], Batch) for i in eq.free):
        return "its result has no rows"
    for x in (c.a, c.b):
        reason = _unfit(task, x)
        if reason is not None:
            return reason
    ways = [way for i in (*reversed(eq.free), *reversed(c.reduced)) if (way := _along(task, c, i)) is not None]
    if not ways:
        return "no index lies without gaps in what it reads and writes"
    results, terms = (prod(e for i in names if not isinstance(e := eq.extent[i], Batch)) for names in (eq.free, eq.bound))
    line = max(ways, key=lambda way: (fixed(eq.extent[way.lane]), (way.lane in c.reduced) == (results < terms)))
    if line.lane in c.reduced and prod(fixed(eq.extent[i]) for i in eq.free if i not in line.roles.batch) > MOST_SUMS:
        return f"sums for more than {MOST_SUMS} results do not stay in cache"
    return line


def _along(task: Task, c: Contraction, i: str) -> Line | None:
    """The equation with lanes along index i, if that is possible."""
    eq, extent, places = task.equation, task.equation.extent[i], scalar_places(task.equation.extent)
    step, other = (task.operands[x.slot].lane_stride(x.index, i, places) for x in (c.a, c.b))
    if isinstance(extent, Batch) or extent < min(SHORTEST, task.lanes) or step is None or not 1 <= step <= FARTHEST:
        return None
    if i in c.reduced:
        return Line(c, i, step, 0) if other == 1 and not task.result.size[1] else None
    gap = task.result.lane_stride(eq.lhs, i, places)
    factors = {id(c.a), id(c.b)}
    reason = follows([x for x in eq.accesses if id(x) not in factors], task.operands, i, places, task.lanes)
    if other or gap is None or not 1 <= gap <= FARTHEST or reason is not None or any(isinstance(eq.extent[b], Batch) for b in eq.bound):
        return None
    return Line(c, i, step, gap)


def filled(extent: int, lanes: int) -> float:
    """The share of the lanes that are used along an index."""
    return extent / (-(-extent // lanes) * lanes)


def instead_of(task: Task, line: Line) -> tuple[tuple[str, str], ...]:
    """Why the lanes are not channels, for readers."""
    seen = task.result if line.lane in task.equation.free else task.operands[line.roles.a.slot]
    length = fixed(task.equation.extent[line.lane])
    if len(seen.shape) < 3 or isinstance(channels := seen.shape[1], Batch):
        return ()
    shares = [f"{100 * filled(count, task.lanes):.0f} %" for count in (channels, length)]
    return (("channels in the lanes", f"{channels} fill {shares[0]} of them, lines of {length} {shares[1]}"),)


def _unfit(task: Task, x: Access) -> str | None:
    """Why the addresses of a read are not sums over its indices, all inside of memory; or None."""
    layout = task.operands[x.slot]
    for axis, form in enumerate(x.index):
        extent = layout.shape[axis]
        if isinstance(extent, Batch):
            if form.name is None or form.const or not isinstance(task.equation.extent[form.name], Batch):
                return "a read is not along the batch"
        elif layout.block[axis] > 1 and extent > layout.block[axis]:
            return f"operand {x.slot} is in several blocks on axis {axis}"
        elif not layout.covers(axis, *form.range(task.equation.extent)):
            return f"operand {x.slot} has no halo for {form} on axis {axis}"
    return None


class Read:
    """One of the two reads: its vectors or elements, by address."""

    def __init__(self, nest: Nest, access: Access, step: int) -> None:
        self.nest, self.access, self.step = nest, access, step
        self.memory = nest.memory[access.slot]
        layout = self.memory.layout
        self.units = [layout.strides[axis, 1 if b > 1 else 0] for axis, b in enumerate(layout.block)]

    def moves(self, i: str) -> int:
        """Address step for one step of an index."""
        return sum(form.coefficient(i) * unit for form, unit in zip(self.access.index, self.units, strict=True))

    def base(self, places: Mapping[str, Place]) -> Expr:
        """The address where the indices stand."""
        total: Expr = Int(self.memory.layout.origin)
        for form, unit, (before, _) in zip(self.access.index, self.units, self.memory.layout.halo, strict=True):
            total = total + (value_of(form, places) + before) * unit
        return self.nest.k.let(total, self.memory.buffer.name.lower() + "_at")

    def element(self, address: Expr) -> Expr:
        """One element in all lanes."""
        return self.nest.k.splat(self.nest.k.peek(self.memory.buffer, address, 1), self.nest.lanes)

    def vector(self, address: Expr, count: int) -> Expr:
        """A vector of which `count` lanes exist; the others are 0."""
        lanes = self.nest.lanes
        mask = self.nest.k.below(count) if count < lanes else None
        return load_apart(self.nest.k, self.memory.buffer, address, self.step, lanes, mask)


class Nest:
    """What both kernels have: operands, the tile, and what is written out."""

    def __init__(self, task: Task, seen: Line) -> None:
        self.task, self.seen, self.eq, self.lanes = task, seen, task.equation, task.lanes
        self.k, self.memory, self.out = task.open()
        self.lane, self.kept = seen.lane, seen.lane in task.equation.free
        self.extent = fixed(self.eq.extent[self.lane])
        self.a, self.b = Read(self, seen.roles.a, seen.step), Read(self, seen.roles.b, 1)

    def products(self, a: Expr, b: Expr, form: Written, points: Sequence[Point], steps: Sequence[Point], acc: Sequence[Reg], count: int) -> None:
        """Everything that is written out, from the addresses where the indices stand; `count` lanes exist."""
        k = self.k
        x: Expr = Int(0)
        held: dict[int, Expr] = {}
        last: int | None = None
        jobs = form.jobs(points, steps)
        offsets = [form.offsets({**points[n], **steps[s]}) for n, s in jobs]
        uses = [w for _, w in offsets]
        for (n, _), (x_at, w_at) in zip(jobs, offsets, strict=True):
            if x_at != last:
                x, last = k.let(self.a.vector(a + x_at, count), "x"), x_at
            if w_at not in held:
                w = self.b.element(b + w_at) if self.kept else self.b.vector(b + w_at, count)
                held[w_at] = k.let(w, "w") if uses.count(w_at) > 1 else w
            k.set(acc[n], k.fma(x, held[w_at], acc[n]))

    def variants(self, places: Places, tile: Mapping[str, int], then: Callable[[Places, Mapping[str, int]], None]) -> None:
        """The tile in full, and smaller ones where the rows end."""

        def walk(rest: Sequence[str], sizes: Mapping[str, int]) -> None:
            if not rest:
                then(places, sizes)
                return
            i, e = rest[0], fixed(self.eq.extent[rest[0]])
            if e % tile[i] == 0:
                walk(rest[1:], {**sizes, i: tile[i]})
            else:
                with self.k.when(places[i].value <= e - tile[i]):
                    walk(rest[1:], {**sizes, i: tile[i]})
                with self.k.otherwise():
                    walk(rest[1:], {**sizes, i: e % tile[i]})

        walk(list(tile), {})


def combinations(counts: Mapping[str, int]) -> list[Point]:
    """All values of indices that count so far."""
    return [dict(zip(counts, values, strict=True)) for values in product(*(range(n) for n in counts.values()))]
