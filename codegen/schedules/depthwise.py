"""The schedule for depthwise and narrow groups: both reads bring vectors of channels, taps and windows stay in registers.

    parallel, serial   over batch, blocks of channels and tiles of rows
        acc[rows of the tile] = 0
        for what is summed, its innermost part written out
            for each vector of A that the tile reads there, once
                acc[row] += A · B[tap]                for every row and tap that meet in it
        store epilogue(acc)

What is written out is a list of products (row, step): those that read the same vector of A follow each other, so that a
row of the map is read once and not once for each tap. How large the tile is and how much is written out is decided by
counting reads, products and registers. Forward, input gradient and weight gradient differ in which indices are rows.

A sum over images and positions (a weight gradient) whose result is small is cut into a fixed number of parts, each of
which walks through its share of (image, row) pairs; the parts are added in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from math import prod

from faltung.codegen.layout import Layout, Place, value_of
from faltung.codegen.loops import Expr, Int, Reg, Temp
from faltung.codegen.lower import Lowering, follows, scalar_places
from faltung.codegen.schedules.channels import Channels, Read, channels, drawn, kept, undrawable, worthwhile
from faltung.codegen.schedules.generic import sum_of_parts
from faltung.codegen.schedules.products import tiled
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.graph.index import Batch, Extent

PARTS = 16  # of a sum over images, where blocks of channels alone are too few
GRAIN = 64  # parallel units that are enough
IMAGES = 8  # parallel units of one image that are enough


def depthwise(task: Task) -> Plan | str:
    """Kernels for a channel-wise product, or the reason why this schedule does not apply."""
    options = channels(task.equation)
    if not options:
        return "no index runs through the lanes of two factors"
    reasons = []
    for c in options:
        reason = _reason(task, c)
        if reason is None:
            return _plan(task, c)
        reasons.append(reason)
    return "; ".join(dict.fromkeys(reasons))


def _reason(task: Task, c: Channels) -> str | None:
    eq, lanes = c.equation, task.lanes
    slots = [r.access.slot for r in (c.a, c.b)]
    if task.dtype not in ("float32", "float64") or any(task.dtypes[s] != task.dtype for s in slots):
        return "its operands are not floats of one type"
    reason = worthwhile(c) or undrawable(c, lanes)
    if reason is not None:
        return reason
    if not kept(c, task.result, lanes):
        return f"the result is not in blocks of {lanes} along {c.lane}" if c.axis is not None else f"{c.lane} is summed and the result in blocks"
    for read in (c.a, c.b):
        unfit = read.unfit(task.operands[read.access.slot], eq.extent, lanes)
        if unfit is not None:
            return unfit
    factors = {id(r.access) for r in (c.a, c.b)}
    others = [x for x in eq.accesses if id(x) not in factors]
    places = dict(scalar_places(eq.extent)) | {c.lane: Place.split(Int(0), Int(0), lanes)}
    return follows(others, task.operands, c.lane, places, lanes) if c.axis is not None else None


def _plan(task: Task, c: Channels) -> Plan:
    eq = c.equation
    joined = replace(task, equation=eq)
    nest = _Nest(joined, c)
    units = prod(n for _, n in nest.dims if isinstance(n, int))
    summed = [i for i in c.reduced if isinstance(eq.extent[i], Batch)]
    open_result = any(isinstance(eq.extent[i], Batch) for i in eq.free)
    if summed and not open_result and units < GRAIN:
        assert eq.reduce is not None
        total, held = sum_of_parts(joined, PARTS)
        first = replace(joined, equation=replace(eq, expr=eq.reduce, target="partial"), result=held, aliases=())
        return Plan((_Nest(first, c, PARTS, task.result).work(), total), (held.size,))
    return Plan((nest.work(),))


# ---- an operand ----


class _Stream:
    """One of the two reads: addresses of its vectors, and the vectors themselves."""

    def __init__(self, nest: _Nest, read: Read) -> None:
        self.nest, self.read = nest, read
        self.memory = nest.memory[read.access.slot]
        self.layout = self.memory.layout
        self.span = read.width * nest.lanes // nest.c.group  # drawn: channels that one vector is drawn from

    def moves(self, i: str) -> int:
        """Address step for one step of an index other than the lanes."""
        total = 0
        for axis, form in enumerate(self.read.access.index):
            part = self._digit(axis)
            if part is not None:
                total += form.coefficient(i) * self.layout.strides[axis, part]
        return total

    def _digit(self, axis: int) -> int | None:
        """Which part of an axis moves with indices other than the lanes; None when it does not move."""
        if axis not in (self.read.axis, self.read.other):
            return 0
        return 1 if self.read.kind == "spread" and axis == self.read.axis and self.read.width > 1 else None

    def bases(self, places: Mapping[str, Place]) -> list[Expr]:
        """Where the vectors of this block of lanes begin: one address, or one for each block they are drawn from."""
        k, lanes, strides = self.nest.k, self.nest.lanes, self.layout.strides
        block = places[self.nest.c.lane].outer
        total: Expr = Int(self.layout.origin)
        for axis, form in enumerate(self.read.access.index):
            part = self._digit(axis)
            if part == 0:
                total = total + (value_of(form, places) + self.layout.halo[axis][0]) * strides[axis, 0]
            elif part == 1:
                rest = replace(form, terms=tuple(t for t in form.terms if t[0] in (*self.nest.c.rows, *self.nest.c.reduced)))
                total = total + value_of(rest, places) * strides[axis, 1]
        axis = self.read.axis
        if self.read.kind == "spread":
            return [k.let(total + block * lanes, "at")]
        if self.read.kind == "alike":
            return [k.let(total, "at")]
        if self.read.kind == "whole":
            return [k.let(total + block * strides[axis, 0], "at")]
        if self.span < lanes:
            ratio = lanes // self.span
            return [k.let(total + block // ratio * strides[axis, 0] + block % ratio * self.span, "at")]
        count, (last, _) = self.span // lanes, divmod(_fixed(self.layout.shape[axis]) - 1, lanes)
        numbers = [block * count + r for r in range(count)]
        return [k.let(total + (k.min(n, last) if count > 1 else n) * strides[axis, 0], "at") for n in numbers]

    def load(self, bases: Sequence[Expr], offset: int, held: dict[tuple[int, int], Temp], value: int, mask: Expr | None) -> Expr:
        """The vector at an offset, with `value` for the index that picks lanes; `held` are the reads made before."""
        k, lanes = self.nest.k, self.nest.lanes

        def read(number: int, count: int) -> Temp:
            if (offset, number) not in held:
                held[offset, number] = k.load(self.memory.buffer, bases[number] + offset, count, mask)
            return held[offset, number]

        if self.read.kind == "alike":
            return k.splat(k.peek(self.memory.buffer, bases[0] + offset, 1), lanes)
        if self.read.kind != "drawn":
            return read(0, lanes)
        picks = drawn(value, self.read.width, self.nest.c.group, lanes)
        if self.span < lanes:
            return k.shuffle([read(0, self.span)], picks) if self.span > 1 else k.splat(read(0, 1), lanes)
        numbers = sorted({p // lanes for p in picks})
        return k.shuffle([read(n, lanes) for n in numbers], [numbers.index(p // lanes) * lanes + p % lanes for p in picks])


# ---- the kernel ----


class _Nest:
    """Writes one kernel. With `parts`, the result has an outermost axis of parts of the sum, each of which lies as `one`."""

    def __init__(self, task: Task, c: Channels, parts: int = 1, one: Layout | None = None) -> None:
        self.task, self.c, self.parts = task, c, parts
        self.layout = one or task.result  # of one part
        self.eq, self.lanes = c.equation, task.lanes
        self.k, self.memory, self.out = task.open()
        self.a, self.b = _Stream(self, c.a), _Stream(self, c.b)
        self.blocks = -(-_fixed(self.eq.extent[c.lane]) // self.lanes)
        static = [r.static for r in (c.a, c.b) if r.static is not None]
        moves = {i: (self.a.moves(i), self.b.moves(i)) for i in (*c.rows, *c.reduced)}
        fixed = {i: e for i in (*c.rows, *c.reduced) if not isinstance(e := self.eq.extent[i], Batch)}
        self.form = tiled(fixed, moves, c.rows, c.reduced, static, task.target.registers)
        self.dims = self._dims()

    def work(self) -> Work:
        k = self.k
        units, taken = 1, 0
        batch = bool(self.dims) and not isinstance(self.dims[0][1], int)
        for _, count in self.dims:
            if units >= (IMAGES if batch else GRAIN) or (taken and not isinstance(count, int)):
                break
            units *= count if isinstance(count, int) else 1
            taken += 1
        with ExitStack() as stack:
            total = k.N * units if batch else Int(self.parts * units)
            t = stack.enter_context(k.parallel(total))
            part = k.let(t // units, "part") if self.parts > 1 else Int(0)
            places: dict[str, Place] = {}
            rest = units
            for n, (name, count) in enumerate(self.dims[:taken]):
                rest = rest // count if isinstance(count, int) else rest
                number: Expr = t // rest if rest > 1 else t
                if (n or self.parts > 1) and isinstance(count, int):
                    number = number % count
                places |= self._enter(name, k.let(number, name))
            for name, count in self.dims[taken:]:
                places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
            self._variants(places, part)
        name = "depthwise, parts" if self.parts > 1 else "depthwise"
        tile = "×".join(str(t) for _, t in self.form.tile) or "1"
        return Work(k.finish(), (*self.task.used, -2 if self.parts > 1 else RESULT), f"{name}, tile {tile}")

    def _dims(self) -> list[tuple[str, Expr | int]]:
        """Loops around the tile: an index and its count, in the order of the result's memory."""
        tile = dict(self.form.tile)
        found: dict[str, Expr | int] = {}
        for i in [n for a, _ in self.layout.order for n, _ in sorted(self.eq.lhs[a].terms, key=lambda t: -t[1])]:
            e = self.eq.extent[i]
            count: Expr | int = self.blocks if i == self.c.lane else self.k.N if isinstance(e, Batch) else -(-e // tile.get(i, 1))
            found.setdefault(i, count)
        return list(found.items())

    def _enter(self, name: str, v: Expr) -> dict[str, Place]:
        if name == self.c.lane:
            return {name: Place.split(v, Int(0), self.lanes)}
        return {name: Place(v * dict(self.form.tile).get(name, 1))}

    def _variants(self, places: Mapping[str, Place], part: Expr) -> None:
        """The tile in full, and smaller ones where the rows end."""

        def walk(n: int, sizes: tuple[int, ...]) -> None:
            if n == len(self.form.tile):
                self._tile(dict(places), sizes, part)
                return
            name, t = self.form.tile[n]
            e = _fixed(self.eq.extent[name])
            if e % t == 0:
                walk(n + 1, (*sizes, t))
            else:
                with self.k.when(places[name].value <= e - t):
                    walk(n + 1, (*sizes, t))
                with self.k.otherwise():
                    walk(n + 1, (*sizes, e % t))

        walk(0, ())

    # ---- the tile ----

    def _tile(self, places: dict[str, Place], sizes: tuple[int, ...], part: Expr) -> None:
        k = self.k
        names = [i for i, _ in self.form.tile]
        points = [dict(zip(names, p, strict=True)) for p in product(*(range(s) for s in sizes))]
        acc = [k.register(f"acc{n}", k.const(0, self.lanes)) for n in range(len(points))]
        if self.c.axis is None:
            with k.loop(self.c.lane, 0, self.blocks) as block:
                self._reduce(places | self._enter(self.c.lane, block), points, acc, part)
        else:
            self._reduce(places, points, acc, part)
        for point, total in zip(points, acc, strict=True):
            self._store(places | {i: Place(places[i].value + d) for i, d in point.items()}, total, part)

    def _store(self, places: dict[str, Place], acc: Reg, part: Expr) -> None:
        assert self.eq.reduce is not None
        lanes = self.lanes if self.c.axis is not None else 1
        value: Expr = acc if lanes > 1 or self.lanes == 1 else self.k.let(self.k.across("sum", acc), "total")
        address = part * self.layout.size[0] + self.layout.address(self.eq.lhs, places)
        if self.eq.expr is not self.eq.reduce and self.parts == 1:
            extent = _fixed(self.eq.extent[self.c.lane])
            tail = None if lanes == 1 or extent % lanes == 0 else Int(extent) - places[self.c.lane].value
            lowering = Lowering(
                self.k, self.memory, self.eq.extent, places, self.task.elem, lanes, self.c.lane if lanes > 1 else None, tail,
                given={self.eq.reduce: value},
            )  # fmt: skip
            value = lowering.wide(lowering.number(self.eq.expr))
        self.k.store(self.out.buffer, address, value)

    # ---- what is summed ----

    def _reduce(self, places: Mapping[str, Place], points: list[dict[str, int]], acc: list[Reg], part: Expr) -> None:
        form, k = self.form, self.k
        step = dict(form.steps)
        extents = {i: self.eq.extent[i] for i in self.c.reduced}
        whole = [i for i, e in extents.items() if step.get(i) == e]
        stepped = [i for i in step if i not in whole]
        looped = [i for i in form.order if i not in step]
        open_ = [i for i, e in extents.items() if isinstance(e, Batch)]
        zero = dict(places) | {i: Place(Int(0)) for i in whole}

        def written(now: Mapping[str, Place], last: int | None = None) -> None:
            counts = {i: last if last is not None and i in stepped else n for i, n in step.items()}
            steps = [dict(zip(counts, s, strict=True)) for s in product(*(range(n) for n in counts.values()))]
            self._products(now, form.jobs(points, steps), points, steps, acc)

        def innermost(now: Mapping[str, Place]) -> None:
            if not stepped:
                written(now)
                return
            (i,) = stepped
            e, n = _fixed(extents[i]), step[i]
            with k.loop(i, 0, e // n * n, n) as v:
                written({**now, i: Place(v)})
            if e % n:
                written({**now, i: Place(Int(e // n * n))}, e % n)

        def nest(rest: Sequence[str], now: Mapping[str, Place]) -> None:
            if not rest:
                innermost(now)
                return
            i, e = rest[0], extents[rest[0]]
            with k.loop(i, 0, k.N if isinstance(e, Batch) else e) as v:
                nest(rest[1:], {**now, i: Place(v)})

        if self.parts == 1:
            nest([*open_, *looped], zero)
            return
        count = prod(_fixed(extents[i]) for i in looped)
        lo, hi = (k.let(k.N * count * (part + d) // self.parts, name) for d, name in ((0, "from"), (1, "to")))
        with k.loop("r", lo, hi) as r:
            now, rest = dict(zero), count
            now[open_[0]] = Place(k.let(r // count, open_[0]))
            for i in looped:
                rest //= _fixed(extents[i])
                now[i] = Place(k.let(r // rest % _fixed(extents[i]), i))
            innermost(now)

    def _products(
        self, now: Mapping[str, Place], jobs: Sequence[tuple[int, int]], points: Sequence[Mapping[str, int]],
        steps: Sequence[Mapping[str, int]], acc: list[Reg],
    ) -> None:  # fmt: skip
        """The products that are written out, in the order given; what B brings is read once."""
        a, b, form = self.a.bases(now), self.b.bases(now), self.form
        extent = _fixed(self.eq.extent[self.c.lane])
        uneven = extent % self.lanes != 0
        tail = self.k.below(self.k.let(Int(extent) - now[self.c.lane].value, "lanes")) if uneven else None
        held: tuple[dict[tuple[int, int], Temp], dict[tuple[int, int], Temp]] = ({}, {})
        vectors: dict[tuple[int, int, int], Expr] = {}
        last: tuple[int, int] | None = None

        def vector(stream: _Stream, which: int, bases: Sequence[Expr], offset: int, value: int) -> Expr:
            key = (which, offset, value)
            if key not in vectors:
                mask = tail if self.c.axis is None or stream.read.kind == "spread" else None
                made = stream.load(bases, offset, held[which], value, mask)
                vectors[key] = made if isinstance(made, Temp) else self.k.let(made, "x")
            return vectors[key]

        for n, s in jobs:
            at = {**points[n], **steps[s]}
            static = [at.get(r.static, 0) if r.static is not None else 0 for r in (self.c.a, self.c.b)]
            x_at, w_at = form.offsets(at)
            if last != (x_at, static[0]):  # the vectors of A before this one are not read again
                if last is not None and last[0] != x_at:
                    held[0].clear()
                vectors = {key: v for key, v in vectors.items() if key[0] == 1 or key[1] == x_at}
                last = (x_at, static[0])
            x = vector(self.a, 0, a, x_at, static[0])
            w = vector(self.b, 1, b, w_at, static[1])
            self.k.set(acc[n], self.k.fma(x, w, acc[n]))


def _fixed(e: Extent) -> int:
    assert not isinstance(e, Batch)
    return e
