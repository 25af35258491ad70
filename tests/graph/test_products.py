"""Jacobian and Hessian times vectors: along a direction they are what differences say, and the two directions agree.

With y' = jvp along v, ȳ·y' = (vjp of ȳ)·v; with H symmetric, u·(H v) = v·(H u).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung.graph import dsl
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.show import dot
from faltung.graph.tensor import Tensor, topological
from tests.check import Array, distinct, integers, leaves
from tests.graph.cases import FEW, PLANES, POOLS, SMALL, SOLIDS, Case
from tests.graph.test_convolution_family import FAMILY

ALL = [*FEW, *FAMILY]


def whole(case: Case) -> bool:
    return bool(case.degree) and case.op not in ("mean", "avg_pool")


def fills(case: Case, seed: int) -> list[Array]:
    fill = integers if whole(case) else distinct
    return [fill(a.shape, seed + n) for n, a in enumerate(case.arrays)]


def value(outputs: Any, xs: Sequence[Tensor], arrays: Sequence[Array]) -> Any:
    with np.errstate(all="ignore"):  # 1/0 under a false bracket is no error
        return evaluate(outputs, dict(zip(xs, arrays, strict=True)))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_jvp_is_the_difference_along_the_tangent(case: Case) -> None:
    xs, along = leaves(case.arrays), fills(case, 30)
    y = case.build(*xs)
    derived = value(ft.jvp(y, xs, along), xs, case.arrays)
    eps = 1.0 if whole(case) else 1e-6
    ahead, behind = (value(y, xs, [a + s * eps * v for a, v in zip(case.arrays, along, strict=True)]) for s in (1, -1))
    difference = (ahead - behind) / (2 * eps)
    if whole(case):
        assert np.array_equal(derived, difference)
    else:
        assert np.abs(derived - difference).max() <= 3e-7 * (1 + np.abs(difference).max())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_both_directions_agree(case: Case) -> None:
    """⟨c, J v⟩ = ⟨Jᵀ c, v⟩, in whole numbers exactly."""
    xs, along = leaves(case.arrays), fills(case, 31)
    y = case.build(*xs)
    c = (integers if whole(case) else distinct)(y.shape, 32)
    forward, *back = value([ft.jvp(y, xs, along), *ft.vjp(y, xs, c)], xs, case.arrays)
    left, right = (c * forward).sum(), sum((g * v).sum() for g, v in zip(back, along, strict=True))
    assert left == right if whole(case) else abs(left - right) <= 1e-11 * (1 + abs(left))


def scalar(case: Case) -> tuple[list[Tensor], Tensor, Tensor]:
    """Inputs, the result y and ⟨c, y·y⟩, which is curved even where the op is linear."""
    xs = leaves(case.arrays)
    y = case.build(*xs)
    c = dsl.constant((integers if whole(case) else distinct)(y.shape, 33), dtype="float64")
    return xs, y, (c * y * y).sum()


@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_hessian_is_symmetric(case: Case) -> None:
    xs, _, loss = scalar(case)
    u, v = fills(case, 34), fills(case, 35)
    found = value([*ft.hvp(loss, xs, u), *ft.hvp(loss, xs, v)], xs, case.arrays)
    hu, hv = found[: len(xs)], found[len(xs) :]
    assert [h.shape for h in hu] == [a.shape for a in case.arrays]
    left, right = (sum((a * b).sum() for a, b in zip(p, q, strict=True)) for p, q in ((hu, v), (hv, u)))
    assert left == right if whole(case) else abs(left - right) <= 1e-9 * (1 + abs(left))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_hvp_is_the_difference_of_the_gradient(case: Case) -> None:
    xs, _, loss = scalar(case)
    v, u = fills(case, 36), fills(case, 37)
    gradient = ft.grad(loss, xs)
    derived = sum((h * w).sum() for h, w in zip(value(ft.hvp(loss, xs, v), xs, case.arrays), u, strict=True))

    def phi(t: float) -> Any:
        found = value(gradient, xs, [a + t * d for a, d in zip(case.arrays, v, strict=True)])
        return sum((g * w).sum() for g, w in zip(found, u, strict=True))

    if whole(case) and case.degree == 1:  # the gradient is linear
        assert derived == (phi(1.0) - phi(-1.0)) / 2
    else:
        difference = (phi(1e-5) - phi(-1e-5)) / 2e-5
        assert abs(derived - difference) <= 1e-6 * (1 + abs(difference))


COMPILED = [*PLANES[1:4:2], SOLIDS[1], POOLS[-8], *[c for c in SMALL if c.op not in ("sum", "mean", "transpose", "reshape")][::4], *FAMILY[::3]]


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiled_products_are_the_evaluated_ones(case: Case) -> None:
    xs, y, loss = scalar(case)
    vs = [ft.input(f"v{n}", x.shape, "float64") for n, x in enumerate(xs)]
    outputs = [ft.jvp(y, xs, vs), *ft.hvp(loss, xs, vs)]
    arrays = [*case.arrays, *fills(case, 38)]
    model = ft.compile(outputs)
    given = dict(zip([*xs, *vs], arrays, strict=True))
    for got, want in zip(model(*(given[t] for t in model.inputs)), value(outputs, [*xs, *vs], arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10 * (1 + np.abs(want).max()))


# ---- a network ----


def network() -> tuple[Tensor, dict[str, Tensor], dict[Tensor, Array]]:
    x, t = ft.input("x", (None, 2, 6, 6), "float64"), ft.input("t", (None,), "int64")
    shapes = {"k": (3, 2, 3, 3), "w": (3,), "b": (3,), "o": (4, 27)}
    params = {name: ft.input(name, shape, "float64") for name, shape in shapes.items()}
    y = ft.tanh(ft.batch_norm(ft.conv2d(x, params["k"], padding=1), None, None, params["w"], params["b"], training=True))
    loss = ft.cross_entropy(ft.linear(ft.flatten(ft.avg_pool2d(y, 2)), params["o"]), t)
    feed = {p: distinct(p.shape, n) for n, p in enumerate(params.values())} | {x: distinct((5, 2, 6, 6), 9), t: np.array([0, 3, 1, 2, 3])}
    return loss, params, feed


def test_the_hessian_of_a_network() -> None:
    """Forwards over backwards equals backwards over backwards and the difference, with an open batch, compiled and not."""
    loss, params, feed = network()
    vectors = {name: ft.input(f"v{name}", p.shape, "float64") for name, p in params.items()}
    feed |= {v: distinct(v.shape, 20 + n) for n, v in enumerate(vectors.values())}
    product = ft.hvp(loss, params, vectors)
    assert list(product) == list(params)
    slope: Tensor | None = None
    for name, g in ft.grad(loss, params).items():
        part = (g * vectors[name]).sum()
        slope = part if slope is None else slope + part
    assert slope is not None
    backwards = ft.grad(slope, params)
    first, second = evaluate(list(product.values()), feed), evaluate(list(backwards.values()), feed)
    model = ft.compile(list(product.values()))
    third = model(*(feed[t] for t in model.inputs))

    def gradient(t: float) -> Any:
        return evaluate(list(ft.grad(loss, params).values()), feed | {p: feed[p] + t * feed[vectors[n]] for n, p in params.items()})

    for a, b, c, ahead, behind in zip(first, second, third, gradient(1e-5), gradient(-1e-5), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(a, c, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(a, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


def test_it_costs_no_more_than_two_reverse_passes() -> None:
    loss, params, _ = network()
    v = {name: ft.input(f"v{name}", p.shape, "float64") for name, p in params.items()}
    c = ft.input("c", (), "float64")
    total = sum((g * v[n]).sum() for n, g in ft.grad(loss, params, c).items())

    def count(t: Tensor) -> int:
        return sum(len(u.equations) for u in topological([t]))

    assert count(ft.jvp(loss, params, v)) < count(ft.grad(total, c))  # type: ignore[call-overload]


# ---- forms, steps, errors ----


def test_the_tangent_of_a_convolution_is_a_convolution() -> None:
    x, k = dsl.input("x", (None, 2, 5, 5)), dsl.input("k", (3, 2, 3, 3))
    moved = ft.jvp(dsl.conv2d(x, k, stride=2, padding=1), x, dsl.input("v", (None, 2, 5, 5)))
    assert str(moved.equation) == f"{dot('Y')}[n,f,i,j] = Σ_{{c,p,q}} K[f,c,p,q]·{dot('X')}[n,c,2·i+p-1,2·j+q-1]"
    assert [s.title for s in moved.steps()] == ["equation", "local derivative", "simplified", "recognised as"]
    assert moved.steps()[-1].text == "2-D convolution, stride 2"
    assert moved.latex().startswith(r"\dot{Y}_{n, f, i, j} = ")


def test_results_have_the_form_of_what_is_asked_for() -> None:
    x, w = dsl.input("x", (2, 3), "float64"), dsl.input("w", (4, 3), "float64")
    y = dsl.linear(x, w)
    vx, vw = np.ones((2, 3)), np.ones((4, 3))
    assert isinstance(ft.jvp(y, x, vx), Tensor)
    assert [t.shape for t in ft.jvp([y, x], [x, w], [vx, vw])] == [(2, 4), (2, 3)]
    assert list(ft.jvp({"out": y}, {"a": x, "b": w}, {"b": vw, "a": vx})) == ["out"]
    assert ft.vjp([y, y], x, [np.ones((2, 4)), np.ones((2, 4))]).shape == (2, 3)
    assert list(ft.vjp({"y": y}, {"a": x, "b": w}, {"y": np.ones((2, 4))})) == ["a", "b"]
    at = {x: integers((2, 3)), w: integers((4, 3), 1)}
    double = evaluate(ft.vjp([y, y], x, [np.ones((2, 4)), np.ones((2, 4))]), at, EXACT)
    assert np.array_equal(double, 2 * evaluate(ft.vjp(y, x, np.ones((2, 4))), at, EXACT))


def test_what_does_not_depend_on_the_inputs_does_not_move() -> None:
    x, z = dsl.input("x", (3,), "float64"), dsl.input("z", (None, 2), "float64")
    assert evaluate(ft.jvp(z, x, np.ones(3)), {z: np.ones((4, 2))}).tolist() == np.zeros((4, 2)).tolist()
    assert evaluate(ft.jvp(dsl.argmax(x), x, np.ones(3)), {x: np.ones(3)}) == 0
    assert evaluate(ft.jvp(x, x, [1, 2, 3]), {x: np.ones(3)}).tolist() == [1, 2, 3]


def test_inputs_may_lie_inside_the_graph() -> None:
    x = dsl.input("x", (3,), "float64")
    inner = x * x
    moved = ft.jvp((inner * inner).sum(), inner, np.array([1.0, 2.0, 3.0]))
    assert evaluate(moved, {x: [1, 2, 3]}, EXACT) == 2 * (1 * 1 + 4 * 2 + 9 * 3)


X, K, LABELS = dsl.input("x", (2, 3)), dsl.input("k", (4, 3)), dsl.input("t", (2,), "int64")
Y = dsl.linear(X, K)

#  what is wrong                                                         what is said
ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: ft.jvp(Y, X, np.ones((3, 2))),                              ft.ShapeError, r"the tangent has shape \[3, 2\], but x has shape \[2, 3\]"),
    (lambda: ft.jvp(Y, [X, K], [np.ones((2, 3))]),                       ft.ShapeError, "give 2 tangents in a list, one for each tensor; got 1"),
    (lambda: ft.jvp(Y, {"a": X}, {"b": np.ones((2, 3))}),                ft.ShapeError, r"a tangent for each of \['a'\].*got \['b'\]"),
    (lambda: ft.jvp(Y, LABELS, np.ones(2)),                              ft.DTypeError, "t is int64; only float tensors"),
    (lambda: ft.jvp(Y, "x", np.ones(2)),                                 ft.DTypeError, "inputs must be a tensor, a list or a dict"),
    (lambda: ft.jvp(Y, X, dsl.constant(np.ones((2, 3)), "", "int64")),   ft.DTypeError, "the tangent is int64, but x is float32"),
    (lambda: ft.vjp(Y, X, np.ones((2, 3))),                              ft.ShapeError, r"the cotangent has shape \[2, 3\], but its tensor has shape \[2, 4\]"),
    (lambda: ft.hvp(Y, X, np.ones((2, 3))),                              ft.ShapeError, r"the loss has shape \[2, 4\]; reduce it to a scalar"),
    (lambda: ft.hvp(Y.sum(), X, np.ones(3)),                             ft.ShapeError, r"the vector has shape \[3\], but x has shape \[2, 3\]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "said"), ERRORS)
def test_errors_do_the_arithmetic(call: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        call()
