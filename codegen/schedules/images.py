"""Contractions that sum over images, as a gradient by weights does: in sweeps, or in parts of all rows.

    sweep s of all   a few rows or images, all tiles of the result; each tile adds to what it has
    part s of PARTS  a fixed share of all rows, for a result of its own; the parts are added in order afterwards
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from math import prod

from faltung.codegen.layout import Layout, Place
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.lower import Memory
from faltung.codegen.schedules.nest import Nest
from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.tile import Form, fixed
from faltung.graph.index import Affine, Batch

PARTS = 8  # of the rows of all images
VISIT = 256  # positions for which it pays to fetch a tile's sums and to put them back
PART = "part of the images"  # an index that no equation can have


class Images(Nest):
    """A sum over images, part of it at a time: `images` and `rows` are the outermost reduced indices."""

    walks_images = True

    def __init__(self, task: Task, form: Form, images: str) -> None:
        super().__init__(task, form)
        self.images, self.streams = images, False
        extent = self.eq.extent[images]
        self.count: Expr = self.k.N if isinstance(extent, Batch) else Int(extent)
        inside = [i for i in self._reduction_order() if i != images]
        self.rows = inside[0] if self._reduced_block(inside[0]) is None else None
        self.height = fixed(self.eq.extent[self.rows]) if self.rows else 1
        self.positions = prod(fixed(self.eq.extent[i]) for i in inside)

    def add(self, held: Memory, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """Add what is in memory to the accumulators."""
        for n, row in enumerate(places):
            for v, at in enumerate(row):
                waiting = self.k.load(held.buffer, held.layout.address(self.eq.lhs, at), self.lanes, self.own, "held")
                self.k.set(acc[n][v], acc[n][v] + waiting)

    def put(self, held: Memory, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """Store the sums as they are."""
        for n, row in enumerate(places):
            for v, at in enumerate(row):
                self.k.store(held.buffer, held.layout.address(self.eq.lhs, at), acc[n][v], self.own)


class Sweep(Images):
    """Some rows of an image, or some images, in each sweep; each tile adds to its own sums, so threads are free to differ.

    Sums wait in the result itself, or in a scratch when something follows them.
    """

    name = "contraction, sweeps"

    def __init__(self, task: Task, form: Form, images: str) -> None:
        super().__init__(task, form, images)
        extent = self.eq.extent[images]
        each = sum(sum(m.layout.size) // (1 if isinstance(extent, Batch) else extent) for m in (self.a, self.b)) * self.task.bytes
        room = self.task.target.l2 // 2
        self.cuts = max(1, min(self.height, -(-each // room), self.positions // VISIT))
        self.together = max(1, min(room // each, -(-VISIT // self.positions)))
        sweeps = self.count * self.cuts if self.cuts > 1 else self.k.cdiv(self.count, self.together)
        self.sweeps = self.k.max(sweeps, 1)
        self.at = self.k.sweep("sweep", self.sweeps)
        self.held = self.out
        if self.eq.expr is not self.eq.reduce:
            buffer = self.k.buffer("held", self.task.element(self.task.dtype), self.task.result.size, written=True)
            self.held = Memory(buffer, self.task.result)

    @property
    def tiles(self) -> int:
        """How many tiles the result has."""
        return prod(count for _, count, _ in self._dims() if isinstance(count, int))

    @property
    def scratch(self) -> tuple[tuple[int, int], ...]:
        """What the plan has to provide."""
        return () if self.held is self.out else (self.task.result.size,)

    @property
    def arguments(self) -> tuple[int, ...]:
        return (*super().arguments, *(-2 for _ in self.scratch))

    def enter(self) -> None:
        """The rows and images of this sweep."""
        k = self.k
        first = k.let(self.at // self.cuts if self.cuts > 1 else self.at * self.together, "first")
        self.ranges = {self.images: (first, k.let(k.min(first + (1 if self.cuts > 1 else self.together), self.count), "last"))}
        if self.cuts > 1 and self.rows is not None:
            cut = k.let(self.at % self.cuts, "cut")
            top, bottom = cut * self.height // self.cuts, (cut + 1) * self.height // self.cuts
            self.ranges[self.rows] = (k.let(top, "top"), k.let(bottom, "bottom"))

    def begin(self, places: list[list[dict[str, Place]]]) -> list[list[Reg]]:
        """Each sweep has sums of its own: a sum of sums is more exact."""
        return self.zeros(places)

    def end(self, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """They are added to those of the sweeps before; the epilogue follows in the last one."""
        with self.k.when(self.at > 0):
            self.add(self.held, places, acc)
        if self.held is self.out:
            self.put(self.held, places, acc)
            return
        with self.k.when(self.at + 1 < self.sweeps):
            self.put(self.held, places, acc)
        with self.k.otherwise():
            self.finish(places, acc)


class Parts(Images):
    """A fixed number of parts of the rows of all images; each clears its result, then adds image after image to it."""

    name = "contraction, parts of the batch"
    elsewhere = (PART,)

    def __init__(self, task: Task, form: Form, images: str, held: Layout) -> None:
        eq = task.equation
        assert eq.reduce is not None
        parts = replace(
            eq, free=(PART, *eq.free), lhs=(Affine.of(PART), *eq.lhs), expr=eq.reduce, extents=(*eq.extents, (PART, PARTS)),
            shape=held.shape, target="partial",
        )  # fmt: skip
        super().__init__(replace(task, equation=parts, result=held, aliases=()), form, images)
        self.walked = frozenset({images})

    @property
    def arguments(self) -> tuple[int, ...]:
        return (*self.task.used, -2)

    def loops(self) -> None:
        """Parallel over parts."""
        k, size = self.k, self.task.result.strides[0, 0]
        with k.parallel(PARTS, "part") as s:
            with k.loop("z", 0, size // self.lanes) as z:
                k.store(self.out.buffer, s * size + z * self.lanes, k.const(0, self.lanes))
            lo = k.let(self.count * self.height * s // PARTS, "from")
            hi = k.let(self.count * self.height * (s + 1) // PARTS, "to")
            with ExitStack() as stack:
                image = stack.enter_context(k.loop(self.images, lo // self.height, k.cdiv(hi, self.height)))
                if self.rows is not None:
                    before = image * self.height
                    self.ranges[self.rows] = (k.let(k.max(lo - before, 0), "top"), k.let(k.min(hi - before, self.height), "bottom"))
                places = {PART: Place(s), self.images: Place(image)}
                for name, count, _ in self._dims():
                    places |= self._enter(name, stack.enter_context(k.loop(name, 0, count)))
                self._groups(places)

    def begin(self, places: list[list[dict[str, Place]]]) -> list[list[Reg]]:
        """Each image has sums of its own."""
        return self.zeros(places)

    def end(self, places: list[list[dict[str, Place]]], acc: list[list[Reg]]) -> None:
        """They are added to those of the images before; the epilogue follows when the parts are added."""
        self.add(self.out, places, acc)
        self.put(self.out, places, acc)
