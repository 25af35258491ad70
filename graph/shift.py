"""What does not move: a tensor whose changes nothing that is asked for can see has gradient 0, and why.

A change Ḃ of B is followed forwards, exactly, as long as it stays a product of reads and of Ḃ itself:

    Y[n,f,i,j] = Σ_{c,p,q} X·K + B[f]          Ẏ[n,f,i,j] = Ḃ[f]
    M[f] = (Σ_{n,i,j} Y[n,f,i,j])/(64·N)       Ṁ[f] = Ḃ[f]          the mean moves along,
    V[f] = Σ_{n,i,j} (Y - M)·(Y - M)/(64·N)    V̇[f] = 0             and so the differences stay
    Z[n,f,i,j] = (Y - M)/√(V + ε)              Ż[n,f,i,j] = 0

When all that moved has been read by what stays, B̄ = 0. It gives up where Ḃ gets under a sum that it depends on, or is read
outside (padding shows a shift). No op is known here by name: normal.py multiplies out, and what cancels, cancels.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from faltung.graph.derive import differentiate
from faltung.graph.equation import Equation, make, used_indices
from faltung.graph.expr import ZERO, Access, Expr, accesses, reduction, reindex, reslot
from faltung.graph.index import Affine, always_inside
from faltung.graph.normal import Terms, plus, summed, sums_known, terms, times, without_units, written
from faltung.graph.scope import Scope
from faltung.graph.show import bar, dot, expression
from faltung.graph.tensor import FLOATS, Step, Tensor, leaf

CHANGE = 0  # the slot of Ḃ


def unmoved(
    order: Sequence[Tensor], outputs: Iterable[Tensor], start: Tensor, apart: Container[Tensor] = ()
) -> tuple[Equation, tuple[Step, ...]] | None:
    """The gradient of a tensor on which no output depends, 0, and why, line by line; None where that cannot be said.

    `order` holds the graph, operands first; what defines the tensors of `apart` is not used.
    """
    reader = next((t for t in order if start in t.operands), None)
    ends = set(outputs)
    if reader is None or start in ends:
        return None
    name, letters = _called(reader, start)
    following = _Following(start, name, apart)
    for t in order:
        if t is start or t.dtype not in FLOATS or not any(o in following.moves for o in t.operands):
            continue
        if not following.follow(t) or (t in ends and t in following.moves):
            return None
    zero = make(letters, ZERO, dict(zip(letters, start.shape, strict=True)), shape=start.shape, target=bar(name))
    return zero, (*following.steps(order), Step("hence", f"{zero}: whatever moves with {name} is read only by what stays"))


def _called(reader: Tensor, t: Tensor) -> tuple[str, tuple[str, ...]]:
    """The name under which `reader` reads `t`, and letters for its axes: those that it is read at, if they are."""
    letters = tuple("ncijkabdefgh"[: t.rank])
    for eq in reader.equations:
        for a in eq.accesses:
            if reader.operands[a.slot] is t:
                at = [f.name for f in a.index if f.name is not None]
                return (*eq.operands, *("X" for _ in reader.operands))[a.slot], tuple(at) if len(set(at)) == t.rank else letters
    return "X", letters


class _Following:
    """A change on its way through the graph: how each tensor moves, over the axes a0, a1, … of that tensor."""

    def __init__(self, start: Tensor, name: str, apart: Container[Tensor]) -> None:
        axes = tuple(Affine() if e == 1 else Affine.of(f"a{k}") for k, e in enumerate(start.shape))
        self.apart = apart
        self.scope = Scope([leaf("input", start.shape, start.dtype, dot(name))], [dot(name)])
        self.moves: dict[Tensor, Terms] = {start: {frozenset({(Access(CHANGE, axes), 1)}): Fraction(1)}}
        self.seen: list[tuple[Tensor, Equation, Terms]] = []  # what read something that moves, and how it moves itself

    def follow(self, t: Tensor) -> bool:
        """Note how `t` moves, if it does; False where that cannot be said."""
        slots = self.scope.slots(t.equations[0], t.operands)
        own = self.scope.slot(t, t.equations[0].target)
        found: Terms | None = None
        for eq in t.equations:
            reads = any(t.operands[a.slot] in self.moves for a in eq.accesses)
            moved = self._moved(without_units(eq), slots, own) if reads else {}
            across = None if moved is None else _across(eq, moved)
            if moved is None or across is None or (found is not None and across != found):
                return False
            found = across
            self.seen.append((t, eq, moved))
        if found:
            self.moves[t] = found
        return True

    def steps(self, order: Sequence[Tensor]) -> tuple[Step, ...]:
        """The way so far, line by line; a result goes by the name under which it is read, unless its equation reads that, too."""
        names, found = tuple(self.scope.names), []
        for t, eq, moved in self.seen:
            reader = next((r for r in order if t in r.operands), None)
            name = eq.target if reader is None else _called(reader, t)[0]
            shown = replace(eq, target=eq.target if name in eq.operands else name)
            left = ",".join(map(str, eq.lhs))
            found.append(Step("moves" if moved else "stays", f"{shown}   →   {dot(shown.target)}[{left}] = {expression(written(moved), names)}"))
        return tuple(found)

    def _moved(self, eq: Equation, slots: Mapping[int, int], own: int) -> Terms | None:
        """The change of one equation's right side, over the indices of the equation; operands and the result have these slots here."""
        scope = self.scope
        expr = reslot(eq.expr, slots)
        result = Access(own, tuple(Affine.of(i) for i in eq.free))
        known = sums_known([a for a in (*accesses(expr), result) if scope.tensors[a.slot] not in self.apart], eq.extent, scope)

        def inside(a: Access) -> bool:
            return all(always_inside(f, e, eq.extent) for f, e in zip(a.index, scope.tensors[a.slot].shape, strict=True))

        def change(of: Expr) -> Terms | None:
            """Σ over reads of ∂of/∂read times the change of what is read."""
            total: Terms | None = {}
            for a in accesses(of):
                moves = self.moves.get(scope.tensors[a.slot])
                if moves is None:
                    continue
                partial = differentiate(of, a, lambda y: y)
                if partial is ZERO:
                    continue
                if not inside(a):
                    return None
                total = plus(total, times(terms(partial, eq.extent, known), _reindexed(moves, dict(_axes(a.index)))))
            return total

        total, reduce = change(expr), reduction(expr)
        if reduce is not None:
            inner = change(reduce.body)
            if inner and reduce.kind == "sum":
                inner = None if _depends(inner, reduce.indices, CHANGE) else summed(inner, reduce.indices, eq.extent, known)
            elif inner:  # a maximum moves along when all of its elements move alike
                alike = reduce.kind in ("max", "min") and not _depends(inner, reduce.indices)
                inner = inner if alike and all(map(inside, accesses(reduce.body))) else None
            total = plus(total, times(terms(differentiate(expr, reduce, lambda y: y), eq.extent, known), inner) if inner else inner)
        return total


def _axes(forms: Sequence[Affine]) -> Iterable[tuple[str, Affine]]:
    return ((f"a{k}", form) for k, form in enumerate(forms))


def _reindexed(t: Terms, values: dict[str, Affine]) -> Terms:
    return {frozenset((reindex(x, values), p) for x, p in m): c for m, c in t.items()}


def _across(eq: Equation, moved: Terms) -> Terms | None:
    """Over the axes of the result instead of the indices; None where it needs an index that is not an axis by itself."""
    whole = [(f.name, axis) for (axis, f), e in zip(_axes(eq.lhs), eq.shape, strict=True) if f.name is not None and eq.extent[f.name] == e]
    axis = {name: Affine.of(a) for name, a in whole if name is not None}
    if any(used_indices(x) - set(axis) for m in moved for x, _ in m):
        return None
    return _reindexed(moved, axis)


def _depends(t: Terms, indices: Iterable[str], slot: int | None = None) -> bool:
    """Whether something in the terms, or what they read of one slot, depends on one of the indices."""
    bound = set(indices)
    atoms = (x for m in t for x, _ in m)
    return any(used_indices(x) & bound for x in atoms if slot is None or (isinstance(x, Access) and x.slot == slot))
