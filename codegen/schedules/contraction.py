"""The schedule for dense contractions: a register tile of result vectors, the whole reduction in registers.

    Y[rows, f] = epilogue( Σ_k A[rows, k] · B[f, k] )

    parallel, serial   over batch, blocks of f and tiles of rows
        acc[rows of the tile, blocks of f] = 0
        for k, in the order of B's memory
            w[...] = B[f block, k]                        vectors: the lanes are values of f
            acc[...] += A[row, k] · w[...]                one element of A in all lanes
        store epilogue(acc)

One schedule serves convolution, its input gradient, its weight gradient and the matrix product: they differ in
which indices are rows, columns and reduced, not in what is done. Tiles are rows along the innermost axes, so that
every address is a base and a constant (Georganas et al., "Anatomy of high-performance deep learning convolutions
on SIMD architectures", 2018, has this register blocking for convolutions).

A reduction over images (a weight gradient) whose result is small is cut into a fixed number of parts of the batch;
each part runs through its images once, all tiles while the image is in cache, and the parts are added in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from faltung.codegen.builder import Builder
from faltung.codegen.layout import Layout, Place, blocked
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.lower import Lowering, Memory, follows, scalar_places
from faltung.codegen.schedules.generic import sum_of_parts
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.graph.equation import Equation
from faltung.graph.expr import Access
from faltung.graph.index import Batch, Extent
from faltung.graph.recognise import Contraction, orientations

PARTS = 8  # of the batch, when images are reduced
SMALL = 256 * 1024  # elements of a result that is kept once for each part
CHUNKS = 4  # of an open row axis, so that there is parallel work at any batch size
GRAIN = 64


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
    blocks = -(-_int(eq.extent[f]) // lanes)
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
    rows = [r for r in reversed(c.rows) if _step(task, c, r) is not None]

    def sizes(r: str, room: int) -> list[int]:
        e = task.equation.extent[r]
        if isinstance(e, Batch):
            return list(range(1, room + 1))
        limit = _block(task, c, r)
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


def _step(task: Task, c: Contraction, r: str) -> int | None:
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


def _block(task: Task, c: Contraction, r: str) -> int | None:
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
    for part in product(*([(t, *([_int(e) % t] if not isinstance(e := eq.extent[r], Batch) and e % t else [])) for t in (t0,)][0] for r, t0 in tile)):
        weight = 1.0
        for (r, t), n in zip(tile, part, strict=True):
            e = eq.extent[r]
            if not isinstance(e, Batch):
                weight *= (e // t) * t if n == t else e % t
        done += weight
        spent += weight / rate(prod(part))
    return done / spent if spent else rate(1)


def _int(e: Extent) -> int:
    assert not isinstance(e, Batch)
    return e


# ---- the kernel ----


def contraction(task: Task) -> Plan | str:
    """Kernels for a dense contraction, or the reason why this schedule does not apply."""
    form = fit(task)
    if isinstance(form, str):
        return form
    eq = task.equation
    images = [i for i in form.roles.reduced if isinstance(eq.extent[i], Batch)]
    per_image = prod(_int(eq.extent[i]) for i in form.roles.reduced if i not in images)
    if images and per_image >= 16 and task.result.size[1] == 0 and task.result.size[0] <= SMALL:
        first = replace(eq, expr=eq.reduce, target="partial")
        part_work = _Nest(replace(task, equation=first, aliases=()), form, images[0]).work()
        total, held = sum_of_parts(task, PARTS)
        return Plan((replace(part_work, arguments=tuple(-2 if a == RESULT else a for a in part_work.arguments)), total), (held.size,))
    return Plan((_Nest(task, form, None).work(),))


class _Nest:
    """Writes one kernel. With `images`, the result is a scratch of PARTS results, added to image by image."""

    def __init__(self, task: Task, form: Form, images: str | None) -> None:
        self.task, self.form, self.images = task, form, images
        self.eq, self.c, self.lanes = task.equation, form.roles, task.lanes
        self.k, self.memory, self.out = task.open()
        if images is not None:
            self.k.buffers.pop()
            size = task.result.size[0]
            buffer = self.k.buffer("partial", task.element(task.dtype), (size * PARTS, 0), written=True)
            self.out = Memory(buffer, task.result)
        self.a, self.b = self.memory[self.c.a.slot], self.memory[self.c.b.slot]
        self.points = [t for _, t in form.tile]
        self.part: Expr = Int(0)

    def work(self) -> Work:
        k = self.k
        if self.images is not None:
            with k.parallel(PARTS, "part") as s:
                self._part(s)
        else:
            self._all()
        name = "contraction, parts of the batch" if self.images is not None else "contraction"
        tile = "×".join(str(t) for t in self.points) or "1"
        return Work(k.finish(), (*self.task.used, RESULT), f"{name}, tile {tile}×{self.form.vectors}")

    # ---- loops around the tile ----

    def _part(self, s: Expr) -> None:
        """One part of the images: clear its result, then add image after image to it."""
        k, size = self.k, self.task.result.size[0]
        self.part = k.let(s * size, "base")
        with k.loop("z", 0, size // self.lanes) as z:
            k.store(self.out.buffer, self.part + z * self.lanes, k.const(0, self.lanes))
        assert self.images is not None
        with k.loop(self.images, k.let(k.N * s // PARTS, "from"), k.let(k.N * (s + 1) // PARTS, "to")) as n:
            with ExitStack() as stack:
                places = {self.images: Place(n)}
                for name, count, _ in self._dims():
                    places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
                self._variants(places)

    def _all(self) -> None:
        k, dims = self.k, self._dims()
        fixed, taken = 1, 0
        for _, count, batch in dims:
            if fixed >= (8 if dims[0][2] else GRAIN) or (batch and taken):
                break
            fixed *= 1 if batch else count  # type: ignore[operator]
            taken += 1
        batch = bool(dims) and dims[0][2]
        with ExitStack() as stack:
            t = stack.enter_context(k.parallel(k.N * fixed if batch else fixed))
            places: dict[str, Place] = {}
            rest = fixed
            for n, (name, count, open_) in enumerate(dims[:taken]):
                step = rest if open_ else rest // count  # type: ignore[operator]
                number: Expr = t // step if step > 1 else t
                if n:
                    number = number % count
                rest = step
                places |= self._enter(name, k.let(number, name))
            for name, count, _ in dims[taken:]:
                places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
            self._variants(places)

    def _dims(self) -> list[tuple[str, Expr | int, bool]]:
        """Loops around the tile: name, count, whether the count is the open batch."""
        eq, tile = self.eq, dict(self.form.tile)
        blocks = -(-_int(eq.extent[self.form.lane]) // self.lanes) // self.form.vectors
        lane: list[tuple[str, Expr | int, bool]] = [(self.form.lane, blocks, False)]
        whole: list[tuple[str, Expr | int, bool]] = []
        tiled: list[tuple[str, Expr | int, bool]] = []
        order = [n for axis, _ in self.task.result.order for n, _ in sorted(eq.lhs[axis].terms, key=lambda t: -t[1])]
        for i in dict.fromkeys(order):
            e = eq.extent[i]
            if i == self.form.lane:
                continue
            if i in tile:
                tiled.append((i, CHUNKS, False) if isinstance(e, Batch) else (i, -(-e // tile[i]), False))
            else:
                whole.append((i, self.k.N if isinstance(e, Batch) else e, isinstance(e, Batch)))
        # an image (or batch) stays in cache while all blocks of columns pass over it; plain matrices keep B's block
        return [*whole[:1], *lane, *whole[1:], *tiled] if whole and whole[0][0] not in self.c.columns else [*lane, *whole, *tiled]

    def _enter(self, name: str, v: Expr) -> dict[str, Place]:
        tile = dict(self.form.tile)
        if name == self.form.lane:
            return {name: Place.split(v * self.form.vectors, Int(0), self.lanes)}
        if name in tile and not isinstance(self.eq.extent[name], Batch):
            return {name: self._at(name, v * tile[name], v, tile[name])}
        if name in tile:
            return {name: Place(v)}  # the number of the chunk; _variants walks through it
        block = _block(self.task, self.c, name)
        return {name: Place.split(v // block, v % block, block) if block else Place(v)}

    def _at(self, name: str, value: Expr, number: Expr, size: int) -> Place:
        """The start of a tile, as block and position where the index is split."""
        block = _block(self.task, self.c, name)
        if block is None:
            return Place(value)
        per = block // size
        return Place.split(number // per, (number % per) * size, block)

    def _variants(self, places: Mapping[str, Place]) -> None:
        """The tile in full, and smaller ones where the rows end."""

        def walk(n: int, now: dict[str, Place], sizes: tuple[int, ...]) -> None:
            if n == len(self.form.tile):
                self._tile(now, sizes)
                return
            name, t = self.form.tile[n]
            e = self.eq.extent[name]
            if isinstance(e, Batch):
                self._open_rows(name, t, now[name].value, lambda p, size: walk(n + 1, now | {name: p}, (*sizes, size)))
            elif e % t == 0:
                walk(n + 1, now, (*sizes, t))
            else:
                with self.k.when(now[name].value <= e - t):
                    walk(n + 1, now, (*sizes, t))
                with self.k.otherwise():
                    walk(n + 1, now, (*sizes, e % t))

        walk(0, dict(places), ())

    def _open_rows(self, name: str, t: int, chunk: Expr, then: Callable[[Place, int], None]) -> None:
        """Rows of the open batch: as many full tiles as fit into the chunk, then smaller ones."""
        k = self.k
        at: Expr = k.let(k.N * chunk // CHUNKS, "from")
        to = k.let(k.N * (chunk + 1) // CHUNKS, "to")
        for size in [s for s in (t, 8, 4, 2, 1) if s == t or s < t]:
            with k.loop(name, at, to - (size - 1), size) as v:
                then(Place(v), size)
            at = k.let(at + (to - at) // size * size, "from")

    # ---- the tile ----

    def _tile(self, places: dict[str, Place], sizes: tuple[int, ...]) -> None:
        k, form = self.k, self.form
        names = [r for r, _ in form.tile]
        points = list(product(*(range(s) for s in sizes)))
        steps = [_step(self.task, self.c, r) or 0 for r in names]
        offsets = [sum(d * s for d, s in zip(p, steps, strict=True)) for p in points]
        acc = [[k.register(f"acc{n}_{v}", self._initial(places, names, p, v)) for v in range(form.vectors)] for n, p in enumerate(points)]
        self._reduce(places, offsets, acc)
        for v in range(form.vectors):
            for n, p in enumerate(points):
                self._store(self._point(places, names, p, v), acc[n][v])

    def _point(self, places: dict[str, Place], names: list[str], p: tuple[int, ...], v: int) -> dict[str, Place]:
        now = dict(places)
        for r, d in zip(names, p, strict=True):
            old = places[r]
            now[r] = Place.split(old.outer, old.inner + d, old.block) if old.block > 1 else Place(old.value + d)
        lane = places[self.form.lane]
        now[self.form.lane] = Place.split(lane.outer + v, Int(0), self.lanes)
        return now

    def _initial(self, places: dict[str, Place], names: list[str], p: tuple[int, ...], v: int) -> Expr:
        if self.images is None:
            return self.k.const(0, self.lanes)
        address = self.out.layout.address(self.eq.lhs, self._point(places, names, p, v))
        return self.k.load(self.out.buffer, self.part + address, self.lanes)

    def _store(self, places: dict[str, Place], acc: Reg) -> None:
        assert self.eq.reduce is not None
        address = self.out.layout.address(self.eq.lhs, places)
        value: Expr = acc
        if self.eq.expr is not self.eq.reduce:
            extent = _int(self.eq.extent[self.form.lane])
            tail = None if extent % self.lanes == 0 else Int(extent) - places[self.form.lane].value
            lowering = Lowering(
                self.k, self.memory, self.eq.extent, places, self.task.elem, self.lanes, self.form.lane, tail,
                given={self.eq.reduce: acc},
            )  # fmt: skip
            value = lowering.wide(lowering.number(self.eq.expr))
        self.k.store(self.out.buffer, self.part + address, value)

    # ---- the reduction ----

    def _reduce(self, places: dict[str, Place], offsets: list[int], acc: list[list[Reg]]) -> None:
        order = self._reduction_order()

        def nest(rest: list[str], now: dict[str, Place]) -> None:
            if not rest:
                self._steps(now, None, 1, offsets, acc)
                return
            i, e = rest[0], self.eq.extent[rest[0]]
            block = self._reduced_block(i)
            if block is not None:
                full, tail = divmod(_int(e), block)
                if full:
                    with self.k.loop(f"{i}_block", 0, full) as outer:
                        inner(i, rest[1:], now, lambda v: Place.split(outer, v, block), block)
                if tail:
                    inner(i, rest[1:], now, lambda v: Place.split(Int(full), v, block), tail)
            else:
                inner(i, rest[1:], now, Place, self.k.N if isinstance(e, Batch) else e)

        def inner(i: str, rest: list[str], now: dict[str, Place], place: Callable[[Expr], Place], count: Expr | int) -> None:
            if rest:
                with self.k.loop(i, 0, count) as v:
                    nest(rest, now | {i: place(v)})
                return
            unroll = self.form.unroll
            if isinstance(count, int):
                if count <= unroll:
                    self._steps(now | {i: place(Int(0))}, i, count, offsets, acc)
                    return
                whole = count // unroll * unroll
                with self.k.loop(i, 0, whole, unroll) as v:
                    self._steps(now | {i: place(v)}, i, unroll, offsets, acc)
                if whole < count:
                    self._steps(now | {i: place(Int(whole))}, i, count - whole, offsets, acc)
            else:
                with self.k.loop(i, 0, count) as v:
                    self._steps(now | {i: place(v)}, i, 1, offsets, acc)

        nest(order, dict(places))

    def _reduction_order(self) -> list[str]:
        """Reduced indices in the order of B's memory, so that B streams; the images are walked outside."""
        found: dict[str, None] = {}
        for axis, _ in self.b.layout.order:
            for n in self.c.b.index[axis].names:
                found.setdefault(n)
        return [i for i in found if i in self.c.reduced and i != self.images]

    def _reduced_block(self, i: str) -> int | None:
        for access, m in ((self.c.a, self.a), (self.c.b, self.b)):
            for axis, form in enumerate(access.index):
                if form.name == i and m.layout.block[axis] > 1:
                    return m.layout.block[axis]
        return None

    def _steps(self, now: dict[str, Place], i: str | None, count: int, offsets: list[int], acc: list[list[Reg]]) -> None:
        """`count` values of index `i` from where it stands: loads of B, elements of A, multiply-adds."""
        k = self.k
        a0 = k.let(self.a.layout.address(self.c.a.index, now), "a")
        b0 = k.let(self.b.layout.address(self.c.b.index, now), "b")
        a_step = self._moves(self.c.a, self.a.layout, i) if i is not None else 0
        b_step = self._moves(self.c.b, self.b.layout, i) if i is not None else 0
        lane_axis = next(axis for axis, form in enumerate(self.c.b.index) if form.name == self.form.lane)
        v_step = self.b.layout.strides[lane_axis, 0]
        for u in range(count):
            w = [k.load(self.b.buffer, b0 + (u * b_step + v * v_step), self.lanes, name="w") for v in range(self.form.vectors)]
            for n, offset in enumerate(offsets):
                x = k.splat(k.peek(self.a.buffer, a0 + (u * a_step + offset), 1), self.lanes)
                if self.form.vectors > 1:
                    x = k.let(x, "x")
                for v in range(self.form.vectors):
                    k.set(acc[n][v], k.fma(x, w[v], acc[n][v]))

    def _moves(self, access: Access, layout: Layout, i: str) -> int:
        """Address step for one step of reduced index `i` (inside its block)."""
        total = 0
        for axis, form in enumerate(access.index):
            c = form.coefficient(i)
            if c:
                total += layout.strides[axis, 1] if layout.block[axis] > 1 else c * layout.strides[axis, 0]
        return total

