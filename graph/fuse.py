"""Neighbours into one equation: fusing is substitution.

Two directions, and the conditions under which each keeps the value:

    epilogue   a pointwise tensor reads a producer element by element: the producer's expression takes the place
               of the read, and the left side of the producer becomes the left side of the result
    prologue   a reduction or pointwise tensor reads a pointwise producer anywhere: legal where the read is
               never outside, for a read outside is neutral while the producer's expression there is not

A producer is fused when nothing else reads it; constants always. A dense contraction keeps plain reads, because
its schedule streams them. What depends on unchanging parameters alone is computed once and stays apart from what is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from faltung.graph.equation import Equation, used_indices
from faltung.graph.expr import Access, Apply, Expr, Reduce, accesses, reindex, replace as swap, reslot, walk
from faltung.graph.fold import unchanging
from faltung.graph.history import CONSTANT, EPILOGUE, PROLOGUE, TOGETHER, History
from faltung.graph.index import always_inside
from faltung.graph.recognise import Contraction, contraction
from faltung.graph.rewrite import remake, uses
from faltung.graph.tensor import FLOATS, Tensor, computed, topological

LARGEST = 24  # function applications in one fused expression: beyond this, registers run out


def fuse(outputs: Sequence[Tensor], changing: Collection[Tensor] = (), history: History | None = None) -> list[Tensor]:
    """The graph with neighbours fused until nothing changes; `changing` leaves are updated by the graph."""
    fixed, history = unchanging(changing), history or History()
    while True:
        fused = _sweep(outputs, fixed, history)
        if fused == list(outputs):
            return fused
        outputs = fused


def _sweep(outputs: Sequence[Tensor], fixed: Callable[[Tensor], bool], history: History) -> list[Tensor]:
    """One pass over the graph, operands first, each tensor taking in at most one producer."""
    count = uses(outputs)
    kept = set(outputs)
    new: dict[Tensor, Tensor] = {}
    readers: Counter[Tensor] = Counter()  # of rebuilt tensors
    for old in topological(outputs):
        t = old
        if not old.is_leaf:
            operands = tuple(new[o] for o in old.operands)
            t = old if operands == old.operands else remake(old, operands)
            history.became(old, t)
            for slot, p in enumerate(t.operands):
                if p.is_leaf or p.dtype not in FLOATS:
                    continue
                if not _is_constant(p) and (readers[p] > 1 or (fixed(p) and not fixed(t))):
                    continue
                fused = _try(t, slot, history)
                if fused is not None:
                    t = fused
                    break
        new[old] = t
        readers[t] += count[old] + (old in kept)  # an output is read by the user, too
    return [new[t] for t in outputs]


def _try(t: Tensor, slot: int, history: History) -> Tensor | None:
    p = t.operands[slot]
    if (found := into_prologue(t, slot)) is not None:
        summed = any(a.slot == slot for eq in t.equations if eq.reduce is not None for a in _summed(eq))
        history.joined(found, t, p, CONSTANT if _is_constant(p) else PROLOGUE if summed else EPILOGUE if _reduces(t) else TOGETHER, value=t)
    elif (found := into_epilogue(t, slot)) is not None:
        history.joined(found, p, t, EPILOGUE if _reduces(p) else TOGETHER, value=t)
    return found


def _reduces(t: Tensor) -> bool:
    return any(eq.reduce is not None for eq in t.equations)


def _is_constant(t: Tensor) -> bool:
    return not t.operands and all(not used_indices(eq.expr) for eq in t.equations)


def into_epilogue(t: Tensor, slot: int) -> Tensor | None:
    """`t` with operand `slot`, which it reads once and element by element, written out; None where illegal."""
    p = t.operands[slot]
    if len(t.equations) != 1 or t.shape != p.shape:
        return None
    eq = t.equations[0]
    reads = eq.read(slot)
    if eq.reduce is not None or not eq.is_identity or len(reads) != 1:
        return None
    if tuple(a.name for a in reads[0].index) != eq.free or _size(eq.expr) + max(map(_size_of, p.equations)) > LARGEST:
        return None
    operands, mine, theirs = _merge(t, p, slot)
    pieces = []
    for piece in p.equations:
        fresh = _fresh(eq, piece)
        outer = reindex(eq.expr, dict(zip(eq.free, fresh.lhs, strict=True)))
        read = reindex(reads[0], dict(zip(eq.free, fresh.lhs, strict=True)))
        marked = reslot(outer, mine)
        target = Access(mine[slot], read.index)  # type: ignore[attr-defined]
        expr = swap(marked, target, reslot(fresh.expr, theirs))
        pieces.append(replace(fresh, expr=expr, target=eq.target, operands=_names(t, p, operands)))
    return _computed(pieces, operands, t)


def into_prologue(t: Tensor, slot: int) -> Tensor | None:
    """`t` with the pointwise operand `slot` written out wherever it is read; None where illegal."""
    p = t.operands[slot]
    if len(p.equations) != 1 or not p.equations[0].is_identity or p.equations[0].reduce is not None:
        return None
    source = p.equations[0]
    constant = _is_constant(p)
    operands, mine, theirs = _merge(t, p, slot)
    names = _names(t, p, operands)
    pieces = []
    for eq in t.equations:
        reads = eq.read(slot)
        if not reads:  # of what is concatenated one part reads each
            pieces.append(replace(eq, operands=names))
            continue
        if not constant and isinstance(contraction(eq), Contraction) and any(a.slot == slot for a in _summed(eq)):
            return None
        expr = reslot(eq.expr, mine)
        for read in reads:
            inside = all(always_inside(f, e, eq.extent) for f, e in zip(read.index, p.shape, strict=True))
            moved = reindex(source.expr, dict(zip(source.free, read.index, strict=True)))
            if not inside or not (_sums(eq) or _all_inside(moved, p, eq)):
                return None
            body = reslot(moved, theirs)
            expr = swap(expr, Access(mine[slot], read.index), body)
        if _size(expr) > LARGEST:
            return None
        pieces.append(replace(eq, expr=expr, operands=names))
    return _computed(pieces, operands, t)


def _sums(eq: Equation) -> bool:
    """Whether a read outside gives 0 in this equation, as it does in the pointwise producer."""
    return eq.reduce is None or eq.reduce.kind == "sum"


def _all_inside(expr: Expr, p: Tensor, eq: Equation) -> bool:
    """Whether the producer's own reads stay inside, so that it does not matter what a read outside gives."""
    return all(
        always_inside(f, e, eq.extent)
        for a in accesses(expr)
        for f, e in zip(a.index, p.operands[a.slot].shape, strict=True)
    )


def _merge(t: Tensor, p: Tensor, slot: int) -> tuple[list[Tensor], dict[int, int], dict[int, int]]:
    """Operands of both, and where each one's slots went."""
    operands = list(t.operands)
    for o in p.operands:
        if o not in operands:
            operands.append(o)
    return operands, {n: n for n in range(len(t.operands))}, {n: operands.index(o) for n, o in enumerate(p.operands)}


def _names(t: Tensor, p: Tensor, operands: list[Tensor]) -> tuple[str, ...]:
    """Names for the operands of both; the fused one, which is read no more, leaves its name to others."""
    known = dict(zip(p.operands, p.equations[0].operands, strict=False)) | dict(zip(t.operands, t.equations[0].operands, strict=False))
    names: list[str] = []
    for n, o in enumerate(operands):
        name = known.get(o, f"X{n}")
        taken = {*names, t.equations[0].target}
        names.append("" if o is p else name if name not in taken else next(c for c in (f"{name}{k}" for k in range(2, 99)) if c not in taken))
    return tuple(names)


def _computed(pieces: list[Equation], operands: list[Tensor], t: Tensor) -> Tensor:
    """The fused tensor, with operands that are no longer read dropped."""
    used = sorted({a.slot for eq in pieces for a in eq.accesses})
    slots = {s: n for n, s in enumerate(used)}
    eqs = [
        replace(eq, expr=reslot(eq.expr, slots), operands=tuple(eq.operands[s] for s in used)) for eq in pieces
    ]
    return computed(eqs, [operands[s] for s in used], dtype=t.dtype, name=t.name, op=t.op)


def _fresh(eq: Equation, piece: Equation) -> Equation:
    """The piece with its indices renamed after the consumer's where the left side is plain, else kept apart."""
    wanted: dict[str, str] = {}
    taken = set(piece.extent)
    for mine, form in zip(eq.free, piece.lhs, strict=True):
        if form.name is not None and mine not in taken:
            wanted[form.name] = mine
            taken.add(mine)
    return piece.renamed(wanted)


def _summed(eq: Equation) -> list[Access]:
    assert eq.reduce is not None
    return [e for e in walk(eq.reduce.body) if isinstance(e, Access)]


def _size(e: Expr) -> int:
    return sum(isinstance(x, (Apply, Reduce)) for x in walk(e))


def _size_of(eq: Equation) -> int:
    return _size(eq.expr)

