"""Which addresses each unit of a kernel reaches, found from its loops: what a thread touches alone needs no barrier.

    reach(kernel, periods) → for every buffer what is read of it and what is written

Every address is followed as an interval, unit by unit: a number that units of image i raise by `slope`·i. Loops around an
If are gone through one value at a time, others as a whole. What cannot be followed (an address that is read from memory)
is everywhere, so that all that is said holds for every run of the loops.

Units lie side by side in memory as a rule, so that the addresses of the first units end where those of the others begin.
Where a unit is a row, say, of all blocks of channels, this holds for the addresses modulo the size of a block of channels,
the buffer's `period`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from faltung.codegen.interval import ANY, EITHER, Interval, Numbers, combined, only
from faltung.codegen.layout import Layout
from faltung.codegen.loops import (
    BOOL,
    INDEX,
    Batch,
    Binary,
    Buffer,
    Const,
    Expr,
    For,
    Gather,
    If,
    Int,
    Kernel,
    LaneIndex,
    Let,
    Load,
    Reg,
    Set,
    Splat,
    Stmt,
    Store,
    Temp,
    Var,
    children,
)
from faltung.graph.index import Batch as Open

UNITS = 1 << 13  # of an image; a kernel with more is taken to reach everything
LEAVES = frozenset((Int, Var, Temp, Reg, Const, Batch, LaneIndex))
POINTS = 1 << 14  # values of loops that are gone through one by one


@dataclass(frozen=True)
class Reach:
    """Addresses from `first` to before `last` for each unit of image 0, moving on by `slope` from image to image.

    `period` > 0: addresses modulo that. Units that reach nothing have `first` = ∞. Without addresses: any unit may reach
    everything, however many units there are.
    """

    first: Numbers
    last: Numbers
    slope: int
    period: int = 0

    @cached_property
    def _before(self) -> list[float]:
        """The end of what the first r units of image 0 reach."""
        found: list[float] = [-np.inf, *np.maximum.accumulate(self.last).tolist()]
        return found

    @cached_property
    def _after(self) -> list[float]:
        """Where what the units of image 0 from r on reach begins."""
        found: list[float] = [*np.minimum.accumulate(self.first[::-1])[::-1].tolist(), np.inf]
        return found

    def below(self, cut: int, each: int) -> float:
        """The end of what units before the cut reach; `each` is the units of an image, 0 where the batch adds none."""
        if not len(self.first):
            return np.inf if cut else -np.inf
        image, unit = divmod(cut, each) if each else (0, cut)
        end = self._before[unit] + self.slope * image
        return max(end, self._before[-1] + self.slope * (image - 1)) if image else end

    def above(self, cut: int, each: int, batch: int) -> float:
        """Where what units from the cut on reach begins."""
        image, unit = divmod(cut, each) if each else (0, cut)
        if each and image == batch:
            return np.inf
        if not len(self.first):
            return -np.inf
        start = self._after[unit] + self.slope * image
        return min(start, self._after[0] + self.slope * (image + 1)) if each and image + 1 < batch else start


@dataclass(frozen=True)
class Uses:
    """One buffer of a kernel: what is read and what is written, as it is and by its period; empty for nothing."""

    read: tuple[Reach, ...]
    written: tuple[Reach, ...]


EVERYWHERE = Reach(np.zeros(0), np.zeros(0), 0)


def reach(kernel: Kernel, periods: Sequence[int]) -> tuple[Uses, ...]:
    """What the units of a kernel reach in each of its buffers; `periods` are those of the buffers, 0 for none."""
    const, each = kernel.units
    units = each or const
    if units > UNITS or (const and each):
        return tuple(Uses((EVERYWHERE,), (EVERYWHERE,) if b.written else ()) for b in kernel.buffers)
    walk = _Walk(kernel, dict(zip(kernel.buffers, periods, strict=True)), units, each)
    walk.all()
    return tuple(Uses(*(tuple(walk.found(b, way)) for way in (False, True))) for b in kernel.buffers)


def period(layout: Layout | None) -> int:
    """From one step of the outermost axis that is no batch, or one of one image, to the next, in elements; 0 where nothing is known."""
    if layout is None:
        return 0
    axes = [axis for axis in layout.outer if not isinstance(layout.shape[axis], Open) and layout.shape[axis] != 1]
    return layout.strides[axes[0], 0] if axes else 0


# ---- the walk through the loops ----


@dataclass
class _Scope:
    """Where the walk stands: the unit of every point, values of loop variables, and what was worked out here before."""

    unit: NDArray[np.intp]
    vars: dict[str, Interval]
    known: dict[tuple[int, int], tuple[Expr, Interval]] = field(default_factory=dict)  # by expression and period

    def at(self, kept: NDArray[np.intp]) -> _Scope:
        """The scope at some of its points, which may come several times."""
        return _Scope(self.unit[kept], {n: v.at(kept) for n, v in self.vars.items()})


class _Walk:
    """One walk through a kernel; what is found lies by buffer, whether it is written, and period."""

    def __init__(self, kernel: Kernel, periods: Mapping[Buffer, int], units: int, each: int) -> None:
        self.kernel, self.units, self.each = kernel, units, each
        self.periods = {b.name: p for b, p in periods.items()}
        self.bare: set[int] = set()  # expressions that read no memory
        self.order = np.arange(units)
        self.lets: dict[str, Expr | None] = {}  # None: two values under one name
        self.spans: dict[tuple[str, bool, int], tuple[Numbers, Numbers, int] | None] = {}  # None: different slopes

    def all(self) -> None:
        """Every statement at every unit."""
        each = self.order.astype(np.float64)
        scope = _Scope(self.order, {self.kernel.variable.name: only(each, self.each)})
        if self.kernel.sweep is not None:
            variable, count = self.kernel.sweep
            scope.vars[variable.name] = Interval(0.0, self.value(count, scope).hi - 1)
        self.block(self.kernel.body, scope)

    def found(self, b: Buffer, written: bool) -> Iterator[Reach]:
        """What is reached of one buffer."""
        for period in dict.fromkeys((0, self.periods[b.name])):
            if (b.name, written, period) in self.spans:
                span = self.spans[b.name, written, period]
                if span is not None:
                    yield Reach(*span, period)
                elif not period:
                    yield EVERYWHERE

    def block(self, body: Sequence[Stmt], scope: _Scope) -> None:
        pending: dict[tuple[str, bool, int], tuple[Buffer, Expr, set[tuple[int, int]]]] = {}  # addresses that differ by a constant
        seen: set[int] = set()

        def look(x: Expr) -> bool:
            """Note what an expression reads; False if it is nothing."""
            if type(x) in LEAVES or id(x) in self.bare:
                return False
            if id(x) in seen:
                return True
            seen.add(id(x))
            reads = isinstance(x, (Load, Gather))
            for child in children(x):
                if type(child) not in LEAVES:
                    reads = look(child) or reads
            if isinstance(x, (Load, Gather)):
                touch(x.buffer, x.address, x.type.lanes, x.mask, False, x.stride if isinstance(x, Gather) else None)
            elif not reads:
                self.bare.add(id(x))
            return reads

        def touch(b: Buffer, address: Expr, lanes: int, mask: Expr | None, written: bool, stride: Expr | None) -> None:
            if b.name not in self.periods:
                return  # private
            if mask is not None or stride is not None:
                self.masked(b, address, lanes, mask, written, stride, scope)
                return
            base, c = _moved(address)
            pending.setdefault((b.name, written, id(base)), (b, base, set()))[2].add((c, lanes))

        for stmt in body:
            match stmt:
                case Let():
                    look(stmt.value)
                    name = stmt.temp.name
                    if self.lets.setdefault(name, stmt.value) is not stmt.value:
                        self.lets[name] = None
                        scope.known.clear()
                case Set():
                    look(stmt.value)
                case Store():
                    for part in (stmt.address, stmt.value, stmt.mask):
                        if part is not None:
                            look(part)
                    touch(stmt.buffer, stmt.address, stmt.value.type.lanes, stmt.mask, True, None)
                case If():
                    look(stmt.condition)
                    holds = self.value(stmt.condition, scope)
                    for branch, may in ((stmt.body, holds.hi > 0), (stmt.orelse, holds.lo < 1)):
                        self.branch(branch, np.broadcast_to(may, scope.unit.shape), scope)
                case For():
                    look(stmt.lo)
                    look(stmt.hi)
                    self.loop(stmt, scope)
        for (_, written, _), (b, base, offsets) in pending.items():
            for period in dict.fromkeys((0, self.periods[b.name])):
                at = self.value(base, scope, period)
                moved = [(_within(c, period), lanes) for c, lanes in offsets]
                low, high = min(c for c, _ in moved), max(c + lanes for c, lanes in moved)
                self.note(b.name, written, period, Interval(at.lo + low, at.hi + high, at.slope), scope)

    def branch(self, body: Sequence[Stmt], may: NDArray[np.bool_], scope: _Scope) -> None:
        """A block at the points where it may run."""
        if body and may.any():
            self.block(body, scope if may.all() else scope.at(np.flatnonzero(may)))

    def loop(self, stmt: For, scope: _Scope) -> None:
        lo, hi = self.value(stmt.lo, scope), self.value(stmt.hi, scope)
        if lo.slope != hi.slope:
            self.block(stmt.body, _Scope(scope.unit, scope.vars | {stmt.variable.name: ANY}, dict(scope.known)))
            return
        shape = scope.unit.shape
        (start, c), (end, d) = _moved(stmt.lo), _moved(stmt.hi)
        if start is end and d > c:  # as many times at every point
            hi = Interval(lo.lo, lo.hi + (d - c - 1) // stmt.step * stmt.step + 1, lo.slope)
        first, last = np.broadcast_to(lo.lo, shape), np.broadcast_to(hi.hi - 1, shape)
        some = first <= last
        if not some.all():
            if not some.any():
                return
            scope, first, last = scope.at(np.flatnonzero(some)), first[some], last[some]
        if lo.exact and np.isfinite(last).all() and np.isfinite(first).all():
            trips = np.floor((last - first) / stmt.step).astype(np.intp) + 1
            last = first + (trips - 1) * stmt.step
            if _branches(stmt.body) and trips.sum() <= POINTS:
                source = np.repeat(np.arange(len(trips)), trips)
                turn = np.arange(len(source)) - np.repeat(np.cumsum(trips) - trips, trips)
                value = first[source] + turn * stmt.step
                scope = scope.at(source)
                scope.vars[stmt.variable.name] = only(value, lo.slope)
                self.block(stmt.body, scope)
                return
        self.block(stmt.body, _Scope(scope.unit, scope.vars | {stmt.variable.name: Interval(first, last, lo.slope)}, dict(scope.known)))

    def masked(self, b: Buffer, address: Expr, lanes: int, mask: Expr | None, written: bool, stride: Expr | None, scope: _Scope) -> None:
        """An access some of whose lanes may not count, or with steps between lanes."""
        count = self.lanes(mask, lanes, scope)
        step = only(1.0) if stride is None else self.value(stride, scope)
        reached = combined("*", Interval(0.0, np.maximum(count - 1, 0)), step)
        for period in dict.fromkeys((0, self.periods[b.name])):
            at = self.value(address, scope, period)
            here = combined("+", at, reached)
            kept = np.broadcast_to(count > 0, scope.unit.shape)
            value = Interval(np.where(kept, here.lo, np.inf), np.where(kept, here.hi + 1, -np.inf), here.slope)
            self.note(b.name, written, period, value, scope)

    def lanes(self, mask: Expr | None, lanes: int, scope: _Scope) -> Numbers | float:
        """How many lanes from the first on may count."""
        if isinstance(mask, Temp) and (value := self.lets.get(mask.name)) is not None:
            return self.lanes(value, lanes, scope)
        if isinstance(mask, Binary) and mask.op == "and":
            return np.minimum(self.lanes(mask.a, lanes, scope), self.lanes(mask.b, lanes, scope))
        if isinstance(mask, Binary) and mask.op == "<" and isinstance(mask.a, LaneIndex):
            below = only(float(mask.b.value)) if isinstance(mask.b, Const) else self.value(mask.b.value, scope) if isinstance(mask.b, Splat) else ANY
            if not below.slope:
                return np.clip(below.hi, 0, lanes)
        return float(lanes)

    def note(self, name: str, written: bool, period: int, at: Interval, scope: _Scope) -> None:
        """From at.lo to before at.hi is reached at the points of the scope."""
        key = (name, written, period)
        if period and at.slope % period == 0:
            at = Interval(at.lo, at.hi, 0)
        held = self.spans.setdefault(key, (np.full(self.units, np.inf), np.full(self.units, -np.inf), at.slope))
        if held is None or held[2] != at.slope or at.slope < 0:
            self.spans[key] = None
            return
        first, last, _ = held
        if scope.unit is self.order:
            np.minimum(first, at.lo, out=first)
            np.maximum(last, at.hi, out=last)
        else:
            np.minimum.at(first, scope.unit, np.broadcast_to(at.lo, scope.unit.shape))
            np.maximum.at(last, scope.unit, np.broadcast_to(at.hi, scope.unit.shape))

    # ---- values ----

    def value(self, x: Expr, scope: _Scope, period: int = 0) -> Interval:
        """An index expression at the points of a scope; with a period, a number that differs from it by a multiple of that."""
        held = scope.known.get((id(x), period))
        if held is None:
            held = scope.known[id(x), period] = (x, self.evaluate(x, scope, period))
        return held[1]

    def evaluate(self, x: Expr, scope: _Scope, period: int) -> Interval:
        match x:
            case Int():
                return only(float(_within(x.value, period)))
            case Batch():
                return Interval(0.0, np.inf)
            case Var():
                return scope.vars[x.name]
            case Temp():
                value = self.lets.get(x.name)
                return ANY if value is None or value.type not in (INDEX, BOOL) else self.value(value, scope, period)
            case Binary() if period and x.op in ("+", "-"):
                return combined(x.op, self.value(x.a, scope, period), self.value(x.b, scope, period))
            case Binary() if period and x.op == "*" and isinstance(x.b, Int) and x.b.value % period == 0:
                return only(0.0)
            case Binary("//", Binary("*", a, b), c) if _images(b) and _images(c):  # the batch cancels
                return combined("//", combined("*", self.value(a, scope), only(float(_images(b)))), only(float(_images(c))))
            case Binary() if x.a.type == INDEX or x.op in ("and", "or"):
                return combined(x.op, self.value(x.a, scope), self.value(x.b, scope))
            case Reg() | Load() | Gather() | _:
                return EITHER if x.type.kind == "bool" else ANY


def _within(c: int, period: int) -> int:
    """The constant, brought near a period; a small negative one, such as a step back by a row, stays what it is."""
    return c % period if period and not -period < 2 * c < 2 * period else c


def _moved(x: Expr) -> tuple[Expr, int]:
    """The expression without the constant that is added to it, and that."""
    return (x.a, x.b.value) if isinstance(x, Binary) and x.op == "+" and isinstance(x.b, Int) else (x, 0)


def _images(x: Expr) -> int:
    """The constant of a constant times the batch; 0 for anything else."""
    if isinstance(x, Binary) and x.op == "*" and isinstance(x.b, Int):
        return _images(x.a) * x.b.value
    return int(isinstance(x, Batch))


def _branches(body: Sequence[Stmt]) -> bool:
    """Whether some statement is an If."""
    return any(isinstance(s, If) or (isinstance(s, For) and _branches(s.body)) for s in body)
