"""Where Winograd's algorithm applies, in which size, and whether it pays: the form that codegen/schedules/winograd.py writes.

    Y[rows, f] = epilogue( Σ_{c,p,q} X[…, c, i ± p + o, j ± q + o] · K[f, c, p, q] )        stride 1, dilation 1

Every window axis is cut into tiles of m outputs, or of m and of m - 1 (`grid.py`).

The choice compares seconds of all cores for an image: multiply-adds, transforms by their additions, and bytes of weights,
which Winograd has more of. Where it is open how many images come, and nobody said, the mean of one alone and one among
sixteen counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import hypot, prod

from faltung.codegen.machine import Machine
from faltung.codegen.schedules.grid import Axis, Grid
from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.tile import Form, fit, fixed, row_block
from faltung.graph.index import Batch
from faltung.graph.recognise import Contraction
from faltung.graph.winograd import MOST_POINTS, Filtering

# the most that rounding errors may grow by, over all axes: F(4,3) in two dimensions has 23, F(6,3) 426
GROWTH = {"strict": 1.0, "balanced": 30.0, "fast": 500.0}
DIRECT = "sums of products"  # what the other way is called
LARGEST = 6  # outputs of one tile along an axis

# blocks of tiles
BLOCK, MOST_BLOCK = 28, 64  # tiles
CACHED = 0.75  # of the second level of cache for what is transformed, and for weights that stay there
PARTS = (8, 4, 2)  # blocks are a multiple of one of these, so that threads have equal shares,
SOME_TILES, FEW_TILES = 20, 8  # where that leaves so many tiles in a block, of many or of few

# for the choice alone: fitted to all convolutions of stride 1 of VGG-16, ResNets and DenseNet-121, of which they tell times within a tenth
PRODUCTS = 0.88  # of the rate of multiply-adds, in either inner loop
NEAR_MOVES, FAR_MOVES = 0.28, 0.125  # of that rate, additions and moves in the transforms, by whether all stages run in one kernel
STREAMED = 0.88  # of the rate at which memory is read, weights
NEAR, FAR = 2.5, 0.8  # of that rate for one core, weights that one block after the other reads, from the third level of cache or from memory
KERNEL = 2.5e-6  # seconds to begin one
IMAGES = (1, 16)  # in a run, where nobody said: weights are streamed once for all of them
ALIKE = 1.015  # times the seconds of the best tiles: as good, with fewer weights
GAIN = 0.9  # of the direct way's seconds: what must be undercut where nobody said how many images come


@dataclass(frozen=True)
class Tiling:
    """A convolution cut into Winograd tiles."""

    form: Form
    channel: str
    grid: Grid  # the tiles of one image
    batch: str | None  # the open row index
    outer: tuple[str, ...]  # row indices without a window
    lanes: int
    channels: int
    filters: int
    bytes: int  # of an element
    machine: Machine
    changing: bool  # weights are new in every run
    images: tuple[int, ...]  # how many may come in a run

    @property
    def roles(self) -> Contraction:
        return self.form.lanes.roles

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.grid.axes

    @property
    def points(self) -> tuple[tuple[int, ...], ...]:
        """The points of the transform, in the order of memory."""
        return self.grid.points

    @property
    def rows(self) -> int:
        """Tiles of one image."""
        return self.grid.tiles

    @property
    def inputs(self) -> int:
        """Blocks of channels."""
        return -(-self.channels // self.lanes)

    @property
    def results(self) -> int:
        """Blocks of filters."""
        return -(-self.filters // self.lanes)

    @property
    def name(self) -> str:
        names = [f"F({a.f.m}{f'+{a.f.m - 1}' if a.mixed else ''},{a.f.r})" for a in self.axes]
        return names[0] if len(set(names)) == 1 else "×".join(names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Outputs of the larger tiles along each axis."""
        return tuple(a.f.m for a in self.axes)

    @property
    def growth(self) -> float:
        """By how much rounding errors grow: the mean over all outputs."""
        return prod(a.amplification for a in self.axes)

    @cached_property
    def blocks(self) -> int:
        """Blocks of tiles that an image is cut into for the stages to run one after the other; 0 where each is a kernel.

        Blocks keep what is transformed in cache, but each of them reads all weights.
        """
        few = self.rows < 2 * BLOCK
        if few and self.rows < self.machine.cores * FEW_TILES:
            return 0
        size = int(CACHED * self.machine.l2) // (self.bytes * len(self.points) * (self.inputs + self.results) * self.lanes)
        parts = next((p for p in PARTS if self.rows >= p * (FEW_TILES if few else SOME_TILES)), 1)
        blocks = -(-self.rows // (min(max(BLOCK, size), MOST_BLOCK) * parts)) * parts
        return blocks if self._seconds(blocks) <= self._seconds(0) else 0

    # ---- seconds ----

    @property
    def estimate(self) -> str:
        return f"{self.name} is estimated at {1e6 * self.seconds:.3g} µs an image, {DIRECT} at {1e6 * self.direct:.3g} µs"

    @property
    def instead_of(self) -> tuple[tuple[str, str], ...]:
        return ((DIRECT, self.estimate),)

    @cached_property
    def seconds(self) -> float:
        """Estimated for an image on all cores."""
        return self._seconds(self.blocks)

    def _seconds(self, blocks: int) -> float:
        """In so many blocks."""
        products = self.grid.products * self.channels * self.results / PRODUCTS
        into, out = (self.grid.products * 2 + sum(n * _operations(which, fs) for n, fs in self.grid.sizes()) for which in ("b", "a"))
        moved = (self.inputs * into + self.results * out) / (NEAR_MOVES if blocks else FAR_MOVES)
        count, g = len(self.points), _operations("g", tuple(a.f for a in self.axes))
        changed = 2 * self.channels * self.results * (g + count) / NEAR_MOVES if self.changing else 0.0
        return self._mean(products + moved, count, changed, kernels=1 if blocks else 3, blocks=blocks)

    @cached_property
    def direct(self) -> float:
        """Seconds of the direct way."""
        taps = prod(a.taps for a in self.axes)
        outputs = prod(self.grid.outer) * prod(a.extent for a in self.axes)
        return self._mean(taps * self.channels * self.results * outputs / PRODUCTS, taps, 0.0, kernels=1)

    def _mean(self, work: float, weights: int, once: float, kernels: int, blocks: int = 0) -> float:
        """Of an image among each of `images`: `work` for each and `once` for all in multiply-adds of vectors, so many weights
        for each pair of a channel and a filter, which are read from memory, and in each block once more if they do not stay near.
        """
        machine = self.machine
        size = weights * self.channels * self.results * self.lanes * self.bytes
        streamed = size / (STREAMED * machine.streams)
        again = size * blocks / ((NEAR if size <= machine.l3 else FAR) * machine.stream * machine.cores) if size > CACHED * machine.l2 else 0.0
        rate = machine.products * machine.cores
        return sum((hypot((n * work + once) / rate, streamed + n * again) + kernels * KERNEL) / n for n in self.images) / len(self.images)


def _operations(which: str, algorithms: tuple[Filtering, ...]) -> int:
    """Of one transform: every matrix is applied to all lines along its axis, one axis after the other."""
    counts = [f.counts[which] for f in algorithms]
    total, sizes = 0, [columns for columns, _, _ in counts]
    for axis, (_, rows, terms) in enumerate(counts):
        sizes[axis] = 1
        total += terms * prod(sizes)
        sizes[axis] = rows
    return total


def tiling(task: Task) -> Tiling | str:
    """The convolution in the tiles that are estimated to be fastest, or the reason why the direct way is taken."""
    found = tilings(task)
    if isinstance(found, str):
        return found
    return found[0].estimate if found[0].seconds > (1 if task.images else GAIN) * found[0].direct else found[0]


def worth_timing(found: list[Tiling], count: int) -> list[Tiling]:
    """So many of those that are estimated to be fastest, and the fastest for each number of images."""
    each = [min(found, key=lambda t: replace(t, images=(n,)).seconds) for n in found[0].images]
    return list({t.sizes: t for t in (*found[:count], *each)}.values())


def tilings(task: Task) -> list[Tiling] | str:
    """The convolution in all tiles that are accurate enough, or why there are none.

    Those that are estimated to be fastest come first, and of those that are about as fast, those with the fewest weights.
    """
    if GROWTH[task.accuracy] <= 1:
        return f"accuracy is {task.accuracy}"
    form = fit(task)
    if isinstance(form, str):
        return form
    found = _roles(task, form)
    if isinstance(found, str):
        return found
    candidates = _candidates(task, form, *found)
    if not candidates:
        return f"no size of tile keeps rounding errors within {GROWTH[task.accuracy]:.0f} times those of a direct sum"
    alike = ALIKE * min(t.seconds for t in candidates)
    return sorted(candidates, key=lambda t: (max(t.seconds, alike), len(t.points), t.seconds))


def _roles(task: Task, form: Form) -> tuple[str, list[Axis], str | None, tuple[tuple[str, int], ...]] | str:
    """Channel, window axes in tiles of one output, the open row index and the other row indices; or what is in the way."""
    eq, c, layout = task.equation, form.lanes.roles, task.operands[form.lanes.roles.a.slot]
    if form.lanes.group is not None or c.batch or len(c.columns) != 1:
        return "it is no convolution of all channels with all filters"
    axes = []
    for axis, f in enumerate(c.a.index):
        windows = [n for n in f.names if n in c.reduced]
        if len(f.names) < 2:
            continue
        rows = [n for n in f.names if n in c.rows]
        if len(windows) != 1 or len(rows) != 1 or len(f.names) != 2 or sum(windows[0] in g.names for g in c.a.index) > 1:
            return f"{f} is no window"
        if f.coefficient(rows[0]) != 1 or abs(f.coefficient(windows[0])) != 1:
            return f"{f} has a stride or a dilation"
        if layout.block[axis] > 1 or row_block(task, c, rows[0]) is not None:
            return f"axis {axis} is in blocks"
        taps, extent = fixed(eq.extent[windows[0]]), fixed(eq.extent[rows[0]])
        if taps < 2 or extent < 2 or taps + 1 > MOST_POINTS:
            return f"{f} has {taps} taps and {extent} outputs"
        axes.append(Axis(axis, rows[0], windows[0], f.coefficient(windows[0]) < 0, extent, taps, extent))
    rest = [i for i in c.reduced if i not in {a.window for a in axes}]
    if not 1 <= len(axes) <= 3 or len(rest) != 1:
        return "it has no window" if not axes else f"it sums over {', '.join(rest)} besides the windows"
    places = [axis for axis, f in enumerate(c.a.index) if f.name == rest[0]]
    if len(places) != 1 or not layout.is_split(places[0], task.lanes):
        return f"operand {c.a.slot} is not in blocks of {task.lanes} along {rest[0]}"
    others = [i for i in c.rows if i not in {a.row for a in axes}]
    if any(row_block(task, c, i) is not None for i in others):
        return "a row index is in blocks"
    batch = next((i for i in others if isinstance(eq.extent[i], Batch)), None)
    return rest[0], axes, batch, tuple((i, fixed(eq.extent[i])) for i in others if i != batch)


def _candidates(task: Task, form: Form, channel: str, axes: list[Axis], batch: str | None, outer: tuple[tuple[str, int], ...]) -> list[Tiling]:
    """All sizes of tiles within the growth of rounding errors that is allowed."""
    eq = task.equation
    counts = (fixed(eq.extent[channel]), fixed(eq.extent[form.lanes.index]))
    changing, found = form.lanes.roles.b.slot not in task.steady, []
    images = (1,) if not batch else (task.images,) if task.images else IMAGES
    counts_of_tiles = (sorted({-(-a.extent // m) for m in range(2, min(LARGEST, a.extent, MOST_POINTS + 1 - a.taps) + 1)}) for a in axes)
    for tiles in product(*counts_of_tiles):
        grid = Grid(tuple(e for _, e in outer), tuple(replace(a, tiles=n) for a, n in zip(axes, tiles, strict=True)))
        t = Tiling(form, channel, grid, batch, tuple(i for i, _ in outer), task.lanes, *counts, task.bytes, task.machine, changing, images)
        if t.growth <= GROWTH[task.accuracy]:
            found.append(t)
    return found
