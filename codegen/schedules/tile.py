"""Contractions over actual layouts: what their operands must look like, and the register tile they get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from faltung.codegen.layout import Layout, Place, blocked, plain, within
from faltung.codegen.loops import Int
from faltung.codegen.lower import follows, scalar_places
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import Target
from faltung.graph.equation import Equation
from faltung.graph.expr import Access, reindex
from faltung.graph.index import Affine, Batch, Extent
from faltung.graph.recognise import Contraction, orientations

RUNNING_ON = 0.02  # of the multiply-add rate: what a tile that runs on from line to line must gain, for its addresses
WRITTEN_OUT = 8  # steps of the innermost reduction of such a tile, for which its addresses are computed once
FEW = 16  # registers that hold but a small tile, whose steps take so few cycles that the instructions around them show


@dataclass(frozen=True)
class Lanes:
    """A way to see an equation as a contraction: which column index the lanes are.

    With groups, lanes count through the channels of all groups: where the equation has F·g + f, `equation` and `roles`
    have f, which runs over all of the axis, and where it has f alone they have f − F·g. Then g follows from f.
    """

    equation: Equation
    roles: Contraction
    index: str
    here: int  # its axis in the result
    there: int  # and in B
    group: str | None = None
    size: int = 0  # of a group

    def extent(self, form: Affine) -> Extent:
        """What a form that contains the lanes runs over."""
        return self.equation.extent[self.index] if form.name == self.index else self.size

    def narrow(self, lanes: int) -> bool:
        """Whether a vector would hold channels of several groups."""
        return self.group is not None and self.size < lanes

    def layout(self, index: tuple[Affine, ...], shape: tuple[Extent, ...], axis: int, lanes: int, order: Sequence[int]) -> Layout:
        """Axes in `order`, the lanes innermost: in blocks, or not where groups would begin inside of a block."""
        if within(index[axis], self.index, lanes) == lanes:
            return blocked(shape, {axis: lanes}, order)
        return Layout(shape, tuple((a, 0) for a in (*(a for a in order if a != axis), axis)), (1,) * len(shape), ((0, 0),) * len(shape))

    def fits(self, index: tuple[Affine, ...], layout: Layout, axis: int, lanes: int) -> bool:
        """Whether the lanes of an operand or a result are vectors of a layout: see `layout`."""
        if within(index[axis], self.index, lanes) == lanes:
            return layout.is_split(axis, lanes)
        return layout.block[axis] == 1 and layout.strides[axis, 0] == 1


@dataclass(frozen=True)
class Form:
    """A contraction over actual layouts: the lanes, and the register tile."""

    lanes: Lanes
    tile: tuple[tuple[str, int], ...]  # row index, points
    vectors: int  # blocks of the lane index side by side
    unroll: int
    paired: bool = False  # the last block is half full, and a vector of it holds two points
    lines: str | None = None  # the row index outside of the tile's one, where the tile runs on from line to line

    def pairs(self, n: int, v: int) -> bool:
        """Whether vector `v` of point `n` shares its register with point `n - 1`."""
        return self.paired and n % 2 == 1 and v + 1 == self.vectors


# ---- what the operands must look like ----


def lane_axes(eq: Equation) -> list[Lanes]:
    """Ways to see the equation as a contraction with lanes."""
    return [found for c in orientations(eq) for f in c.columns if (found := _through_groups(eq, c, f)) is not None]


def _through_groups(eq: Equation, c: Contraction, f: str) -> Lanes | None:
    """The lanes along column index `f`, counted through the groups that it is a digit of."""
    extent = eq.extent[f]
    if isinstance(extent, Batch):
        return None
    forms = {form for index in (eq.lhs, *(a.index for a in eq.accesses)) for form in index if form.coefficient(f)}
    digits = [form for form in forms if form.name != f]
    group = None
    if digits:
        group = next((n for n in digits[0].names if n in c.batch and digits[0].coefficient(n) == extent), None)
        if group is None or digits != [Affine.make({group: extent, f: 1})]:
            return None
        groups = eq.extent[group]
        assert isinstance(groups, int)
        shifted = {f: Affine.make({f: 1, group: -extent})}
        eq = replace(
            eq, free=tuple(i for i in eq.free if i != group), lhs=tuple(form.substitute(shifted) for form in eq.lhs),
            expr=reindex(eq.expr, shifted), extents=tuple((i, extent * groups if i == f else e) for i, e in eq.extents),
        )  # fmt: skip
        index_a, index_b = (tuple(form.substitute(shifted) for form in x.index) for x in (c.a, c.b))
        c = replace(c, a=Access(c.a.slot, index_a), b=Access(c.b.slot, index_b))
    here = [a for a, form in enumerate(eq.lhs) if form.coefficient(f) == 1 and (eq.extent[f] if form.name == f else extent) == eq.shape[a]]
    there = [a for a, form in enumerate(c.b.index) if form.coefficient(f) == 1]
    if len(here) != 1 or len(there) != 1:
        return None
    return Lanes(eq, c, f, here[0], there[0], group, extent if group is not None else 0)


def weights_layout(found: Lanes, shape: tuple[Extent, ...], lanes: int) -> Layout:
    """The layout in which B streams: lane blocks outermost, then windows, then the other channels, lanes innermost.

    An operand with an open batch keeps it outermost (it is an activation, and lies so already).
    """
    c, axis = found.roles, found.there
    if any(isinstance(e, Batch) for e in shape):
        return found.layout(c.b.index, shape, axis, lanes, plain(shape).outer)
    windows = {n for form in c.a.index if len(names := set(form.names) - {found.group}) > 1 for n in names}
    rest = [a for a in range(len(shape)) if a != axis]
    taps = [a for a in rest if set(c.b.index[a].names) & windows]
    return found.layout(c.b.index, shape, axis, lanes, [axis, *taps, *(a for a in rest if a not in taps)])


def fit(task: Task) -> Form | str:
    """The contraction over the task's layouts, with a register tile; or the reason why there is none."""
    options = lane_axes(task.equation)
    if not options:
        return "it is no contraction with a column index that could be lanes"
    reasons = []
    for found in options:
        reason = _reason(task, found)
        if reason is None:
            return _tiled(replace(task, equation=found.equation), found)
        reasons.append(reason)
    return "; ".join(reasons)


def _reason(task: Task, found: Lanes) -> str | None:
    eq, c, f, lanes = found.equation, found.roles, found.index, task.lanes
    a, b = task.operands[c.a.slot], task.operands[c.b.slot]
    if found.narrow(lanes):
        return f"groups of {found.size} are narrower than {lanes} lanes"
    if task.dtype not in ("float32", "float64") or any(task.dtypes[s] != task.dtype for s in (c.a.slot, c.b.slot)):
        return "its operands are not floats of one type"
    if not found.fits(eq.lhs, task.result, found.here, lanes):
        return f"the result is not in blocks of {lanes} along {f}"
    if not found.fits(c.b.index, b, found.there, lanes) or b.shape[found.there] != found.extent(c.b.index[found.there]):
        return f"operand {c.b.slot} is not in blocks of {lanes} along {f}"
    for access, layout in ((c.a, a), (c.b, b)):
        for axis, form in enumerate(access.index):
            if form.coefficient(f):
                continue
            low, high = form.range(eq.extent)
            if isinstance(layout.shape[axis], Batch):
                if form.name is None or not isinstance(eq.extent[form.name], Batch):
                    return "a read is not along the batch"
            elif not layout.covers(axis, low, high):
                return f"operand {access.slot} has no halo for {form} on axis {axis}"
    assert eq.reduce is not None
    inside = {id(c.a), id(c.b)}
    others = [x for x in eq.accesses if id(x) not in inside]
    if found.group is not None and found.size % lanes and any(form.coefficient(f) and form.name != f for x in others for form in x.index):
        return "what follows the sum reads within groups, which begin inside of a block"
    places = dict(scalar_places(eq.extent)) | {f: Place.split(Int(0), Int(0), lanes)}
    return follows(others, task.operands, f, places, lanes)


# ---- the register tile ----


def _tiled(task: Task, found: Lanes) -> Form:
    eq, c, lanes = found.equation, found.roles, task.lanes
    whole = fixed(eq.extent[found.index]) if found.group is None else found.size
    blocks = whole // lanes if found.group is not None and whole % lanes == 0 else 1 if found.group is not None else -(-whole // lanes)
    best: tuple[float, tuple[tuple[str, int], ...], int, str | None] = (-1.0, (), 1, None)
    half = found.group is None and lanes > 2 and 2 * (whole % lanes) == lanes and images(task, found) is None
    for vectors in (v for v in (1, 2, 3, 4) if blocks % v == 0):
        # one register for each vector of B, one for the element of A where its use is not folded into the instruction,
        # and one more for the next element where each is used several times
        spare = 2 if task.target.registers <= 16 and vectors > 1 else 1
        points = (task.target.registers - vectors - spare) // vectors
        width = vectors - (0.5 if half and vectors == blocks else 0)
        for tile in _tiles(task, c, min(points, 28)):
            score = _efficiency([(eq.extent[r], t) for r, t in tile], width)
            if score > best[0] + 0.005:  # between equals the simpler tile, which comes first
                best = (score, tile, vectors, None)
        for lines, row in _pairs(task, found):
            whole = fixed(eq.extent[lines]) * fixed(eq.extent[row])
            for t in _evenly(whole, min(points, 28)):
                score = _efficiency([(whole, t)], width)
                if score > best[0] + RUNNING_ON:
                    best = (score, ((row, t),), vectors, lines)
    _, tile, vectors, along = best
    unroll = WRITTEN_OUT if along else _unroll(task, prod(t for _, t in tile), vectors)
    return Form(found, tile, vectors, unroll, half and vectors == blocks, along)


def images(task: Task, found: Lanes) -> str | None:
    """The reduced index that walks through images: outermost in both operands, with many positions in each."""
    c, eq = found.roles, found.equation
    if not (c.a.index and c.b.index):
        return None  # a scalar has no images
    first, second = (x.index[task.operands[x.slot].order[0][0]].name for x in (c.a, c.b))
    if first is None or first != second or first not in c.reduced or task.result.size[1]:
        return None
    return first if prod(fixed(eq.extent[i]) for i in c.reduced if i != first) >= 16 else None


def _unroll(task: Task, points: int, vectors: int) -> int:
    """Steps of the innermost reduction written out: a full tile needs none, and with more the allocator spills.

    With few registers even a full tile does: a step of 12 multiply-adds is six cycles, and counting it takes a fifth of the
    instructions.
    """
    if few(task.target, vectors):
        return WRITTEN_OUT
    return 1 if points * vectors >= 12 else 4


def few(target: Target, vectors: int) -> bool:
    """Whether a tile is so small that the instructions around its multiply-adds show; one of 14 points would spill instead."""
    return target.registers <= FEW and vectors > 1


def _tiles(task: Task, c: Contraction, most: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """Candidate tiles of at most `most` points over up to three row indices."""
    rows = [r for r in reversed(c.rows) if step(task, c, r) is not None]
    near = [r for r in rows if not isinstance(task.equation.extent[r], Batch)]
    if prod(fixed(task.equation.extent[r]) for r in near) >= 8:
        rows = near  # rows of different images are far apart: only for matrices, whose rows are images

    def sizes(r: str, room: int) -> list[int]:
        e = task.equation.extent[r]
        if isinstance(e, Batch):
            return list(range(1, room + 1))
        limit = row_block(task, c, r)
        if limit is not None:
            return [t for t in (1, 2, 4, 8, 16) if t <= min(room, limit) and limit % t == 0 and (e % t == 0 or e > limit)]
        return _evenly(e, room)

    def grow(n: int, room: int, tile: tuple[tuple[str, int], ...]) -> Iterator[tuple[tuple[str, int], ...]]:
        yield tile
        for m in range(n, len(rows)):
            if len(tile) < 3:
                for t in reversed(sizes(rows[m], room)):
                    if t > 1:
                        yield from grow(m + 1, room // t, (*tile, (rows[m], t)))

    yield from sorted(grow(0, most, ()), key=len)


def _evenly(extent: int, room: int) -> list[int]:
    """Sizes that cut an extent into parts as equal as can be."""
    return [size for size in range(1, min(room, extent) + 1) if -(-extent // -(-extent // size)) == size]


def _pairs(task: Task, found: Lanes) -> Iterator[tuple[str, str]]:
    """Row indices, at most two, along which one tile can run as if they were one: the lines, and the index inside of them."""
    eq, c = task.equation, found.roles
    rows = [r for r in c.rows if not isinstance(eq.extent[r], Batch)][-2:]
    if len(rows) == 2 and images(task, found) is None and all(step(task, c, r) is not None and row_block(task, c, r) is None for r in rows):
        yield rows[0], rows[1]


def step(task: Task, c: Contraction, r: str) -> int | None:
    """Address step of A for one step of row index `r` inside its block, None when it is not constant."""
    layout = task.operands[c.a.slot]
    if any(form.coefficient(r) not in (0, 1) and task.result.block[axis] > 1 for axis, form in enumerate(task.equation.lhs)):
        return None
    total = 0
    for axis, form in enumerate(c.a.index):
        k = form.coefficient(r)
        if k and layout.block[axis] > 1 and k != 1:
            return None
        if k:
            total += k * layout.strides[axis, 0] if layout.block[axis] == 1 else layout.strides[axis, 1]
    return total


def block(reads: Iterable[tuple[tuple[Affine, ...], Layout]], i: str) -> int | None:
    """How many steps of index `i` stay inside one block, for all of these: None where no axis that it walks is split."""
    found = [within(form, i, m.block[a]) for index, m in reads for a, form in enumerate(index) if m.block[a] > 1 and form.coefficient(i)]
    return gcd(*found) if found else None


def row_block(task: Task, c: Contraction, r: str) -> int | None:
    """The block of a row index that a tile must stay inside of."""
    return block(((c.a.index, task.operands[c.a.slot]), (task.equation.lhs, task.result)), r)


def _efficiency(tile: Sequence[tuple[Extent, int]], vectors: float) -> float:
    """Of extents, each with the points of a tile along it: fraction of the multiply-add rate, at two of them and two loads a cycle, a latency of four, half a cycle for the loop."""

    def rate(points: int) -> float:
        products = points * vectors
        return products / 2 / (max(products / 2, (points + vectors) / 2, 4) + 0.5)

    done, spent = 0.0, 0.0
    for part in product(*((t, e % t) if not isinstance(e, Batch) and e % t else (t,) for e, t in tile)):
        weight = 1.0
        for (e, t), n in zip(tile, part, strict=True):
            if not isinstance(e, Batch):
                weight *= e // t * t if n == t else e % t
        done += weight
        spent += weight / rate(prod(part))
    return done / spent if spent else rate(1)


def fixed(e: Extent) -> int:
    assert not isinstance(e, Batch)
    return e
