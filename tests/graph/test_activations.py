"""Activations: values against their definitions, derivatives at the bends as PyTorch has them, dropout's bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.expr import apply, const
from faltung.graph.functions import BITS, TABLE, mixed
from faltung.graph.grad import grad

POINTS = np.array([-50.0, -6, -3, -2, -1, -0.5, -1e-9, 0, 1e-9, 0.3, 1, 2, 3, 6, 21, 50])
phi = np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)

# the function, its definition, and its derivative at its bends {point: derivative}
TABLED: list[tuple[str, Callable[[Any], ft.Tensor], Callable[[Any], Any], dict[float, float]]] = [
    ("relu6", ft.relu6, lambda x: np.clip(x, 0, 6), {0: 0, 6: 0}),
    ("hardtanh", lambda x: ft.hardtanh(x, -2, 1), lambda x: np.clip(x, -2, 1), {-2: 0, 1: 0}),
    ("leaky_relu", ft.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x), {0: 0.01}),
    ("prelu", lambda x: ft.prelu(x, np.array([0.25])), lambda x: np.where(x > 0, x, 0.25 * x), {0: 0.25}),
    ("elu", lambda x: ft.elu(x, 2), lambda x: np.where(x > 0, x, 2 * np.expm1(np.minimum(x, 0))), {0: 2}),
    ("celu", lambda x: ft.celu(x, 2), lambda x: np.where(x > 0, x, 2 * np.expm1(np.minimum(x, 0) / 2)), {0: 1}),
    ("selu", ft.selu, lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543773 * np.expm1(np.minimum(x, 0))), {0: 1.7580993408473766}),
    ("gelu", ft.gelu, lambda x: x * phi(x), {0: 0.5}),
    ("gelu tanh", lambda x: ft.gelu(x, "tanh"), lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2, {0: 0.5}),
    ("silu", ft.silu, lambda x: x / (1 + np.exp(-x)), {0: 0.5}),
    ("mish", ft.mish, lambda x: x * np.tanh(np.log1p(np.exp(x))), {0: 0.6}),
    ("hardsigmoid", ft.hardsigmoid, lambda x: np.clip(x + 3, 0, 6) / 6, {-3: 0, 3: 0}),
    ("hardswish", ft.hardswish, lambda x: x * np.clip(x + 3, 0, 6) / 6, {-3: 0, 3: 1}),
    ("softplus", ft.softplus, lambda x: np.where(x > 20, x, np.logaddexp(0, x)), {0: 0.5, 21: 1}),
    ("softplus, beta", lambda x: ft.softplus(x, 2, 1), lambda x: np.where(2 * x > 1, x, np.log1p(np.exp(np.minimum(2 * x, 1))) / 2), {0: 0.5, 1: 1}),
    ("logsigmoid", ft.logsigmoid, lambda x: -np.logaddexp(0, -x), {0: 0.5}),
    ("softsign", ft.softsign, lambda x: x / (1 + abs(x)), {0: 1}),
    ("erf", ft.erf, np.vectorize(math.erf), {0: 2 / math.sqrt(math.pi)}),
]


@pytest.mark.parametrize(("name", "function", "definition", "bends"), TABLED, ids=[row[0] for row in TABLED])
def test_values_and_bends(name: str, function: Any, definition: Any, bends: dict[float, float]) -> None:
    x = ft.input("x", (None,), "float64")
    y = function(x)
    slope = grad(y.sum(), x)
    np.testing.assert_allclose(evaluate(y, {x: POINTS}), definition(POINTS), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(evaluate(slope, {x: list(bends)}), list(bends.values()), rtol=1e-12)
    assert np.isnan(evaluate(y, {x: [np.nan]})).all(), "NaN stays NaN"


def test_prelu_of_channels() -> None:
    x, w = ft.input("x", (2, 3, 2), "float64"), ft.input("w", (3,), "float64")
    values, weights = np.arange(12.0).reshape(2, 3, 2) - 6, np.array([0.5, 2, -1])
    expected = np.where(values > 0, values, weights[None, :, None] * values)
    np.testing.assert_array_equal(evaluate(ft.prelu(x, w), {x: values, w: weights}), expected)
    assert evaluate(grad(ft.prelu(x, w).sum(), w), {x: values, w: weights}).tolist() == [-11, -7, -3]


def test_new_scalar_functions_have_every_column() -> None:
    sympy = pytest.importorskip("sympy")
    a = sympy.Symbol("a")
    for name in ("erf", "expm1", "softplus"):
        row = TABLE[name]
        symbolic = row.symbolic(sympy, a)
        x = ft.input("x", (), "float64")
        from faltung.graph.ops.table import define

        slope = grad(define(f"Y[] = {name}(X[])")(x), x)
        for at in (-2.0, -0.1, 0.7, 3.0):
            assert float(row.numpy(at)) == pytest.approx(float(symbolic.subs(a, at)), rel=1e-12)
            assert float(evaluate(slope, {x: at})) == pytest.approx(float(sympy.diff(symbolic, a).subs(a, at)), rel=1e-12)


# ---- layers ----


def test_layers_are_their_functions() -> None:
    x = ft.input("x", (2, 3), "float64")
    assert nn.LeakyReLU(0.2)(x) is ft.leaky_relu(x, 0.2)
    assert nn.GELU(approximate="tanh")(x) is ft.gelu(x, "tanh")
    assert nn.Hardtanh(-2, 2, True)(x) is ft.hardtanh(x, -2, 2)
    assert nn.ReLU(inplace=True)(x) is ft.relu(x)
    assert repr(nn.ELU(0.5)) == "ELU(alpha=0.5)" and repr(nn.ReLU()) == "ReLU()"
    assert list(nn.PReLU(3).state_dict()) == ["weight"]
    with pytest.raises(TypeError, match="LeakyReLU takes negative_slope, inplace"):
        nn.LeakyReLU(slope=1)


# ---- dropout ----


def test_random_is_well_mixed() -> None:
    """Means and correlations of neighbours, steps and keys within five standard deviations of independent bits."""
    i = np.arange(1 << 16, dtype=np.uint64)
    streams = [mixed(i, np.uint64(t), np.uint64(k)) / 2.0**BITS for t, k in ((0, 0), (1, 0), (0, 1), (2**31, 5))]
    for u in streams:
        assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / u.size)
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5 / math.sqrt(u.size)
        counts = np.bincount((u * 256).astype(int), minlength=256)
        assert ((counts - 256.0) ** 2 / 256).sum() < 255 + 5 * math.sqrt(2 * 255)
    for u, v in ((a, b) for n, a in enumerate(streams) for b in streams[:n]):
        assert abs(np.corrcoef(u, v)[0, 1]) < 5 / math.sqrt(u.size)
    assert int(mixed(3, 1, 4)) == int(mixed(np.uint64(3), np.uint64(1), np.uint64(4))), "the same in Python and NumPy"


def test_dropout() -> None:
    x, step = ft.input("x", (None, 50, 40), "float64"), ft.input("step", (), "int64")
    y = ft.dropout(x, 0.25, step=step, key=9)
    ones = np.ones((3, 50, 40))
    first, again, other = (evaluate(y, {x: ones, step: s}) for s in (0, 0, 1))
    assert set(np.unique(first)) == {0.0, 4 / 3}
    assert abs((first == 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / ones.size)
    assert (first == again).all() and 0.3 < (first != other).mean() < 0.45
    np.testing.assert_array_equal(evaluate(grad(y.sum(), x), {x: 5 * ones, step: 0}), first)
    assert (evaluate(y, {x: ones, step: 0}, EXACT) == np.where(first > 0, 4 / 3, 0)).sum() > 0
    assert ft.dropout(x, 0.25, training=False) is x and ft.dropout(x, 0) is x
    assert not evaluate(ft.dropout(x, 1), {x: ones}).any()
    assert np.isfinite(evaluate(ft.dropout(x, 1), {x: ones * np.nan})).all()


def test_dropout_of_channels() -> None:
    x = ft.input("x", (8, 16, 3, 3), "float64")
    kept = evaluate(nn.Dropout2d(0.5)(x), {x: np.ones((8, 16, 3, 3))}) > 0
    assert (kept.all((2, 3)) | ~kept.any((2, 3))).all()
    assert 0 < kept.mean() < 1


def test_products_of_long_decimals_come_to_an_end() -> None:
    """selu of selu multiplies constants that no short decimal writes: they stay products, exact ones."""
    a, b, c = (const(v) for v in (1.6732632423543773, 1.0507009873554805, 1.7580993408473766))
    x = ft.input("x", (3,), "float64")
    first = grad(ft.selu(ft.selu(-x)).sum(), x)
    assert len({apply("mul", apply("mul", a, b), c), apply("mul", a, apply("mul", b, c))}) == 1
    values = np.array([0.5, -0.25, 2.0])
    step = 1e-6
    measured = [evaluate(ft.selu(ft.selu(-x)), {x: values + sign * step}) for sign in (1, -1)]
    np.testing.assert_allclose(ft.compile(first)(values), (measured[0] - measured[1]) / (2 * step), rtol=1e-7)


def test_dropout_layers_choose_for_themselves_and_repeatably() -> None:
    def masks() -> list[Any]:
        ft.manual_seed(3)
        layers, x = (nn.Dropout(), nn.Dropout()), ft.input("x", (40, 40), "float64")
        return [evaluate(layer(x), {x: np.ones((40, 40))}) for layer in (*layers, layers[0])]

    one, two, three = masks()
    assert (one != two).mean() > 0.4 and (one != three).mean() > 0.4
    assert all((a == b).all() for a, b in zip((one, two, three), masks(), strict=True))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda x: ft.dropout(x, 1.5), ft.DTypeError, "p=1.5 is no probability"),
        (lambda x: nn.Dropout(-1), ft.DTypeError, "p=-1 is no probability"),
        (lambda x: ft.gelu(x, "erf"), ft.UnsupportedOp, "expected 'none' or 'tanh'"),
        (lambda x: ft.hardtanh(x, 1, 1), ft.UnsupportedOp, "min_val=1 must be below max_val=1"),
        (lambda x: ft.celu(x, 0), ft.UnsupportedOp, "divide by 0"),
        (lambda x: ft.softplus(x, 0), ft.UnsupportedOp, "divide by 0"),
        (lambda x: ft.elu(x, float("nan")), ft.DTypeError, "alpha=nan: expected a finite number"),
        (lambda x: ft.leaky_relu(x, "0.1"), ft.DTypeError, "negative_slope='0.1'"),
        (lambda x: ft.prelu(x, np.ones(2)), ft.ShapeError, "one for each channel"),
    ],
)
def test_an_error_says_what_does_not_fit(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(ft.input("x", (2, 3), "float64"))
