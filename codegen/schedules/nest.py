"""The kernel of a contraction: loops around the register tile, in the order in which operands stay in cache.

    parallel, serial   over batch, blocks of f and tiles of rows; smaller tiles where rows end
        the register tile (registers.py), whose sums begin at 0 and end in the epilogue
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import prod

from faltung.codegen.layout import Place
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.lower import Lowering
from faltung.codegen.schedules.registers import Tile
from faltung.codegen.schedules.task import RESULT, Task, Work
from faltung.codegen.schedules.tile import Form, fixed, row_block
from faltung.graph.expr import Access
from faltung.graph.index import Batch

CHUNKS = 4  # of an open row axis, so that there is parallel work at any batch size
GRAIN = 64  # parallel units that are enough
IMAGES = 8  # parallel units of one image that are enough
FAR = 4  # times the second level of cache: results of an image that are more come from memory


class Nest(Tile):
    """Loops around the tile, and the kernel."""

    name = "contraction"
    walks_images = False
    elsewhere: tuple[str, ...] = ()  # free indices that other loops walk through

    def __init__(self, task: Task, form: Form) -> None:
        super().__init__(task, form)
        self.splits = task.accuracy == "strict" and not self.walks_images
        if self.cut is not None:
            self.waiting = self.k.private("waiting", prod(self.points) * form.vectors * self.lanes)

    def work(self) -> Work:
        """The kernel."""
        self.loops()
        tile = "×".join(str(t) for t in self.points) or "1"
        return Work(self.k.finish(), self.arguments, f"{self.name}, tile {tile}×{self.form.vectors}")

    @property
    def arguments(self) -> tuple[int, ...]:
        """What the kernel is called with."""
        return (*self.task.used, RESULT)

    def loops(self) -> None:
        """All statements of the kernel."""
        self._all()

    def enter(self) -> None:
        """Statements that come first in each unit."""

    def begin(self, places: list[list[dict[str, Place]]]) -> list[list[Reg]]:
        """Sums begin at 0, and the lines of what is added to them are asked for; of the results, too, where these are many."""
        beside = [x for x in self.eq.accesses if self._beside(x)]
        far = sum(self.out.layout.size) * self.task.bytes > FAR * self.task.target.l2
        for v in range(self.form.vectors):
            for row in places:
                if far:
                    self.k.prefetch(self.out.buffer, self.out.layout.address(self.eq.lhs, row[v]), write=True)
                for x in beside:
                    memory = self.memory[x.slot]
                    self.k.prefetch(memory.buffer, memory.layout.address(x.index, row[v]))
        acc = self.zeros(places)
        if self.cut is not None:
            self.wait(acc)
        return acc

    def _beside(self, x: Access) -> bool:
        """Whether it is read after the sums, an element for each: not a weight, and not a bias, which stay in cache."""
        names = {n for form in x.index for n in form.names}
        return {self.lane, *dict(self.form.tile)} <= names <= set(self.eq.free) and all(form.den == 1 for form in x.index)

    def zeros(self, places: list[list[dict[str, Place]]]) -> list[list[Reg]]:
        """Accumulators that hold 0."""
        zero = self.k.const(0, self.lanes)
        made: list[list[Reg]] = []
        for n, row in enumerate(places):
            made.append([made[n - 1][v] if self.form.pairs(n, v) else self.k.register(f"acc{n}_{v}", zero) for v, _ in enumerate(row)])
        return made

    def end(self, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """The epilogue of every sum is stored."""
        if self.cut is not None:
            self.collect(acc)
        self.finish(places, acc)

    def set_aside(self, acc: list[list[Reg]]) -> None:
        """Add the sums to those that wait; they begin at 0 again."""
        self.collect(acc)
        self.wait(acc)
        for register in distinct(acc):
            self.k.set(register, self.k.const(0, self.lanes))

    def collect(self, acc: list[list[Reg]]) -> None:
        """Add what waits to the sums."""
        for n, register in enumerate(distinct(acc)):
            self.k.set(register, register + self.k.load(self.waiting, n * self.lanes, self.lanes, name="waiting"))

    def wait(self, acc: list[list[Reg]]) -> None:
        """Store the sums as those that wait."""
        for n, register in enumerate(distinct(acc)):
            self.k.store(self.waiting, n * self.lanes, register)

    def finish(self, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """Store the epilogue of every sum."""
        for v in range(self.form.vectors):
            for n, row in enumerate(places):
                total: Expr = acc[n][v]
                if self.form.pairs(n, v):
                    total = self.k.let(self.k.shuffle([total], [*range(self.lanes // 2, self.lanes)] * 2), "total")
                self.k.store(self.out.buffer, self.out.layout.address(self.eq.lhs, row[v]), self._epilogue(row[v], total), self.own)

    def _epilogue(self, places: dict[str, Place], acc: Expr) -> Expr:
        assert self.eq.reduce is not None
        if self.eq.expr is self.eq.reduce:
            return acc
        extent = fixed(self.eq.extent[self.lane])
        tail = None if extent % self.lanes == 0 else Int(extent) - places[self.lane].value
        lowering = Lowering(
            self.k, self.memory, self.eq.extent, places, self.task.elem, self.lanes, self.lane, tail,
            given={self.eq.reduce: acc},
        )  # fmt: skip
        return lowering.wide(lowering.number(self.eq.expr))

    # ---- loops around the tile ----

    def _all(self) -> None:
        """Parallel over the outermost loops, serial over the others."""
        k, dims = self.k, self._dims()
        units, taken = 1, 0
        for _, count, batch in dims:
            if units >= (IMAGES if dims[0][2] else GRAIN) or (batch and taken):
                break
            units *= count if isinstance(count, int) else 1
            taken += 1
        batch = bool(dims) and dims[0][2]
        with ExitStack() as stack:
            t = stack.enter_context(k.parallel(k.N * units if batch else units))
            self.enter()
            places: dict[str, Place] = {}
            numbers: dict[str, Expr] = {}
            rest = units
            for n, (name, count, _) in enumerate(dims[:taken]):
                rest = rest // count if isinstance(count, int) else rest
                number: Expr = t // rest if rest > 1 else t
                if n:
                    number = number % count
                numbers[name] = k.let(number, name)
                places |= self._enter(name, numbers[name])
            for name, count, _ in dims[taken:]:
                numbers[name] = stack.enter_context(k.loop(name, 0, count))
                places |= self._enter(name, numbers[name])
            self.sharing = self._tiles_of_lanes(dims, numbers)
            self._groups(places)

    def _tiles_of_lanes(self, dims: Sequence[tuple[str, Expr | int, bool]], numbers: Mapping[str, Expr]) -> tuple[Expr, int] | None:
        """The number of this tile among those of the same lanes, and how many these are; None where B need not be asked for so."""
        constant, per_image = self.b.layout.size
        blocks = fixed(self.eq.extent[self.lane]) // self.lanes // self.form.vectors
        if per_image or blocks < 2 or constant * self.task.bytes > blocks * self.task.target.l2 // 4:
            return None
        inside = dims[[name for name, *_ in dims].index(self.lane) + 1 :]
        number: Expr = Int(0)
        tiles = 1
        for name, count, _ in inside:
            if not isinstance(count, int) or isinstance(self.eq.extent[name], Batch):
                return None
            number, tiles = number * count + numbers[name], tiles * count
        return (self.k.let(number, "tile"), tiles) if tiles > 1 else None

    def _dims(self) -> list[tuple[str, Expr | int, bool]]:
        """Loops around the tile: name, count, whether the count is the open batch."""
        eq, tile = self.eq, dict(self.form.tile)
        blocks = -(-fixed(eq.extent[self.lane]) // self.lanes) // self.form.vectors
        lane: list[tuple[str, Expr | int, bool]] = [(self.lane, blocks, False)]
        whole: list[tuple[str, Expr | int, bool]] = []
        tiled: list[tuple[str, Expr | int, bool]] = []
        order = [n for axis, _ in self.task.result.order for n, _ in sorted(eq.lhs[axis].terms, key=lambda t: -t[1])]
        for i in dict.fromkeys(order):
            e = eq.extent[i]
            if i in (self.lane, self.seen.group, self.form.lines, *self.elsewhere):
                continue
            if i in tile:
                tiled.append((i, CHUNKS, False) if isinstance(e, Batch) else (i, -(-self._rows(i) // tile[i]), False))
            else:
                whole.append((i, self.k.N if isinstance(e, Batch) else e, isinstance(e, Batch)))
        if self.walks_images or not whole or whole[0][0] in self.c.columns:
            return [*lane, *whole, *tiled]  # B's block stays in cache
        axes = zip(self.a.layout.shape, self.c.a.index, strict=True)
        image = prod(e for e, form in axes if not isinstance(e, Batch) and not form.coefficient(whole[0][0]))
        if self._b_stays and self.b.layout.size[0] <= image:
            return [*whole, *tiled, *lane]  # all of B stays in cache, and each row of A is fetched once
        return [*whole[:1], *lane, *whole[1:], *tiled]  # an image stays while all of B passes over it, and a thread reads its part of B

    def _rows(self, name: str) -> int:
        """How many points tiles cover along a row index: of one line, or of all lines where they run on."""
        return fixed(self.eq.extent[name]) * (fixed(self.eq.extent[self.form.lines]) if self.form.lines is not None else 1)

    def _enter(self, name: str, v: Expr) -> dict[str, Place]:
        tile = dict(self.form.tile)
        if name == self.lane:
            return {name: Place.split(v * self.form.vectors, Int(0), self.lanes)}
        if name in tile and not isinstance(self.eq.extent[name], Batch):
            return {name: self._at(name, v * tile[name], v, tile[name])}
        if name in tile:
            return {name: Place(v)}  # the number of the chunk; _variants walks through it
        size = row_block(self.task, self.c, name) or 1
        return {name: Place.split(v // size, v % size, size) if size > 1 else Place(v)}

    def _at(self, name: str, value: Expr, number: Expr, points: int) -> Place:
        """The start of a tile, as block and position where the index is split."""
        size = row_block(self.task, self.c, name)
        if size is None:
            return Place(value)
        per = size // points
        return Place.split(number // per, (number % per) * points, size)

    def _groups(self, places: dict[str, Place]) -> None:
        """The group that these lanes are in; each in turn where there are several, and only its own lanes are stored."""
        k, group, size = self.k, self.seen.group, self.seen.size
        if group is None:
            self._variants(places)
            return
        first = places[self.lane].value
        if self._groups_are_blocks:
            self._variants(places | {group: Place(k.let(first // size, group))})
            return
        last = k.min(first + (self.lanes - 1), fixed(self.eq.extent[self.lane]) - 1)
        with k.loop(group, k.let(first // size, "from"), k.let(last // size + 1, "to")) as g:
            low = k.let(g * size - first, "low")
            lane = k.lane_index(self.lanes, "i64")
            self.own = k.let((lane >= low) & (lane < low + size), "own")
            self._variants(places | {group: Place(g)})

    @property
    def _groups_are_blocks(self) -> bool:
        """Whether no group begins inside of a block of lanes."""
        return self.seen.group is None or self.seen.size % self.lanes == 0

    def _variants(self, places: Mapping[str, Place]) -> None:
        """The tile in full, and smaller ones where the rows end."""

        def walk(n: int, now: dict[str, Place], sizes: tuple[int, ...]) -> None:
            if n == len(self.form.tile):
                self.tile(now, sizes)
                return
            name, t = self.form.tile[n]
            if isinstance(self.eq.extent[name], Batch):
                self._open_rows(name, t, now[name].value, lambda p, size: walk(n + 1, now | {name: p}, (*sizes, size)))
            elif (e := self._rows(name)) % t == 0:
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


def distinct(acc: Sequence[Sequence[Reg]]) -> list[Reg]:
    """The accumulators, each once."""
    return list(dict.fromkeys(r for row in acc for r in row))
