"""Expressions multiplied out, so that one sees what cancels: what is 0 without computing it.

    terms  =  Σ number · Π atom^power        atom = a read, an extent, a function or a bracket of something, a sum

A sum of terms is taken term by term: what has no summed index stands in front, an index that nothing has multiplies by
its extent. A sum that defines a tensor is read from that tensor,

    M[c] = (Σ_{n,i,j} X[n,c,i,j])/(64·N)     →     Σ_{n,i,j} X[n,c,i,j] = 64·N·M[c]

and then Σ_{n,i,j} (X[n,c,i,j] - M[c]) has no terms left. Equal means equal as rational functions of the atoms: where a
denominator is 0 there is no value to be kept. What is too long to be multiplied out is None, which proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import isfinite

from faltung.graph.equation import Equation, used_indices
from faltung.graph.expr import ONE, ZERO, Access, Apply, Const, Expr, Reduce, Size, apply, const, reindex
from faltung.graph.index import Affine, Batch, Extent, always_inside
from faltung.graph.scope import Scope
from faltung.graph.show import expression
from faltung.graph.tensor import Tensor

Monomial = frozenset[tuple[Expr, int]]  # atoms with their powers, none of them 0
Terms = dict[Monomial, Fraction]  # with their coefficients, none of them 0
Extents = Mapping[str, Extent]
Known = Callable[[Expr], Terms | None]  # what a sum is equal to, where that is known

LONGEST = 24  # terms: beyond this, nobody tries


def terms(e: Expr, extents: Extents, known: Known) -> Terms | None:
    """`e` multiplied out, or None where that is too long."""
    match e:
        case Const():
            exact = isinstance(e.value, (int, Fraction)) or isfinite(e.value)
            return scaled({frozenset(): Fraction(1)}, Fraction(e.value)) if exact else _atom(e)
        case Reduce(kind="sum"):
            body = terms(e.body, extents, known)
            return None if body is None else summed(body, e.indices, extents, known)
        case Apply(fn="neg" | "add" | "sub" | "mul" | "div" | "stop"):
            parts = [terms(a, extents, known) for a in e.args]
            left = parts[0]
            right = parts[-1]
            if left is None or right is None:
                return None
            match e.fn:
                case "neg":
                    return scaled(left, Fraction(-1))
                case "add" | "sub":
                    return plus(left, scaled(right, Fraction(1 if e.fn == "add" else -1)))
                case "mul":
                    return times(left, right)
                case "div":
                    below = _inverse(right)
                    return times(left, _atom(e.args[1], -1) if below is None else below)
            return left
    return _atom(e)


def _atom(e: Expr, power: int = 1) -> Terms:
    return {frozenset({(e, power)}): Fraction(1)}


def _inverse(t: Terms) -> Terms | None:
    """1/t of a single term."""
    if len(t) != 1:
        return None
    ((monomial, factor),) = t.items()
    return {frozenset((a, -p) for a, p in monomial): 1 / factor}


def scaled(t: Terms, factor: Fraction) -> Terms:
    """The terms times a number."""
    return {m: c * factor for m, c in t.items()} if factor else {}


def plus(a: Terms | None, b: Terms | None) -> Terms | None:
    """The sum, equal terms added up; None where it is too long."""
    if a is None or b is None:
        return None
    found = dict(a)
    for m, c in b.items():
        found[m] = found.get(m, Fraction(0)) + c
        if not found[m]:
            del found[m]
    return found if len(found) <= LONGEST else None


def times(a: Terms | None, b: Terms | None) -> Terms | None:
    """The product; None where it is too long."""
    if a is None or b is None or len(a) * len(b) > LONGEST:
        return None
    found: Terms | None = {}
    for m, c in a.items():
        for n, d in b.items():
            powers: dict[Expr, int] = dict(m)
            for atom, p in n:
                powers[atom] = powers.get(atom, 0) + p
            found = plus(found, {frozenset((atom, p) for atom, p in powers.items() if p): c * d})
    return found


def summed(t: Terms, indices: Iterable[str], extents: Extents, known: Known) -> Terms | None:
    """Σ over indices."""
    bound = set(indices)
    found: Terms | None = {}
    for monomial, factor in t.items():
        inner = {(a, p) for a, p in monomial if used_indices(a) & bound}
        idle = bound - {i for a, _ in inner for i in used_indices(a)}
        total: Terms | None = {frozenset(monomial - inner): factor}
        for i in idle:
            e = extents[i]
            total = times(total, _atom(Size(e)) if isinstance(e, Batch) else scaled({frozenset(): Fraction(1)}, Fraction(e)))
        if inner:
            whole = _sum_atom(inner, bound - idle, extents)
            value = known(whole)
            total = times(total, _atom(whole) if value is None else value)
        found = plus(found, total)
    return found


def _sum_atom(factors: Iterable[tuple[Expr, int]], bound: set[str], extents: Extents) -> Expr:
    """Σ of a product, its indices renamed by their order of appearance and extent, so that equal sums are one object."""
    masked = {i: Affine.of("•") for i in bound}
    ordered = sorted(factors, key=lambda f: (expression(reindex(f[0], masked), ()), f[1]))
    body = ONE
    for atom, power in ordered:
        for _ in range(abs(power)):
            body = apply("mul" if power > 0 else "div", body, atom)
    seen = [n for atom, _ in ordered for n in _in_order(atom) if n in bound]
    names = {n: f"•{place}:{extents[n]}" for place, n in enumerate(dict.fromkeys(seen))}
    return Reduce("sum", tuple(names.values()), reindex(body, {n: Affine.of(new) for n, new in names.items()}))


def _in_order(e: Expr) -> list[str]:
    """Index names as they are read."""
    if isinstance(e, Access):
        return [n for form in e.index for n in form.names]
    return [n for c in e.children for n in _in_order(c)] or sorted(used_indices(e))


def sums_known(reads: Iterable[Access], extents: Extents, scope: Scope) -> Known:
    """The sums that define what is read, in terms of the reads; found out when first asked. A read outside defines nothing."""

    @cache
    def table() -> dict[Expr, Terms]:
        known: dict[Expr, Terms] = {}
        for a in reads:
            t = scope.tensors[a.slot]
            whole = len(a.index) == t.rank  # not where axes of extent 1 are left out
            if whole and len(t.equations) == 1 and all(always_inside(f, e, extents) for f, e in zip(a.index, t.shape, strict=True)):
                known |= definition(t, a, scope)
        return known

    return lambda atom: table().get(atom)


def unknown(atom: Expr) -> None:
    """Nothing is known of any sum."""


def definition(t: Tensor, read: Access, scope: Scope) -> dict[Expr, Terms]:
    """The sum that `t` is a multiple of, in terms of a read of `t`; nothing where it is none."""
    if t.equation.reduce is None or t.equation.reduce.kind != "sum" or not t.equation.is_identity:
        return {}
    eq = without_units(t.equation)
    apart = eq.renamed({i: f"{i}•" for i in eq.extent})  # the names of whoever reads mean something else
    expr = reindex(apart.expr, dict(zip(apart.free, read.index, strict=True)))
    whole = terms(scope.numbered(expr, eq, t.operands), apart.extent, unknown)
    if whole is None or len(whole) != 1:
        return {}
    ((monomial, factor),) = whole.items()
    sums = [(a, p) for a, p in monomial if isinstance(a, Reduce)]
    if len(sums) != 1 or sums[0][1] != 1:
        return {}
    found = times(_atom(read), _inverse({monomial - {sums[0]}: factor}))
    return {} if found is None else {sums[0][0]: found}


def without_units(eq: Equation) -> Equation:
    """Indices of extent 1 replaced by 0 on the right, so that `g+c` with one c is `g`."""
    units = {i: Affine() for i, e in eq.extents if e == 1}
    return replace(eq, expr=reindex(eq.expr, units)) if units else eq


def written(t: Terms) -> Expr:
    """Terms as an expression for readers."""
    total: Expr = ZERO
    for monomial, factor in sorted(t.items(), key=lambda i: sorted((expression(a, ()), p) for a, p in i[0])):
        term = const(abs(factor))
        for atom, power in sorted(monomial, key=lambda f: (f[1] < 0, expression(f[0], ()))):
            for _ in range(abs(power)):
                term = apply("mul" if power > 0 else "div", term, atom)
        total = apply("add" if factor > 0 else "sub", total, term)
    return total
