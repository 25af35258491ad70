"""Where Winograd's algorithm applies, in which size, and whether it pays: the form that codegen/schedules/winograd.py writes.

    Y[rows, f] = epilogue( Σ_{c,p,q} X[…, c, i ± p + o, j ± q + o] · K[f, c, p, q] )        stride 1, dilation 1

Every window axis is cut into tiles of m outputs. Where m does not divide the extent the last tile is moved back, so
that it computes some outputs once more and reads nothing that the equation does not read; the tiles before own them.

The choice compares cycles of one core for one image: multiply-adds at two a cycle, transforms by their additions, and
bytes of weights, which Winograd has more of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import hypot, prod

from faltung.codegen.schedules.task import Task
from faltung.codegen.schedules.tile import Form, fit, fixed, row_block
from faltung.graph.index import Batch
from faltung.graph.recognise import Contraction
from faltung.graph.winograd import MOST_POINTS, Filtering, Matrix, sums, winograd

# the most that rounding errors may grow by, over all axes: F(4,3) in two dimensions has 23, F(6,3) 426
GROWTH = {"strict": 1.0, "balanced": 30.0, "fast": 500.0}
LARGEST = 6  # outputs of one tile along an axis

# cycles and bytes a cycle of one core, for the choice alone
RATE = 2 * 0.9  # multiply-adds of vectors a cycle, in either inner loop
SIMPLE = 1.0  # additions and moves of vectors a cycle, in the transforms
STREAM = 6.0  # bytes of weights a cycle that come from memory
OVERHEAD = 2000  # cycles for what either way costs besides
GAIN = 0.9  # of the direct way's cycles: what must be undercut


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
        return "×".join(dict.fromkeys(f"F({a.f.m},{a.f.r})" for a in self.axes))

    @property
    def growth(self) -> float:
        """By how much rounding errors grow."""
        return prod(a.f.amplification for a in self.axes)

    # ---- cycles ----

    @property
    def estimate(self) -> str:
        return f"{self.name} is estimated at {self.cycles / 1e6:.3g} million cycles an image, sums of products at {self.direct / 1e6:.3g}"

    @property
    def instead_of(self) -> tuple[tuple[str, str], ...]:
        return (("sums of products", self.estimate),)

    @property
    def cycles(self) -> float:
        """Estimated for one image."""
        products = len(self.points) * self.channels * self.results * self.rows / RATE
        into, out = _operations([a.f.b for a in self.axes]), _operations([a.f.a for a in self.axes])
        moved = self.rows * (self.inputs * (into + 2 * len(self.points)) + self.results * (out + 2 * len(self.points))) / SIMPLE
        weights = len(self.points) * self.channels * self.results * self.lanes * 4 / STREAM
        return hypot(products + moved, weights) + OVERHEAD

    @property
    def direct(self) -> float:
        """Cycles of the direct way."""
        taps = prod(a.f.r for a in self.axes)
        outputs = prod(e for _, e in self.outer) * prod(a.extent for a in self.axes)
        weights = taps * self.channels * self.results * self.lanes * 4 / STREAM
        return hypot(taps * self.channels * self.results * outputs / RATE, weights) + OVERHEAD


def _operations(matrices: list[Matrix]) -> int:
    """Of one transform: every matrix is applied to all lines along its axis, one axis after the other."""
    total, sizes = 0, [len(m[0]) for m in matrices]
    for axis, matrix in enumerate(matrices):
        found = sums(matrix)
        sizes[axis] = 1
        total += sum(len(s) for s in (*found.steps, *found.rows)) * prod(sizes)
        sizes[axis] = len(matrix)
    return total


def tiling(task: Task) -> Tiling | str:
    """The convolution in the tiles that are estimated to be fastest, or the reason why the direct way is taken."""
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
    best = min(candidates, key=lambda t: (t.cycles, t.growth))
    if best.cycles > GAIN * best.direct:
        return best.estimate
    return best


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
    found = []
    for sizes in product(*(range(2, min(LARGEST, a.extent, MOST_POINTS + 1 - a.f.r) + 1) for a in axes)):
        cut = tuple(replace(a, f=winograd(m, a.f.r)) for a, m in zip(axes, sizes, strict=True))
        t = Tiling(form, channel, cut, batch, outer, task.lanes, *counts)
        if t.growth <= GROWTH[task.accuracy]:
            found.append(t)
    return found
