"""Which layout every tensor gets: lanes along channels, a zero halo where a window will read it.

    lane axis   parameters, and what depends on them alone: the column index of the first contraction that reads them as B
                results: the column index of their contraction, else the lane axis that their operands bring
    halo        what the windows of all contractions that read the tensor reach beyond it

A schedule that needs another layout than the one assigned gets a copy (program.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from faltung.codegen.layout import Halo, Layout, blocked, outside, plain
from faltung.codegen.parts import in_blocks
from faltung.codegen.schedules.channels import axes, channels, narrow
from faltung.codegen.schedules.lines import filled
from faltung.codegen.schedules.tile import Lanes, lane_axes, weights_layout
from faltung.graph.equation import Equation
from faltung.graph.fold import unchanging
from faltung.graph.index import Batch
from faltung.graph.tensor import FLOATS, Tensor

NARROW = 4  # channels below which blocks of lanes would be mostly air
FULLER = 1.5  # times as much of the lanes that lines of images must fill for a few channels to stay unsplit


def layouts(order: Sequence[Tensor], updates: Mapping[Tensor, Tensor], lanes: Mapping[str, int]) -> dict[Tensor, Layout]:
    """Tensor → layout, for tensors in order of computation.

    `updates` maps a computed tensor to the parameter or state whose memory it is written to;
    `lanes` is the vector width for each float dtype.
    """
    found: dict[Tensor, Layout] = {}
    wanted = _wanted(order, updates)
    fixed = unchanging(set(updates.values()))
    users: dict[Tensor, list[Tensor]] = {t: [] for t in (*order, *updates.values())}  # some of these are written and never read
    for t in order:
        for o in dict.fromkeys(t.operands):
            users[o].append(t)
    leaves = [t for t in users if t.is_leaf]
    for t in [t for t in leaves if t.kind != "state"] + [t for t in leaves if t.kind == "state"]:
        width = lanes.get(t.dtype, 1)
        if t in wanted and wanted[t] is not t:
            found[t] = found[wanted[t]]
        else:
            found[t] = plain(t.shape) if t.kind == "input" or width == 1 else _parameter(t, users, width, fixed)
    for t in order:
        if t in updates:
            found[t] = found[updates[t]]
        elif not t.is_leaf and t.dtype in FLOATS and fixed(t):
            found[t] = _parameter(t, users, lanes[t.dtype], fixed)
        elif not t.is_leaf:
            found[t] = _computed(t, found, wanted, lanes.get(t.dtype, 1), max(lanes.values()))
    halos = _halos(order)
    for t, halo in halos.items():
        old = found[t]
        kept: Halo = tuple(h if b == 1 and not isinstance(e, Batch) else (0, 0) for h, b, e in zip(halo, old.block, old.shape, strict=True))
        if any(h != (0, 0) for h in kept) and t not in updates and t.kind not in ("parameter", "state"):
            found[t] = Layout(old.shape, old.order, old.block, kept)
    return found


def _wanted(order: Sequence[Tensor], updates: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Tensor → the parameter whose layout it should share, because an update reads both element by element.

    So a gradient and the optimiser's states lie as their parameter does.
    """
    wanted: dict[Tensor, Tensor] = {t: p for t, p in updates.items() if p.kind == "parameter"}
    for t in reversed(order):
        if t in wanted and len(t.equations) == 1:
            eq = t.equations[0]
            for slot, o in enumerate(t.operands):
                alone = all(tuple(f.name for f in a.index) == eq.free for a in eq.read(slot))
                if o.shape == t.shape and alone and o.kind in ("computed", "state"):
                    wanted.setdefault(o, wanted[t])
    return wanted


def _parameter(t: Tensor, users: Mapping[Tensor, Sequence[Tensor]], width: int, fixed: Callable[[Tensor], bool]) -> Layout:
    """The layout in which its first contraction streams it; else lanes along the channels of a result that shares them.

    What is made from it once, element by element, is the tensor that counts.
    """
    for user in users[t]:
        if user.shape == t.shape and fixed(user):
            return _parameter(user, users, width, fixed)
        for slot, o in enumerate(user.operands):
            if o is not t:
                continue
            for eq in user.equations:
                for found in lane_axes(eq):
                    if found.roles.b.slot == slot and _forward(found) and not found.narrow(width) and _size(t, found.there) >= NARROW and not _thin(user, found.here, width):
                        return weights_layout(found, t.shape, width)
    axis = 0 if len(t.shape) == 1 else next((a for user in users[t] for a in _channels(t, user, width)), None)
    return plain(t.shape) if axis is None else blocked(t.shape, {axis: width}, [axis, *(a for a in range(len(t.shape)) if a != axis)])


def _channels(t: Tensor, user: Tensor, width: int) -> Iterator[int]:
    """Axes of `t` that the channels of a result run along (weights of depthwise layers and of narrow groups, biases)."""
    if len(user.shape) > 2 and not isinstance(user.shape[1], Batch) and _thin(user, 1, width):
        return
    for eq in user.equations:
        if narrow(eq, width):
            continue
        streamed = [c.b for c in channels(eq) if c.axis in (1, None) and user.operands[c.b.access.slot] is t]
        yield from (b.axis for b in streamed if b.kind != "alike" and _size(t, b.axis) >= NARROW)
        for read in (a for slot, o in enumerate(user.operands) if o is t for a in eq.read(slot)):
            for axis, form in enumerate(read.index):
                whole = form.name is not None and eq.extent[form.name] == t.shape[axis]
                if whole and len(eq.lhs) > 2 and eq.lhs[1].name == form.name and _size(t, axis) >= NARROW:
                    yield axis


def _forward(found: Lanes) -> bool:
    """Whether the lanes are an early axis of the result: channels, not positions."""
    return found.here <= 1


def _computed(
    t: Tensor, found: Mapping[Tensor, Layout], wanted: Mapping[Tensor, Tensor], width: int, block: int
) -> Layout:
    if t in wanted and found[wanted[t]].shape == t.shape:
        return found[wanted[t]]
    if t.dtype in FLOATS:
        ways = [
            (way.here != 1, way.here, way)
            for eq in t.equations
            for way in lane_axes(eq)
            if not _unsplit(t, eq, way.here, width) and not way.narrow(width) and (way.here <= 1 or not any(c.axis is None for c in channels(eq)))
        ]  # of few channels no vectors are made, and none of positions where the summed channel fills them
        if ways:
            axis, way = min(ways, key=lambda w: w[:2])[1:]
            return way.layout(way.equation.lhs, t.shape, axis, width, plain(t.shape).outer)
        split = [axis for eq in t.equations for axis in axes(eq, width) if not _unsplit(t, eq, axis, width)]
        if split:
            return blocked(t.shape, {1 if 1 in split else split[0]: width})
    return _like_operands(t, found, block)


def _thin(t: Tensor, axis: int, width: int) -> bool:
    """Whether lanes along an axis would be mostly air: hardly any channels, or few beside lines that fill the lanes."""
    channels, line = _size(t, axis), t.shape[-1]
    if channels < NARROW or axis != 1 or len(t.shape) < 3 or 2 * channels > width or isinstance(line, Batch):
        return channels < NARROW
    return filled(line, width) >= FULLER * filled(channels, width)


def _unsplit(t: Tensor, eq: Equation, axis: int, width: int) -> bool:
    """Whether lanes do not run along an axis of a result: it is thin, counts images, or is the channels of a thin operand (gradients of weights)."""
    read = [(a.index, o) for a in eq.accesses if len(a.index) > 2 and (o := t.operands[a.slot]).kind != "parameter"]
    summed = [index for index, _ in read if any(n in eq.bound for form in index for n in form.names)]
    images = axis == 0 and len(t.shape) > 2 and any(index[0] == eq.lhs[0] for index in summed)
    return images or _thin(t, axis, width) or any(_thin(o, 1, width) for index, o in read if index[1] == eq.lhs[axis])


def _size(t: Tensor, axis: int) -> int:
    e = t.shape[axis]
    assert not isinstance(e, Batch)
    return e


def _like_operands(t: Tensor, found: Mapping[Tensor, Layout], width: int) -> Layout:
    """Lanes where an operand has them, when that index runs alone over a whole axis of the result."""
    for eq in t.equations:
        for a in sorted(eq.accesses, key=lambda a: -len(a.index)):
            layout = found.get(t.operands[a.slot])
            if layout is None or layout.order[-1:] == () or not any(b > 1 for b in layout.block):
                continue
            axis, part = layout.order[-1]
            name = a.index[axis].name
            if not part or name is None or (len(layout.shape) == 1 and len(t.shape) > 1):
                continue
            here = [n for n, form in enumerate(eq.lhs) if form.coefficient(name) == 1 and in_blocks(t, n, layout.block[axis])]
            if here and eq.extent[name] == layout.shape[axis] and width > 1 and not _thin(t, here[0], layout.block[axis]):
                return blocked(t.shape, {here[0]: layout.block[axis]})
    return plain(t.shape)


def _halos(order: Sequence[Tensor]) -> dict[Tensor, Halo]:
    """What windows of contractions and of products of channels read beyond each tensor."""
    reads: dict[Tensor, list[object]] = {}
    for t in order:
        for eq in t.equations:
            windows = [(way.roles.a, eq) for way in lane_axes(eq)] + [(c.a.access, c.equation) for c in channels(eq) if c.axis is not None]
            for a, seen in windows:
                if any(len(f.names) > 1 or f.const for f in a.index):
                    reads.setdefault(t.operands[a.slot], []).append((a, seen.extent))
    return {t: outside(r, t.shape) for t, r in reads.items()}  # type: ignore[arg-type]
