"""The derivative of ONE equation with respect to one operand.

Given     Y[L(f)] = e( Σ_b g(…, X[A(f,b)], …) )          f free, b bound, A affine
we want   X̄[z] = Σ_{f,b} Ȳ[L(f)] · e' · ∂g/∂X · [A(f,b) = z]

The Kronecker delta is removed axis by axis by solving A = z for one index. For a convolution

    X:  s·i + d·p − P = u    →   i = (u + P − d·p)/s      a gather: every element of X̄ is written once
    K:  f = f, c = c, p = p  →   nothing to solve; n, i, j stay and are summed

Three cases beside the solved index:
    a digit map      3·i + j counts through its axis once: X̄[3·i + j] is written directly (pooling without
                     overlap, flattening), and no index is lost
    a maximum        ∂/∂X is the indicator of the first maximal position: [argmax = position], where the
                     argmax is an equation of its own
    a constraint     an axis without an index left to solve becomes a bracket [0 ≤ form < 1]
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from faltung.graph import functions, naming
from faltung.graph.equation import Equation, make, used_indices
from faltung.graph.errors import UnsupportedOp
from faltung.graph.expr import (
    NEUTRAL,
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
    apply,
    const,
    reduction,
    reindex,
    replace,
    reslot,
    rewrite,
    walk,
)  # fmt: skip
from faltung.graph.index import Affine, Batch, Extent, always_inside, mixed_radix
from faltung.graph.normal import sums_known, terms
from faltung.graph.scope import Scope
from faltung.graph.show import bar, expression
from faltung.graph.tensor import Step, Tensor, computed

CANDIDATES = "uvwxyzabcdeghlmort"


@dataclass
class Derivation:
    """A contribution to a cotangent, before it is a tensor: equation, operands, and how it came about."""

    equation: Equation
    operands: tuple[Tensor, ...]
    steps: tuple[Step, ...]


def derive(output: Tensor, slot: int, cotangent: Tensor, apart: Container[Tensor] = ()) -> list[Tensor]:
    """Cotangent contributions of operand `slot`, one tensor for each distinct read of it, and place: summed or not.

    `cotangent` has the shape of `output`. A contribution that cancels is a tensor of zeros whose steps say why; what
    defines the tensors of `apart` is not used for that. Raises UnsupportedOp for a reduction without a derivative.
    """
    dtype = output.operands[slot].dtype
    found: list[Tensor] = []
    for eq in output.equations:
        for access, summed in product(eq.read(slot), (False, True)):
            d = _one(output, eq, access, summed, cotangent, apart)
            if d is not None and d.equation.expr is ZERO:
                found.append(zeros(d.equation, dtype, d.steps))
            elif d is not None:
                found.append(computed(d.equation, d.operands, dtype=dtype, op="gradient", derivation=d.steps))
    return found


def zeros(eq: Equation, dtype: str, steps: tuple[Step, ...]) -> Tensor:
    """A tensor of zeros with the reason why. It is not interned, for others are zero for other reasons."""
    t = Tensor("computed", eq.shape, dtype, equations=(eq,), op="gradient")
    t.derivation = steps
    return t


def _one(
    output: Tensor, eq: Equation, access: Access, summed: bool, cotangent: Tensor, apart: Container[Tensor]
) -> Derivation | None:
    scope = Scope(output.operands, eq.operands)
    steps = [Step("equation", str(eq))]
    local = partial(output, eq, access, summed, scope)
    if local is ZERO:
        return None
    y_bar = Access(scope.slot(cotangent, bar(eq.target)), eq.lhs)
    term = _times(y_bar, local)
    shape = output.operands[access.slot].shape
    indices = [*eq.free, *(eq.bound if summed else ())]
    z = _result_names(access, shape, eq)
    name, names = bar(scope.names[access.slot]), tuple(scope.names)
    primed = {i: f"{i}′" if i in z else i for i in eq.extent}
    delta = "".join(f"[{form.substitute({i: Affine.of(p) for i, p in primed.items()})} = {zi}]" for form, zi in zip(access.index, z, strict=True))
    steps.append(Step("chain rule", f"{name}[{','.join(z)}] = {_sum([primed[i] for i in indices], text_of(_primed(term, primed), names) + '·' + delta)}"))
    solved = _solve(eq, access, term, indices, z, shape, steps, scope.tensors)
    result = collect(solved, shape, name, names)
    reason = _cancelled(result, scope, apart)
    if reason is not None:
        steps.append(Step("cancels", reason))
        result = make(result.free, ZERO, dict(result.extents), lhs=result.lhs, shape=shape, target=name)
    return derivation(result, scope, steps)


def _cancelled(eq: Equation, scope: Scope, apart: Container[Tensor]) -> str | None:
    """Why a sum of differences is 0 by what defines the tensors that it reads, or None."""
    reduce = eq.reduce
    if reduce is None or not any(isinstance(e, Apply) and e.fn in ("add", "sub") for e in walk(reduce.body)):
        return None
    reads = [a for a in eq.accesses if scope.tensors[a.slot] not in apart]
    if terms(eq.expr, eq.extent, sums_known(reads, eq.extent, scope)) != {}:
        return None
    read = dict.fromkeys(scope.tensors[a.slot] for a in reads)
    sums = [str(t.equation) for t in read if len(t.equations) == 1 and t.equation.reduce is not None]
    return f"{expression(eq.expr, tuple(scope.names))} = 0, because {' and '.join(sums)}"


def derivation(result: Equation, scope: Scope, steps: Sequence[Step]) -> Derivation:
    """The equation over those operands of the scope that it reads, and the last two steps."""
    used = sorted({a.slot for a in result.accesses})
    result = make(
        result.free, reslot(result.expr, {s: n for n, s in enumerate(used)}), dict(result.extents),
        lhs=result.lhs, shape=result.shape, target=result.target, operands=tuple(result.operands[s] for s in used),
    )  # fmt: skip
    operands = tuple(scope.tensors[s] for s in used)
    last = (Step("simplified", str(result)), Step("recognised as", naming.name(result, [t.shape for t in operands])))
    return Derivation(result, operands, (*steps, *last))


# ---- the local derivative: ∂(expr)/∂(access) as an expression over free and bound indices ----


def partial(output: Tensor, eq: Equation, access: Access, summed: bool, scope: Scope) -> Expr:
    """∂(right side)/∂(read), of the read inside the reduction (`summed`) or of the read outside of it."""
    reduce = eq.reduce
    if not summed:
        outer = differentiate(eq.expr, access, _forward_value(output, eq, scope))
    elif reduce is None or access not in set(walk(reduce.body)):
        return ZERO
    else:
        outer = _times(differentiate(eq.expr, reduce, _forward_value(output, eq, scope)), _inner(output, eq, reduce, access, scope))
    nested = reduction(outer)
    if nested is not None:  # the derivative needs the reduced value itself: an equation of its own
        value = computed(make(eq.free, nested, eq.extent, target="R", operands=eq.operands), output.operands, op="reduce")
        outer = replace(outer, nested, Access(scope.slot(value, "R"), tuple(Affine.of(i) for i in eq.free)))
    return outer


def _inner(output: Tensor, eq: Equation, reduce: Reduce, access: Access, scope: Scope) -> Expr:
    body = differentiate(reduce.body, access, lambda e: e)
    if reduce.kind == "sum":
        return body
    if reduce.kind in ("max", "min"):
        chosen = computed(
            make(eq.free, Reduce("arg" + reduce.kind, reduce.indices, reduce.body), eq.extent,
                 target="A", operands=eq.operands),
            output.operands, dtype="int32", op="arg" + reduce.kind,
        )  # fmt: skip
        at = Access(scope.slot(chosen, "A"), tuple(Affine.of(i) for i in eq.free))
        return _times(apply("eq", at, Value(position(reduce.indices, eq.extent))), _outside_kept(body, access, reduce.kind, eq, output.operands))
    if reduce.kind in ("argmax", "argmin"):
        return ZERO
    raise UnsupportedOp(f"{eq}: a {reduce.kind} reduction has no derivative")


def _outside_kept(factor: Expr, access: Access, kind: str, eq: Equation, operands: Sequence[Tensor]) -> Expr:
    """A factor of a maximum as one of a sum, where reads outside would be 0: they are written as what they were.

    What it is the derivative by has none outside.
    """

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Access) or e is access:
            return None
        inside = ONE
        for form, extent in zip(e.index, operands[e.slot].shape, strict=True):
            if not always_inside(form, extent, eq.extent):
                inside = _times(inside, Inside(form, extent))
        return apply("add", e, _times(const(NEUTRAL[kind]), apply("eq", inside, ZERO))) if inside is not ONE else None

    return rewrite(factor, change)


def position(indices: tuple[str, ...], extents: dict[str, Extent]) -> Affine:
    """Row-major number of a reduction's position: what argmax counts in."""
    total, weight = Affine(), 1
    for i in reversed(indices):
        total = total + Affine.of(i) * weight
        e = extents[i]
        if isinstance(e, Batch) and i != indices[0]:
            raise UnsupportedOp("a maximum over the open batch axis must have it as its first index")
        weight *= 1 if isinstance(e, Batch) else e
    return total


def _forward_value(output: Tensor, eq: Equation, scope: Scope) -> Callable[[Expr], Expr]:
    """y for the derivative rules: the stored output where the node is the whole equation, else recomputed."""

    def value(e: Expr) -> Expr:
        if e is eq.expr and isinstance(e, Apply) and e.fn not in ("add", "sub", "mul", "neg"):
            return Access(scope.slot(output, eq.target), eq.lhs)
        return e

    return value


def differentiate(expr: Expr, wrt: Expr, value: Callable[[Expr], Expr]) -> Expr:
    """∂expr/∂wrt, treating every other read and any other reduction as constant."""
    memo: dict[int, Expr] = {}

    def visit(e: Expr) -> Expr:
        if e is wrt:
            return ONE
        if not isinstance(e, Apply):
            return ZERO
        if id(e) not in memo:
            inner = [visit(a) for a in e.args]
            total = ZERO
            if any(d is not ZERO for d in inner):
                for d, partial in zip(inner, functions.derivative(e.fn, e.args, value(e)), strict=True):
                    if d is not ZERO:
                        total = apply("add", total, _times(partial, d))
            memo[id(e)] = total
        return memo[id(e)]

    return visit(expr)


def _times(a: Expr, b: Expr) -> Expr:
    return apply("mul", a, b)


# ---- removing the delta ----


@dataclass
class Solved:
    """What a sum is collected from: its term, its indices, and the left side."""

    term: Expr
    remaining: list[str]  # indices still summed
    free: list[str]
    lhs: list[Affine]
    extents: dict[str, Extent]


def _result_names(access: Access, shape: tuple[Extent, ...], eq: Equation) -> list[str]:
    """A name for every axis of the result: the index itself where it stands alone, else u, v, w."""
    taken = set(eq.extent)
    names: list[str] = []
    for form in access.index:
        if form.name is not None and form.name not in names:
            names.append(form.name)
        else:
            fresh = next(c for c in [*CANDIDATES, *(f"u{n}" for n in range(99))] if c not in taken and c not in names)
            names.append(fresh)
    return names


def _solve(
    eq: Equation, access: Access, term: Expr, indices: list[str], z: list[str], shape: tuple[Extent, ...],
    steps: list[Step], tensors: Sequence[Tensor],
) -> Solved:  # fmt: skip
    extents = dict(eq.extent)
    remaining = list(indices)
    free: list[str] = []
    lhs: list[Affine] = []
    values: dict[str, Affine] = {}  # solved index → its form over the result's indices
    guards: list[Expr] = []
    texts: list[str] = []
    counts = [n for form in access.index for n in form.names]
    for form, zi, extent in zip(access.index, z, shape, strict=True):
        alone = all(counts.count(n) == 1 for n in form.names)
        if alone and mixed_radix(form, extent, extents):
            free += form.names
            lhs.append(form)
            for n in form.names:
                remaining.remove(n)
            continue
        u = zi if zi not in extents else next(c for c in CANDIDATES if c not in extents and c not in z)
        extents[u] = extent
        free.append(u)
        lhs.append(Affine.of(u))
        now = form.substitute(values)
        pivot = _pivot(now, remaining, eq)
        if pivot is None:
            if not always_inside(now - u, 1, extents):
                guards.append(Inside(now - u, 1))
                texts.append(f"{form} = {u} holds only where {now - u} = 0")
            continue
        # now = (c·pivot + rest)/den = u   →   pivot = (den·u − rest)/c
        c = now.coefficient(pivot)
        rest = Affine.make({n: k for n, k in now.terms if n != pivot}, now.const)
        value = (Affine.of(u) * now.den - rest).over(c)
        values = {n: v.substitute({pivot: value}) for n, v in values.items()} | {pivot: value}
        remaining.remove(pivot)
        texts.append(f"{form} = {u}   →   {pivot} = {value}")
    if texts:
        steps.append(Step("solve the deltas", "; ".join(texts)))
    term = reindex(term, values)
    for n, v in values.items():
        extent = extents[n]
        if not always_inside(v, extent, extents) and (_fragile(term) or not _covered(term, v, extent, tensors)):
            guards.append(Inside(v, extent))
    for guard in guards:
        term = _times(guard, term)
    return Solved(term, remaining, free, lhs, extents)


def _pivot(form: Affine, remaining: list[str], eq: Equation) -> str | None:
    """The index to solve for: an output index first (what stays is the small window), then the largest extent."""
    usable = [n for n in form.names if n in remaining]
    if not usable:
        return None

    def key(n: str) -> tuple[bool, float]:
        e = eq.extent[n]
        return (n in eq.free, float("inf") if isinstance(e, Batch) else e)

    return max(usable, key=key)


def _fragile(term: Expr) -> bool:
    """Whether reads that are 0 because they are outside could make the term infinite, so that a cotangent of 0 does not help."""
    return any(isinstance(e, Apply) and e.fn in ("div", "log") and used_indices(e.args[-1]) for e in walk(term))


def _covered(term: Expr, form: Affine, extent: Extent, tensors: Sequence[Tensor]) -> bool:
    """Whether a read that multiplies the whole term is itself outside (hence 0) when `form` is outside [0, extent).

    The cotangent is read at the left-hand side, so it covers every index that stands there alone.
    """
    factors = [term]
    while factors:
        e = factors.pop()
        if isinstance(e, Apply) and e.fn == "mul":
            factors += e.args
        elif isinstance(e, Apply) and e.fn in ("neg", "div"):
            factors.append(e.args[0])
        elif isinstance(e, Access):
            if any(f == form and n == extent for f, n in zip(e.index, tensors[e.slot].shape, strict=True)):
                return True
    return False


def collect(s: Solved, shape: tuple[Extent, ...], target: str, names: tuple[str, ...]) -> Equation:
    """The equation `target[lhs] = Σ_remaining term`, with what does not depend on a summed index in front."""
    term, kept = s.term, used_indices(s.term)
    idle = [i for i in s.remaining if i not in kept]  # summing a constant over an index multiplies by its extent
    bound = tuple(i for i in s.remaining if i in kept)
    fixed = prod(e for i in idle if not isinstance(e := s.extents[i], Batch))
    expr = Reduce("sum", bound, term) if bound else term
    if bound:
        expr = _outside(term, bound)
    if fixed != 1:
        expr = _times(Const(fixed), expr)
    for i in idle:
        if isinstance(s.extents[i], Batch):
            expr = _times(Size(s.extents[i]), expr)
    return make(tuple(s.free), expr, s.extents, lhs=tuple(s.lhs), shape=shape, target=target, operands=names)


def _outside(term: Expr, bound: tuple[str, ...]) -> Expr:
    """Σ_b a·f = a·Σ_b f for factors a without a bound index that are not reads, so that what is summed is reads only."""
    outer, inner = ONE, ONE
    stack, divide = [term], []
    sign = False
    while stack:
        e = stack.pop(0)
        if isinstance(e, Apply) and e.fn == "mul":
            stack = [*e.args, *stack]
        elif isinstance(e, Apply) and e.fn == "neg":
            sign = not sign
            stack = [e.args[0], *stack]
        elif isinstance(e, Apply) and e.fn == "div" and not used_indices(e.args[1]) & set(bound):
            divide.append(e.args[1])
            stack = [e.args[0], *stack]
        elif used_indices(e) & set(bound):
            inner = _times(inner, e)
        else:
            outer = _times(outer, e)
    expr: Expr = _times(outer, Reduce("sum", bound, inner))
    for d in divide:
        expr = apply("div", expr, d)
    return apply("neg", expr) if sign else expr


def text_of(expr: Expr, names: tuple[str, ...]) -> str:
    """The expression as a factor."""
    from faltung.graph.show import expression

    text = expression(expr, names)
    return f"({text})" if isinstance(expr, Apply) and functions.TABLE[expr.fn].binding == 1 else text


def _primed(term: Expr, names: dict[str, str]) -> Expr:
    return reindex(term, {i: Affine.of(p) for i, p in names.items()})


def _sum(indices: Sequence[str], text: str) -> str:
    return f"Σ_{{{','.join(indices)}}} {text}" if indices else text
