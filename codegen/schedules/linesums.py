"""The planar kernels of sums over lines: parts of the lines of all images, of which lanes are added up in the end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from math import prod

from faltung.codegen.layout import Place, Places
from faltung.codegen.loops import Expr, Int
from faltung.codegen.schedules.generic import sum_of_parts
from faltung.codegen.schedules.lines import Line, Nest, combinations
from faltung.codegen.schedules.products import tiled
from faltung.codegen.schedules.registers import TERMS
from faltung.codegen.schedules.task import Plan, Task, Work
from faltung.codegen.schedules.tile import fixed
from faltung.graph.index import Affine, Batch

PARTS = 8  # of the lines of all images
PART = "part of the lines"  # an index that no equation can have
ACROSS = (2, 1)  # what reading costs: vectors of A lie across lines of cache, those of B wait in registers
SPARE = 3  # registers: with all of them written into, the allocator spills


class Summed(Nest):
    """Lanes along a summed index; `line` is the summed index outside of it, `outer` are the others. Each group has sums of its own."""

    def __init__(self, task: Task, seen: Line) -> None:
        assert task.equation.reduce is not None
        self.total, self.held = sum_of_parts(task, PARTS)
        eq = task.equation
        partial = replace(
            eq, free=(PART, *eq.free), lhs=(Affine.of(PART), *eq.lhs), expr=task.equation.reduce, extents=(*eq.extents, (PART, PARTS)),
            shape=self.held.shape, target="partial",
        )  # fmt: skip
        super().__init__(replace(task, equation=partial, result=self.held, aliases=()), seen)
        self.groups = {i: fixed(eq.extent[i]) for i in seen.roles.batch}
        self.sizes = {i: fixed(eq.extent[i]) for i in eq.free if i not in self.groups}
        rows = [i for i, e in self.sizes.items() if e != 1]
        moves = {i: (self.a.moves(i), self.b.moves(i)) for i in (*rows, self.lane)}
        moves[self.lane] = (seen.step * self.lanes, self.lanes)
        self.blocks = self.extent // self.lanes
        self.form = tiled({i: self.sizes[i] for i in rows} | {self.lane: max(1, self.blocks)}, moves, rows, [self.lane], (), task.target.registers - SPARE, ACROSS)
        self.tile = dict(self.form.tile)
        others = [i for i in eq.bound if i != self.lane]
        near = [i for i in others if not isinstance(eq.extent[i], Batch)]
        self.line = min(near, key=self.a.moves, default=None)
        self.outer = sorted((i for i in others if i != self.line), key=lambda i: not isinstance(eq.extent[i], Batch))
        self.height = fixed(eq.extent[self.line]) if self.line is not None else max(1, -(-self.blocks // TERMS))
        self.sums = self.k.private("sums", prod(self.sizes.values()) * self.lanes)

    def plan(self) -> Plan:
        """Two kernels: parts of the sum, and the sum of the parts."""
        k = self.k
        count = prod((self.k.N if isinstance(e := self.eq.extent[i], Batch) else Int(e) for i in self.outer), start=Int(1))
        stretch = max(1, TERMS // max(1, self.blocks)) if self.line is not None else 1
        with k.parallel(PARTS, "part") as part, ExitStack() as around:
            group = {i: Place(around.enter_context(k.loop(i, 0, e))) for i, e in self.groups.items()}
            with k.loop("z", 0, prod(self.sizes.values())) as z:
                k.store(self.sums, z * self.lanes, k.const(0, self.lanes))
            lo, hi = (k.let(count * self.height * (part + d) // PARTS, name) for d, name in ((0, "from"), (1, "to")))
            with k.loop("image", lo // self.height, k.cdiv(hi, self.height)) as image:
                before = image * self.height
                top, bottom = k.let(k.max(lo - before, 0), "top"), k.let(k.min(hi - before, self.height), "bottom")
                with k.loop("first", top, bottom, stretch) as first, ExitStack() as stack:
                    last = k.let(k.min(first + stretch, bottom), "last")
                    places = self._images(image) | group | {i: Place(Int(0)) for i in (self.lane, self.line) if i is not None}
                    for i, e in self.sizes.items():
                        t = self.tile.get(i, 1)
                        places[i] = Place(stack.enter_context(k.loop(i, 0, -(-e // t))) * t)
                    self.variants(places, self.tile, lambda now, sizes: self._tile(now, sizes, first, last))
            self._finish(group | {PART: Place(part)})
        tile = "×".join(str(t) for t in self.tile.values()) or "1"
        return Plan((Work(k.finish(), (*self.task.used, -2), f"planar, parts, tile {tile}"), self.total), (self.held.size,))

    def _images(self, number: Expr) -> dict[str, Place]:
        """The outer indices, of which `number` counts the combinations."""
        found: dict[str, Place] = {}
        for n, i in reversed(list(enumerate(self.outer))):
            e = self.eq.extent[i]
            found[i] = Place(self.k.let(number % e if n and not isinstance(e, Batch) else number, i))
            number = number // e if not isinstance(e, Batch) else number
        return found

    def _tile(self, places: Places, sizes: Mapping[str, int], first: Expr, last: Expr) -> None:
        """Add what some lines give to the sums of a tile."""
        k, n = self.k, dict(self.form.steps).get(self.lane, 1)
        points = combinations(sizes)
        acc = [k.register(f"acc{number}", k.const(0, self.lanes)) for number in range(len(points))]
        a, b = self.a.base(places), self.b.base(places)

        def add(at: tuple[Expr, Expr], block: Expr, steps: int, count: int) -> None:
            x, y = (k.let(base + block * (self.lanes * read.step), "at") for base, read in zip(at, (self.a, self.b), strict=True))
            self.products(x, y, self.form, points, combinations({self.lane: steps}), acc, count)

        with k.loop(self.line or "stretch", first, last) as v:
            at = (a, b)
            lo: Expr = Int(0)
            hi: Expr = Int(self.blocks)
            if self.line is not None:
                at = (k.let(a + v * self.a.moves(self.line), "line"), k.let(b + v * self.b.moves(self.line), "line"))
            elif self.height > 1:
                lo, hi = k.let(v * TERMS, "lo"), k.let(k.min((v + 1) * TERMS, self.blocks), "hi")
            if self.blocks:
                with k.loop("block", lo, hi - (n - 1), n) as block:
                    add(at, block, n, self.lanes)
                if n > 1:
                    with k.loop("block", lo + (hi - lo) // n * n, hi) as block:
                        add(at, block, 1, self.lanes)
            if self.extent % self.lanes:
                with k.when(v.equals(self.height - 1)) if self.line is None and self.height > 1 else nullcontext():
                    add(at, Int(self.blocks), 1, self.extent % self.lanes)
        for point, total in zip(points, acc, strict=True):
            sum_at = k.let(self._number({i: places[i].value + point.get(i, 0) for i in self.sizes}) * self.lanes, "sum")
            k.store(self.sums, sum_at, k.load(self.sums, sum_at, self.lanes) + total)

    def _number(self, at: Mapping[str, Expr]) -> Expr:
        """The number of a result."""
        number: Expr = Int(0)
        for i, e in self.sizes.items():
            number = number * e + at[i]
        return number

    def _finish(self, places: Places) -> None:
        """The lanes of every sum are added up."""
        k = self.k
        with ExitStack() as stack:
            at: dict[str, Expr] = {i: stack.enter_context(k.loop(i, 0, e)) for i, e in self.sizes.items()}
            total = k.load(self.sums, self._number(at) * self.lanes, self.lanes)
            places = {**places, **{i: Place(v) for i, v in at.items()}}
            k.store(self.out.buffer, self.held.address(self.eq.lhs, places), k.let(k.across("sum", total), "total"))
