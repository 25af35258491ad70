"""Divisions removed: a strided gather becomes dense gathers, one for each residue class.

    X̄[u] = Σ_p Ȳ[(u + P − d·p)/s]·K[p]

With u = s·u' + ρ only the taps with ρ + P − d·p ≡ 0 (mod s) contribute, p = g·p' + p₀ with g = s / gcd(d, s), and

    X̄[s·u' + ρ] = Σ_p' Ȳ[u' + (ρ + P − d·p₀)/s − (d·g/s)·p']·K[g·p' + p₀]

which has no division and no inserted zero. The pieces tile the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import gcd, lcm

from faltung.graph.equation import Equation, make, used_indices
from faltung.graph.expr import (
    NEUTRAL,
    ZERO,
    Access,
    Const,
    Expr,
    Inside,
    Reduce,
    Value,
    accesses,
    const,
    reindex,
    replace as swap,
    rewrite,
    walk,
)  # fmt: skip
from faltung.graph.index import Affine, Batch, Shape, always_inside
from faltung.graph.recognise import vanishing
from faltung.graph.tensor import Tensor, computed


def split_residues(t: Tensor) -> Tensor | None:
    """A tensor with divided reads as one tensor of several dense equations; None when there is nothing to split."""
    pieces = tuple(piece for eq in t.equations for piece in residues(eq))
    if pieces == t.equations:
        return None
    return computed(pieces, t.operands, dtype=t.dtype, name=t.name, op=t.op, derivation=t.derivation)


def residues(eq: Equation) -> list[Equation]:
    """The dense equations that one equation with divisions splits into."""
    forms = dict.fromkeys(form for form in _forms(eq) if form.den != 1)
    alone = [n for place in eq.lhs if len(place.names) == 1 for n in place.names]  # digits of an axis must count through all of it
    period: dict[str, int] = {}
    for form in forms:
        for n in alone:
            c = form.coefficient(n)
            if c:
                period[n] = lcm(period.get(n, 1), form.den // gcd(form.den, c))
    if not forms:
        return [eq]
    names = list(period)
    found = []
    for remainders in product(*(range(period[n]) for n in names)):
        piece = _piece(eq, dict(zip(names, remainders, strict=True)), period)
        if piece is not None:
            found.append(piece)
    return found


def _piece(eq: Equation, remainder: dict[str, int], period: dict[str, int]) -> Equation | None:
    extents = dict(eq.extents)
    values: dict[str, Affine] = {}
    for n, r in remainder.items():
        e = extents[n]
        assert not isinstance(e, Batch)  # the open batch index is never divided
        if r >= e:
            return None
        extents[n] = (e - r - 1) // period[n] + 1
        values[n] = Affine.make({n: period[n]}, r)
    piece = replace(
        eq,
        lhs=tuple(a.substitute(values) for a in eq.lhs),
        expr=reindex(eq.expr, {**values}),
        extents=tuple((i, extents[i]) for i, _ in eq.extents),
    )
    return _taps(piece)


def _taps(eq: Equation) -> Equation:
    """Divisions of a piece removed: summed indices restricted to the taps at which they come out even.

    A tap may be left out only where the divided read silences its term. What cannot be resolved so keeps its
    division, and the general schedule checks each read.
    """
    seen: set[Affine] = set()
    while form := next((f for f in _forms(eq) if f.den != 1 and f not in seen), None):
        seen.add(form)
        reduce = eq.reduce
        open_ = [n for n in form.names if form.coefficient(n) % form.den]
        if not open_:  # the remainder is the same everywhere, and not 0, or it would have cancelled
            eq = _nowhere(eq, form)
            continue
        silent = reduce is not None and any(form in a.index for a in vanishing(reduce))
        (n, *more) = open_
        e = eq.extent[n]
        if more or not silent or isinstance(e, Batch) or reduce is None or n not in reduce.indices:
            continue
        if reduce.kind in ("argmax", "argmin"):  # it would count other positions
            continue
        c, den = form.coefficient(n), form.den
        starts = [p for p in range(min(e, den)) if (form.const + c * p) % den == 0]
        if not starts:
            eq = _nowhere(eq, form)
            continue
        step = den // gcd(c, den)
        count = (e - starts[0] - 1) // step + 1
        eq = replace(
            eq,
            expr=reindex(eq.expr, {n: Affine.make({n: step}, starts[0])}),
            extents=tuple((i, count if i == n else x) for i, x in eq.extents),
        )
    return eq


def _nowhere(eq: Equation, form: Affine) -> Equation:
    """The equation when `form` never comes out even: reads at it give the neutral element, brackets 0."""

    def silence(expr: Expr, neutral: float) -> Expr:
        def change(e: Expr) -> Expr | None:
            if isinstance(e, Access) and form in e.index:
                return const(neutral)
            return ZERO if isinstance(e, Inside) and e.form == form else None

        return rewrite(expr, change)

    expr, reduce = eq.expr, eq.reduce
    if reduce is not None:
        body = silence(reduce.body, NEUTRAL[reduce.kind])
        used = used_indices(body) & set(reduce.indices)
        lone = isinstance(body, Const) and not used and (body is ZERO or reduce.kind in ("max", "min"))
        expr = swap(expr, reduce, body if lone else Reduce(reduce.kind, reduce.indices, body))
    return make(eq.free, silence(expr, 0), eq.extent, lhs=eq.lhs, shape=eq.shape, target=eq.target, operands=eq.operands)


def _forms(eq: Equation) -> list[Affine]:
    found: list[Affine] = []
    for e in walk(eq.expr):
        if isinstance(e, Access):
            found += e.index
        elif isinstance(e, (Value, Inside)):
            found.append(e.form)
    return found


def drop_units(t: Tensor) -> Tensor | None:
    """Reduced indices of extent 1 replaced by 0: a 1×1 convolution becomes a matrix product, a maximum of one element that element."""
    shapes = [o.shape for o in t.operands]
    pieces = tuple(units_dropped(eq, shapes) for eq in t.equations)
    if pieces == t.equations:
        return None
    return computed(pieces, t.operands, dtype=t.dtype, name=t.name, op=t.op, derivation=t.derivation)


def units_dropped(eq: Equation, shapes: Sequence[Shape]) -> Equation:
    """An equation over operands of these shapes with its reduced indices of extent 1 replaced by 0."""
    reduce = eq.reduce
    if reduce is None or reduce.kind not in ("sum", "max", "min"):
        return eq
    units = [i for i in reduce.indices if eq.extent[i] == 1]
    if not units:
        return eq
    kept = tuple(i for i in reduce.indices if i not in units)
    body = reindex(reduce.body, {i: Affine.of(0) for i in units})
    if not kept and reduce.kind != "sum" and not _all_inside(body, eq, shapes):
        return eq  # a padded read outside a maximum is -inf, outside of one it would be 0
    inner = Reduce(reduce.kind, kept, body) if kept else body
    return make(eq.free, swap(eq.expr, reduce, inner), eq.extent, lhs=eq.lhs, shape=eq.shape, target=eq.target, operands=eq.operands)


def _all_inside(body: Expr, eq: Equation, shapes: Sequence[Shape]) -> bool:
    return all(always_inside(f, e, eq.extent) for a in accesses(body) for f, e in zip(a.index, shapes[a.slot], strict=True))
