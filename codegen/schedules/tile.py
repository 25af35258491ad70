"""Contractions over actual layouts: what their operands must look like, and the register tile they get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from faltung.codegen.layout import Layout, Place, blocked
from faltung.codegen.loops import Int
from faltung.codegen.lower import follows, scalar_places
from faltung.codegen.schedules.task import Task
from faltung.graph.equation import Equation
from faltung.graph.index import Batch, Extent
from faltung.graph.recognise import Contraction, orientations


@dataclass(frozen=True)
class Form:
    """A contraction over actual layouts: the roles, the lane index, and the register tile."""

    roles: Contraction
    lane: str
    tile: tuple[tuple[str, int], ...]  # row index, points
    vectors: int  # blocks of the lane index side by side
    unroll: int


# ---- what the operands must look like ----


def lane_axes(eq: Equation) -> list[tuple[Contraction, str, int, int]]:
    """Ways to see the equation as a contraction: roles, lane index, its axis in the result and in B."""
    found = []
    for c in orientations(eq):
        for f in c.columns:
            here = [a for a, form in enumerate(eq.lhs) if form.name == f and eq.extent[f] == eq.shape[a]]
            there = [a for a, form in enumerate(c.b.index) if form.name == f]
            if len(here) == 1 and len(there) == 1 and not isinstance(eq.extent[f], Batch):
                found.append((c, f, here[0], there[0]))
    return found


def weights_layout(eq: Equation, c: Contraction, axis: int, shape: tuple[Extent, ...], lanes: int) -> Layout:
    """The layout in which B streams: lane blocks outermost, then windows, then the other channels, lanes innermost.

    An operand with an open batch keeps it outermost (it is an activation, and lies so already).
    """
    if any(isinstance(e, Batch) for e in shape):
        return blocked(shape, {axis: lanes})
    windows = {n for f in c.a.index if len(f.names) > 1 for n in f.names}
    rest = [a for a in range(len(shape)) if a != axis]
    taps = [a for a in rest if set(c.b.index[a].names) & windows]
    return blocked(shape, {axis: lanes}, [axis, *taps, *(a for a in rest if a not in taps)])


def fit(task: Task) -> Form | str:
    """The contraction over the task's layouts, with a register tile; or the reason why there is none."""
    eq, lanes = task.equation, task.lanes
    options = lane_axes(eq)
    if not options:
        return "it is no contraction with a column index that could be lanes"
    reasons = []
    for c, f, here, there in options:
        reason = _reason(task, c, f, here, there)
        if reason is None:
            return _tiled(task, c, f, lanes)
        reasons.append(reason)
    return "; ".join(reasons)


def _reason(task: Task, c: Contraction, f: str, here: int, there: int) -> str | None:
    eq, lanes = task.equation, task.lanes
    a, b = task.operands[c.a.slot], task.operands[c.b.slot]
    if task.dtype not in ("float32", "float64") or any(task.dtypes[s] != task.dtype for s in (c.a.slot, c.b.slot)):
        return "its operands are not floats of one type"
    if not task.result.is_split(here, lanes):
        return f"the result is not in blocks of {lanes} along {f}"
    if not b.is_split(there, lanes) or b.shape[there] != eq.extent[f]:
        return f"operand {c.b.slot} is not in blocks of {lanes} along {f}"
    for access, layout in ((c.a, a), (c.b, b)):
        for axis, form in enumerate(access.index):
            low, high = form.range(eq.extent)
            if isinstance(layout.shape[axis], Batch):
                if form.name is None or not isinstance(eq.extent[form.name], Batch):
                    return "a read is not along the batch"
            elif not layout.covers(axis, low, high):
                return f"operand {access.slot} has no halo for {form} on axis {axis}"
    assert eq.reduce is not None
    inside = {id(c.a), id(c.b)}
    others = [x for x in eq.accesses if id(x) not in inside]
    places = dict(scalar_places(eq.extent)) | {f: Place.split(Int(0), Int(0), lanes)}
    return follows(others, task.operands, f, places, lanes)


# ---- the register tile ----


def _tiled(task: Task, c: Contraction, f: str, lanes: int) -> Form:
    eq = task.equation
    blocks = -(-fixed(eq.extent[f]) // lanes)
    best: tuple[float, tuple[tuple[str, int], ...], int] = (-1.0, (), 1)
    for vectors in (v for v in (1, 2, 3, 4) if blocks % v == 0):
        # one register for the element of A when its use is not folded into the instruction, one for each vector of B
        points = (task.target.registers - vectors - (2 if task.target.registers <= 16 else 1)) // vectors
        for tile in _tiles(task, c, min(points, 28)):
            score = _efficiency(eq, tile, vectors)
            if score > best[0] + 0.005:  # between equals the simpler tile, which comes first
                best = (score, tile, vectors)
    return Form(c, f, best[1], best[2], _unroll(prod(t for _, t in best[1]), best[2]))


def _unroll(points: int, vectors: int) -> int:
    """Steps of the innermost reduction written out: a full tile needs none, and with more the allocator spills."""
    return 1 if points * vectors >= 12 else 4


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
        limit = block(task, c, r)
        if limit is not None:
            return [t for t in (1, 2, 4, 8, 16) if t <= min(room, limit) and limit % t == 0 and (e % t == 0 or e > limit)]
        return sorted({-(-e // parts) for parts in range(1, e + 1) if -(-e // parts) <= room})

    def grow(n: int, room: int, tile: tuple[tuple[str, int], ...]) -> Iterator[tuple[tuple[str, int], ...]]:
        yield tile
        for m in range(n, len(rows)):
            if len(tile) < 3:
                for t in reversed(sizes(rows[m], room)):
                    if t > 1:
                        yield from grow(m + 1, room // t, (*tile, (rows[m], t)))

    yield from sorted(grow(0, most, ()), key=len)


def step(task: Task, c: Contraction, r: str) -> int | None:
    """Address step of A for one step of row index `r`, None when it is not constant."""
    layout = task.operands[c.a.slot]
    total = 0
    for axis, form in enumerate(c.a.index):
        k = form.coefficient(r)
        if not k:
            continue
        if layout.block[axis] == 1:
            total += k * layout.strides[axis, 0]
        elif form.name == r:
            total += layout.strides[axis, 1]
        else:
            return None
    for axis, form in enumerate(task.equation.lhs):
        if form.coefficient(r) and task.result.block[axis] > 1 and form.name != r:
            return None
    return total


def block(task: Task, c: Contraction, r: str) -> int | None:
    """The block that row index `r` is split into by A or by the result: a tile must stay inside one."""
    layouts = [(c.a.index, task.operands[c.a.slot]), (task.equation.lhs, task.result)]
    blocks = [m.block[axis] for index, m in layouts for axis, form in enumerate(index) if form.name == r and m.block[axis] > 1]
    return blocks[0] if blocks else None


def _efficiency(eq: Equation, tile: tuple[tuple[str, int], ...], vectors: int) -> float:
    """Fraction of the multiply-add rate, at two of them and two loads a cycle, a latency of four, half a cycle for the loop."""

    def rate(points: int) -> float:
        products = points * vectors
        return products / 2 / (max(products / 2, (points + vectors) / 2, 4) + 0.5)

    done, spent = 0.0, 0.0
    for part in product(*([(t, *([fixed(e) % t] if not isinstance(e := eq.extent[r], Batch) and e % t else [])) for t in (t0,)][0] for r, t0 in tile)):
        weight = 1.0
        for (r, t), n in zip(tile, part, strict=True):
            e = eq.extent[r]
            if not isinstance(e, Batch):
                weight *= (e // t) * t if n == t else e % t
        done += weight
        spent += weight / rate(prod(part))
    return done / spent if spent else rate(1)


def fixed(e: Extent) -> int:
    assert not isinstance(e, Batch)
    return e
