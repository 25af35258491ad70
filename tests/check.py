"""Oracles shared by the tests: fills, central differences by random projection, tiles that cover.

A gradient is checked along one random direction v: with φ(t) = ⟨c, f(x + t·v)⟩

    (φ(ε) − φ(−ε)) / 2ε   =   Σ_k ⟨x̄_k, v_k⟩

Every element of every gradient takes part in the one number, so one direction finds any wrong element. For f of
degree at most 2 along v the left side is exact at ε = 1, and on small integers the comparison is `==`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.evaluate import FLOAT, Arithmetic, evaluate
from faltung.graph.grad import grad
from faltung.graph.index import Batch, Shape
from faltung.graph.tensor import Tensor

Array = np.ndarray[Any, Any]
Build = Callable[..., Tensor]


# ---- fills ----


def integers(shape: Sequence[int], seed: int = 0, low: int = -3, high: int = 3) -> Array:
    """Small whole numbers in float64: sums of their products are exact in any order, also in float32."""
    return np.random.default_rng(seed).integers(low, high, tuple(shape), endpoint=True).astype(np.float64)


def distinct(shape: Sequence[int], seed: int = 0) -> Array:
    """Distinct numbers in (−1, 1), a step apart from each other and half a step from 0: no kink is near."""
    count = int(np.prod(tuple(shape)))
    steps = np.random.default_rng(seed).permutation(count) - (count - 1) // 2
    return ((steps - 0.5) / (count / 2 + 1)).reshape(tuple(shape))


def positive(shape: Sequence[int], seed: int = 0) -> Array:
    """Distinct numbers in (1/2, 3/2), for logarithms, roots and denominators."""
    return 1 + distinct(shape, seed) / 2


def leaves(arrays: Sequence[Array]) -> list[Tensor]:
    """A float64 input for each array."""
    return [dsl.input(f"x{n}", a.shape, "float64") for n, a in enumerate(arrays)]


# ---- derivatives ----


def gradients(build: Build, arrays: Sequence[Array], seed: int = 7) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """The output, its inputs, the derived gradients, and the cotangent input c that weights the output."""
    xs = leaves(arrays)
    y = build(*xs)
    c = dsl.input("c", y.shape, "float64")
    return y, xs, grad(y, xs, c), c


def assert_gradient(
    build: Build, arrays: Sequence[Array], *, eps: float = 1e-6, tolerance: float = 1e-7, seed: int = 7
) -> None:
    """The derived gradient of `build` at `arrays` equals the central difference; `==` when eps is 1."""
    y, xs, gs, c = gradients(build, arrays)
    for x, g in zip(xs, gs, strict=True):
        assert g.shape == x.shape, f"the gradient of {x.shape} has shape {g.shape}"
    fill = integers if eps == 1 else distinct
    weights = fill(sized(y.shape, 1), seed)
    directions = [fill(a.shape, seed + 1 + n) for n, a in enumerate(arrays)]

    def phi(t: float) -> Any:
        moved = {x: a + t * v for x, a, v in zip(xs, arrays, directions, strict=True)}
        return (weights * evaluate(y, moved)).sum()

    here = {**dict(zip(xs, arrays, strict=True)), c: weights}
    with np.errstate(all="ignore"):  # 1/0 under a false bracket is no error
        difference = (phi(eps) - phi(-eps)) / (2 * eps)
        derived = sum((g * v).sum() for g, v in zip(evaluate(gs, here), directions, strict=True))
    shown = "\n".join(str(eq) for g in gs for eq in g.equations)
    if eps == 1:
        assert derived == difference, shown
    else:
        scale = 1 + abs(difference)
        assert abs(derived - difference) <= tolerance * scale, f"{derived} derived, {difference} measured\n{shown}"


def tangent(build: Build, arrays: Sequence[Array], seed: int = 17) -> tuple[Build, list[Array]]:
    """⟨gradient of `build`, w⟩ as a function of its inputs and of the cotangent: its gradient is of second order."""
    y = build(*leaves(arrays))
    whole = all(float(a).is_integer() for array in arrays for a in array.ravel())
    fill = integers if whole else distinct
    weights = [fill(a.shape, seed + n) for n, a in enumerate(arrays)]

    def directed(*inputs: Tensor) -> Tensor:
        *xs, c = inputs
        total: Tensor | None = None
        for g, w in zip(grad(build(*xs), xs, c), weights, strict=True):
            part = (g * dsl.constant(w, dtype="float64")).sum()
            total = part if total is None else total + part
        assert total is not None
        return total

    return directed, [*arrays, fill(sized(y.shape, 1), seed - 1)]


def assert_second(build: Build, arrays: Sequence[Array], *, eps: float = 1e-6, tolerance: float = 1e-7) -> None:
    """The gradient of the gradient equals the central difference of the gradient."""
    directed, more = tangent(build, arrays)
    assert_gradient(directed, more, eps=eps, tolerance=tolerance)


# ---- values ----


def sized(shape: Shape, batch: int) -> tuple[int, ...]:
    """A shape with the open batch size filled in."""
    return tuple(batch if isinstance(e, Batch) else e for e in shape)


def assert_same(before: Any, after: Any) -> None:
    """Equal arrays, element by element, NaN equal to NaN: exact numbers exactly, floats bit for bit up to the sign of 0."""
    assert np.shape(before) == np.shape(after)
    equal = (before == after) | ((before != before) & (after != after))
    assert np.all(equal), f"{np.sum(~np.asarray(equal, dtype=bool))} of {np.size(before)} elements differ:\n{before}\n{after}"


def hits(t: Tensor, batch: int, arithmetic: Arithmetic = FLOAT) -> Array:
    """How often the equations of a tensor write each element: 1 everywhere when they tile it."""
    from faltung.graph.equation import make
    from faltung.graph.evaluate import run
    from faltung.graph.expr import ONE

    count = np.zeros(sized(t.shape, batch))
    for eq in t.equations:
        once = np.zeros_like(count)
        run(make(eq.free, ONE, eq.extent, lhs=eq.lhs, shape=eq.shape), [], once, batch, arithmetic)
        points = np.prod([float(e) for e in sized(tuple(eq.extent[i] for i in eq.free), batch)])
        assert once.sum() == points, f"{eq} writes an element twice"
        count += once
    return count
