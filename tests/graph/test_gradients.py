"""Derivatives of first and second order against central differences in float64, for every op and geometry."""

from __future__ import annotations

import numpy as np
import pytest

from faltung.graph import dsl
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import WIDEST, grad
from faltung.graph.ops import REGISTRY
from faltung.graph.tensor import topological
from tests.check import assert_gradient, assert_second, distinct, integers
from tests.graph.cases import CASES, FEW, LINES, PLANES, POOLS, SMALL, SOLIDS, Case
from tests.graph.test_convolution_family import FAMILY

# reason                              op
WITHOUT_DERIVATIVE = {
    "a position is not a float": "argmax",
    "nor is a position of the minimum": "argmin",
    "an indicator is a whole number": "one_hot",
    "so is a number of labels": "labels",
    "and a number of steps": "count",
    "and the place of a window's maximum": "max_position",
    "and the number of that element": "element",
}


@pytest.mark.parametrize("count", [64, 65, 200, 1000])
def test_a_sum_of_many_contributions_is_not_deep(count: int) -> None:
    x, w = dsl.input("x", (3,)), dsl.parameter(np.ones(3), "w")
    total = dsl.constant(np.zeros(3))
    for k in range(count):
        total = total + (x * k) * w
    g = grad(dsl.sum(total), w)
    assert max(eq.expr.depth for t in topological([g]) for eq in t.equations) <= WIDEST + 1
    assert np.array_equal(evaluate(g, {x: np.array([1.0, 2.0, 3.0])}), np.array([1.0, 2.0, 3.0]) * sum(range(count)))


def test_every_op_has_a_case() -> None:
    assert {c.op for c in [*CASES, *FAMILY]} | set(WITHOUT_DERIVATIVE.values()) == set(REGISTRY)
    assert {c.op for c in FEW} == {c.op for c in CASES}


def gradient(case: Case) -> None:
    if case.degree and case.op not in ("mean", "avg_pool"):
        assert_gradient(case.build, case.arrays, eps=1.0)
    assert_gradient(case.build, case.arrays, tolerance=2e-7)


@pytest.mark.parametrize("case", [*PLANES, *SOLIDS, *SMALL], ids=str)
def test_first_order(case: Case) -> None:
    gradient(case)


@pytest.mark.parametrize("stride", (1, 2, 3, 4))
def test_convolution_on_a_line(stride: int) -> None:
    cases = [c for c in LINES if f"-s{stride}p" in c.note]
    assert len(cases) > 50
    for case in cases:
        assert_gradient(case.build, case.arrays, eps=1.0)


@pytest.mark.parametrize("op", ("max_pool", "avg_pool"))
def test_pooling(op: str) -> None:
    for case in (c for c in POOLS if c.op == op):
        assert_gradient(case.build, case.arrays)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_second_order(case: Case) -> None:
    if case.degree and case.op not in ("mean", "avg_pool"):
        assert_second(case.build, case.arrays, eps=1.0)
    else:
        assert_second(case.build, case.arrays, tolerance=5e-7)


# ---- conventions at kinks ----


def test_relu_and_abs_have_derivative_zero_at_zero() -> None:
    x = dsl.input("x", (3,), "float64")
    at = {x: [-1.0, 0.0, 2.0]}
    assert evaluate(grad(dsl.relu(x).sum(), x), at).tolist() == [0, 0, 1]
    assert evaluate(grad(dsl.abs(x).sum(), x), at).tolist() == [-1, 0, 1]


def test_maximum_of_equals_goes_to_the_first_argument() -> None:
    x, z = dsl.input("x", (3,), "float64"), dsl.input("z", (3,), "float64")
    at = {x: [1, 2, 3], z: [2, 2, 2]}
    for op, first in ((dsl.maximum, [0, 1, 1]), (dsl.minimum, [1, 1, 0])):
        gx, gz = evaluate(grad(op(x, z).sum(), [x, z]), at)
        assert gx.tolist() == first
        assert (gx + gz).tolist() == [1, 1, 1]


def first_positions(x: np.ndarray, k: int, s: int, p: int) -> np.ndarray:
    """The gradient of the sum of max pooling, window by window in a loop: 1 more at each first maximum."""
    padded = np.pad(x, [(0, 0), (0, 0), (p, p), (p, p)], constant_values=-np.inf)
    out = np.zeros_like(padded)
    for n, c in np.ndindex(x.shape[:2]):
        for i in range(0, padded.shape[2] - k + 1, s):
            for j in range(0, padded.shape[3] - k + 1, s):
                window = padded[n, c, i : i + k, j : j + k]
                u, v = divmod(int(np.argmax(window)), k)
                out[n, c, i + u, j + v] += 1
    return out[:, :, p : p + x.shape[2], p : p + x.shape[3]]


@pytest.mark.parametrize(("k", "s", "p"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1), (3, 3, 0)])
def test_a_tie_goes_to_the_first_maximal_position(k: int, s: int, p: int) -> None:
    x = dsl.input("x", (2, 2, 7, 6), "float64")
    values = integers((2, 2, 7, 6), 1, low=0, high=1)
    derived = evaluate(grad(dsl.max_pool2d(x, k, s, p).sum(), x), {x: values})
    assert (derived == first_positions(values, k, s, p)).all()


def test_a_tie_over_an_axis_goes_to_the_first_position() -> None:
    x = dsl.input("x", (2, 4), "float64")
    at = {x: [[1, 3, 3, 3], [2, 2, 2, 2]]}
    assert evaluate(grad(dsl.max(x, 1).sum(), x), at).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert evaluate(grad(dsl.min(x, 1).sum(), x), at).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]
    assert evaluate(grad(dsl.max(x), x), at).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


# ---- accumulation ----


def test_a_tensor_used_twice_gets_the_sum() -> None:
    x = dsl.input("x", (3,), "float64")
    y = (x * x + x * 3).sum() + x.sum()
    assert evaluate(grad(y, x), {x: [1, 2, 5]}, EXACT).tolist() == [6, 8, 14]


def test_gradients_have_the_shape_of_their_argument() -> None:
    x, w = dsl.input("x", (2, 3), "float64"), dsl.input("w", (4, 3), "float64")
    loss = dsl.linear(x, w).sum()
    as_dict, as_list = grad(loss, {"w": w, "x": x}), grad(loss, [x, w])
    assert list(as_dict) == ["w", "x"]
    assert as_list == [as_dict["x"], as_dict["w"]] == [grad(loss, x), grad(loss, w)]


def test_what_the_loss_does_not_depend_on_has_gradient_zero() -> None:
    x, other = dsl.input("x", (2,), "float64"), dsl.input("other", (None, 3), "float64")
    g = grad(x.sum(), other)
    assert g.shape == other.shape
    assert evaluate(g, {other: np.ones((4, 3))}).tolist() == np.zeros((4, 3)).tolist()


def test_stop_is_constant_to_the_derivative() -> None:
    from faltung.graph.ops.table import define

    x = dsl.input("x", (3,), "float64")
    y = define("Y[i] = X[i] * stop(X[i])")(x)
    assert evaluate(grad(y.sum(), x), {x: [1, 2, 3]}).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "Y[i<5] = sum(p<3: X[i+p-1]) / Z[i]",
        "Y[i<5] = sum(p<3: X[i+p-1] / Z[i])",
        "Y[i<5] = sum(p<3: X[i+p-1] / (1 + Z[i] * Z[i]))",
        "Y[i<5] = log(sum(p<3: exp(X[i+p-1]) * Z[i]))",
        "Y[i<5] = sqrt(sum(p<3: X[i+p-1] * X[i+p-1])) * Z[i]",
        "Y[i<5] = exp(sum(p<3: X[i+p-1])) * log(Z[i])",
        "Y[i<5] = max(p<3: X[i+p-1] * Z[p])",
        "Y[i<5] = max(p<3: X[i+p-1]) * X[i] - Z[4 - i]",
        "Y[i<4] = max(p<2: -X[i+p] * sigmoid(Z[i+p-1]))",
        "Y[i<4] = min(p<2: X[i+p] * [Z[i+p-1] < 9] * exp(-Z[i+p-1]))",
        "Y[i<5] = sum(p<3: [X[i] < Z[p]] * X[i+p-1] * X[i])",
        "Y[i<5] = sum(p<3: sigmoid(X[i+p-1] + p * Z[i]))",
        "Y[i<3] = sum(p<2: tanh(X[2*i-p]) * Z[p+i])",
        "Y[i<9] = sum(p<3: X[(i-p)/2] * Z[p])",
        "Y[i<10] = X[i/2] + Z[(i-1)/2]",
        "Y[i<5,j<5] = X[i] * Z[j] + X[j]",
        "Y[i<5] = X[0] * Z[i]",
        "Y[] = sum(i: X[i] * X[4-i] * Z[i])",
    ],
)
def test_own_equations(text: str) -> None:
    """Windows, divisions and padding in places where no op of ours has them."""
    from faltung.graph.ops.table import define

    op = define(text)
    arrays = [1.5 + distinct((5,), 1), 1.51 + distinct((5,), 2)]
    assert_gradient(op, arrays, tolerance=1e-6)
    assert_second(op, arrays, tolerance=1e-5)
