"""Where Winograd's algorithm applies, in which size, and whether it pays: the form that codegen/schedules/winograd.py writes.

    Y[rows, f] = epilogue( Σ_{c,p,q} X[…, c, i ± p + o, j ± q + o] · K[f, c, p, q] )        stride 1, dilation 1

Every window axis is cut into tiles of m outputs. Where m does not divide the extent the last tile is moved back, so
that it computes some outputs once more and reads nothing that the equation does not read; the tiles before own them.

The choice compares seconds of all cores for an image: multiply-adds, transforms by their additions, and bytes of weights,
which Winograd has more of. How many images come is open, so the mean of one alone and one among sixteen counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from math import hypot, prod

from faltung.codegen.machine import Machine
from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.tile import Form, fit, fixed, row_block
from faltung.graph.index import Batch
from faltung.graph.recognise import Contraction
from faltung.graph.winograd import MOST_POINTS, Filtering, sums, winograd

# the most that rounding errors may grow by, over all axes: F(4,3) in two dimensions has 23, F(6,3) 426
GROWTH = {"strict": 1.0, "balanced": 30.0, "fast": 500.0}
DIRECT = "sums of products"  # what the other way is called
LARGEST = 6  # outputs of one tile along an axis

# blocks of tiles
BLOCK, MOST_BLOCK = 28, 64  # tiles
CACHED = 0.75  # of the second level of cache for what is transformed
NEAR = 4  # times that level for weights that are read anew for each of few tiles
PARTS = (8, 4, 2)  # blocks are a multiple of one of these, so that threads have equal shares,
SOME_TILES, FEW_TILES = 20, 8  # where that leaves so many tiles in a block, of many or of few

# for the choice alone: fitted to all convolutions of stride 1 of VGG-16, ResNets and DenseNet-121, of which they tell times within a tenth
PRODUCTS = 0.88  # of the rate of multiply-adds, in either inner loop
NEAR_MOVES, FAR_MOVES = 0.28, 0.125  # of that rate, additions and moves in the transforms, by whether all stages run in one kernel
STREAMED = 0.88  # of the rate at which memory is read, weights
KERNEL = 2.5e-6  # seconds to begin one
IMAGES = (1, 16)  # in a run: weights are streamed once for all of them
GAIN = 0.9  # of the direct way's seconds: what must be undercut


@dataclass(frozen=True)
class Axis:
    """A window axis: row index `row` and reduced index `window` on axis number `axis` of X."""

    axis: int
    row: str
    window: str
    flipped: bool  # X is read at row − window
    extent: int  # of the row index
    f: Filtering

    @property
    def tiles(self) -> int:
        return -(-self.extent // self.f.m)

    @property
    def overlap(self) -> int:
        """Outputs of the last tile that the one before it owns."""
        return self.tiles * self.f.m - self.extent


@dataclass(frozen=True)
class Tiling:
    """A convolution cut into Winograd tiles. `rows` are tiles of one image: one for each of `outer` and each tile of the axes."""

    form: Form
    channel: str
    axes: tuple[Axis, ...]
    batch: str | None  # the open row index
    outer: tuple[tuple[str, int], ...]  # row indices without a window, and their extents
    lanes: int
    channels: int
    filters: int
    bytes: int  # of an element
    machine: Machine
    changing: bool  # weights are new in every run

    @property
    def roles(self) -> Contraction:
        return self.form.lanes.roles

    @cached_property
    def points(self) -> tuple[tuple[int, ...], ...]:
        """The points of the transform, in the order of memory."""
        return tuple(product(*(range(a.f.n) for a in self.axes)))

    @property
    def rows(self) -> int:
        return prod(e for _, e in self.outer) * prod(a.tiles for a in self.axes)

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
        names = [f"F({a.f.m},{a.f.r})" for a in self.axes]
        return names[0] if len(set(names)) == 1 else "×".join(names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Outputs of a tile along each axis."""
        return tuple(a.f.m for a in self.axes)

    @property
    def growth(self) -> float:
        """By how much rounding errors grow."""
        return prod(a.f.amplification for a in self.axes)

    @cached_property
    def blocks(self) -> int:
        """Blocks of tiles that an image is cut into for the stages to run one after the other; 0 where each is a kernel.

        With few tiles that pays only where the weights, which every block reads, stay near.
        """
        few, count = self.rows < 2 * BLOCK, len(self.points)
        if few and (self.rows < self.machine.cores * FEW_TILES or self.bytes * count * self.channels * self.filters > NEAR * self.machine.l2):
            return 0
        size = int(CACHED * self.machine.l2) // (self.bytes * count * (self.inputs + self.results) * self.lanes)
        parts = next((p for p in PARTS if self.rows >= p * (FEW_TILES if few else SOME_TILES)), 1)
        return -(-self.rows // (min(max(BLOCK, size), MOST_BLOCK) * parts)) * parts

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
        points = len(self.points)
        products = points * self.channels * self.results * self.rows / PRODUCTS
        into, out = (_operations(which, self.axes) + 2 * points for which in ("b", "a"))
        moved = self.rows * (self.inputs * into + self.results * out) / (NEAR_MOVES if self.blocks else FAR_MOVES)
        changed = 2 * self.channels * self.results * (_operations("g", self.axes) + points) / NEAR_MOVES if self.changing else 0.0
        return self._mean(products + moved, points, changed, kernels=1 if self.blocks else 3)

    @cached_property
    def direct(self) -> float:
        """Seconds of the direct way."""
        taps = prod(a.f.r for a in self.axes)
        outputs = prod(e for _, e in self.outer) * prod(a.extent for a in self.axes)
        return self._mean(taps * self.channels * self.results * outputs / PRODUCTS, taps, 0.0, kernels=1)

    def _mean(self, work: float, weights: int, once: float, kernels: int) -> float:
        """Of an image alone and one among many: `work` for each and `once` for all in multiply-adds of vectors, so many weights
        from memory for each pair of a channel and a filter.
        """
        rate = self.machine.products * self.machine.cores
        streamed = weights * self.channels * self.results * self.lanes * self.bytes / (STREAMED * self.machine.streams)
        return sum((hypot((n * work + once) / rate, streamed) + kernels * KERNEL) / n for n in IMAGES) / len(IMAGES)


def _operations(which: str, axes: tuple[Axis, ...]) -> int:
    """Of one transform: every matrix is applied to all lines along its axis, one axis after the other."""
    counts = [_counts(a.f.m, a.f.r)[which] for a in axes]
    total, sizes = 0, [columns for columns, _, _ in counts]
    for axis, (_, rows, terms) in enumerate(counts):
        sizes[axis] = 1
        total += terms * prod(sizes)
        sizes[axis] = rows
    return total


@cache
def _counts(m: int, r: int) -> dict[str, tuple[int, int, int]]:
    """Columns, rows and terms of the matrices of F(m, r)."""
    found = {}
    for name in ("a", "b", "g"):
        matrix = getattr(winograd(m, r), name)
        shared = sums(matrix)
        found[name] = (len(matrix[0]), len(matrix), sum(len(s) for s in (*shared.steps, *shared.rows)))
    return found


def tiling(task: Task) -> Tiling | str:
    """The convolution in the tiles that are estimated to be fastest, or the reason why the direct way is taken."""
    found = tilings(task)
    if isinstance(found, str):
        return found
    return found[0].estimate if found[0].seconds > GAIN * found[0].direct else found[0]


def tilings(task: Task) -> list[Tiling] | str:
    """The convolution in all tiles that are accurate enough, those that are estimated to be fastest first; or why there are none."""
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
    return sorted(candidates, key=lambda t: (t.seconds, t.growth))


def _roles(task: Task, form: Form) -> tuple[str, list[Axis], str | None, tuple[tuple[str, int], ...]] | str:
    """Channel, window axes with the smallest tiles, the open row index and the other row indices; or what is in the way."""
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
        axes.append(Axis(axis, rows[0], windows[0], f.coefficient(windows[0]) < 0, extent, winograd(2, taps)))
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
    machine, found = task.machine, []
    for sizes in product(*(range(2, min(LARGEST, a.extent, MOST_POINTS + 1 - a.f.r) + 1) for a in axes)):
        cut = tuple(replace(a, f=winograd(m, a.f.r)) for a, m in zip(axes, sizes, strict=True))
        t = Tiling(form, channel, cut, batch, outer, task.lanes, *counts, task.bytes, machine, form.lanes.roles.b.slot not in task.steady)
        if t.growth <= GROWTH[task.accuracy]:
            found.append(t)
    return found
