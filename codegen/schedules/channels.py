"""Sums of products in which both reads go along the lanes: depthwise and narrow groups, or a summed channel.

    Y[n, F·g+f, rows] = Σ_{c,p} X[n, C·g+c, rows, p] · K[F·g+f, c, p]

The lanes are one index that runs over a whole axis: `channel` itself (depthwise), the digits F·g + f of a grouped
result taken as one index, or a channel that is summed, whose lanes are added up in the end. A read brings them in
one of four ways:

    whole     its axis is the lane index: a vector is a block of that axis
    drawn     its axis is C·g + c with c the same in all lanes: a vector is drawn out of the blocks that hold its groups
    spread    g stands in one axis, f in another: a vector where the layout has the two side by side
    alike     it does not have the lanes: one element for all of them (few filters, in the gradient of their weights)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from faltung.codegen.layout import Halo, Layout, blocked, outside, plain
from faltung.graph.equation import Equation, used_indices
from faltung.graph.expr import ZERO, Access, Apply, replace as swap
from faltung.graph.index import Affine, Batch, Extent, Shape, mixed_radix

MOST_BLOCKS = 4  # that the lanes of one vector are drawn from


@dataclass(frozen=True)
class Read:
    """One of the two reads, and how it brings the lanes: see the module docstring."""

    access: Access
    axis: int  # the lanes', or that of g; alike: -1
    width: int = 0  # drawn, spread: what one step of g is on the axis; whole: 0
    other: int | None = None  # spread: the axis of f
    static: str | None = None  # drawn: the index c, which picks lanes and is therefore always written out

    @property
    def kind(self) -> str:
        return "alike" if self.axis < 0 else "whole" if not self.width else "drawn" if self.other is None else "spread"

    def wanted(self, extents: Mapping[str, Extent], shape: Shape, lanes: int) -> Layout | None:
        """The layout that this read is made for, halo included; None where there is none."""
        halo = outside([(self.access, extents)], shape)
        if self.kind == "alike":
            return plain(shape, halo)
        if self.other is None:
            parameter = not any(isinstance(e, Batch) for e in shape)
            order = [self.axis, *(a for a in range(len(shape)) if a != self.axis)] if parameter else None
            return blocked(shape, {self.axis: lanes}, order, _off(halo, self.axis))
        if any(isinstance(e, Batch) for e in shape):
            return None
        inner = ((self.axis, 0), (self.other, 0))
        rest = tuple((a, 0) for a in range(len(shape)) if a not in (self.axis, self.other))
        block = tuple(self.width if a == self.axis else 1 for a in range(len(shape)))
        digit = ((self.axis, 1),) if self.width > 1 else ()
        return Layout(shape, (*digit, *rest, *inner), block, _off(halo, self.axis, self.other))

    def unfit(self, layout: Layout, extents: Mapping[str, Extent], lanes: int) -> str | None:
        """Why this layout will not do: lanes that do not lie together, a missing halo; or None."""
        if not self._together(layout, lanes):
            return f"operand {self.access.slot} has no vectors of channels"
        for axis, form in enumerate(self.access.index):
            if axis in (self.axis, self.other):
                continue
            if isinstance(layout.shape[axis], Batch):
                if form.name is None or not isinstance(extents[form.name], Batch):
                    return "a read is not along the batch"
            elif not layout.covers(axis, *form.range(extents)):
                return f"operand {self.access.slot} has no halo for {form} on axis {axis}"
        return None

    def _together(self, layout: Layout, lanes: int) -> bool:
        others = [b for a, b in enumerate(layout.block) if a != self.axis]
        if any(b > 1 for b in others):
            return False
        if self.kind == "alike":
            return True
        if self.other is None:
            return layout.is_split(self.axis, lanes)
        side_by_side = layout.order[-2:] == ((self.axis, 0), (self.other, 0)) and layout.block[self.axis] == self.width
        return side_by_side and layout.halo[self.axis] == layout.halo[self.other] == (0, 0)


@dataclass(frozen=True)
class Channels:
    """An equation whose reads both bring the lanes. `equation` has the lane index in place of digits."""

    equation: Equation
    lane: str
    group: int  # lanes of a group, F; 1 where the lanes are no digits
    a: Read  # the read that may have windows
    b: Read
    axis: int | None  # of the lanes in the result; None: they are summed

    @property
    def rows(self) -> list[str]:
        """Free indices other than the lanes."""
        return [i for i in self.equation.free if i != self.lane]

    @property
    def reduced(self) -> list[str]:
        """Summed indices other than the lanes."""
        return [i for i in self.equation.bound if i != self.lane]


def _off(halo: Halo, *axes: int | None) -> Halo:
    return tuple((0, 0) if a in axes else h for a, h in enumerate(halo))


def channels(eq: Equation) -> list[Channels]:
    """The ways to see an equation like that; those that keep the lanes first."""
    reduce = eq.reduce
    if reduce is None or reduce.kind != "sum" or not isinstance(reduce.body, Apply) or reduce.body.fn != "mul":
        return []
    found = [c for axis in range(len(eq.lhs)) for c in _kept(eq, axis)]
    return found + [c for i in eq.bound for c in _summed(eq, i)]


def _kept(eq: Equation, axis: int) -> list[Channels]:
    """Lanes along one axis of the result, whose form is a lone index or two digits."""
    form, extent = eq.lhs[axis], eq.shape[axis]
    if isinstance(extent, Batch) or not mixed_radix(form, extent, eq.extent) or len(form.terms) > 2:
        return []
    if form.name is not None:
        return _oriented(eq, form.name, None, None, axis)
    (_, low), (group, high) = sorted(((c, n) for n, c in form.terms), key=lambda t: (t[0], eq.extent[t[1]]))  # type: ignore[return-value]
    lane = next(n for n in ("o", "lane", "lane_") if n not in eq.extent)
    joined = _joined(eq, form, lane, extent)
    assert joined.reduce is not None
    if {high, low} & used_indices(swap(joined.expr, joined.reduce, ZERO)):
        return []
    return _oriented(joined, lane, high, low, axis, group)


def _joined(eq: Equation, form: Affine, lane: str, extent: int) -> Equation:
    """The equation with one index in place of the digits of a form, wherever the form stands."""
    whole, expr = Affine.of(lane), eq.expr
    for a in eq.accesses:
        if form in a.index:
            expr = swap(expr, a, Access(a.slot, tuple(whole if f == form else f for f in a.index)))
    free = tuple(dict.fromkeys(lane if i in form.names else i for i in eq.free))
    lhs = tuple(whole if f == form else f for f in eq.lhs)
    return replace(eq, free=free, lhs=lhs, expr=expr, extents=(*eq.extents, (lane, extent)))


def _summed(eq: Equation, lane: str) -> list[Channels]:
    """Lanes along the summed channel, axis 1 of what a window moves over."""
    found = _oriented(eq, lane, None, None, None)
    return [c for c in found if c.a.axis == 1 and len(c.a.access.index) > 2 and c.b.kind == "whole"]


def _oriented(eq: Equation, lane: str, high: str | None, low: str | None, axis: int | None, group: int = 1) -> list[Channels]:
    reduce = eq.reduce
    assert reduce is not None and isinstance(reduce.body, Apply)
    pair = [x for x in reduce.body.args if isinstance(x, Access)]
    if len(pair) != 2 or pair[0] is pair[1] or any(f.den != 1 for x in pair for f in x.index):
        return []
    reads = [_read(eq, x, lane, high, low) for x in pair]
    used = {n for x in pair for f in x.index for n in f.names} | {lane}
    if any(i not in used and eq.extent[i] != 1 for i in (*eq.free, *eq.bound)):
        return []
    return [
        Channels(eq, lane, group, a, b, axis)
        for a, b in (reads, reads[::-1])
        if a is not None and b is not None and a.kind not in ("spread", "alike") and (_windows(a) or not _windows(b))
    ]


def _windows(read: Read) -> bool:
    return any(len(f.terms) > 1 for n, f in enumerate(read.access.index) if n != read.axis)


def _read(eq: Equation, x: Access, lane: str, high: str | None, low: str | None) -> Read | None:
    """How a read brings the lanes; None where it does not."""
    axes = [n for n, f in enumerate(x.index) if {lane, high, low} & set(f.names)]
    if not axes:
        return Read(x, -1)
    if len(axes) > 2:
        return None
    if len(axes) == 1 and x.index[axes[0]].name == lane:
        return Read(x, axes[0])
    if high is None or lane in (n for f in x.index for n in f.names):
        return None
    axis = next((n for n in axes if high in x.index[n].names), axes[0])
    form = x.index[axis]
    rest = [n for n in form.names if n != high]
    width = form.coefficient(high)
    if low in rest or form.const or width < 1 or len(rest) > 1 or any(form.coefficient(n) != 1 or eq.extent[n] != width for n in rest):
        return None
    if not rest and width != 1:
        return None
    if len(axes) == 1:
        return Read(x, axis, width, static=rest[0] if rest else None)
    other = next(n for n in axes if n != axis)
    return Read(x, axis, width, other) if x.index[other].name == low else None


# ---- vectors out of groups ----


def drawn(c: int, width: int, group: int, lanes: int) -> list[int]:
    """The channel that each lane reads, counted from the first channel of the first group in the vector."""
    return [width * (lane // group) + c for lane in range(lanes)]


def undrawable(c: Channels, lanes: int) -> str | None:
    """Why vectors of this width cannot be drawn from groups, or None."""
    for read in (c.a, c.b):
        if read.kind in ("whole", "alike"):
            continue
        if lanes % c.group:
            return f"groups of {c.group} channels do not fill vectors of {lanes}"
        if read.kind == "drawn":
            span = read.width * lanes // c.group
            if span % lanes and lanes % span:
                return f"{lanes} lanes come out of {span} channels"
            if span > MOST_BLOCKS * lanes:
                return f"a vector would be drawn from {span // lanes} others"
    return None


def axes(eq: Equation, lanes: int) -> list[int]:
    """Axes of the result that should be split into lanes."""
    return [c.axis for c in _worth(eq) if c.axis is not None and undrawable(c, lanes) is None]


def narrow(eq: Equation, lanes: int) -> bool:
    """Whether it has groups narrower than a vector of which no vector can be drawn: lanes lie along lines (lines.py)."""
    found = [c for c in _worth(eq) if c.group > 1]
    return bool(found) and all(undrawable(c, lanes) is not None for c in found)


def _worth(eq: Equation) -> list[Channels]:
    return [c for c in channels(eq) if c.b.kind != "alike" and worthwhile(c) is None]


def worthwhile(c: Channels) -> str | None:
    """Why a register tile gains nothing over plain loops, or None."""
    if not any(not isinstance(c.equation.extent[i], Batch) for i in c.rows):
        return "its result has no rows"
    if c.axis is not None and not _windows(c.a) and c.a.kind == c.b.kind == "whole":
        return "it has neither windows nor groups"
    return None


def wanted(eq: Equation, held: Sequence[Layout], dtypes: Sequence[str], dtype: str, result: Layout, lanes: int) -> dict[int, Layout]:
    """Operand → the layout, other than the one it has, with which the schedule would apply; nothing where it would not."""
    for c in channels(eq):
        if worthwhile(c) is not None or undrawable(c, lanes) is not None or c.a.access.slot == c.b.access.slot:
            continue
        if any(dtypes[r.access.slot] != dtype for r in (c.a, c.b)) or not kept(c, result, lanes):
            continue
        other = [r for r in (c.a, c.b) if r.unfit(held[r.access.slot], c.equation.extent, lanes) is not None]
        found = {r.access.slot: r.wanted(c.equation.extent, held[r.access.slot].shape, lanes) for r in other}
        if all(layout is not None for layout in found.values()):
            return {slot: layout for slot, layout in found.items() if layout is not None}
    return {}


def kept(c: Channels, result: Layout, lanes: int) -> bool:
    """Whether the result lies as the lanes come: in blocks of them, or not split when they are added up."""
    if c.axis is not None:
        return result.is_split(c.axis, lanes) and all(b == 1 for a, b in enumerate(result.block) if a != c.axis)
    extent = c.equation.extent[c.lane]
    return not isinstance(extent, Batch) and 2 * extent >= lanes and all(b == 1 for b in result.block)
