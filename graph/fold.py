"""What depends on parameters alone is computed once: scales and shifts fold into weights.

    relu(((Σ X·K) + B[f] - M[f])/√(V[f] + ε)·γ[f] + β[f])   becomes   relu((Σ X·Kʹ) + T[f])

An expression is a linear form over its *atoms*, the sums and reads that change from run to run; coefficients and the
constant part depend on unchanging tensors only. What is compound among these becomes a tensor of its own, which the
program computes when parameters change and not in every run. The coefficient of a sum of products goes into the
factor that does not change. Batch normalisation in evaluation mode is the common case; nothing here knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from faltung.graph.equation import Equation, make
from faltung.graph.expr import (  # fmt: skip
    ONE,
    ZERO,
    Access,
    Apply,
    Const,
    Expr,
    Inside,
    Reduce,
    Size,
    Value,
    accesses,
    apply,
    reslot,
    rewrite,
    walk,
)
from faltung.graph.history import History
from faltung.graph.index import Affine, Batch, Extent, always_inside
from faltung.graph.parse import LETTERS
from faltung.graph.rewrite import rebuild
from faltung.graph.tensor import FLOATS, Tensor, computed

HELD = ("parameter", "state", "constant")

# what is computed apart    what it is in the equation that reads it
APART = {
    "Kʹ":                   "weights",
    "S":                    "scale",
    "T":                    "bias",
}  # fmt: skip


def fold(outputs: Sequence[Tensor], changing: Collection[Tensor] = (), history: History | None = None) -> list[Tensor]:
    """The graph with compound expressions of unchanging tensors computed apart; `changing` leaves are updated by the graph."""
    fixed, record = unchanging(changing), history or History()

    def change(t: Tensor) -> Tensor | None:
        if fixed(t) or t.dtype not in FLOATS:
            return None
        work = _Folding(t, fixed)
        pieces = [work.folded(eq) for eq in t.equations]
        if all(new is old for new, old in zip(pieces, t.equations, strict=True)):
            return None
        found = work.tensor(pieces)
        record.folded(t, found, fixed, {o: word for o, word in work.apart.items() if o in found.operands})
        return found

    return rebuild(outputs, change, history=record)


def unchanging(changing: Collection[Tensor]) -> Callable[[Tensor], bool]:
    """A test whether a tensor depends on nothing but parameters, states and constants outside `changing`."""
    known: dict[Tensor, bool] = {}

    def fixed(t: Tensor) -> bool:
        found = known.get(t)
        if found is None:
            leaf = t.kind in HELD and t not in changing
            found = known[t] = leaf if t.is_leaf else not _open(t) and all(map(fixed, t.operands))
        return found

    return fixed


def _open(t: Tensor) -> bool:
    """Whether the value depends on the open batch size, by an index that runs over it or by its number."""
    return any(
        isinstance(e, Batch)
        for eq in t.equations
        for e in (*eq.extent.values(), *(x.extent for x in walk(eq.expr) if isinstance(x, (Size, Inside))))
    )


@dataclass(frozen=True)
class _Linear:
    """Σ coefficient·atom + constant."""

    terms: tuple[tuple[Expr, Expr], ...]  # atom, coefficient
    constant: Expr

    @property
    def plain(self) -> bool:
        """Whether there is nothing to compute apart."""
        return all(_simple(c) for _, c in self.terms) and _simple(self.constant)


def _simple(e: Expr) -> bool:
    return isinstance(e, (Const, Access)) or (isinstance(e, Apply) and e.fn == "neg" and _simple(e.args[0]))


class _Folding:
    """The equations of one tensor, with operands added for what is computed apart."""

    def __init__(self, t: Tensor, fixed: Callable[[Tensor], bool]) -> None:
        self.t, self.fixed = t, fixed
        self.operands = list(t.operands)
        self.apart: dict[Tensor, str] = {}  # what the tensors computed apart are here
        self._forms: dict[tuple[Equation, Expr], _Linear] = {}
        self._folded: dict[tuple[Equation, Expr], Expr] = {}
        self._outside: set[Equation] = set()  # whose coefficients stay outside

    def tensor(self, pieces: Sequence[Equation]) -> Tensor:
        """The tensor of these equations, without operands that nothing reads."""
        used = sorted({a.slot for eq in pieces for a in eq.accesses})
        slots = {s: n for n, s in enumerate(used)}
        names = self._names(used)
        equations = [replace(eq, expr=reslot(eq.expr, slots), operands=names) for eq in pieces]
        return computed(equations, [self.operands[s] for s in used], dtype=self.t.dtype, name=self.t.name, op=self.t.op, derivation=self.t.derivation)

    def folded(self, eq: Equation) -> Equation:
        """The equation itself where nothing is gained."""
        expr = self._close(eq, eq.expr)
        if sum(isinstance(e, Reduce) for e in walk(expr)) > 1:  # its sum is read several times, and would have several weights
            self._outside.add(eq)
            self._forms.clear()
            self._folded.clear()
            expr = self._close(eq, eq.expr)
        return eq if expr is eq.expr else replace(eq, expr=expr)

    # ---- linear forms ----

    def _linear(self, eq: Equation, e: Expr) -> _Linear:
        if (eq, e) not in self._forms:
            self._forms[eq, e] = self._form(eq, e)
        return self._forms[eq, e]

    def _form(self, eq: Equation, e: Expr) -> _Linear:
        if self._is_fixed(e):
            return _Linear((), e)
        if isinstance(e, Apply) and e.fn in ("add", "sub", "neg", "mul", "div"):
            parts = [self._linear(eq, a) for a in e.args]
            match e.fn:
                case "neg":
                    return _scaled(parts[0], lambda c: apply("neg", c))
                case "add" | "sub":
                    return _sum(e.fn, *parts)
                case "mul" if not parts[1].terms:
                    return _scaled(parts[0], lambda c: apply("mul", c, parts[1].constant))
                case "mul" if not parts[0].terms:
                    return _scaled(parts[1], lambda c: apply("mul", c, parts[0].constant))
                case "div" if not parts[1].terms:
                    return _scaled(parts[0], lambda c: apply("div", c, parts[1].constant))
        return _Linear(((self._atom(eq, e), ONE),), ZERO)

    def _atom(self, eq: Equation, e: Expr) -> Expr:
        """The node with what is below it folded."""
        if isinstance(e, Apply):
            return _rebuilt(e, tuple(self._close(eq, a) for a in e.args))
        if isinstance(e, Reduce):
            return _rebuilt(e, (self._close(eq, e.body),))
        return e

    def _close(self, eq: Equation, e: Expr) -> Expr:
        """What has the value of `e`, with all that does not change computed apart; `e` itself where nothing is gained."""
        if (eq, e) not in self._folded:
            self._folded[eq, e] = self._expression(eq, e, self._linear(eq, e))
        return self._folded[eq, e]

    def _expression(self, eq: Equation, e: Expr, form: _Linear) -> Expr:
        into = [self._into_factor(eq, atom, c) for atom, c in form.terms]
        if form.plain and all(i is None for i in into):
            old = self._atom(eq, e) if isinstance(e, (Apply, Reduce)) and not self._is_fixed(e) else e
            return old if form.terms != ((old, ONE),) else form.terms[0][0]
        total: Expr = ZERO
        for (atom, c), moved in zip(form.terms, into, strict=True):
            term = moved if moved is not None else apply("mul", atom, self._apart(eq, c, "S"))
            total = apply("add", total, term)
        return apply("add", total, self._apart(eq, form.constant, "T"))

    def _is_fixed(self, e: Expr) -> bool:
        """Whether only unchanging floats are read, always inside, and no index is used as a number."""
        for x in walk(e):
            if isinstance(x, (Value, Inside, Size, Reduce)):
                return False
            if isinstance(x, Access):
                o = self.operands[x.slot]
                if o.dtype != self.t.dtype or not self.fixed(o):
                    return False
        return True

    # ---- tensors computed apart ----

    def _apart(self, eq: Equation, e: Expr, name: str) -> Expr:
        """A read of a tensor that holds `e`; `e` itself where it is simple, or where a read may be outside."""
        if _simple(e) or not self._inside(eq, e):
            return e
        axes: dict[Affine, Extent] = {}
        for a in accesses(e):
            for form, extent in zip(a.index, self.operands[a.slot].shape, strict=True):
                if form.names and axes.setdefault(form, extent) != extent:
                    return e
        if len(axes) > max(LETTERS):
            return e
        return Access(self._tensor(e, axes, name), tuple(axes))

    def _into_factor(self, eq: Equation, atom: Expr, c: Expr) -> Expr | None:
        """A sum of products with its coefficient in the unchanging factor, or None."""
        if eq in self._outside or not accesses(c) or not isinstance(atom, Reduce) or atom.kind != "sum" or not self._inside(eq, c):
            return None
        body = atom.body
        if not (isinstance(body, Apply) and body.fn == "mul" and all(isinstance(x, Access) for x in body.args)):
            return None
        held = [x for x in body.args if isinstance(x, Access) and self._is_fixed(x)]
        if len(held) != 1:
            return None
        forms = {form for a in accesses(c) for form in a.index if form.names}
        moving = [(form, e) for form, e in zip(held[0].index, self.operands[held[0].slot].shape, strict=True) if form.names]
        axes = dict(moving)  # of a 1×1 convolution K[f,c,0,0]: f and c
        if not forms <= axes.keys() or len(axes) != len(moving) or len(axes) > max(LETTERS):
            return None
        for a in accesses(c):
            if any(form.names and axes[form] != e for form, e in zip(a.index, self.operands[a.slot].shape, strict=True)):
                return None
        slot = self._tensor(apply("mul", held[0], c), axes, "Kʹ")
        scaled = Access(slot, tuple(axes))
        return Reduce(atom.kind, atom.indices, apply("mul", *(scaled if x is held[0] else x for x in body.args)))

    def _inside(self, eq: Equation, e: Expr) -> bool:
        return all(
            always_inside(form, extent, eq.extent)
            for a in accesses(e)
            for form, extent in zip(a.index, self.operands[a.slot].shape, strict=True)
        )

    def _tensor(self, e: Expr, axes: dict[Affine, Extent], name: str) -> int:
        """The slot of a new operand with these axes, which holds `e` with each form in place of its axis."""
        letters = tuple(LETTERS[len(axes)])
        place = {form: Affine.of(i) for form, i in zip(axes, letters, strict=True)}
        used = sorted({a.slot for a in accesses(e)})
        slots = {s: n for n, s in enumerate(used)}

        def change(x: Expr) -> Expr | None:
            return Access(slots[x.slot], tuple(place.get(form, form) for form in x.index)) if isinstance(x, Access) else None

        equation = make(letters, rewrite(e, change), dict(zip(letters, axes.values(), strict=True)), target=name, operands=self._names(used))
        t = computed([equation], [self.operands[s] for s in used], dtype=self.t.dtype, name=name, op="fold")
        self.apart[t] = APART[name]
        if t not in self.operands:
            self.operands.append(t)
        return self.operands.index(t)

    def _names(self, used: Sequence[int]) -> tuple[str, ...]:
        known = self.t.equations[0].operands
        names: list[str] = []
        for s in used:
            name = known[s] if s < len(known) else self.operands[s].name or f"X{s}"
            while name in names:
                name += "ʹ"
            names.append(name)
        return tuple(names)


def _rebuilt(e: Expr, children: tuple[Expr, ...]) -> Expr:
    if children == e.children:
        return e
    return apply(e.fn, *children) if isinstance(e, Apply) else e.rebuild(children)


def _scaled(form: _Linear, change: Callable[[Expr], Expr]) -> _Linear:
    return _Linear(tuple((atom, change(c)) for atom, c in form.terms), change(form.constant))


def _sum(fn: str, a: _Linear, b: _Linear) -> _Linear:
    terms = dict(a.terms)
    for atom, c in b.terms:
        terms[atom] = apply(fn, terms.get(atom, ZERO), c)
    return _Linear(tuple(terms.items()), apply(fn, a.constant, b.constant))
