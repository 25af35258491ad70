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
from itertools import count

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
    settled = False
    while True:
        fused, settled = _sweep(outputs, fixed, history, settled)
        if fused == list(outputs):
            return fused
        outputs = fused


def _sweep(outputs: Sequence[Tensor], fixed: Callable[[Tensor], bool], history: History, settled: bool) -> tuple[list[Tensor], bool]:
    """One pass over the graph, operands first, each tensor taking in at most one producer; and whether the graph has settled.

    It has when only tensors in several pieces took in something: what those take changes for nobody else what can be fused,
    as they are too large to be written out themselves. From then on they take at once what they would take sweep by sweep.
    """
    used = uses(outputs)
    kept = set(outputs)
    new: dict[Tensor, Tensor] = {}
    readers: Counter[Tensor] = Counter()  # of rebuilt tensors
    whole = True
    for old in topological(outputs):
        t = old
        if not old.is_leaf:
            operands = tuple(new[o] for o in old.operands)
            t = old if operands == old.operands else remake(old, operands)
            history.became(old, t)
            pieces = len(t.equations) > 1
            fused = _all(t, readers, fixed, history) if pieces and settled else _first(t, readers, fixed, history)
            whole = whole and (pieces or fused is t)
            t = fused
        new[old] = t
        readers[t] += used[old] + (old in kept)  # an output is read by the user, too
    return [new[t] for t in outputs], whole


def _may(p: Tensor, t: Tensor, readers: Counter[Tensor], fixed: Callable[[Tensor], bool]) -> bool:
    """Whether `p` may be computed where `t`, which reads it, is computed, and nowhere else."""
    return not p.is_leaf and p.dtype in FLOATS and (_is_constant(p) or (readers[p] <= 1 and (fixed(t) or not fixed(p))))


def _first(t: Tensor, readers: Counter[Tensor], fixed: Callable[[Tensor], bool], history: History) -> Tensor:
    """`t` with the first producer taken in that can be; itself where there is none."""
    once = _once(t)
    host = _Host(once)
    for slot, p in enumerate(once.operands):
        if not _may(p, t, readers, fixed):
            continue
        if (how := host.take(slot)) is not None:
            found = host.tensor()
            history.joined(found, t, {p: how}, value=t)
            return found
        if (below := into_epilogue(once, slot)) is not None:
            history.joined(below, p, {t: EPILOGUE if _reduces(p) else TOGETHER}, value=t)
            return below
    return t


def _all(t: Tensor, readers: Counter[Tensor], fixed: Callable[[Tensor], bool], history: History) -> Tensor:
    """`t`, which is in several pieces, with producers taken in, always the first that can be, until none can."""
    host = _Host(_once(t))
    guests: dict[Tensor, str] = {}
    slot = 0
    while slot < len(host.operands):
        p, after = host.operands[slot], slot + 1
        if slot in host.readers and _may(p, t, readers, fixed):
            shared = [host.place[o] for o in p.operands if o in host.place]
            if (how := host.take(slot)) is not None:
                guests[p] = how
                for s in shared:
                    readers[host.operands[s]] -= 1
                    if readers[host.operands[s]] == 1:
                        after = min(after, s)
        slot = after
    if not guests:
        return t
    found = host.tensor()
    history.joined(found, t, guests, value=t)
    return found


def _reduces(t: Tensor) -> bool:
    return any(eq.reduce is not None for eq in t.equations)


def _once(t: Tensor) -> Tensor:
    """`t` with each operand in one slot."""
    operands = list(dict.fromkeys(t.operands))
    if len(operands) == len(t.operands):
        return t
    place = {o: n for n, o in enumerate(operands)}
    slots = {n: place[o] for n, o in enumerate(t.operands)}
    names = dict(zip(reversed(t.operands), reversed(t.equations[0].operands), strict=False))
    eqs = [replace(eq, expr=reslot(eq.expr, slots), operands=tuple(names.get(o, "") for o in operands)) for eq in t.equations]
    return computed(eqs, operands, dtype=t.dtype, name=t.name, op=t.op)


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
    host = _Host(t)
    theirs = host.slots(p)
    host.admit(p)
    host.pieces = []
    for piece in p.equations:
        fresh = _fresh(eq, piece)
        outer = reindex(eq.expr, dict(zip(eq.free, fresh.lhs, strict=True)))
        read = reindex(reads[0], dict(zip(eq.free, fresh.lhs, strict=True)))
        host.pieces.append(replace(fresh, expr=swap(outer, read, reslot(fresh.expr, theirs)), target=eq.target))
    return host.tensor()


class _Host:
    """A tensor that takes in operands: they are written out where they are read, and their own operands are appended.

    Operands keep their slots until it is a tensor again, so that of many pieces only those are looked at that read
    what is taken in.
    """

    def __init__(self, t: Tensor) -> None:
        self.t = t
        self.operands = list(t.operands)
        self.place = {o: n for n, o in reversed(list(enumerate(t.operands)))}
        self.pieces = list(t.equations)
        self.reduces = _reduces(t)
        self.readers: dict[int, dict[int, None]] = {}  # slot → the pieces that read it
        for n, eq in enumerate(self.pieces):
            for a in eq.accesses:
                self.readers.setdefault(a.slot, {})[n] = None
        self.given = dict(zip(t.operands, t.equations[0].operands, strict=False))
        self.unnamed = self.operands[:]  # until something is taken in
        self.names: dict[Tensor, str] = {}
        self.taken = {t.equations[0].target}

    def take(self, slot: int) -> str | None:
        """The pointwise operand `slot` written out wherever it is read, and how it is in the tensor now; None where illegal."""
        p = self.operands[slot]
        if len(p.equations) != 1 or not p.equations[0].is_identity or p.equations[0].reduce is not None:
            return None
        source = p.equations[0]
        constant, summed = _is_constant(p), False
        theirs = self.slots(p)
        found: dict[int, Expr] = {}
        for n in self.readers.get(slot, ()):  # of what is concatenated one part reads each
            eq = self.pieces[n]
            inner = eq.reduce is not None and any(a.slot == slot for a in _summed(eq))
            if inner and not constant and isinstance(contraction(eq), Contraction):
                return None
            expr = eq.expr
            for read in eq.read(slot):
                inside = all(always_inside(f, e, eq.extent) for f, e in zip(read.index, p.shape, strict=True))
                moved = reindex(source.expr, dict(zip(source.free, read.index, strict=True)))
                if not inside or not (_sums(eq) or _all_inside(moved, p, eq)):
                    return None
                expr = swap(expr, read, reslot(moved, theirs))
            if _size(expr) > LARGEST:
                return None
            found[n], summed = expr, summed or inner
        self.admit(p)
        for n, expr in found.items():
            eq = self.pieces[n] = replace(self.pieces[n], expr=expr)
            for a in eq.accesses:
                self.readers.setdefault(a.slot, {})[n] = None
        self.readers.pop(slot, None)
        return CONSTANT if constant else PROLOGUE if summed else EPILOGUE if self.reduces else TOGETHER

    def slots(self, p: Tensor) -> dict[int, int]:
        """Where the operands of an operand are, or will be once it is admitted."""
        fresh = {o: n for n, o in enumerate(self._fresh(p), len(self.operands))}
        return {n: fresh[o] if o in fresh else self.place[o] for n, o in enumerate(p.operands)}

    def admit(self, p: Tensor) -> None:
        """The operands of one that is read no more beside the others; it leaves its name to them."""
        fresh = self._fresh(p)
        given = dict(zip(p.operands, p.equations[0].operands, strict=False)) | self.given
        unnamed = [*self.unnamed, *fresh]
        first, self.unnamed, self.given = len(self.names), [], {}
        self.taken.discard(self.names.pop(p, ""))
        for n, o in enumerate(unnamed, first):
            if o is not p:
                name = given.get(o, f"X{n}")
                self.names[o] = name if name not in self.taken else next(c for k in count(2) if (c := f"{name}{k}") not in self.taken)
                self.taken.add(self.names[o])
        del self.place[p]
        self.place |= {o: n for n, o in enumerate(fresh, len(self.operands))}
        self.operands += fresh

    def _fresh(self, p: Tensor) -> list[Tensor]:
        return list(dict.fromkeys(o for o in p.operands if o not in self.place))

    def tensor(self) -> Tensor:
        """The tensor as it is now, without operands that are no longer read."""
        used = sorted({a.slot for eq in self.pieces for a in eq.accesses})
        slots, names = {s: n for n, s in enumerate(used)}, tuple(self.names[self.operands[s]] for s in used)
        eqs = [replace(eq, expr=reslot(eq.expr, slots), operands=names) for eq in self.pieces]
        return computed(eqs, [self.operands[s] for s in used], dtype=self.t.dtype, name=self.t.name, op=self.t.op)


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

