"""Softmax and cross entropy: the shift M is no part of the function, so `stop(M)` is legitimate. Proved with SymPy."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from faltung.graph import dsl
from faltung.graph.evaluate import SYMBOLIC, evaluate
from faltung.graph.grad import grad
from faltung.graph.ops import REGISTRY
from faltung.graph.ops.table import apply, row
from tests.check import distinct

K = 3
X = sympy.symbols(f"x:{K}", real=True)
M = sympy.Symbol("m", real=True)
TEXTBOOK = {
    "softmax": [sympy.exp(x) / sum(sympy.exp(z) for z in X) for x in X],
    "log_softmax": [x - sympy.log(sum(sympy.exp(z) for z in X)) for x in X],
}


def shifted(op: str) -> list[sympy.Expr]:
    """The op's own equations, with the maximum replaced by a free symbol m."""
    words = {"all": "n,k", "over": "k", "kept": "n"}
    first, *rest = (text.format(**words) for text in REGISTRY[op].equations)
    assert first == "M[n] = max(k: X[n,k])"
    free = row(f"{op} with a free shift", "X M", *rest)
    x, m = dsl.input("x", (1, K), "float64"), dsl.input("m", (1,), "float64")
    return list(evaluate(apply(free, [x, m]), {x: [X], m: [M]}, SYMBOLIC)[0])


@pytest.mark.parametrize("op", TEXTBOOK)
def test_the_value_does_not_depend_on_the_shift(op: str) -> None:
    for k, value in enumerate(shifted(op)):
        assert sympy.simplify(sympy.diff(value, M)) == 0, "∂/∂M = 0 everywhere: the value is constant in M"
        assert sympy.simplify(value.subs(M, 0) - TEXTBOOK[op][k]) == 0, "and at M = 0 it is the textbook's"


@pytest.mark.parametrize("op", TEXTBOOK)
def test_the_derived_gradient_is_the_textbooks(op: str) -> None:
    """Derived through stop(M), evaluated with the maximum inserted, compared with SymPy's own derivative."""
    x, c = dsl.input("x", (1, K), "float64"), dsl.input("c", (1, K), "float64")
    weights = sympy.symbols(f"c:{K}")
    at = {x: [X], c: [weights]}
    derived = evaluate(grad(getattr(dsl, op)(x, 1), x, c), at, SYMBOLIC)[0]
    value = sum(w * y for w, y in zip(weights, TEXTBOOK[op], strict=True))
    for point in ((1, 3, 2), (-1, 0, 5), (2, 2, 2)):
        numbers = dict(zip(X, point, strict=True))
        for found, symbol in zip(derived, X, strict=True):
            assert sympy.simplify((found - sympy.diff(value, symbol)).subs(numbers)) == 0


def test_cross_entropy_has_the_gradient_softmax_minus_one_hot() -> None:
    x, t = dsl.input("x", (None, 5), "float64"), dsl.input("t", (None,), "int64")
    values, labels = 10 * distinct((4, 5)), np.array([0, 4, 2, 2])
    found = evaluate(grad(dsl.cross_entropy(x, t), x), {x: values, t: labels})
    exponentials = np.exp(values - values.max(1, keepdims=True))
    expected = (exponentials / exponentials.sum(1, keepdims=True) - np.eye(5)[labels]) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-16)


def test_cross_entropy_of_far_logits_is_finite() -> None:
    x, t = dsl.input("x", (None, 3), "float64"), dsl.input("t", (None,), "int64")
    loss = dsl.cross_entropy(x, t)
    at = {x: [[1000.0, 0.0, -1000.0]], t: [2]}
    assert evaluate(loss, at) == 2000
    assert evaluate(grad(loss, x), at).tolist() == [[1, 0, -1]]
