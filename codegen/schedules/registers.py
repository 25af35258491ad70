"""The register tile of a contraction: accumulators, the reduction in the order of B's memory, what is asked for ahead.

    acc[rows of the tile, blocks of f] = 0, or what is there already
    for k, in the order of B's memory
        w[...] = B[f block, k]                        vectors: the lanes are values of f
        acc[...] += A[row, k] · w[...]                one element of A in all lanes
    store acc

Where the last block of f is half full, a vector of it serves two rows: it holds the half twice, and A brings an element of
each row for half of the lanes.

Where lines are so short that tiles would end badly, a tile runs on from line to line: its rows are then wherever their
numbers say, and each has an address of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import product
from math import prod

from faltung.codegen.layout import Layout, Place
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.tile import Form, block, few, fixed, step
from faltung.graph.expr import Access
from faltung.graph.index import Batch

LINE = 64  # bytes that memory moves at a time
TERMS = 256  # of a sum that is one part of a longer one
GAPS = 6  # part of the weights asked for that may be in vain, where every other tap is read
TAPS = 3  # of a window, from which on it pays that its bounds depend on the row
LATENCY = 1000  # cycles of multiply-adds between asking memory for a line and using it


class Tile(ABC):
    """Writes one tile of the kernel that `k` builds, where the loops stand at given places.

    `ranges` are the bounds of reduced indices that do not run over all of their extent, `walked` those that loops around
    the tile walk through.
    """

    def __init__(self, task: Task, form: Form) -> None:
        self.form, self.seen, self.task = form, form.lanes, task
        self.eq, self.c, self.lane, self.lanes = task.equation, form.lanes.roles, form.lanes.index, task.lanes
        self.k, self.memory, self.out = task.open()
        self.a, self.b = self.memory[self.c.a.slot], self.memory[self.c.b.slot]
        self.points = [t for _, t in form.tile]
        self.own: Expr | None = None  # which of the lanes are stored, where not all are
        self.ranges: dict[str, tuple[Expr, Expr]] = {}
        self.walked: frozenset[str] = frozenset()
        self.sharing: tuple[Expr, int] | None = None  # the number of this tile among those of the same lanes, and how many these are
        self.splits = False  # whether sums of many terms are added in parts
        self.streams = True  # whether operands come from memory once for each tile
        self.few = few(task.target, form.vectors)

    @abstractmethod
    def begin(self, places: list[list[dict[str, Place]]]) -> list[list[Reg]]:
        """The accumulators, for every point and block of lanes."""

    def set_aside(self, acc: list[list[Reg]]) -> None:
        """Add the sums to those that wait; they begin at 0 again."""
        raise AssertionError("only tiles that split sums set them aside")

    @abstractmethod
    def end(self, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """What becomes of the sums."""

    def tile(self, places: dict[str, Place], sizes: tuple[int, ...]) -> None:
        """A tile of these sizes."""
        points, offsets = self._side_by_side(places, sizes) if self.form.lines is None else self._running_on(places, self.form.lines, *sizes)
        lane = places[self.lane]
        at = [[p | {self.lane: Place.split(lane.outer + v, Int(0), self.lanes)} for v in range(self.form.vectors)] for p in points]
        acc = self.begin(at)
        ranges = self.ranges or self._inside(points[0], points[-1])
        self._reduce(points[0], offsets, acc, ranges, lambda: self.set_aside(acc))
        self.end(at, acc)

    def _side_by_side(self, places: dict[str, Place], sizes: tuple[int, ...]) -> tuple[list[dict[str, Place]], list[Expr | int]]:
        """Where the points of a tile are, and how far in A from the first one."""
        names = [r for r, _ in self.form.tile]
        steps = [step(self.task, self.c, r) or 0 for r in names]

        def moved(old: Place, d: int) -> Place:
            return Place.split(old.outer, old.inner + d, old.block) if old.block > 1 else Place(old.value + d)

        points = list(product(*(range(s) for s in sizes)))
        found = [places | {r: moved(places[r], d) for r, d in zip(names, p, strict=True)} for p in points]
        return found, [sum(d * s for d, s in zip(p, steps, strict=True)) for p in points]

    def _running_on(self, places: dict[str, Place], lines: str, size: int) -> tuple[list[dict[str, Place]], list[Expr | int]]:
        """The same for a tile that runs on from line to line; it stands at a number of points from the first line's first."""
        k, ((row, _),) = self.k, self.form.tile
        width = fixed(self.eq.extent[row])
        down, along = (step(self.task, self.c, r) or 0 for r in (lines, row))
        found: list[dict[str, Place]] = []
        offsets: list[Expr | int] = []
        for n in range(size):
            number = places[row].value + n
            line, column = k.let(number // width, lines), k.let(number % width, row)
            found.append(places | {lines: Place(line), row: Place(column)})
            first = found[0]
            offsets.append(k.let((line - first[lines].value) * down + (column - first[row].value) * along, "offset") if n else 0)
        return found, offsets

    def _inside(self, first: Mapping[str, Place], last: Mapping[str, Place]) -> dict[str, tuple[Expr, Expr]]:
        """Bounds of reduced indices outside of which all points of a tile, from the first to the last, read only a halo's zeros."""
        k, found, tile = self.k, dict[str, tuple[Expr, Expr]](), dict(self.form.tile)
        for axis, form in enumerate(self.c.a.index):
            rows, summed = ([n for n in form.names if n in among] for among in (self.c.rows, self.c.reduced))
            if len(form.terms) != 2 or len(rows) != 1 or len(summed) != 1 or self.walked or form.den > 1 or form.coefficient(rows[0]) < 0:
                continue
            (r,), (i,), end = rows, summed, self.a.layout.shape[axis]
            extents = self.eq.extent[r], self.eq.extent[i]
            if any(isinstance(e, Batch) for e in (*extents, end)) or self.form.lines is not None and r in tile or self._reduced_block(i) is not None:
                continue
            c, d, top = form.coefficient(r), form.coefficient(i), fixed(end) - 1
            spread = c * (tile.get(r, 1) - 1)
            low, high = form.range(self.eq.extent)
            if (low + spread >= 0 and high - spread <= top) or fixed(extents[1]) < TAPS:
                continue
            least, most = first[r].value * c + int(form.const), last[r].value * c + int(form.const)
            lo, hi = (k.cdiv(-most, d), k.fdiv(top - least, d)) if d > 0 else (k.cdiv(least - top, -d), k.fdiv(most, -d))
            found[i] = k.let(k.max(lo, 0), "lo"), k.let(k.min(hi + 1, fixed(extents[1])), "hi")
        return found

    # ---- the reduction ----

    def _reduce(
        self, places: dict[str, Place], offsets: list[Expr | int], acc: list[list[Reg]],
        ranges: Mapping[str, tuple[Expr, Expr]], aside: Callable[[], None],
    ) -> None:  # fmt: skip
        """All multiply-adds of a tile; `aside` stands where so many terms have been added that the sums are set aside."""
        k, cut = self.k, self.cut

        def nest(rest: list[str], now: dict[str, Place]) -> None:
            if not rest:
                self._steps(now, None, 1, offsets, acc)
                return
            i, e = rest[0], self.eq.extent[rest[0]]
            size = self._reduced_block(i)
            if size is not None:
                full, tail = divmod(fixed(e), size)
                if full:
                    parts(i, full, lambda lo, count: blocks(i, rest[1:], now, size, lo, count))
                if tail:
                    inner(i, rest[1:], now, lambda v: Place.split(Int(full), v, size), Int(0), tail)
            elif i in ranges or isinstance(e, Batch):
                lo, hi = ranges.get(i, (Int(0), k.N))
                if cut is None or cut[0] != i:
                    some(i, rest[1:], now, lo, hi)
                    return
                with k.loop(f"{i}_part", lo, hi, cut[1]) as part:
                    some(i, rest[1:], now, part, k.min(part + cut[1], hi))
                    aside()
            else:
                parts(i, e, lambda lo, count: inner(i, rest[1:], now, Place, lo, count))

        def some(i: str, rest: list[str], now: dict[str, Place], lo: Expr, hi: Expr) -> None:
            with k.loop(i, lo, hi) as v:
                one(i, rest, now | {i: Place(v)}, 1)

        def parts(i: str, count: int, run: Callable[[Expr, int], None]) -> None:
            if cut is None or cut[0] != i:
                run(Int(0), count)
                return
            whole, left = divmod(count, cut[1])
            with k.loop(f"{i}_part", 0, whole) as part:
                run(k.let(part * cut[1], "first"), cut[1])
                aside()
            if left:
                run(Int(count - left), left)

        def blocks(i: str, rest: list[str], now: dict[str, Place], size: int, lo: Expr, count: int) -> None:
            with k.loop(f"{i}_block", lo, lo + count) as outer:
                start = now | dict.fromkeys(rest, Place(Int(0))) | {i: Place.split(outer, Int(0), size)}
                self._ask_for_next_tile(start, offsets)
                if not rest and self.sharing:
                    self._ask_for_next_lanes(start, size, *self.sharing)
                inner(i, rest, now, lambda v: Place.split(outer, v, size), Int(0), size)

        def inner(i: str, rest: list[str], now: dict[str, Place], place: Callable[[Expr], Place], lo: Expr, count: int) -> None:
            unroll = self.form.unroll if not rest else 1
            left = count % unroll
            if left < count:
                with k.loop(i, lo, lo + (count - left), unroll) as v:
                    one(i, rest, now | {i: place(v)}, unroll)
            if left:
                one(i, rest, now | {i: place(lo + (count - left))}, left)

        def one(i: str, rest: list[str], now: dict[str, Place], count: int) -> None:
            if rest:
                nest(rest, now)
            else:
                self._steps(now, i, count, offsets, acc)

        nest(self._reduction_order(), dict(places))

    @property
    def cut(self) -> tuple[str, int] | None:
        """The reduced index and how many of its values (or blocks) are added up before the sums are set aside.

        The rounding error of a sum grows with the number of terms; added up in parts, with the size of a part and the
        number of parts. None where one part is all.
        """
        extents = [(i, e) for i in self._reduction_order() if not isinstance(e := self.eq.extent[i], Batch)]
        if not self.splits or prod(e for _, e in extents) < 2 * TERMS:
            return None
        inside = 1
        for i, e in reversed(extents):
            if inside * e > TERMS:
                return i, max(1, TERMS // (inside * (self._reduced_block(i) or 1)))
            inside *= e
        return None

    def _reduction_order(self) -> list[str]:
        """Reduced indices in the order of B's memory, so that B streams; what B does not have goes around them."""
        ours, theirs = (
            dict.fromkeys(n for axis, _ in layout.order for n in read.index[axis].names)
            for read, layout in ((self.c.a, self.a.layout), (self.c.b, self.b.layout))
        )
        found = [*(i for i in ours if i not in theirs), *theirs]
        return [i for i in found if i in self.c.reduced and i not in self.walked]

    def _reduced_block(self, i: str) -> int | None:
        return block(((self.c.a.index, self.a.layout), (self.c.b.index, self.b.layout)), i)

    def _steps(self, now: dict[str, Place], i: str | None, count: int, offsets: list[Expr | int], acc: list[list[Reg]]) -> None:
        """`count` values of index `i` from where it stands: loads of B, elements of A, multiply-adds."""
        k = self.k
        a0 = k.let(self.a.layout.address(self.c.a.index, now), "a", self.few)
        b0 = k.let(self.b.layout.address(self.c.b.index, now), "b", self.few)
        a_step = self._moves(self.c.a, self.a.layout, i) if i is not None else 0
        b_step = self._moves(self.c.b, self.b.layout, i) if i is not None else 0
        v_step = self.b.layout.strides[self.seen.there, 0]
        own = self.own if self.b.layout.block[self.seen.there] == 1 else None  # the other lanes lie elsewhere, or nowhere
        paired, half = self.form.paired, self.lanes // 2
        for u in range(count):
            at = [b0 + (u * b_step + v * v_step) for v in range(self.form.vectors)]
            if i is not None and not self.few:
                self._ask_for_later_steps(i, a0 + u * a_step, at)
            w: list[Expr] = [k.load(self.b.buffer, address, self.lanes, own, name="w") for address in (at[:-1] if paired else at)]
            if paired:
                w.append(k.let(k.shuffle([k.load(self.b.buffer, at[-1], half, name="w")], [*range(half)] * 2), "w"))
            elements: list[Expr] = []
            for n, offset in enumerate(offsets):
                x = k.splat(k.peek(self.a.buffer, a0 + offset + u * a_step, 1), self.lanes)
                elements.append(k.let(x, "x") if self.form.vectors > 1 or paired else x)
                for v in range(self.form.vectors):
                    x = elements[n]
                    if self.form.pairs(n, v):
                        x = k.let(k.shuffle([elements[n - 1], x], [0] * half + [self.lanes] * half), "both")
                    elif self.form.pairs(n + 1, v) and n + 1 < len(offsets):
                        continue  # the next point's product is this one's, too
                    k.set(acc[n][v], k.fma(x, w[v], acc[n][v]))

    # ---- what will be read soon ----
    # Hardware prefetchers follow lines that are near each other. These follow what the loops know; an address behind the
    # end of an operand, or one that the end of a row makes wrong, costs a little bandwidth and nothing else.

    @property
    def _b_stays(self) -> bool:
        """Whether all of B stays in the second level of cache: weights that are not too many."""
        constant, per_image = self.b.layout.size
        return not per_image and constant * self.task.bytes <= self.task.target.l2 // 2

    def _ask_for_next_tile(self, places: Mapping[str, Place], offsets: list[Expr | int]) -> None:
        """Ask for the lines of A that the next tile reads at this block of a reduced index.

        Blocks of channels are a whole map apart, and out-of-order execution sees less than one of them ahead.
        """
        ahead = self._to_next_tile()
        if self.streams and ahead is not None:
            at = self.k.let(self.a.layout.address(self.c.a.index, places) + ahead, "ahead")
            line = LINE // self.task.bytes
            for offset in sorted({o // line * line for o in offsets if isinstance(o, int)}):
                self.k.prefetch(self.a.buffer, at + offset)

    def _ask_for_next_lanes(self, places: Mapping[str, Place], size: int, number: Expr, tiles: int) -> None:
        """Ask for some of the lines of B that the next lanes use: all of them, when each tile of these lanes has done so.

        Spread out, they need the least bandwidth; asked for one after the other by the first tile, it would wait.
        """
        summed = self._reduction_order()
        start = {**places, **{i: Place.split(Int(0), Int(0), b) if (b := self._reduced_block(i)) else Place(Int(0)) for i in summed}}
        lane = places[self.lane]
        following = start | {self.lane: Place.split(lane.outer + self.form.vectors, Int(0), self.lanes)}
        first, here, there = (self.b.layout.address(self.c.b.index, p) for p in (start, places, following))
        blocks = prod(fixed(self.eq.extent[i]) for i in summed) // size
        line = LINE // self.task.bytes
        lines = -(-size * self.form.vectors * self.lanes // (line * tiles))
        at = self.k.let(there + (number * blocks + (here - first) // (size * self.lanes)) * (lines * line), "ahead")
        for n in range(lines):
            self.k.prefetch(self.b.buffer, at + n * line)

    def _to_next_tile(self) -> int | None:
        """The step in A from one tile to the next, along the innermost row index that has several tiles.

        None where it is not constant, and where tiles run on from line to line: images of such short lines stay in cache.
        """
        if self.form.lines is not None:
            return None
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

        Weights do, from memory or from the second level of cache. A streams in the gradient by the weights, a line for
        each step; its rows are followed by stepping along the reduced index outside `i`.
        """
        steps = -(-2 * LATENCY // (prod(self.points) * self.form.vectors))
        if not self.b.layout.size[1]:
            extent = self.eq.extent[i]
            if not isinstance(extent, Batch) and any(form.name is None and not form.coefficient(self.lane) for form in self.c.b.index):
                steps = min(steps, max(1, extent // GAPS))  # what lies behind these steps is not read next
            for address in b:
                self.k.prefetch(self.b.buffer, address + steps * self._moves(self.c.b, self.b.layout, i))
            return
        order = self._reduction_order()
        outer = order[order.index(i) - 1] if order.index(i) else i
        sizes = [self.eq.extent[n] for n in (i, outer)]
        if outer == i or any(isinstance(e, Batch) for e in sizes) or self._reduced_block(outer) is not None:
            return
        if self._moves(self.c.a, self.a.layout, i) * self.task.bytes >= LINE:
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
