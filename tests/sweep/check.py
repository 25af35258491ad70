"""One configuration through the compiler: the result, its first and its second derivatives, against the oracle alone.

With D_v y the derivative of the oracle's y along v, cotangent c, ḡ the compiled gradients of ⟨y, c⟩ and φ = ⟨ḡ, w⟩,

    y = oracle        ⟨c, D_v y⟩ = ⟨ḡ, v⟩        ∂φ/∂c = D_w y        ⟨∂φ/∂x, u⟩ = D_u φ

D is a central difference, exact for polynomials of degree 2 at step 1 and between kinks at a small step that is a power
of two: on whole numbers these comparisons are `==`. The second line is the adjoint identity of a linear map.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import faltung as ft
from faltung.codegen import target as targets
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor
from tests.sweep.configurations import Configuration, configuration
from tests.sweep.families import DISCRETE, KINKED, POLYNOMIAL, SMOOTH
from tests.sweep.oracles import Array

RUNNABLE = [row.name for row in targets.TABLE if targets.runs_here(row)]
STEPS = {POLYNOMIAL: (1.0,), KINKED: (2.0**-6,), SMOOTH: (1e-6, 1e-7)}  # the second where the first crosses a kink


def of(seed: int) -> Configuration:
    """The configuration of a seed, for the targets of this machine."""
    return configuration(seed, len(RUNNABLE))


def graph(c: Configuration) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs [y, gradients, second derivatives] and leaves [operands, cotangent, weights of the gradients]."""
    xs = c.leaves()
    y = c.build(*xs)
    if c.curve == DISCRETE and c.gradient is None:
        return [y], xs
    cotangent = ft.input("c", tuple(None if isinstance(e, Batch) else e for e in y.shape), c.dtype)
    first = ft.grad(y, xs, cotangent)
    if c.curve == DISCRETE:
        return [y, *first], [*xs, cotangent]
    weights = [ft.input(f"w{n}", tuple(None if isinstance(e, Batch) else e for e in x.shape), c.dtype) for n, x in enumerate(xs)]
    phi = (first[0] * weights[0]).sum()
    for g, w in zip(first[1:], weights[1:], strict=True):
        phi = phi + (g * w).sum()
    return [y, *first, *ft.grad(phi, [*xs, cotangent])], [*xs, cotangent, *weights]


def compiled(c: Configuration, outputs: Sequence[Tensor]) -> ft.Model:
    """The outputs for the configuration's target."""
    old = os.environ.get("FALTUNG_TARGET")
    os.environ["FALTUNG_TARGET"] = RUNNABLE[c.target]
    try:
        return ft.compile(list(outputs))
    finally:
        if old is None:
            del os.environ["FALTUNG_TARGET"]
        else:
            os.environ["FALTUNG_TARGET"] = old


def faults(c: Configuration) -> list[str]:
    """What is wrong with a configuration; nothing, if all is well."""
    outputs, leaves = graph(c)
    model = compiled(c, outputs)
    names = {t.name for t in model.inputs}
    operands = c.operands()

    def run(values: Sequence[Array], rest: Sequence[Array]) -> list[Array]:
        given = {}
        for t, v in zip(leaves, [*values, *rest], strict=True):
            if t.kind == "parameter":
                t.assign(v)
            elif t.name in names:
                given[t.name] = v
        return [np.asarray(r, np.float64) for r in model(**given)]

    y = c.oracle(*operands)
    count = len(operands)
    if len(outputs) == 1:
        return _different("y", run(operands, [])[0], y, c)
    cotangent, *weights = c.directions(1, [y.shape, *(v.shape for v in operands)])
    if c.curve == DISCRETE:
        assert c.gradient is not None
        got = run(operands, [cotangent])
        return [*_different("y", got[0], y, c), *_different("gradient", got[1], c.gradient(*operands, cotangent), c)]
    got = run(operands, [cotangent, *weights])

    def along(what: str, measured: Array, f: Callable[..., Array], at: Sequence[Array], direction: Sequence[Array]) -> list[str]:
        tried = [_different(what, measured, np.asarray(_derivative(f, at, direction, step)), c) for step in STEPS[c.curve]]
        return min(tried, key=len)

    found = _different("y", got[0], y, c)
    first, second = got[1 : 1 + count], got[1 + count :]

    def weighted(*values: Array) -> Array:
        return np.asarray((cotangent * c.oracle(*values)).sum())

    for n in range(count):
        v = c.directions(2 + n, [operands[n].shape])[0]
        one = [v if m == n else np.zeros_like(operands[m]) for m in range(count)]
        found += along(f"⟨gradient {n}, v⟩", np.asarray((first[n] * v).sum()), weighted, operands, one)
    found += along("∂φ/∂c", second[-1], c.oracle, operands, weights)
    moves = c.directions(9, [v.shape for v in operands])

    def phi(*values: Array) -> Array:
        gradients = run(values, [cotangent, *weights])[1 : 1 + count]
        return np.asarray(sum((g * w).sum() for g, w in zip(gradients, weights, strict=True)))

    second_along = np.asarray(sum((s * u).sum() for s, u in zip(second[:-1], moves, strict=True)))
    return found + along("⟨∂φ/∂x, u⟩", second_along, phi, operands, moves)


def _derivative(f: Callable[..., Array], at: Sequence[Array], along: Sequence[Array], step: float) -> Any:
    """The derivative along a direction, by a central difference."""
    ahead = f(*(a + step * v for a, v in zip(at, along, strict=True)))
    behind = f(*(a - step * v for a, v in zip(at, along, strict=True)))
    return (ahead - behind) / (2 * step)


def _different(what: str, got: Array, want: Array, c: Configuration) -> list[str]:
    """Whole numbers must be equal; others must be near, in proportion to the largest."""
    if got.shape != np.shape(want):
        return [f"{what} has shape {got.shape}, expected {np.shape(want)}"]
    if not got.size or np.array_equal(got, want):
        return []
    worst = np.max(np.abs(got - want)) / (1 + np.max(np.abs(want)))
    exact = c.curve != SMOOTH and not c.rounded
    tolerance = 0.0 if exact else 1e-5 if c.dtype == "float32" else 1e-6 if c.curve == SMOOTH else 1e-12
    if worst <= tolerance:
        return []
    at = np.unravel_index(np.argmax(np.abs(got - want)), got.shape)
    return [f"{what}: {got[at]} at {[int(i) for i in at]}, expected {want[at]} (off by {worst:.1e} of the largest)"]
