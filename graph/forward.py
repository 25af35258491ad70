"""Forward accumulation: how tensors move when others do. The other direction is grad.py; the calculus is derive.py.

Given     Y[L(f)] = e( Σ_b g(…, X[A(f,b)], …) )          and the tangent Ẋ of X
we have   Ẏ[L(f)] = Σ_b e' · ∂g/∂X · Ẋ[A(f,b)]           nothing is solved: Ẋ is read where X is

one term for each read that moves, so the tangent of a convolution is one or two convolutions. (Two reverse passes give
the same, Ẏ = ∂⟨X̄,Ẋ⟩/∂Ȳ, but by way of a gradient whose deltas are solved to and fro, with more equations.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from faltung.graph.derive import Derivation, Solved, collect, derivation, partial, text_of
from faltung.graph.equation import Equation, make
from faltung.graph.expr import ZERO, Access, Expr, apply, reslot
from faltung.graph.grad import Given, Tree, added, check_floats, fill, gradients, matched, spread
from faltung.graph.index import Affine
from faltung.graph.scope import Scope
from faltung.graph.show import dot, expression
from faltung.graph.tensor import FLOATS, Step, Tensor, computed, topological


def jvp(outputs: Tree, inputs: Tree, tangents: Given) -> Tree:
    """The tangents of `outputs` when `inputs` move by `tangents`: the Jacobian times a vector, J·ẋ.

    `tangents` are tensors or arrays in the form of `inputs` (a tensor, a list or a dict) and of their shapes; the result has
    the form of `outputs`. Inputs may be any tensors of the graph. Raises ShapeError for a tangent of another shape,
    DTypeError for an input that is not of a float type.
    """
    wanted, like = spread("jvp", "outputs", outputs)
    xs, _ = spread("jvp", "inputs", inputs)
    check_floats("jvp", xs)
    return like(_tangents(wanted, dict(zip(xs, matched("jvp", "tangent", inputs, tangents), strict=True))))


def hvp(loss: Tensor, params: Tree, vectors: Given) -> Tree:
    """The Hessian of a scalar `loss` by `params`, times `vectors`: H·v, in the form of `params`, without H.

    It is the tangent of the gradient, so it costs a small multiple of the gradient. Raises ShapeError for a vector
    of another shape than its parameter and for a loss that is no scalar, DTypeError for one that is not of a float type.
    """
    xs, like = spread("hvp", "params", params)
    moved = matched("hvp", "vector", params, vectors)
    return like(_tangents(gradients("hvp", [loss], xs, None), dict(zip(xs, moved, strict=True))))


def _tangents(outputs: list[Tensor], given: Mapping[Tensor, Tensor]) -> list[Tensor]:
    moving = dict(given)
    for t in topological(outputs):
        if t not in given and t.dtype in FLOATS and any(o in moving for o in t.operands):
            found = tangent(t, moving)
            if found is not None:
                moving[t] = found
    return [moving[t] if t in moving else fill(ZERO, t.shape, t.dtype) for t in outputs]


def tangent(output: Tensor, moving: Mapping[Tensor, Tensor]) -> Tensor | None:
    """The tangent of a computed tensor from those of its operands; None when it does not move.

    Raises UnsupportedOp for a reduction without a derivative.
    """
    pieces = [list(_parts(output, eq, moving)) for eq in output.equations]
    if not any(pieces):
        return None
    if len(pieces) > 1:
        return _tiled(output, pieces)
    return added([computed(p.equation, p.operands, dtype=output.dtype, op="tangent", derivation=p.steps) for p in pieces[0]], "tangent")


def _parts(output: Tensor, eq: Equation, moving: Mapping[Tensor, Tensor]) -> list[Derivation]:
    """One term for each read of something that moves, and place: summed or not."""
    found = []
    for access, summed in product(eq.accesses, (False, True)):
        moved = moving.get(output.operands[access.slot])
        if moved is None:
            continue
        scope = Scope(output.operands, eq.operands)
        local = partial(output, eq, access, summed, scope)
        if local is ZERO:
            continue
        name = scope.names[access.slot]
        read = expression(access, eq.operands)
        steps = [Step("equation", str(eq)), Step("local derivative", f"∂{eq.target}/∂{read} = {text_of(local, tuple(scope.names))}")]
        term = apply("mul", local, Access(scope.slot(moved, dot(name)), access.index))
        indices = list(eq.bound) if summed else []
        result = collect(Solved(term, indices, list(eq.free), list(eq.lhs), dict(eq.extents)), eq.shape, dot(eq.target), tuple(scope.names))
        found.append(derivation(result, scope, steps))
    return found


def _tiled(output: Tensor, pieces: list[list[Derivation]]) -> Tensor:
    """The tangent of a tensor that several equations tile: each piece the sum of its terms."""
    scope = Scope()
    equations = []
    for eq, parts in zip(output.equations, pieces, strict=True):
        if len(parts) == 1:
            (part,) = parts
            slots = {n: scope.slot(t, part.equation.operands[n]) for n, t in enumerate(part.operands)}
            equations.append(replace(part.equation, expr=reslot(part.equation.expr, slots)))
            continue
        expr: Expr = ZERO
        at = tuple(Affine.of(i) for i in eq.free)
        for n, part in enumerate(parts):  # terms that each may be a sum: tensors over the free indices of the piece
            plain = make(eq.free, part.equation.expr, dict(part.equation.extents), target=f"T{n}", operands=part.equation.operands)
            term = computed(plain, part.operands, dtype=output.dtype, op="tangent", derivation=part.steps)
            expr = apply("add", expr, Access(scope.slot(term, f"T{n}"), at))
        equations.append(make(eq.free, expr, dict(eq.extents), lhs=eq.lhs, shape=eq.shape, target=dot(eq.target)))
    named = [replace(eq, operands=tuple(scope.names)) for eq in equations]
    return computed(named, scope.tensors, dtype=output.dtype, op="tangent")
