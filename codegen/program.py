"""A graph as a program: kernels in order, buffers, and the barriers between them.

    program = prepare steps (what depends on constants and parameters only) + steps (every run)

Updates (new value of a parameter → the parameter) are written in place, after everything that reads the old value.
Copies appear where a schedule wants an operand in another layout than the one it has.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from faltung.codegen.assign import layouts
from faltung.codegen.buffers import Life
from faltung.codegen.choose import Choice, Chooser, choose
from faltung.codegen.exact import inexact
from faltung.codegen.layout import Layout, outside, plain
from faltung.codegen.loops import Kernel
from faltung.codegen.lower import ELEMENTS
from faltung.codegen.order import ordered, with_barriers
from faltung.codegen.parts import Part, copied, parts, placed
from faltung.codegen.schedules.channels import narrow, wanted
from faltung.codegen.schedules.filtering import GROWTH
from faltung.codegen.schedules.lines import Line, lines
from faltung.codegen.schedules.task import RESULT, Task
from faltung.codegen.schedules.tile import lane_axes, weights_layout
from faltung.codegen.target import Target
from faltung.graph.equation import Equation, make
from faltung.graph.errors import UnsupportedOp
from faltung.graph.expr import Access, Inside, Size, walk
from faltung.graph.fold import unchanging
from faltung.graph.history import History
from faltung.graph.index import Affine, Batch
from faltung.graph.parse import LETTERS
from faltung.graph.tensor import FLOATS, Tensor, topological

PERSISTENT = ("parameter", "state", "constant")
BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "bool": 1}


@dataclass(frozen=True)
class Slot:
    """A buffer of the program: what it holds and how. `kind` is a leaf's kind, `temporary` or `packed`.

    A packed buffer holds a copy of constants or parameters in another layout and lives as long as they do.
    """

    kind: str
    dtype: str
    layout: Layout | None  # None: scratch, `size` elements
    size: tuple[int, int]
    tensor: Tensor | None = None
    inside: int | None = None  # the buffer whose memory this one is a part of (parts.py)
    cleared: bool = False  # whether the kernel that computes it zeroes the halo (schedules/border.py)

    @property
    def bytes(self) -> tuple[int, int]:
        """(constant, per batch)."""
        return self.size[0] * BYTES[self.dtype], self.size[1] * BYTES[self.dtype]

    @property
    def persistent(self) -> bool:
        return self.kind in (*PERSISTENT, "packed")

    @property
    def shares(self) -> bool:
        """Whether its memory may hold something else at other times: not where the halo is zero from the beginning only."""
        return self.cleared or self.layout is None or not self.layout.has_halo


@dataclass(frozen=True)
class Step:
    """A kernel call: buffers by number, and which equation it is part of."""

    kernel: Kernel
    buffers: tuple[int, ...]
    tensor: Tensor
    equation: Equation
    schedule: str
    refused: tuple[tuple[str, str], ...] = ()
    barrier: bool = False


@dataclass
class Program:
    """See the module docstring. `outputs` are buffer numbers."""

    target: Target
    accuracy: str = "strict"
    choose: Chooser = choose
    slots: list[Slot] = field(default_factory=list)
    prepare: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    buffer: dict[Tensor, int] = field(default_factory=dict)
    left_out: list[tuple[Tensor, Equation, str]] = field(default_factory=list)  # of an exact program, with reasons
    history: History = field(default_factory=History)  # what passes made of the graph as written

    @property
    def inputs(self) -> list[Tensor]:
        """Inputs in order of creation."""
        return sorted((t for t in self.buffer if t.kind == "input"), key=lambda t: t.serial)

    @property
    def held(self) -> list[Tensor]:
        """Parameters, states and constants."""
        return [t for t in self.buffer if t.kind in PERSISTENT]

    @property
    def staged(self) -> list[int]:
        """Buffers that live as long as parameters do, but that only `prepare` touches: not needed once it is done."""
        ahead = {b for s in self.prepare for b in s.buffers}
        later = {b for s in self.steps for b in s.buffers} | set(self.outputs)
        return [n for n in sorted(ahead - later) if self.slots[n].persistent]

    def memory(self, number: int) -> int:
        """The buffer whose memory this one has: itself, or what it lies inside."""
        while (inside := self.slots[number].inside) is not None:
            number = inside
        return number

    def lives(self, waits: Sequence[bool] | None = None) -> list[tuple[int, Life]]:
        """Lifetimes of the buffers that are not persistent, in stretches between barriers: all of them, or before those steps only."""
        epoch = 0
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for step, wait in zip(self.steps, [s.barrier for s in self.steps] if waits is None else waits, strict=True):
            epoch += wait
            for b in map(self.memory, step.buffers):
                first.setdefault(b, epoch)
                last[b] = epoch
        found = []
        for n, slot in enumerate(self.slots):
            if slot.persistent or slot.inside is not None:
                continue
            start = -1 if slot.kind == "input" else first.get(n, 0)
            end = epoch + 1 if n in self.outputs else last.get(n, 0)
            found.append((n, Life(slot.bytes, start, end, slot.shares)))
        return found


def lower(
    outputs: Sequence[Tensor], updates: Mapping[Tensor, Tensor], target: Target, exact: bool = False, accuracy: str = "strict", choose: Chooser = choose
) -> Program:  # fmt: skip
    """The program that computes `outputs` and writes each key of `updates` to the leaf it maps to.

    With `exact`, floats are integers modulo a prime, and equations that have no value there are left out.
    `accuracy` is a key of filtering.GROWTH: how much rounding errors may grow for speed. `choose` picks the schedule of
    each equation.
    Raises UnsupportedOp for another accuracy, and for a tensor with two open batch axes, whose size would not be linear
    in the batch.
    """
    if accuracy not in GROWTH:
        raise UnsupportedOp(f"accuracy={accuracy!r} is none of {', '.join(GROWTH)}")
    for t in topological([*outputs, *updates]):
        if sum(isinstance(e, Batch) for e in t.shape) > 1:
            raise UnsupportedOp(f"{t!r} has the open batch size on two axes; give the input a fixed first extent instead of None")
    return _Lowering(outputs, updates, target, exact, accuracy, choose).program()


def counts_images(eq: Equation) -> bool:
    """Whether what an equation sums up depends on how many images there are, whatever it reads."""
    counted = any(isinstance(e, (Size, Inside)) and isinstance(e.extent, Batch) for e in walk(eq.expr))
    return counted or any(isinstance(eq.extent[i], Batch) for i in eq.bound)


class _Lowering:
    def __init__(self, outputs: Sequence[Tensor], updates: Mapping[Tensor, Tensor], target: Target, exact: bool, accuracy: str, choose: Chooser) -> None:
        self.outputs, self.updates, self.exact = list(outputs), dict(updates), exact
        self.order = _ordered([*outputs, *updates], self.updates)
        self.lanes = {d: target.lanes("exact" if exact else ELEMENTS[d]) for d in FLOATS}
        fixed = unchanging(set(self.updates.values()))
        self.fixed = {t for t in self.order if t not in self.updates and fixed(t)}  # computed again only when parameters change
        self.layout = layouts(self.order, self.updates, self.lanes)
        alone = {*self.outputs, *self.updates, *self.fixed}
        self.parts = parts(self.order, self.layout, alone)
        placed(self.order, self.layout, self.parts)
        self.out = Program(target, accuracy, choose)
        self.copies: dict[tuple[Tensor, Layout], int] = {}
        self.choices: dict[tuple[Task, str, tuple[str, ...]], Choice] = {}  # equal tasks with equal names are scheduled once
        self.ready: set[int] = set()  # buffers that are prepared before a run

    def program(self) -> Program:
        out = self.out
        for t in self.order:
            if t in self.updates or t in self.parts:
                continue
            kind = t.kind if t.is_leaf else "packed" if t in self.fixed else "temporary"
            out.buffer[t] = self._slot(Slot(kind, t.dtype, self.layout[t], self.layout[t].size, t))
            if t in self.fixed:
                self.ready.add(out.buffer[t])
        for t in reversed(self.order):
            if t in self.parts:
                out.buffer[t] = self._slot(Slot("temporary", t.dtype, self.layout[t], self.layout[t].size, t, out.buffer[self.parts[t].whole]))
        for t, p in self.updates.items():
            if p not in out.buffer:
                out.buffer[p] = self._slot(Slot(p.kind, p.dtype, self.layout[t], self.layout[t].size, p))
            out.buffer[t] = out.buffer[p]
        for t in self.order:
            for eq in t.equations:
                self._lower(t, eq)
        out.outputs = [out.buffer[t] for t in self.outputs]
        out.steps = ordered(out.steps, out.memory)
        out.prepare = with_barriers(out.prepare, out.memory)
        return out

    def _slot(self, slot: Slot) -> int:
        self.out.slots.append(slot)
        return len(self.out.slots) - 1

    def _lower(self, t: Tensor, eq: Equation) -> None:
        slot = copied(eq)
        if slot is not None and (part := self.parts.get(t.operands[slot])) and part == Part(t, tuple(form.const for form in eq.lhs)):
            return  # it lies there already
        if self.exact and (reason := inexact(eq)) is not None:
            self.out.left_out.append((t, eq, reason))
            return
        layouts, numbers = [], []
        wants = self._wants(t, eq)
        for slot, o in enumerate(t.operands):
            want = wants.get(slot, self.layout[o])
            layouts.append(want)
            numbers.append(self.out.buffer[o] if want == self.layout[o] else self._copy(o, want))
        old = self.updates.get(t)
        aliases = tuple(n for n, o in enumerate(t.operands) if o is old and eq.read(n))
        dtypes = tuple(o.dtype for o in t.operands)
        steady = tuple(n for n, number in enumerate(numbers) if number in self.ready)
        task = Task(eq, tuple(layouts), dtypes, self.layout[t], t.dtype, self.out.target, self.exact, aliases, self.out.accuracy, steady=steady)
        self._emit(t, task, numbers, self.out.buffer[t], t in self.fixed)

    def _choice(self, task: Task) -> Choice:
        key = (task, task.equation.target, task.equation.operands)
        if key not in self.choices:
            self.choices[key] = self.out.choose(task)
        return self.choices[key]

    def _emit(self, t: Tensor, task: Task, numbers: list[int], result: int, fixed: bool) -> None:
        choice = self._choice(replace(task, clears=self._clears(result)))
        images = counts_images(task.equation)  # how many there will be is known in a run alone
        scratch = [self._slot(Slot("temporary", t.dtype, None, size)) for size in choice.plan.scratch]
        for work in choice.plan.works:
            buffers = tuple(result if a == RESULT else numbers[a] if a >= 0 else scratch[-2 - a] for a in work.arguments)
            step = Step(work.kernel, buffers, t, task.equation, work.schedule, choice.refused)
            written = {b for b, d in zip(buffers, work.kernel.buffers, strict=True) if d.written}
            known = not images and not any(self.out.slots[b].size[1] for b in written)
            ahead = fixed or (known and written <= set(scratch) and set(buffers) - written <= self.ready)
            if ahead:
                self.ready |= written
                for b in written & set(scratch):
                    self.out.slots[b] = replace(self.out.slots[b], kind="packed")
            (self.out.prepare if ahead else self.out.steps).append(step)

    def _clears(self, result: int) -> bool:
        """Whether the kernels of a result are to zero its halo: those of its first piece, where no other results lie in it."""
        slot = self.out.slots[result]
        if slot.shares or slot.inside is not None or result in (s.inside for s in self.out.slots) or slot.size == (0, 0):
            return False
        self.out.slots[result] = replace(slot, cleared=True)
        return True

    def _wants(self, t: Tensor, eq: Equation) -> dict[int, Layout]:
        """Layouts other than the assigned ones with which the contraction or the depthwise schedule would apply."""
        result, lanes = self.layout[t], self.lanes.get(t.dtype, 1)
        for way in lane_axes(eq):
            c = way.roles
            if way.narrow(lanes) or not way.fits(way.equation.lhs, result, way.here, lanes) or c.a.slot == c.b.slot:
                continue
            if any(t.operands[x.slot].dtype != t.dtype for x in (c.a, c.b)):
                continue
            wants: dict[int, Layout] = {}
            b = t.operands[c.b.slot]
            if b.shape[way.there] != way.extent(c.b.index[way.there]):
                continue
            if not way.fits(c.b.index, self.layout[b], way.there, lanes):
                wants[c.b.slot] = weights_layout(way, b.shape, lanes)
            a = t.operands[c.a.slot]
            halo = outside([(c.a, eq.extent)], a.shape)
            held = self.layout[a]
            if any(x < n or y < m for (x, y), (n, m) in zip(held.halo, halo, strict=True)):
                if any(b > 1 and h != (0, 0) for b, h in zip(held.block, halo, strict=True)):
                    continue
                wants[c.a.slot] = replace(held, halo=halo, whole=None, at=())
            return wants
        lie, dtypes = tuple(self.layout[o] for o in t.operands), tuple(o.dtype for o in t.operands)
        if isinstance(lines(Task(eq, lie, dtypes, result, t.dtype, self.out.target, self.exact)), Line):
            return {}  # they lie well as they are
        if narrow(eq, lanes):
            reads = [[(a, eq.extent) for a in eq.read(slot)] for slot in range(len(t.operands))]
            flat = tuple(plain(o.shape, outside(r, o.shape)) if r else m for o, r, m in zip(t.operands, reads, lie, strict=True))
            if isinstance(lines(Task(eq, flat, dtypes, result, t.dtype, self.out.target, self.exact)), Line):
                return {slot: layout for slot, layout in enumerate(flat) if layout != lie[slot]}
        return wanted(eq, lie, dtypes, t.dtype, result, lanes)

    def _copy(self, o: Tensor, want: Layout) -> int:
        key = (o, want)
        if key not in self.copies:
            fixed = o in self.fixed
            number = self._slot(Slot("packed" if fixed else "temporary", o.dtype, want, want.size, o))
            self.copies[key] = number
            if fixed:
                self.ready.add(number)
            free = tuple(LETTERS[len(o.shape)])
            forms = tuple(Affine.of(i) for i in free)
            extents = dict(zip(free, o.shape, strict=True))
            eq = make(free, Access(0, forms), extents, target="copy", operands=(o.name or "X",))
            task = Task(eq, (self.layout[o],), (o.dtype,), want, o.dtype, self.out.target, self.exact)
            self._emit(o, task, [self.out.buffer[o]], number, fixed)
        return self.copies[key]


def _ordered(outputs: Sequence[Tensor], updates: Mapping[Tensor, Tensor]) -> list[Tensor]:
    """Topological order in which every update comes after all that read the old value."""
    order = topological(outputs)
    place = {t: n for n, t in enumerate(order)}
    before: dict[Tensor, set[Tensor]] = {t: set(t.operands) for t in order}
    for new, old in updates.items():
        before[new] |= {t for t in order if old in t.operands and t is not new}
    after: dict[Tensor, list[Tensor]] = {t: [] for t in order}
    waiting = {t: len(b) for t, b in before.items()}
    for t, b in before.items():
        for o in b:
            after[o].append(t)
    ready = [place[t] for t in order if not waiting[t]]
    heapq.heapify(ready)
    done: list[Tensor] = []
    while ready:
        t = order[heapq.heappop(ready)]
        done.append(t)
        for u in after[t]:
            waiting[u] -= 1
            if not waiting[u]:
                heapq.heappush(ready, place[u])
    assert len(done) == len(order), "an update is read together with the value it replaces"
    return done


def in_place(new: Tensor, old: Tensor) -> bool:
    """Whether writing `new` over `old` element by element never destroys what is still to be read."""
    for eq in new.equations:
        for slot, o in enumerate(new.operands):
            if o is old:
                for a in eq.read(slot):
                    if a.index != eq.lhs or (eq.reduce is not None and {n for f in a.index for n in f.names} & set(eq.bound)):
                        return False
    return True
