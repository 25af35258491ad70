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

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from math import prod

from faltung.codegen.layout import Layout, Place
from faltung.codegen.loops import ELEMS, Expr, Int, Reg
from faltung.codegen.lower import Lowering, Memory
from faltung.codegen.schedules.generic import sum_of_parts
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.codegen.schedules.tile import Form, block, fit, fixed, step
from faltung.graph.expr import Access
from faltung.graph.index import Batch

PARTS = 8  # of the batch, when images are reduced
SMALL = 256 * 1024  # elements of a result that is kept once for each part
CHUNKS = 4  # of an open row axis, so that there is parallel work at any batch size
GRAIN = 64
LINE = 64  # bytes that memory moves at a time
LATENCY = 1000  # cycles of multiply-adds between asking memory for a line and using it


# ---- the kernel ----


def contraction(task: Task) -> Plan | str:
    """Kernels for a dense contraction, or the reason why this schedule does not apply."""
    form = fit(task)
    if isinstance(form, str):
        return form
    eq = task.equation
    images = [i for i in form.roles.reduced if isinstance(eq.extent[i], Batch)]
    per_image = prod(fixed(eq.extent[i]) for i in form.roles.reduced if i not in images)
    if images and per_image >= 16 and task.result.size[1] == 0 and task.result.size[0] <= SMALL:
        assert eq.reduce is not None
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
        with ExitStack() as stack:
            images = k.loop(self.images, k.let(k.N * s // PARTS, "from"), k.let(k.N * (s + 1) // PARTS, "to"))
            places = {self.images: Place(stack.enter_context(images))}
            for name, count, _ in self._dims():
                places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
            self._variants(places)

    def _all(self) -> None:
        k, dims = self.k, self._dims()
        units, taken = 1, 0
        for _, count, batch in dims:
            if units >= (8 if dims[0][2] else GRAIN) or (batch and taken):
                break
            units *= count if isinstance(count, int) else 1
            taken += 1
        batch = bool(dims) and dims[0][2]
        with ExitStack() as stack:
            t = stack.enter_context(k.parallel(k.N * units if batch else units))
            places: dict[str, Place] = {}
            rest = units
            for n, (name, count, _) in enumerate(dims[:taken]):
                rest = rest // count if isinstance(count, int) else rest
                number: Expr = t // rest if rest > 1 else t
                if n:
                    number = number % count
                places |= self._enter(name, k.let(number, name))
            for name, count, _ in dims[taken:]:
                places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
            self._variants(places)

    def _dims(self) -> list[tuple[str, Expr | int, bool]]:
        """Loops around the tile: name, count, whether the count is the open batch."""
        eq, tile = self.eq, dict(self.form.tile)
        blocks = -(-fixed(eq.extent[self.form.lane]) // self.lanes) // self.form.vectors
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
        if not whole or whole[0][0] in self.c.columns:
            return [*lane, *whole, *tiled]  # plain matrices keep B's block in cache
        if self.images is None and self._b_stays:
            return [*whole, *tiled, *lane]  # all of B stays in cache, and each row of A is fetched once
        return [*whole[:1], *lane, *whole[1:], *tiled]  # an image stays while all blocks of columns pass over it

    def _enter(self, name: str, v: Expr) -> dict[str, Place]:
        tile = dict(self.form.tile)
        if name == self.form.lane:
            return {name: Place.split(v * self.form.vectors, Int(0), self.lanes)}
        if name in tile and not isinstance(self.eq.extent[name], Batch):
            return {name: self._at(name, v * tile[name], v, tile[name])}
        if name in tile:
            return {name: Place(v)}  # the number of the chunk; _variants walks through it
        size = block(self.task, self.c, name)
        return {name: Place.split(v // size, v % size, size) if size else Place(v)}

    def _at(self, name: str, value: Expr, number: Expr, points: int) -> Place:
        """The start of a tile, as block and position where the index is split."""
        size = block(self.task, self.c, name)
        if size is None:
            return Place(value)
        per = size // points
        return Place.split(number // per, (number % per) * points, size)

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
        steps = [step(self.task, self.c, r) or 0 for r in names]
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
            extent = fixed(self.eq.extent[self.form.lane])
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
            size = self._reduced_block(i)
            if size is not None:
                full, tail = divmod(fixed(e), size)
                if full:
                    with self.k.loop(f"{i}_block", 0, full) as outer:
                        self._ask_for_next_tile(now | dict.fromkeys(rest[1:], Place(Int(0))) | {i: Place.split(outer, Int(0), size)}, offsets)
                        inner(i, rest[1:], now, lambda v: Place.split(outer, v, size), size)
                if tail:
                    inner(i, rest[1:], now, lambda v: Place.split(Int(full), v, size), tail)
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
            if i is not None:
                self._ask_for_later_steps(i, a0 + u * a_step, [b0 + (u * b_step + v * v_step) for v in range(self.form.vectors)])
            w = [k.load(self.b.buffer, b0 + (u * b_step + v * v_step), self.lanes, name="w") for v in range(self.form.vectors)]
            for n, offset in enumerate(offsets):
                x = k.splat(k.peek(self.a.buffer, a0 + (u * a_step + offset), 1), self.lanes)
                if self.form.vectors > 1:
                    x = k.let(x, "x")
                for v in range(self.form.vectors):
                    k.set(acc[n][v], k.fma(x, w[v], acc[n][v]))

    # ---- what will be read soon ----
    # Hardware prefetchers follow lines that are near each other. These follow what the loops know; an address behind the
    # end of an operand, or one that the end of a row makes wrong, costs a little bandwidth and nothing else.

    @property
    def _b_stays(self) -> bool:
        """Whether all of B stays in the second level of cache: weights that are not too many."""
        constant, per_image = self.b.layout.size
        return not per_image and constant * ELEMS[self.b.buffer.elem].bytes <= self.task.target.l2 // 2

    def _ask_for_next_tile(self, places: Mapping[str, Place], offsets: list[int]) -> None:
        """Ask for the lines of A that the next tile reads at this block of a reduced index.

        Blocks of channels are a whole map apart, and out-of-order execution sees less than one of them ahead.
        """
        ahead = self._to_next_tile()
        if self.images is None and ahead is not None:
            at = self.k.let(self.a.layout.address(self.c.a.index, places) + ahead, "ahead")
            line = LINE // ELEMS[self.a.buffer.elem].bytes
            for offset in sorted({o // line * line for o in offsets}):
                self.k.prefetch(self.a.buffer, at + offset)

    def _to_next_tile(self) -> int | None:
        """The step in A from one tile to the next, along the innermost row index that has several tiles."""
        tile = dict(self.form.tile)
        order = [n for axis, _ in self.task.result.order for n, _ in sorted(self.eq.lhs[axis].terms, key=lambda t: -t[1])]
        rows = [i for i in order if i in self.c.rows and not isinstance(self.eq.extent[i], Batch)]
        rows.reverse()
        for i in sorted(rows, key=lambda i: i not in tile):
            if fixed(self.eq.extent[i]) > tile.get(i, 1):
                moved = step(self.task, self.c, i)
                return None if moved is None else moved * tile.get(i, 1)
        return None

    def _ask_for_later_steps(self, i: str, a: Expr, b: list[Expr]) -> None:
        """Ask for what is read LATENCY cycles later, where an operand streams through the innermost reduced index.

        Weights stream when they do not stay in cache: each is used for few rows only. A streams in the gradient by
        the weights, a line for each step; its rows are followed by stepping along the reduced index outside `i`.
        """
        steps = -(-2 * LATENCY // (prod(self.points) * self.form.vectors))
        if not self.b.layout.size[1]:
            if not self._b_stays:
                for address in b:
                    self.k.prefetch(self.b.buffer, address + steps * self._moves(self.c.b, self.b.layout, i))
            return
        order = self._reduction_order()
        outer = order[order.index(i) - 1] if order.index(i) else i
        sizes = [self.eq.extent[n] for n in (i, outer)]
        if outer == i or any(isinstance(e, Batch) for e in sizes) or self._reduced_block(outer) is not None:
            return
        if self._moves(self.c.a, self.a.layout, i) * ELEMS[self.a.buffer.elem].bytes >= LINE:
            ahead = -(-steps // fixed(sizes[0])) * self._moves(self.c.a, self.a.layout, outer)
            self.k.prefetch(self.a.buffer, a + ahead)

    def _moves(self, access: Access, layout: Layout, i: str) -> int:
        """Address step for one step of reduced index `i` (inside its block)."""
        total = 0
        for axis, form in enumerate(access.index):
            c = form.coefficient(i)
            if c:
                total += layout.strides[axis, 1] if layout.block[axis] > 1 else c * layout.strides[axis, 0]
        return total

