"""The schedule for any equation: a loop nest over the result, vectorised and parallel.

    parallel over blocks of the outermost free indices
      serial over the other free indices, in the order of the result's memory
        [lanes: the index that is contiguous in the result, else one that is reduced]
          serial over the bound indices, clipped to what the reads allow
            accumulate
          store

Reductions to few elements are cut into a fixed number of parts, each part reduced by whichever thread has it and
the parts added in order, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from faltung.codegen import loops
from faltung.codegen.builder import Builder
from faltung.codegen.lanes import FARTHEST, store_apart
from faltung.codegen.layout import Layout, Place, value_of, within
from faltung.codegen.loops import Expr, Int, Reg
from faltung.codegen.lower import Lowering, Memory, follows, neutral_of, scalar_places
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.graph.equation import Equation
from faltung.graph.expr import Access, Expr as Scalar, Reduce, replace as swap
from faltung.graph.index import Affine, Batch, Extent, always_inside
from faltung.graph.recognise import labels, vanishing

PARTS = 16  # of a reduction that is split
FEW = 16  # parallel units below which a reduction is split
GRAIN = 64  # parallel units that are enough
UNROLL = 16  # bound positions written out rather than looped over


@dataclass(frozen=True)
class Dim:
    """A loop over a free index, or over its blocks of lanes."""

    index: str
    count: Extent | None  # None: ⌈N / lanes⌉
    block: int = 1


def generic(task: Task) -> Plan:
    """Kernels for the equation: one, or two when a reduction is split."""
    eq = task.equation
    reduce = eq.reduce
    looped = [i for i in reduce.indices if i not in labels(eq, task.dtypes)] if reduce is not None else []
    if looped and reduce is not None and reduce.kind in ("sum", "max", "min") and _units(task) < FEW:
        index = next((i for i in looped if isinstance(eq.extent[i], Batch)), None)
        if index is None:
            index = max(looped, key=lambda i: _int(eq.extent[i]))
        heavy = prod(_int(e) for i in looped if not isinstance(e := eq.extent[i], Batch)) * (64 if isinstance(eq.extent[index], Batch) else 1)
        if heavy >= 2048 and (isinstance(eq.extent[index], Batch) or _int(eq.extent[index]) >= 2 * PARTS):
            return _split(task, reduce, index)
    return Plan((_nest(task),))


def _units(task: Task) -> float:
    """How many parallel units the result offers."""
    eq = task.equation
    if any(isinstance(eq.extent[i], Batch) for i in eq.free):
        return float("inf")
    return prod(_int(eq.extent[i]) for i in eq.free) / task.lanes


def _int(e: Extent) -> int:
    assert not isinstance(e, Batch)
    return e


def _split(task: Task, reduce: Reduce, index: str) -> Plan:
    """Σ_b f = Σ_s Σ_{b in part s} f, with the partial sums in scratch memory."""
    eq, part = task.equation, _part_name(task.equation)
    extents = dict(eq.extents) | {part: PARTS}
    first = replace(
        eq, free=(part, *eq.free), lhs=(Affine.of(part), *eq.lhs), expr=reduce, extents=tuple(extents.items()),
        shape=(PARTS, *eq.shape), target="partial",
    )  # fmt: skip
    two, held = sum_of_parts(task, PARTS)
    one = _nest(replace(task, equation=first, result=held), part=(index, part))
    arguments = tuple(-2 if a == RESULT else a for a in one.arguments)
    return Plan((Work(one.kernel, arguments, "generic, parts"), two), (held.size,))


def sum_of_parts(task: Task, parts: int) -> tuple[Work, Layout]:
    """The kernel that reduces scratch −2, which holds `parts` results, and applies the epilogue; and the scratch's layout."""
    eq, reduce, part = task.equation, task.equation.reduce, _part_name(task.equation)
    assert reduce is not None
    held = _raised(task.result, (parts, *eq.shape))
    total = Reduce(reduce.kind, (part,), Access(len(task.operands), (Affine.of(part), *eq.lhs)))
    kept = (*((i, e) for i, e in eq.extents if i not in reduce.indices), (part, parts))
    second = replace(eq, expr=swap(eq.expr, reduce, total), extents=kept, operands=(*_names(task), "partial"))
    work = _nest(replace(task, equation=second, operands=(*task.operands, held), dtypes=(*task.dtypes, task.dtype)))
    arguments = tuple(-2 if a == len(task.operands) else a for a in work.arguments)
    return Work(work.kernel, arguments, "generic, sum of parts"), held


def _part_name(eq: Equation) -> str:
    return next(c for c in ("s", "part", "part_") if c not in eq.extent)


def _names(task: Task) -> tuple[str, ...]:
    names = task.equation.operands
    return (*names, *(f"X{n}" for n in range(len(names), len(task.operands))))


def _raised(layout: Layout, shape: tuple[Extent, ...]) -> Layout:
    """The layout with a new outermost axis."""
    order = ((0, 0), *((a + 1, p) for a, p in layout.order))
    return Layout(shape, order, (1, *layout.block), ((0, 0), *layout.halo))


# ---- one nest ----


def _nest(task: Task, part: tuple[str, str] | None = None) -> Work:
    """One kernel. With `part` = (index, s), bound index `index` runs over part s of its range only."""
    eq = task.equation
    k, memory, out = task.open()
    lane = _lane(task, part)
    free_lane = lane is not None and lane in eq.free
    dims = _dims(task, lane if free_lane else None)
    outer, inner = _parallel(dims)
    places: dict[str, Place] = {}
    lanes = task.lanes if lane is not None else 1
    with ExitStack() as stack:
        per_batch = any(isinstance(d.count, Batch) for d in outer)
        fixed = prod(_int(d.count) for d in outer if isinstance(d.count, int))
        t = stack.enter_context(k.parallel(k.N * fixed if per_batch else fixed))
        rest = fixed
        for d in outer:
            step = rest if isinstance(d.count, Batch) else rest // _int(d.count or 1)
            number: Expr = t // step if step > 1 else t
            if d is not outer[0]:
                number = number % _int(d.count or 1)
            rest = step if isinstance(d.count, Batch) else rest // _int(d.count or 1)
            places[d.index] = _place(k.let(number, d.index), d)
        for d in inner:
            count: Expr | int = k.cdiv(k.N, d.block) if d.count is None else k.N if isinstance(d.count, Batch) else d.count
            places[d.index] = _place(Int(0) if d.count == 1 else stack.enter_context(k.loop(d.index, 0, count)), d)
        _body(task, k, memory, out, places, lane, lanes, free_lane, part)
    return Work(k.finish(), (*task.used, RESULT), "generic")


def _place(variable: Expr, d: Dim) -> Place:
    return Place.split(variable, Int(0), d.block) if d.block > 1 else Place(variable)


def _dims(task: Task, lane: str | None) -> list[Dim]:
    """Loops over the free indices in the order of the result's memory, outermost first."""
    eq = task.equation
    found: dict[str, Dim] = {}
    for axis, _ in task.result.order:
        for name, _ in sorted(eq.lhs[axis].terms, key=lambda t: -t[1]):
            extent = eq.extent[name]
            if name == lane:
                count = None if isinstance(extent, Batch) else -(-extent // task.lanes)
                found.setdefault(name, Dim(name, count, task.lanes))
            else:
                found.setdefault(name, Dim(name, extent))
    return list(found.values())


def _parallel(dims: list[Dim]) -> tuple[list[Dim], list[Dim]]:
    """The leading loops that are split among threads, and the others."""
    enough, taken = 1, 0
    batch = any(isinstance(d.count, Batch) for d in dims[:1])
    for d in dims:
        if d.count is None or (isinstance(d.count, Batch) and taken) or enough >= (8 if batch else GRAIN):
            break
        enough *= 1 if isinstance(d.count, Batch) else d.count
        taken += 1
    return dims[:taken], dims[taken:]


def _lane(task: Task, part: tuple[str, str] | None) -> str | None:
    """The index whose values become lanes: close together in the result, else in a read and reduced.

    What is reduced comes first where it fills a vector and the other would gather its lanes from all over an operand.
    """
    kept, summed = next(_kept_lanes(task, part), None), next(_summed_lanes(task, part), None)
    if kept is None or summed is None:
        return kept or summed
    extent = task.equation.extent[summed]
    wide = isinstance(extent, Batch) or extent >= task.lanes
    return summed if wide and _gathers(task, kept) and not _gathers(task, summed) else kept


def _possible(task: Task, i: str) -> bool:
    """Whether all reads can be made with index i as the lanes."""
    eq = task.equation
    singled = {v: label for v, label in labels(eq, task.dtypes).items() if v in eq.bound}
    if i in {*singled, *(n for label in singled.values() for form in label.index for n in form.names)}:
        return False  # an address that a label gives is that of all lanes
    return task.lanes > 1 and follows(eq.accesses, task.operands, i, _along(task, i), task.lanes) is None


def _along(task: Task, i: str) -> dict[str, Place]:
    """Places at which index i counts lanes."""
    return scalar_places(task.equation.extent) | {i: Place.split(Int(0), Int(0), task.lanes)}


def _gathers(task: Task, i: str) -> bool:
    """Whether lanes along index i are far apart in a read."""
    steps = [task.operands[a.slot].lane_stride(a.index, i, _along(task, i)) for a in task.equation.accesses]
    return any(step is None or not 0 <= step <= FARTHEST for step in steps)


def _kept_lanes(task: Task, part: tuple[str, str] | None) -> Iterator[str]:
    """Indices of the result that could be lanes, the outermost axis first; digits of an axis only where nothing is gathered."""
    eq = task.equation
    for axis, i in ((axis, i) for axis, form in enumerate(eq.lhs) for i in form.names):
        if part is not None and i == part[1]:  # the bounds of a part's loop are scalars
            continue
        extent, block, alone = eq.extent[i], task.result.block[axis], len(eq.lhs[axis].names) == 1
        whole = block == 1 or (alone and (extent == task.result.shape[axis] or (within(eq.lhs[axis], i, block) == block and _int(extent) % block == 0)))
        wide = isinstance(extent, Batch) or extent >= 4 or (alone and block > 1)
        step = task.result.lane_stride(eq.lhs, i, _along(task, i))
        if whole and wide and step is not None and 1 <= step <= FARTHEST and _possible(task, i) and (alone or not _gathers(task, i)):
            yield i


def _summed_lanes(task: Task, part: tuple[str, str] | None) -> Iterator[str]:
    """Reduced indices that could be lanes."""
    eq = task.equation
    if eq.reduce is None or eq.reduce.kind not in ("sum", "max", "min"):
        return
    for i in eq.reduce.indices:
        extent = eq.extent[i]
        if (part is not None and i == part[0]) or (not isinstance(extent, Batch) and extent < task.lanes // 2):
            continue
        if any(task.operands[a.slot].lane_stride(a.index, i, _along(task, i)) == 1 for a in eq.accesses) and _possible(task, i):
            yield i


# ---- the innermost part ----


def _body(
    task: Task, k: Builder, memory: dict[int, Memory], out: Memory, places: dict[str, Place], lane: str | None,
    lanes: int, free_lane: bool, part: tuple[str, str] | None,
) -> None:  # fmt: skip
    eq, reduce = task.equation, task.equation.reduce
    clips = _clips(eq, lane, task.operands)
    clipped = _kept_inside(eq, clips, task.operands)
    tail = _tail(k, eq, lane, places, task) if free_lane and lane is not None else None

    def lowering(at: Mapping[str, Place], alive: Expr | None, given: Mapping[Scalar, Expr]) -> Lowering:
        return Lowering(
            k, memory, eq.extent, at, task.elem, lanes, lane, alive, clipped, given,
        )

    given: dict[Scalar, Expr] = {}
    if reduce is not None:
        given[reduce] = _reduction(task, k, reduce, places, lane, lanes, free_lane, tail, clips, lowering, part)
    if lane is not None and not free_lane:  # the lanes have been added up: what is left is scalar
        final = Lowering(k, memory, eq.extent, places, task.elem, 1, None, None, clipped, given)
    else:
        final = lowering(places, tail, given)
    elem = task.element(task.dtype)
    value = final.wide(final.value(eq.expr, 0.0)) if elem not in ("f32", "f64", "exact") else final.wide(final.number(eq.expr))
    if value.type.elem != elem:
        value = k.select(value, 1, 0) if value.type.kind == "bool" and elem == "bool" else k.convert(value, elem)
    address = out.layout.address(eq.lhs, places)
    split = lane is not None and any(f.name == lane and out.layout.block[a] == lanes for a, f in enumerate(eq.lhs))
    mask = k.below(tail, lanes) if tail is not None and not split else None
    if lanes == 1:
        k.store(out.buffer, address, value)
        return
    step = out.layout.lane_stride(eq.lhs, lane, places) if free_lane and lane is not None else 1
    assert step is not None
    store_apart(k, out.buffer, address, step, value, mask)


def _tail(k: Builder, eq: Equation, lane: str, places: Mapping[str, Place], task: Task) -> Expr | None:
    """How many lanes of this block exist; None when always all do."""
    extent = eq.extent[lane]
    if isinstance(extent, int) and extent % task.lanes == 0:
        return None
    left = (k.N if isinstance(extent, Batch) else Int(extent)) - places[lane].value
    return left if isinstance(left, Int) else k.let(left, "lanes")


def _reduction(
    task: Task, k: Builder, reduce: Reduce, places: Mapping[str, Place], lane: str | None, lanes: int, free_lane: bool,
    tail: Expr | None, clips: Clips, lowering: Callable[..., Lowering], part: tuple[str, str] | None,
) -> Expr:  # fmt: skip
    """Loops over the bound indices; gives the accumulated value (a vector, or a scalar when a bound index is the lanes)."""
    eq, kind = task.equation, reduce.kind
    neutral = neutral_of(kind)
    start = loops.const(int(neutral) if neutral == 0 else neutral, loops.type_of(task.elem, lanes))
    best = k.register("best" if kind.startswith("arg") else "acc", start)
    at = k.register("at", loops.const(0, loops.type_of("i32", lanes))) if kind.startswith("arg") else None
    singled = {i: label for i, label in labels(eq, task.dtypes).items() if i in reduce.indices}
    bound = sorted(reduce.indices, key=lambda i: (i in singled) + 2 * (i == lane))  # a label before what it singles out
    unrolled = [] if singled else _unrollable(eq, bound, clips, lane if not free_lane else None, part)

    def accumulate(now: dict[str, Place], alive: Expr | None) -> None:
        at_here = lowering(now, alive, {})
        body = at_here.wide(at_here.number(reduce.body, neutral))
        if alive is not None and not free_lane:  # lanes beyond the end must not count
            body = k.select(k.below(alive, lanes), body, int(neutral) if neutral == 0 else neutral)
        _accumulate(task, k, kind, best, at, body, at_here, reduce)

    def nest(rest: list[str], now: dict[str, Place]) -> None:
        if not rest:
            accumulate(now, tail)
            return
        i, extent = rest[0], eq.extent[rest[0]]
        count: Expr = k.N if isinstance(extent, Batch) else Int(extent)
        if i == lane and not free_lane:
            with k.loop(i, 0, k.cdiv(count, lanes) if isinstance(extent, Batch) else -(-extent // lanes)) as v:
                now = now | {i: Place.split(v, Int(0), lanes)}
                alive = None if isinstance(extent, int) and extent % lanes == 0 else k.let(count - now[i].value, "lanes")
                accumulate(now, alive)
            return
        if i in singled:  # one value of the index counts
            only = k.let(k.convert(lowering(now, None, {}).read(singled[i], 0.0), "i64"), i)
            with k.when((only >= 0) & (only < count)):
                nest(rest[1:], now | {i: Place(only)})
            return
        lo: Expr = Int(0)
        hi = count
        if part is not None and i == part[0]:
            s = places[part[1]].value
            lo, hi = k.let(count * s // PARTS, "from"), k.let(count * (s + 1) // PARTS, "to")
        for form, size in clips.get(i, []):
            c = form.coefficient(i)
            others = Affine.make({n: x for n, x in form.terms if n != i}, form.const)
            base = value_of(others, now)
            top = (k.N if isinstance(size, Batch) else Int(size)) - 1 - base
            low, high = (k.cdiv(-base, c), k.fdiv(top, c) + 1) if c > 0 else (k.cdiv(-top, -c), k.fdiv(base, -c) + 1)
            lo, hi = k.max(lo, low), k.min(hi, high)
        with k.loop(i, k.let(lo, "from") if clips.get(i) else lo, k.let(hi, "to") if clips.get(i) else hi) as v:
            nest(rest[1:], now | {i: Place(v)})

    looped = [i for i in bound if i not in unrolled]

    if unrolled:

        def written_out(now: dict[str, Place]) -> Iterator[dict[str, Place]]:
            for values in product(*(range(_int(eq.extent[i])) for i in unrolled)):
                yield now | {i: Place(Int(v)) for i, v in zip(unrolled, values, strict=True)}

        for now in written_out(dict(places)):
            nest(looped, now)
    else:
        nest(looped, dict(places))
    if at is not None:
        return at
    if lane is not None and not free_lane:
        return k.let(k.across(kind, best), "total")
    return best


def _unrollable(eq: Equation, bound: list[str], clips: Mapping[str, object], lane: str | None, part: tuple[str, str] | None) -> list[str]:
    """Small bound indices with fixed bounds, all of them or none: the order of accumulation stays row-major."""
    if any(i == lane or clips.get(i) or (part is not None and i == part[0]) or isinstance(eq.extent[i], Batch) for i in bound):
        return []
    return bound if prod(_int(eq.extent[i]) for i in bound) <= UNROLL else []


def _accumulate(
    task: Task, k: Builder, kind: str, best: Reg, at: Reg | None, body: Expr, here: Lowering, reduce: Reduce
) -> None:
    if kind == "sum":
        if isinstance(body, loops.Binary) and body.op == "*":
            k.set(best, k.fma(body.a, body.b, best))
        else:
            k.set(best, best + body)
    elif kind in ("max", "min"):
        k.set(best, k.max(best, body) if kind == "max" else k.min(best, body))
    else:
        from faltung.graph.derive import position

        assert at is not None
        value = k.let(body, "value")
        beats = value > best if kind == "argmax" else value < best
        if task.elem != "exact":  # the first NaN wins and keeps the place
            beats = beats | (value.differs(value) & best.equals(best))
        better = k.let(beats, "better")
        here_is = here.wide(here.index(position(reduce.indices, task.equation.extent)))
        k.set(at, k.select(better, here_is, at))
        k.set(best, k.select(better, value, best))


# ---- clipping ----

Clips = dict[str, list[tuple[Affine, Extent]]]


def _clips(eq: Equation, lane: str | None, layouts: Sequence[Layout]) -> Clips:
    """Bound index → forms that its loop must keep inside [0, extent): those that can be outside, where the term vanishes."""
    reduce = eq.reduce
    found: Clips = {}
    for a in vanishing(reduce) if reduce is not None else []:
        for form, extent in zip(a.index, layouts[a.slot].shape, strict=True):
            inner = [i for i in reduce.indices if form.coefficient(i)] if reduce is not None else []
            follows_lane = lane is not None and form.coefficient(lane)
            if inner and form.den == 1 and not follows_lane and not always_inside(form, extent, eq.extent):
                entry = found.setdefault(inner[-1], [])
                if (form, extent) not in entry:
                    entry.append((form, extent))
    return found


def _kept_inside(eq: Equation, clips: Clips, layouts: Sequence[Layout]) -> frozenset[Access]:
    """Reads that are safe because the loops are clipped."""
    bounded = {pair for pairs in clips.values() for pair in pairs}

    def safe(a: Access) -> bool:
        return all(
            (form, extent) in bounded or always_inside(form, extent, eq.extent)
            for form, extent in zip(a.index, layouts[a.slot].shape, strict=True)
        )

    return frozenset(a for a in eq.accesses if safe(a)) if bounded else frozenset()
