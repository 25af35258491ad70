"""What equations mean, against oracles that share no code with us: scipy, einsum, sliding windows; exact where possible."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.special
from numpy.lib.stride_tricks import sliding_window_view

from faltung.graph import dsl
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.evaluate import EXACT, FLOAT, SYMBOLIC, Arithmetic, evaluate
from faltung.graph.grad import grad
from faltung.graph.ops.table import define
from tests.check import Array, distinct, integers, leaves, positive

CONVOLUTIONS = (dsl.conv1d, dsl.conv2d, dsl.conv3d)

# extents       kernel     stride     padding    dilation
GEOMETRIES = [
    ((7,),       (3,),      (1,),      (0,),      (1,)),
    ((8,),       (3,),      (2,),      (1,),      (1,)),
    ((8,),       (2,),      (3,),      (0,),      (1,)),
    ((9,),       (3,),      (2,),      (3,),      (2,)),
    ((5, 6),     (3, 3),    (1, 1),    (1, 1),    (1, 1)),
    ((5, 6),     (3, 2),    (2, 3),    (1, 0),    (1, 1)),
    ((7, 7),     (3, 3),    (2, 2),    (1, 1),    (1, 2)),
    ((7, 6),     (1, 4),    (4, 1),    (0, 2),    (1, 1)),
    ((4, 5, 4),  (2, 3, 1), (1, 2, 1), (0, 1, 0), (1, 1, 1)),
    ((4, 5, 4),  (2, 2, 2), (2, 1, 2), (1, 0, 1), (2, 1, 1)),
]  # fmt: skip
IDS = ["x".join(map(str, g[0])) + f"-{n}" for n, g in enumerate(GEOMETRIES)]


def padded(x: Array, padding: tuple[int, ...], value: float = 0.0) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=value)


def windows(x: Array, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Array:
    """(n, c, output axes, kernel axes)."""
    rank = len(kernel)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    seen = sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))
    steps: tuple[Any, ...] = tuple(slice(None, None, s) for s in (*stride, *dilation))
    found: Array = seen[(..., *steps)]
    return found


def correlate(x: Array, k: Array, stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]) -> Array:
    """Convolution by scipy.signal: zeros inserted into the kernel, every stride-th output kept."""
    wide = np.zeros((*k.shape[:2], *(d * (e - 1) + 1 for e, d in zip(k.shape[2:], dilation, strict=True))))
    holes: tuple[Any, ...] = tuple(slice(None, None, d) for d in dilation)
    wide[(..., *holes)] = k
    x = padded(x, padding)
    step = tuple(slice(None, None, s) for s in stride)
    return np.array(
        [
            [sum(scipy.signal.correlate(image[c], kernel[c], "valid", method="direct") for c in range(k.shape[1]))[step] for kernel in wide]
            for image in x
        ]
    )


@pytest.mark.parametrize(("extents", "kernel", "stride", "padding", "dilation"), GEOMETRIES, ids=IDS)
@pytest.mark.parametrize("arithmetic", (FLOAT, EXACT), ids=("float", "exact"))
def test_convolution(
    extents: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], arithmetic: Arithmetic,
) -> None:  # fmt: skip
    x, k, b = integers((2, 3, *extents)), integers((4, 3, *kernel), 1), integers((4,), 2)
    tx, tk, tb = leaves([x, k, b])
    y = CONVOLUTIONS[len(extents) - 1](tx, tk, tb, stride=stride, padding=padding, dilation=dilation)
    found = evaluate(y, {tx: x, tk: k, tb: b}, arithmetic)
    bias = b.reshape(-1, *(1 for _ in extents))
    assert (found == correlate(x, k, stride, padding, dilation) + bias).all()
    letters = "ijk"[: len(extents)], "pqr"[: len(extents)]
    seen = windows(padded(x, padding), kernel, stride, dilation)
    assert (found == np.einsum(f"nc{letters[0]}{letters[1]},fc{letters[1]}->nf{letters[0]}", seen, k) + bias).all()


@pytest.mark.parametrize(("extents", "kernel", "stride", "padding", "dilation"), GEOMETRIES, ids=IDS)
def test_max_pooling(
    extents: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    x = integers((2, 3, *extents), 3, -9, -1)  # negative: padding must not be chosen
    tx = dsl.input("x", x.shape, "float64")
    pool = (dsl.max_pool1d, dsl.max_pool2d, dsl.max_pool3d)[len(extents) - 1]
    seen = windows(padded(x, padding, -np.inf), kernel, stride, dilation)
    axes = tuple(range(-len(extents), 0))
    for arithmetic in (FLOAT, EXACT):
        assert (evaluate(pool(tx, kernel, stride, padding, dilation), {tx: x}, arithmetic) == seen.max(axes)).all()


@pytest.mark.parametrize(("extents", "kernel", "stride", "padding", "dilation"), GEOMETRIES, ids=IDS)
def test_average_pooling_counts_its_padding(
    extents: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    x = integers((2, 3, *extents), 4)
    tx = dsl.input("x", x.shape, "float64")
    y = (dsl.avg_pool1d, dsl.avg_pool2d, dsl.avg_pool3d)[len(extents) - 1](tx, kernel, stride, padding)
    count = int(np.prod(kernel))
    total = windows(padded(x, padding), kernel, stride, (1,) * len(extents)).sum(tuple(range(-len(extents), 0)))
    assert (evaluate(y, {tx: x}) * count == total).all() or np.allclose(evaluate(y, {tx: x}), total / count, rtol=1e-15)
    assert (evaluate(y, {tx: x}, EXACT) * count == total).all()


def test_pooling_with_stride_one_is_a_filter_of_scipy() -> None:
    x = distinct((1, 1, 6, 7))
    tx = dsl.input("x", x.shape, "float64")
    largest = scipy.ndimage.maximum_filter(x[0, 0], 3, mode="constant", cval=-np.inf)
    mean = scipy.ndimage.uniform_filter(x[0, 0], 3, mode="constant", cval=0.0)
    assert (evaluate(dsl.max_pool2d(tx, 3, 1, 1), {tx: x})[0, 0] == largest).all()
    np.testing.assert_allclose(evaluate(dsl.avg_pool2d(tx, 3, 1, 1), {tx: x})[0, 0], mean, atol=1e-15)


def test_matrix_products() -> None:
    a, b, w, c = integers((3, 4)), integers((4, 5), 1), integers((5, 4), 2), integers((5,), 3)
    ta, tb, tw, tc = leaves([a, b, w, c])
    at = {ta: a, tb: b, tw: w, tc: c}
    for arithmetic in (FLOAT, EXACT):
        assert (evaluate(ta @ tb, at, arithmetic) == a @ b).all()
        assert (evaluate(dsl.linear(ta, tw, tc), at, arithmetic) == a @ w.T + c).all()


# op                                NumPy
UNARY: list[tuple[Any, Any]] = [
    (dsl.relu,                      lambda x: np.where(x > 0, x, 0)),
    (dsl.exp,                       np.exp),
    (dsl.log,                       np.log),
    (dsl.sqrt,                      np.sqrt),
    (dsl.tanh,                      np.tanh),
    (dsl.sigmoid,                   scipy.special.expit),
    (dsl.abs,                       np.abs),
    (lambda x: -x,                  np.negative),
    (lambda x: 3 - x / 2,           lambda x: 3 - x / 2),
    (lambda x: 1 / x,               lambda x: 1 / x),
    (lambda x: x - x.mean(),        lambda x: x - x.mean()),
    (dsl.softmax,                   lambda x: scipy.special.softmax(x, -1)),
    (lambda x: dsl.softmax(x, 0),   lambda x: scipy.special.softmax(x, 0)),
    (dsl.log_softmax,               lambda x: scipy.special.log_softmax(x, -1)),
    (lambda x: dsl.sum(x, 1),       lambda x: x.sum(1)),
    (lambda x: dsl.mean(x, (0, 2)), lambda x: x.mean((0, 2))),
    (lambda x: dsl.max(x, 0),       lambda x: x.max(0)),
    (lambda x: dsl.min(x, (1, 2)),  lambda x: x.min((1, 2))),
    (lambda x: dsl.argmax(x, 1),    lambda x: x.argmax(1)),
    (lambda x: dsl.argmax(x),       lambda x: x.argmax()),
    (lambda x: dsl.argmax(x, (1, 2)), lambda x: x.reshape(3, -1).argmax(1)),
    (dsl.transpose,                 np.transpose),
    (lambda x: dsl.transpose(x, (1, 2, 0)), lambda x: np.transpose(x, (1, 2, 0))),
    (dsl.flatten,                   lambda x: x.reshape(3, -1)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "oracle"), UNARY)
def test_functions_of_one_array(op: Any, oracle: Any) -> None:
    x = positive((3, 4, 2), 5)
    tx = dsl.input("x", x.shape, "float64")
    np.testing.assert_allclose(evaluate(op(tx), {tx: x}), oracle(x), rtol=2e-15, atol=2e-15)


@pytest.mark.parametrize("shape", [(3, 4), (4,), (1, 4), (3, 1), (1,), ()], ids=str)
def test_functions_of_two_arrays_broadcast(shape: tuple[int, ...]) -> None:
    x, z = integers((3, 4), 1), integers(shape, 2, 1, 4)
    tx, tz = leaves([x, z])
    at = {tx: x, tz: z}
    for ours, theirs in (
        (tx + tz, x + z), (tx - tz, x - z), (tz - tx, z - x), (tx * tz, x * z), (tx / tz, x / z),
        (dsl.maximum(tx, tz), np.maximum(x, z)), (dsl.minimum(tz, tx), np.minimum(x, z)),
    ):  # fmt: skip
        assert (evaluate(ours, at) == theirs).all()
        assert np.asarray(evaluate(ours, at, EXACT), dtype=float).tolist() == theirs.tolist()


def test_cross_entropy() -> None:
    x, t = distinct((5, 7), 3), np.array([0, 6, 3, 3, 1])
    tx, tt = dsl.input("x", (None, 7), "float64"), dsl.input("t", (None,), "int64")
    expected = -np.mean(scipy.special.log_softmax(x, 1)[np.arange(5), t])
    np.testing.assert_allclose(evaluate(dsl.cross_entropy(tx, tt), {tx: x, tt: t}), expected, rtol=1e-15)


# ---- special values: NaN passes, padding is never the maximum, a position is the first ----


def test_nan_passes_through_relu_and_maximum() -> None:
    x = dsl.input("x", (1, 1, 4), "float64")
    at = {x: [[[1.0, np.nan, -2.0, 3.0]]]}
    np.testing.assert_array_equal(evaluate(dsl.relu(x), at)[0, 0], [1, np.nan, 0, 3])
    np.testing.assert_array_equal(evaluate(dsl.max_pool1d(x, 2), at)[0, 0], [np.nan, 3])
    np.testing.assert_array_equal(evaluate(dsl.maximum(x, 0), at)[0, 0], [1, np.nan, 0, 3])


def test_softmax_does_not_overflow() -> None:
    x = dsl.input("x", (2,), "float64")
    assert evaluate(dsl.softmax(x), {x: [1000.0, 1000.0]}).tolist() == [0.5, 0.5]
    assert evaluate(dsl.log_softmax(x), {x: [-1000.0, 1000.0]}).tolist() == [-2000.0, 0.0]


def test_a_read_outside_is_neutral() -> None:
    """0 for a sum and without a reduction, −∞ for a maximum, ∞ for a minimum; also where a form does not divide."""
    x = dsl.input("x", (3,), "float64")
    at = {x: [-1.0, -2.0, -3.0]}
    values = {
        "Y[i<5] = X[i-1]": [0, -1, -2, -3, 0],
        "Y[i<5] = X[i-1] + 1": [1, 0, -1, -2, 1],
        "Y[i<6] = X[i/2]": [-1, 0, -2, 0, -3, 0],
        "Y[i<4] = sum(p<2: X[i-p])": [-1, -3, -5, -3],
        "Y[i<4] = max(p<2: X[i-p])": [-1, -1, -2, -3],
        "Y[i<4] = min(p<2: X[i-p])": [-1, -2, -3, -3],
        "Y[i<4] = argmax(p<2: X[i-p])": [0, 1, 1, 1],
        "Y[i<6] = max(p<2: X[(i-p)/2])": [-1, -1, -2, -2, -3, -3],
        "Y[i<3] = [0 ≤ i-1 < 2]·X[i]": [0, -2, -3],
        "Y[i] = i*X[i]": [0, -2, -6],
        "Y[i] = [X[i] = -2]": [0, 1, 0],
        "Y[i<3] = X[2-i]": [-3, -2, -1],
    }
    for text, expected in values.items():
        assert evaluate(define(text)(x), at).tolist() == expected, text


def test_zero_size_batches() -> None:
    x = dsl.input("x", (None, 2, 5, 5), "float64")
    y = dsl.relu(dsl.conv2d(x, np.ones((3, 2, 3, 3))))
    empty = np.zeros((0, 2, 5, 5))
    assert evaluate(y, {x: empty}).shape == (0, 3, 3, 3)
    assert evaluate(dsl.flatten(dsl.max_pool2d(y, 3)), {x: empty}, EXACT).shape == (0, 3)
    assert evaluate(y.sum(), {x: empty}) == 0


# ---- three arithmetics, one meaning ----


def test_exact_values_are_fractions() -> None:
    x = dsl.input("x", (1, 1, 2, 2), "float64")
    y = evaluate(dsl.avg_pool2d(x, 2), {x: [[[[1, 2], [3, Fraction(1, 3)]]]]}, EXACT)
    assert y.tolist() == [[[[Fraction(19, 12)]]]]
    with pytest.raises(UnsupportedOp, match="exp has no exact rational value"):
        evaluate(dsl.exp(x), {x: np.ones((1, 1, 2, 2))}, EXACT)


def test_a_symbolic_convolution_is_the_formula() -> None:
    import sympy

    x, k, b = leaves([np.zeros((1, 1, 3)), np.zeros((1, 1, 2)), np.zeros(1)])
    sx, sk, sb = sympy.symbols("x:3"), sympy.symbols("k:2"), sympy.Symbol("b")
    y = evaluate(dsl.relu(dsl.conv1d(x, k, b, padding=1)), {x: [[sx]], k: [[sk]], b: [sb]}, SYMBOLIC)
    row = [0, *sx, 0]
    assert y[0, 0].tolist() == [sympy.Max(row[i] * sk[0] + row[i + 1] * sk[1] + sb, 0) for i in range(4)]


def test_a_symbolic_gradient_is_what_sympy_derives() -> None:
    import sympy

    x, k = leaves([np.zeros((1, 2, 5)), np.zeros((2, 2, 3))])
    loss = (dsl.conv1d(x, k, stride=2, padding=1) * dsl.conv1d(x, k, stride=2, padding=1)).sum()
    sx = np.array(sympy.symbols("x:10")).reshape(1, 2, 5)
    sk = np.array(sympy.symbols("k:12")).reshape(2, 2, 3)
    at = {x: sx, k: sk}
    value = evaluate(loss, at, SYMBOLIC)
    for leaf, symbols in at.items():
        derived = evaluate(grad(loss, leaf), at, SYMBOLIC)
        for found, s in zip(derived.ravel(), symbols.ravel(), strict=True):
            assert sympy.expand(found - sympy.diff(value.item(), s)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "Y[i<5] = sum(p<3: X[i+p-1] * Z[p])",
        "Y[i<5] = max(p<3: X[i+p-1]) - 2",
        "Y[i<5] = min(p<3: X[i+p-1]) + Z[i]",
        "Y[i<5] = relu(X[i] - Z[4-i]) + |X[i]| / 3",
        "Y[i<9] = [0 ≤ (i-1)/2 < 4] * X[i/2] + i",
        "Y[i<5] = argmax(p<3: X[i+p-1])",
        "Y[i<5] = max(X[i], Z[i]) * [X[i] < Z[i]] + [X[i] = i] - [i ≠ 2] * min(X[i], 1/2)",
    ],
)
def test_all_arithmetics_agree(text: str) -> None:
    op = define(text)
    arrays = [integers((5,), 1), integers((5,), 2)][: len(op.op.operands)]
    xs = leaves(arrays)
    at = dict(zip(xs, arrays, strict=True))
    values = [np.asarray(evaluate(op(*xs), at, a), dtype=float) for a in (FLOAT, EXACT, SYMBOLIC)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-15)
    np.testing.assert_allclose(values[1], values[2], rtol=1e-15)


# ---- what is fed ----


def test_what_is_fed_is_checked() -> None:
    x, z = dsl.input("x", (None, 3), "float64"), dsl.input("z", (None, 3), "float64")
    with pytest.raises(ShapeError, match="no value given for input 'x'"):
        evaluate(x + 1)
    with pytest.raises(ShapeError, match=r"x: expected shape \(2, 3\), got \(2, 4\)"):
        evaluate(x + 1, {x: np.ones((2, 4))})
    with pytest.raises(ShapeError, match=r"z: expected shape \(2, 3\), got \(1, 3\)"):
        evaluate(x + z, {x: np.ones((2, 3)), z: np.ones((1, 3))})
    with pytest.raises(ShapeError, match="x"):
        evaluate(x + 1, {x: 3.0})


def test_division_by_zero_raises_nothing() -> None:
    x = dsl.input("x", (1,), "float64")
    assert evaluate(1 / x, {x: [0.0]}).tolist() == [np.inf]
    (exact,) = evaluate(1 / x, {x: [0]}, EXACT)
    assert exact != exact, "no rational number, hence NaN"


def test_a_false_bracket_silences_what_has_no_value() -> None:
    """[false]·x is 0 whatever x is, also 1/0 and log(0)."""
    x = dsl.input("x", (3,), "float64")
    y = define("Y[i] = [X[i] > 0] * (1 / X[i] + log(X[i]))")(x)
    with np.errstate(all="ignore"):
        assert evaluate(y, {x: [0.0, 1.0, -1.0]}).tolist() == [0, 1, 0]
