"""The schedule for few channels, which would leave lanes along them empty: lanes along an index that lies without gaps.

    kept      parallel, serial   over batch and tiles of filters and rows; j by vectors, the last moved back to end in time
                  acc[filter, row] = 0
                  for what is summed, its innermost part written out
                      acc[filter, row] += A[row, j …] · B[filter]      one element of B in all lanes
                  store epilogue(acc)

    summed    parallel over parts of the lines of all images
                  for each group, each stretch of an image's lines, each tile of results
                      for each line of the stretch, each vector of it
                          acc += A[tap, j …] · B[filter, j …]
                      sums[result] += acc
                  partial[part, result] = the lanes of sums[result], added up
              and the parts are added up

A vector of A is read once for all filters and taps that meet in it (products.py decides what is written out). A step
of several elements from lane to lane, in A or in the result, is shuffled out of whole vectors and into them. Parts and
stretches are fixed, so results do not depend on threads; sums of more than TERMS terms are sums of sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod

from faltung.codegen.lanes import store_apart
from faltung.codegen.layout import Place, Places
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.lower import Lowering
from faltung.codegen.schedules.lines import Line, Nest, Point, combinations, instead_of, lines
from faltung.codegen.schedules.linesums import Summed
from faltung.codegen.schedules.products import tiled
from faltung.codegen.schedules.registers import TERMS
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.codegen.schedules.tile import fixed
from faltung.graph.index import Batch

GRAIN = 64  # parallel units that are enough
IMAGES = 8  # parallel units of one image that are enough
ACROSS = (2, 2)  # what reading costs: a vector lies anywhere, and an element goes to all lanes
SPARE = 2  # registers: with all of them written into, the allocator spills


def planar(task: Task) -> Plan | str:
    """Kernels with lanes along lines of images, or the reason why this schedule does not apply."""
    line = lines(task)
    if isinstance(line, str):
        return line
    plan = Kept(task, line).plan() if line.lane in task.equation.free else Summed(task, line).plan()
    return replace(plan, instead_of=instead_of(task, line))


class Kept(Nest):
    """Lanes along an index of the result."""

    def __init__(self, task: Task, seen: Line) -> None:
        super().__init__(task, seen)
        extents = {i: e for i, e in self.eq.extents if i != self.lane and not isinstance(e, Batch)}
        rows, reduced = ([i for i in extents if i in names] for names in (self.eq.free, self.eq.bound))
        moves = {i: (self.a.moves(i), self.b.moves(i)) for i in (*rows, *reduced)} | {self.lane: (seen.step * self.lanes, 0)}
        size = {**extents, self.lane: max(1, self.extent // self.lanes)}
        self.form = tiled(size, moves, [*rows, self.lane], reduced, (), task.target.registers - SPARE, ACROSS)
        self.tile = dict(self.form.tile)
        most = self.tile.pop(self.lane, 1)
        self.strides = -(-self.extent // (most * self.lanes))  # tiles along the lanes
        self.vectors = -(-self.extent // (self.strides * self.lanes))
        self.count = min(self.extent, self.lanes)
        self.over = self.strides * self.vectors * self.count - self.extent  # by which the last one is moved back
        self.cut = self._cut()
        if self.cut is not None:
            self.waiting = self.k.private("waiting", prod(self.tile.values()) * self.vectors * self.lanes)

    def _cut(self) -> tuple[str, int] | None:
        """The summed index, and how many of its values are added up before the sums are set aside; None where one part is all."""
        extents, inside = dict(self.eq.extents), 1
        summed = [(i, extents[i]) for i in self.form.order]
        if self.task.accuracy != "strict" or prod(fixed(e) for _, e in summed) < 2 * TERMS:
            return None
        for i, e in reversed(summed):
            n = dict(self.form.steps).get(i, 1)
            if inside * fixed(e) > TERMS and n < fixed(e):
                return i, max(n, TERMS // inside // n * n)
            inside *= fixed(e)
        return None

    def plan(self) -> Plan:
        """One kernel."""
        k, dims = self.k, self._dims()
        batch = not isinstance(dims[0][1], int)
        units, taken = 1, 0
        for _, count in dims:
            if units >= (IMAGES if batch else GRAIN) or (taken and not isinstance(count, int)):
                break
            units *= count if isinstance(count, int) else 1
            taken += 1
        with ExitStack() as stack:
            t = stack.enter_context(k.parallel(k.N * units if batch else Int(units)))
            places: dict[str, Place] = {}
            rest = units
            for n, (name, count) in enumerate(dims[:taken]):
                rest = rest // count if isinstance(count, int) else rest
                number: Expr = t // rest if rest > 1 else t
                places |= self._enter(name, k.let(number % count if n and isinstance(count, int) else number, name))
            for name, count in dims[taken:]:
                places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
            self.variants(places, self.tile, self._tile)
        tile = "×".join(str(t) for t in (*self.tile.values(), self.vectors))
        return Plan((Work(k.finish(), (*self.task.used, RESULT), f"planar, tile {tile}"),))

    def _dims(self) -> list[tuple[str, Expr | int]]:
        """Loops around the tile: an index and its count, in the order of the result's memory."""
        found: dict[str, Expr | int] = {}
        for i in [n for a, _ in self.task.result.order for n, _ in sorted(self.eq.lhs[a].terms, key=lambda t: -t[1])]:
            e = self.eq.extent[i]
            found.setdefault(i, self.k.N if isinstance(e, Batch) else self.strides if i == self.lane else -(-e // self.tile.get(i, 1)))
        return list(found.items())

    def _enter(self, name: str, v: Expr) -> dict[str, Place]:
        if name != self.lane:
            return {name: Place(v * self.tile.get(name, 1))}
        self.last = v.equals(self.strides - 1)
        wide = self.vectors * self.lanes
        return {name: Place(self.k.let(self.k.min(v * wide, self.extent - wide), "start") if self.over else v * wide)}

    def _tile(self, places: Places, sizes: Mapping[str, int]) -> None:
        """A tile of these sizes: its sums, and what becomes of them."""
        k = self.k
        points = combinations({**sizes, self.lane: self.vectors})
        acc = [k.register(f"acc{n}", k.const(0, self.lanes)) for n in range(len(points))]
        if self.cut is not None:
            for n in range(len(acc)):
                k.store(self.waiting, n * self.lanes, k.const(0, self.lanes))
        zero = {i: Place(Int(0)) for i, _ in self.form.steps}
        self._sum([i for i in self.form.order if dict(self.form.steps).get(i) != self.eq.extent[i]], {**places, **zero}, points, acc, {})
        for n, (point, total) in enumerate(zip(points, acc, strict=True)):
            if self.cut is not None:
                k.set(total, total + k.load(self.waiting, n * self.lanes, self.lanes))
            at = {i: Place(places[i].value + (d * self.lanes if i == self.lane else d)) for i, d in point.items()}
            self._store({**places, **at}, total, point[self.lane])

    def _sum(self, rest: Sequence[str], now: Places, points: Sequence[Point], acc: Sequence[Reg], fewer: Mapping[str, int]) -> None:
        """Loops over summed indices, outermost first; what is written out stands in the innermost."""
        k, steps = self.k, {**dict(self.form.steps), **fewer}
        if not rest:
            self.products(self.a.base(now), self.b.base(now), self.form, points, combinations(steps), acc, self.count)
            return
        i, n = rest[0], steps.get(rest[0], 1)
        extent = fixed(self.eq.extent[i])

        def run(lo: Expr, count: int) -> None:
            if count >= n:
                with k.loop(i, lo, lo + count // n * n, n) as v:
                    self._sum(rest[1:], {**now, i: Place(v)}, points, acc, fewer)
            if count % n:
                self._sum(rest[1:], {**now, i: Place(lo + count // n * n)}, points, acc, {**fewer, i: count % n})

        if self.cut is None or self.cut[0] != i:
            run(Int(0), extent)
            return
        whole, left = divmod(extent, self.cut[1])
        with k.loop(f"{i}_part", 0, whole) as part:
            run(k.let(part * self.cut[1], "first"), self.cut[1])
            for number, total in enumerate(acc):  # set aside; the sums begin at 0 again
                k.store(self.waiting, number * self.lanes, k.load(self.waiting, number * self.lanes, self.lanes) + total)
                k.set(total, k.const(0, self.lanes))
        if left:
            run(Int(extent - left), left)

    def _store(self, places: Places, acc: Reg, vector: int) -> None:
        """The epilogue of a vector of sums; lanes that the tile before owns are left out."""
        k, eq = self.k, self.eq
        assert eq.reduce is not None
        tail = k.below(self.count) if self.count < self.lanes else None
        value: Expr = acc
        if eq.expr is not eq.reduce:
            lowering = Lowering(
                k, self.memory, eq.extent, places, self.task.elem, self.lanes, self.lane, None if tail is None else Int(self.count),
                given={eq.reduce: acc},
            )  # fmt: skip
            value = k.let(lowering.wide(lowering.number(eq.expr)), "value")
        address = k.let(self.out.layout.address(eq.lhs, places), "at")
        others = self.over - vector * self.lanes  # lanes of the last tile that are not its own
        if others <= 0:
            store_apart(k, self.out.buffer, address, self.seen.gap, value, tail)
            return
        with k.when(self.last):
            if others < self.lanes:
                store_apart(k, self.out.buffer, address, self.seen.gap, value, k.lane_index(self.lanes, "i64") >= others)
        with k.otherwise():
            store_apart(k, self.out.buffer, address, self.seen.gap, value)
