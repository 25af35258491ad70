"""Winograd's algorithm for convolutions: transforms that are derived, and between them one matrix product for each point.

    U[x, f, c]    = G · K                           weights, in double precision; with those that change only rarely
    V[x, c, tile] = B · X[c, tile]                  lanes are channels
    M[x, f, tile] = Σ_c U[x, f, c] · V[x, c, tile]    lanes are filters; one for each point x of the transform
    Y[f, tile]    = epilogue( A · M[f, tile] )

Where there are many tiles, or weights that stay near, the three stages run for one block of tiles after the other, on
private memory that stays in cache; otherwise each stage is a kernel, and every weight is read once. What is computed for
a tile does not depend on which tiles are computed with it, so neither way of sharing out changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product
from operator import and_

from faltung.codegen.builder import Builder
from faltung.codegen.layout import Place
from faltung.codegen.loops import Buffer, Expr, Int, binary
from faltung.codegen.lower import Lowering, Memory
from faltung.codegen.schedules.filtering import Tiling, tiling
from faltung.codegen.schedules.grid import Kind
from faltung.codegen.schedules.registers import LATENCY
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.codegen.schedules.tile import fixed
from faltung.graph.winograd import Filtering, Matrix, Sum, sums

WEIGHTS, INPUTS, PRODUCTS = -2, -3, -4  # scratch: U, V, M

Values = dict[tuple[int, ...], Expr]


def winograd(task: Task) -> Plan | str:
    """Kernels of the transforms and the products, or the reason why the direct way is taken."""
    t = tiling(task)
    return t if isinstance(t, str) else planned(task, t)


def planned(task: Task, t: Tiling) -> Plan:
    """The kernels for these tiles."""
    s = _Stages(task, t)
    if t.blocks:
        return Plan((s.weights(), s.fused(t.blocks)), (s.u_size,), t.instead_of)
    return Plan((s.weights(), s.transform(), s.multiply(), s.finish()), (s.u_size, s.v_size, s.m_size), t.instead_of)


@dataclass(frozen=True)
class Scratch:
    """V or M: [point][block of channels or filters][row][lane], a line more for each point; as many rows as there are tiles."""

    buffer: Buffer
    blocks: int
    rows: Expr
    lanes: int

    def at(self, block: Expr, row: Expr) -> Expr:
        """Of the first lane, at point 0."""
        return (block * self.rows + row) * self.lanes

    @property
    def point(self) -> Expr:
        """From one point to the next; the line more keeps points in different sets of the cache."""
        return self.rows * (self.blocks * self.lanes) + self.lanes


@dataclass(frozen=True)
class _Tile:
    """A tile in a kernel: the places of its first output, its number on each axis, and where its row is, if it has points of a kind."""

    places: dict[str, Place]
    numbers: Sequence[Expr]
    rows: dict[Kind, Expr]


class _Stages:
    def __init__(self, task: Task, t: Tiling) -> None:
        self.task, self.t, self.lanes = task, t, task.lanes
        self.eq, self.c, self.lane = task.equation, t.roles, t.form.lanes.index
        self.grid, self.count = t.grid, len(t.points)
        registers = task.target.registers
        self.vectors = next(v for v in (2, 3, 1) if t.results % v == 0)
        self.most = (registers - self.vectors - (2 if registers <= 16 else 1)) // self.vectors
        self.others = [a for a in self.eq.accesses if a is not self.c.a and a is not self.c.b]

    # ---- sizes ----

    @property
    def u_size(self) -> tuple[int, int]:
        return self.count * self.t.channels * self.t.results * self.lanes, 0

    @property
    def v_size(self) -> tuple[int, int]:
        return self._scratch_size(self.t.inputs)

    @property
    def m_size(self) -> tuple[int, int]:
        return self._scratch_size(self.t.results)

    def _scratch_size(self, blocks: int) -> tuple[int, int]:
        size = self.count * blocks * self.t.rows * self.lanes
        pad = self.count * self.lanes
        return (pad, size) if self.t.batch is not None else (size + pad, 0)

    # ---- kernels ----

    def _open(self, slots: set[int]) -> tuple[Builder, dict[int, Memory], list[int]]:
        """A builder with buffers for these operands, in order."""
        k, names = Builder("kernel", lanes=self.lanes, elem=self.task.elem), self.eq.operands
        order = sorted(slots - set(self.task.aliases))
        memory = {}
        for n in order:
            name = names[n] if n < len(names) else f"X{n}"
            memory[n] = Memory(k.buffer(name, self.task.element(self.task.dtypes[n]), self.task.operands[n].size), self.task.operands[n])
        return k, memory, order

    def _result(self, k: Builder, memory: dict[int, Memory]) -> Memory:
        buffer = k.buffer(self.eq.target, self.task.element(self.task.dtype), self.task.result.size, written=True)
        out = Memory(buffer, self.task.result)
        memory.update(dict.fromkeys(self.task.aliases, out))
        return out

    def weights(self) -> Work:
        """U from K, each of its transforms in double precision and rounded once."""
        k, memory, used = self._open({self.c.b.slot})
        u = k.buffer("U", size=self.u_size, written=True)
        held = memory[self.c.b.slot]
        wide = "f64" if self.task.elem == "f32" else self.task.elem
        with k.parallel(self.t.results * self.t.channels) as unit:
            block, channel = k.let(unit // self.t.channels, "block"), k.let(unit % self.t.channels, "c")
            places = {self.lane: Place.split(block, Int(0), self.lanes), self.t.channel: Place(channel)}

            def read(at: tuple[int, ...]) -> Expr:
                taps = {a.window: Place(Int(a.taps - 1 - p if a.flipped else p)) for a, p in zip(self.t.axes, at, strict=True)}
                w = k.load(held.buffer, held.layout.address(self.c.b.index, places | taps), self.lanes)
                return k.let(k.convert(w, wide), "wide") if wide != self.task.elem else w

            base = k.let(self._u_at(block // self.vectors, channel) + block % self.vectors * self.lanes, "to")
            numbers = {x: n for n, x in enumerate(self.t.points)}
            for x, value in _apply(k, [a.f.g for a in self.t.axes], read, wide):
                k.store(u, base + numbers[x] * self._u_point, k.convert(value, self.task.elem))
        return Work(k.finish(), (*used, WEIGHTS), f"{self.t.name}, weights")

    @property
    def _u_point(self) -> int:
        return self.t.channels * self.t.results * self.lanes

    def _u_at(self, group: Expr, channel: Expr) -> Expr:
        """U is [point][group of `vectors` blocks of filters][channel][filters of the group]."""
        return (group * self.t.channels + channel) * (self.vectors * self.lanes)

    def fused(self, blocks: int) -> Work:
        """All stages, for one block of tiles after the other."""
        k, memory, used = self._open({self.c.a.slot, *(a.slot for a in self.others)})
        u = k.buffer("U", size=self.u_size)
        out = self._result(k, memory)
        t, most, sizes = self.t, -(-self.t.rows // blocks), self._sizes_of_blocks(blocks)
        v = Scratch(k.private("V", self.count * (t.inputs * most + 1) * self.lanes), t.inputs, Int(most), self.lanes)
        m = Scratch(k.private("M", self.count * (t.results * most + 1) * self.lanes), t.results, Int(most), self.lanes)
        with k.parallel(k.N * blocks if t.batch is not None else blocks) as unit:
            image: dict[str, Place] = {}
            part: Expr = unit
            if t.batch is not None:
                image, part = {t.batch: Place(k.let(unit // blocks, t.batch))}, k.let(unit % blocks, "block")
            first = k.let(part * t.rows // blocks, "first")
            count = k.let((part + 1) * t.rows // blocks - first, "count")
            before, behind = self._before(k, first), self._before(k, first + count)
            rows = {kind: k.let(behind[kind] - before[kind], "rows") if kind else count for kind in before}
            at = {kind: 0 - n for kind, n in before.items()}
            with k.loop("cb", 0, t.inputs) as block, k.loop("tile", 0, count) as n:
                self._into(k, memory[self.c.a.slot], v, block, self._tile(k, k.let(first + n, "g"), image, at))
            with k.loop("x", 0, self.count) as x, k.loop("group", 0, t.results // self.vectors) as group:
                self._product(k, u, v, m, x, group, self._rows_at(k, x, rows), sizes)
            with k.loop("fb", 0, t.results) as block, k.loop("tile", 0, count) as n:
                self._out(k, memory, m, out, block, self._tile(k, k.let(first + n, "g"), image, at))
        return Work(k.finish(), (*used, WEIGHTS, RESULT), f"{t.name}, blocks of {most} tiles")

    def transform(self) -> Work:
        """V of all tiles."""
        k, memory, used = self._open({self.c.a.slot})
        v = self._shared(k, "V", self.t.inputs, written=True)
        with self._each(k, self.t.inputs) as (block, tile):
            self._into(k, memory[self.c.a.slot], v, block, tile)
        return Work(k.finish(), (*used, INPUTS), f"{self.t.name}, inputs")

    def multiply(self) -> Work:
        """M of all tiles."""
        k = Builder("kernel", lanes=self.lanes, elem=self.task.elem)
        u, v = k.buffer("U", size=self.u_size), self._shared(k, "V", self.t.inputs)
        m = self._shared(k, "M", self.t.results, written=True)
        groups = self.t.results // self.vectors
        images: Expr = k.N if self.t.batch is not None else Int(1)
        with k.parallel(self.count * groups) as unit:
            x, rows = k.let(unit // groups, "x"), {kind: images * self.grid.rows(kind) for kind in self.grid.kinds}
            self._product(k, u, v, m, x, k.let(unit % groups, "group"), self._rows_at(k, x, rows), self._sizes_of_images())
        return Work(k.finish(), (WEIGHTS, INPUTS, PRODUCTS), f"{self.t.name}, products")

    def finish(self) -> Work:
        """Y of all tiles."""
        k, memory, used = self._open({a.slot for a in self.others})
        m = self._shared(k, "M", self.t.results)
        out = self._result(k, memory)
        with self._each(k, self.t.results) as (block, tile):
            self._out(k, memory, m, out, block, tile)
        return Work(k.finish(), (*used, PRODUCTS, RESULT), f"{self.t.name}, results")

    def _shared(self, k: Builder, name: str, blocks: int, written: bool = False) -> Scratch:
        rows: Expr = k.N * self.t.rows if self.t.batch is not None else Int(self.t.rows)
        return Scratch(k.buffer(name, size=self._scratch_size(blocks), written=written), blocks, rows, self.lanes)

    @contextmanager
    def _each(self, k: Builder, blocks: int) -> Iterator[tuple[Expr, _Tile]]:
        """A unit for each block and each tile of all images."""
        rows: Expr = k.N * self.t.rows if self.t.batch is not None else Int(self.t.rows)
        with k.parallel(rows * blocks) as unit:
            block, row = k.let(unit // rows, "block"), k.let(unit % rows, "row")
            places: dict[str, Place] = {}
            image: Expr = Int(0)
            g = row
            if self.t.batch is not None:
                image, g = k.let(row // self.t.rows, self.t.batch), k.let(row % self.t.rows, "g")
                places[self.t.batch] = Place(image)
            yield block, self._tile(k, g, places, {kind: image * self.grid.rows(kind) for kind in self.grid.kinds})

    # ---- tiles ----

    def _tile(self, k: Builder, g: Expr, image: dict[str, Place], at: Mapping[Kind, Expr]) -> _Tile:
        """Tile `g` of an image, whose rows begin `at` these."""
        digits = [k.let(d, "digit") for d in self.grid.digits(g)]
        numbers = digits[len(self.t.outer) :]
        places = image | {name: Place(d) for name, d in zip(self.t.outer, digits, strict=False)}
        places |= {a.row: Place(k.let(a.first(n), a.row)) for a, n in zip(self.t.axes, numbers, strict=True)}
        return _Tile(places, numbers, {kind: at[kind] + (self.grid.row(kind, digits) if kind else g) for kind in self.grid.kinds})

    def _before(self, k: Builder, g: Expr) -> dict[Kind, Expr]:
        """Rows of the tiles of an image before tile `g`."""
        digits = [k.let(d, "digit") for d in self.grid.digits(g)] if self.grid.mixed else []
        return {kind: k.let(self.grid.row(kind, digits), "before") if kind else g for kind in self.grid.kinds}

    def _rows_at(self, k: Builder, x: Expr, rows: Mapping[Kind, Expr]) -> Expr:
        """Those at point number `x`, out of those for each kind of point."""
        found, coordinates = rows[()], self.grid.coordinates(x)
        for kind in self.grid.kinds[1:]:
            at_infinity = [coordinates[n].equals(self.t.axes[n].f.n - 1) for n in kind]
            found = k.select(reduce(and_, at_infinity), rows[kind], found)
        return k.let(found, "rows") if len(rows) > 1 else found

    def _sized(self, k: Builder, tile: _Tile, write: Callable[[tuple[Filtering, ...]], None], chosen: tuple[Filtering, ...] = ()) -> None:
        """Writes once for each size that the tile can have, given the algorithm of each axis."""
        if len(chosen) == len(self.t.axes):
            return write(chosen)
        axis, number = self.t.axes[len(chosen)], tile.numbers[len(chosen)]
        if not axis.mixed:
            return self._sized(k, tile, write, (*chosen, axis.f))
        with k.when(axis.is_large(number).equals(1)):
            self._sized(k, tile, write, (*chosen, axis.f))
        with k.otherwise():
            self._sized(k, tile, write, (*chosen, axis.f.shorter))

    def _into(self, k: Builder, x: Memory, v: Scratch, block: Expr, tile: _Tile) -> None:
        """One tile of one block of channels into V."""
        first = {a.window: Place(Int(a.taps - 1 if a.flipped else 0)) for a in self.t.axes}
        places = tile.places | first | {self.t.channel: Place.split(block, Int(0), self.lanes)}
        base = k.let(x.layout.address(self.c.a.index, places), "from")
        steps = [x.layout.strides[a.axis, 0] for a in self.t.axes]

        def read(at: tuple[int, ...]) -> Expr:
            return k.load(x.buffer, base + sum(d * s for d, s in zip(at, steps, strict=True)), self.lanes)

        def write(algorithms: tuple[Filtering, ...]) -> None:
            to = self._points(k, v, block, tile, algorithms)
            for p, value in _apply(k, [f.b for f in algorithms], read, self.task.elem):
                k.store(v.buffer, to[p], value)

        self._sized(k, tile, write)

    def _out(self, k: Builder, memory: Mapping[int, Memory], m: Scratch, out: Memory, block: Expr, tile: _Tile) -> None:
        """One tile of one block of filters out of M."""
        places = tile.places | {self.lane: Place.split(block, Int(0), self.lanes)}

        def write(algorithms: tuple[Filtering, ...]) -> None:
            at = self._points(k, m, block, tile, algorithms)
            for outputs, value in _apply(k, [f.a for f in algorithms], lambda p: k.load(m.buffer, at[p], self.lanes), self.task.elem):
                self._store(k, memory, out, places, outputs, value)

        self._sized(k, tile, write)

    def _points(self, k: Builder, held: Scratch, block: Expr, tile: _Tile, algorithms: tuple[Filtering, ...]) -> dict[tuple[int, ...], Expr]:
        """Where the tile's row is at each point that it has."""
        sizes = [f.n for f in algorithms]
        points = [(x, p) for x, p in enumerate(self.t.points) if all(i < n for i, n in zip(p, sizes, strict=True))]
        rows = {kind: k.let(held.at(block, tile.rows[kind]), "row") for kind in dict.fromkeys(self.grid.kind(p) for _, p in points)}
        return {p: rows[self.grid.kind(p)] + held.point * x for x, p in points}

    def _store(self, k: Builder, memory: Mapping[int, Memory], out: Memory, places: Mapping[str, Place], at: tuple[int, ...], value: Expr) -> None:
        now = {**places, **{a.row: Place(places[a.row].value + d) for a, d in zip(self.t.axes, at, strict=True)}}
        assert self.eq.reduce is not None
        if self.eq.expr is not self.eq.reduce:
            extent = fixed(self.eq.extent[self.lane])
            tail = None if extent % self.lanes == 0 else Int(extent) - now[self.lane].value
            lowering = Lowering(
                k, memory, self.eq.extent, now, self.task.elem, self.lanes, self.lane, tail, given={self.eq.reduce: value}
            )  # fmt: skip
            value = lowering.wide(lowering.number(self.eq.expr))
        k.store(out.buffer, out.layout.address(self.eq.lhs, now), value)

    # ---- products ----

    def _sizes(self, rows: int) -> list[int]:
        """The panels that so many rows are cut into: as few as registers allow, and as equal as possible."""
        panels = max(1, -(-rows // self.most))
        return sorted({rows // panels, -(-rows // panels)} - {0})

    def _sizes_of_images(self) -> list[int]:
        """The panels of any number of images: from `most` panels on, none is smaller than `most` − 1."""
        rows = [self.grid.rows(kind) for kind in self.grid.kinds]
        if self.t.batch is None:
            return sorted({s for n in rows for s in self._sizes(n)})
        found = {self.most - 1, self.most} - {0}
        for n in rows:
            found |= {s for images in range(1, self.most * self.most // n + 2) for s in self._sizes(images * n)}
        return sorted(found)

    def _sizes_of_blocks(self, blocks: int) -> list[int]:
        """The panels of the blocks of tiles of an image."""
        ends = [self.grid.digits(n * self.t.rows // blocks) for n in range(blocks + 1)]
        found: set[int] = set()
        for kind in self.grid.kinds:
            rows = [self.grid.row(kind, digits) for digits in ends]
            found |= {s for before, behind in pairwise(rows) for s in self._sizes(behind - before)}
        return sorted(found)

    def _product(self, k: Builder, u: Buffer, v: Scratch, m: Scratch, x: Expr, group: Expr, rows: Expr, sizes: Sequence[int]) -> None:
        """M at one point, for one group of filters and all rows, panel by panel."""
        panels = k.let(binary("max", (rows + (self.most - 1)) // self.most, Int(1)), "panels")
        small, large = k.let(rows // panels, "small"), k.let(rows % panels, "large")  # `large` panels have a row more
        at: Expr = Int(0)
        for size in reversed(sizes):
            here = k.select((small + 1).equals(size), large, k.select(small.equals(size), panels - large, Int(0)))
            to = k.let(at + k.let(here, "panels") * size, "to")
            with k.loop("row", at, to, size) as row:
                self._panel(k, u, v, m, x, group, row, size)
            at = to

    def _panel(self, k: Builder, u: Buffer, v: Scratch, m: Scratch, x: Expr, group: Expr, row: Expr, size: int) -> None:
        lanes, vectors = self.lanes, self.vectors
        acc = [[k.register("acc", k.const(0, lanes)) for _ in range(vectors)] for _ in range(size)]
        v0 = k.let(x * v.point + row * lanes, "v")
        u0 = k.let(x * self._u_point + self._u_at(group, Int(0)), "u")
        unroll = 1 if size * vectors >= 12 else 4
        ahead = -(-2 * LATENCY // (size * vectors))

        def steps(a: Expr, w: Expr, count: int) -> None:
            for n in range(count):
                for i in range(vectors):
                    k.prefetch(u, w + ((n + ahead) * vectors + i) * lanes)
                ws = [k.load(u, w + (n * vectors + i) * lanes, lanes, name="w") for i in range(vectors)]
                for p in range(size):
                    one = k.splat(k.peek(v.buffer, a + (p * lanes + n), 1), lanes)
                    one = k.let(one, "x") if vectors > 1 else one
                    for i in range(vectors):
                        k.set(acc[p][i], k.fma(one, ws[i], acc[p][i]))

        def run(block: Expr, count: int) -> None:
            a, w = k.let(v0 + block * (v.rows * lanes), "a"), k.let(u0 + block * (lanes * lanes * vectors), "b")
            whole = count // unroll * unroll
            with k.loop("c", 0, whole, unroll) as c:
                steps(a + c, w + c * (lanes * vectors), unroll)
            if whole < count:
                steps(a + whole, w + whole * (lanes * vectors), count - whole)

        full, tail = divmod(self.t.channels, lanes)
        if full:
            with k.loop("cb", 0, full) as block:
                run(block, lanes)
        if tail:
            run(Int(full), tail)
        for i in range(vectors):
            to = k.let(x * m.point + m.at(group * vectors + i, row), "to")
            for p in range(size):
                k.store(m.buffer, to + p * lanes, acc[p][i])


# ---- transforms ----


def _apply(k: Builder, matrices: Sequence[Matrix], read: Callable[[tuple[int, ...]], Expr], elem: str) -> Iterator[tuple[tuple[int, ...], Expr]]:
    """The matrices applied along all axes to what `read` gives: (point, value), each value when it is there.

    Groups of rows that share nothing follow one another and read anew, so that few values live at a time.
    """
    found = sums(matrices[0])
    inner = list(product(*(range(len(m[0])) for m in matrices[1:])))
    for group in found.groups:
        lines: list[Values] = [{} for _ in group]
        for rest in inner:
            values = _rows(k, found.columns, found.steps, [found.rows[i] for i in group], lambda n, rest=rest: read((n, *rest)), elem)  # type: ignore[misc]
            for line, value in zip(lines, values, strict=True):
                line[rest] = value
        for i, line in zip(group, lines, strict=True):
            if len(matrices) == 1:
                yield (i,), line[()]
            else:
                for at, value in _apply(k, matrices[1:], line.__getitem__, elem):
                    yield (i, *at), value


def _rows(k: Builder, columns: int, steps: Sequence[Sum], rows: Sequence[Sum], read: Callable[[int], Expr], elem: str) -> list[Expr]:
    """These rows of a product, with the steps that they need."""
    values: dict[int, Expr] = {}

    def value(n: int) -> Expr:
        if n not in values:
            values[n] = read(n) if n < columns else total(steps[n - columns])
        return values[n]

    def total(s: Sum) -> Expr:
        """A sum, begun with a value that needs no factor."""
        result: Expr | None = None
        for n, c in sorted(s, key=lambda term: (term[1] != 1, term[0])):
            v = value(n)
            if result is None:
                result = v if c == 1 else v * k.const(c, v.type.lanes, elem)
            elif abs(c) == 1:
                result = result + v if c == 1 else result - v
            else:
                result = k.fma(v, k.const(c, v.type.lanes, elem), result)
        assert result is not None, "a row of zeros"
        return k.let(result, "t")

    return [total(row) for row in rows]
