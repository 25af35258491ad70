"""Losses against NumPy, with every reduction; ignored and smoothed labels; bends and far ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.tensor import topological
from tests.check import Array, distinct, positive

X, T = 3 * distinct((4, 5), 1), 3 * distinct((4, 5), 2)
P, Q = positive((4, 5), 3) / 2 + 0.1, positive((4, 5), 4) - 0.5
REDUCE: dict[str, Callable[[Array], Any]] = {"none": lambda v: v, "sum": np.sum, "mean": np.mean}


def value(result: ft.Tensor, *arrays: Array) -> Array:
    inputs = sorted((t for t in topological([result]) if t.kind == "input"), key=lambda t: t.serial)
    return np.asarray(evaluate(result, dict(zip(inputs, arrays, strict=True))))


def pair() -> tuple[ft.Tensor, ft.Tensor]:
    return ft.input("x", (None, 5), "float64"), ft.input("t", (None, 5), "float64")


def huber(d: Array, delta: float) -> Array:
    return np.where(d <= delta, d * d / 2, delta * (d - delta / 2))


ELEMENTWISE: list[tuple[str, Callable[..., ft.Tensor], Callable[..., Array], Array, Array]] = [
    ("mse", ft.mse_loss, lambda x, t: (x - t) ** 2, X, T),
    ("l1", ft.l1_loss, lambda x, t: abs(x - t), X, T),
    ("huber", lambda x, t, reduction: ft.huber_loss(x, t, reduction, 0.7), lambda x, t: huber(abs(x - t), 0.7), X, T),
    ("smooth_l1", lambda x, t, reduction: ft.smooth_l1_loss(x, t, reduction, 0.7), lambda x, t: huber(abs(x - t), 0.7) / 0.7, X, T),
    ("smooth_l1, beta=0", lambda x, t, reduction: ft.smooth_l1_loss(x, t, reduction, 0), lambda x, t: abs(x - t), X, T),
    ("bce", ft.binary_cross_entropy, lambda x, t: -(t * np.log(x) + (1 - t) * np.log(1 - x)), P, Q),
    (
        "logits",
        ft.binary_cross_entropy_with_logits,
        lambda x, t: -(t * np.log(1 / (1 + np.exp(-x))) + (1 - t) * np.log(1 - 1 / (1 + np.exp(-x)))),
        X,
        Q,
    ),
]


@pytest.mark.parametrize("reduction", REDUCE)
@pytest.mark.parametrize(("name", "loss", "definition", "x", "t"), ELEMENTWISE, ids=[row[0] for row in ELEMENTWISE])
def test_losses_of_elements(name: str, loss: Any, definition: Any, x: Array, t: Array, reduction: str) -> None:
    found = value(loss(*pair(), reduction=reduction), x, t)
    np.testing.assert_allclose(found, REDUCE[reduction](definition(x, t)), rtol=1e-12)


def test_weights() -> None:
    w = np.arange(1.0, 6)
    plain = value(ft.binary_cross_entropy(*pair(), reduction="none"), P, Q)
    np.testing.assert_allclose(value(ft.binary_cross_entropy(*pair(), weight=w, reduction="none"), P, Q), w * plain)
    s = 1 / (1 + np.exp(-X))
    expected = -(w * Q * np.log(s) + (1 - Q) * np.log(1 - s))
    np.testing.assert_allclose(value(ft.binary_cross_entropy_with_logits(*pair(), None, "none", w), X, Q), expected, rtol=1e-12)


def test_bends_and_far_ends() -> None:
    x, t = pair()
    at = {x: [[0.0, 0.7, -0.7, 5, -5]], t: np.zeros((1, 5))}
    assert evaluate(grad(ft.l1_loss(x, t), x), at)[0].tolist() == [0, 0.2, -0.2, 0.2, -0.2]
    np.testing.assert_allclose(evaluate(grad(ft.mse_loss(x, t), x), at), [[0, 0.28, -0.28, 2, -2]])
    assert evaluate(grad(ft.huber_loss(x, t, "sum", 0.7), x), at)[0].tolist() == [0, 0.7, -0.7, 0.7, -0.7]
    far = {x: [[1e4, -1e4, 0, 800, -800]], t: [[1.0, 0, 0.5, 0, 1]]}
    y = ft.binary_cross_entropy_with_logits(x, t, reduction="none")
    assert evaluate(y, far)[0].tolist() == [0, 0, np.log(2), 800, 800]
    np.testing.assert_allclose(evaluate(grad(y.sum(), x), far), [[0, 0, 0, 1, -1]], atol=1e-300)
    certain = {x: [[0.0, 1, 0, 1, 0.5]], t: [[0.0, 1, 1, 0, 0]]}
    z = ft.binary_cross_entropy(x, t, reduction="none")
    assert evaluate(z, certain)[0].tolist() == [0, 0, 100, 100, np.log(2)]
    with np.errstate(invalid="ignore"):  # ∞·0 under a false bracket
        assert np.isfinite(evaluate(grad(z.sum(), x), certain)).all()


# ---- classes ----

LOGITS = 2 * distinct((3, 4, 2, 2), 5)
LABELS = np.arange(12).reshape(3, 2, 2) * 5 % 4
LABELS[0, 0, 1] = LABELS[2, 1, 0] = -100


WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])


def cross_entropy(x: Array, t: Array, ignored: int, smoothing: float, weights: Array) -> tuple[Array, Array]:
    """The loss of each label, in loops, and how much each counts in a mean."""
    loss, counts = np.zeros(t.shape), np.zeros(t.shape)
    for at in np.ndindex(t.shape):
        row = x[(at[0], slice(None), *at[1:])]
        log_p = weights * (row - np.log(np.exp(row).sum()))
        if t[at] != ignored:
            loss[at] = -(1 - smoothing) * log_p[t[at]] - smoothing * log_p.mean()
            counts[at] = weights[t[at]]
    return loss, counts


@pytest.mark.parametrize("weights", (None, WEIGHTS), ids=("even", "weighted"))
@pytest.mark.parametrize("smoothing", (0.0, 0.2))
@pytest.mark.parametrize("ignored", (-100, 1))
@pytest.mark.parametrize("reduction", REDUCE)
def test_cross_entropy(reduction: str, ignored: int, smoothing: float, weights: Array | None) -> None:
    labels = np.where(LABELS < 0, 1, LABELS) if ignored == 1 else LABELS
    x, t = ft.input("x", (None, 4, 2, 2), "float64"), ft.input("t", (None, 2, 2), "int64")
    each, counts = cross_entropy(LOGITS, labels, ignored, smoothing, np.ones(4) if weights is None else weights)
    expected = each.sum() / counts.sum() if reduction == "mean" else REDUCE[reduction](each)
    found = value(ft.cross_entropy(x, t, weights, ignored, reduction, smoothing), LOGITS, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if not smoothing:
        np.testing.assert_allclose(value(ft.nll_loss(ft.log_softmax(x, 1), t, weights, ignored, reduction), LOGITS, labels), expected, rtol=1e-12)


@pytest.mark.parametrize("weights", (None, WEIGHTS), ids=("even", "weighted"))
def test_cross_entropy_with_probabilities(weights: Array | None) -> None:
    """On probabilities of one class each it is that of labels, but the mean does not divide by weights."""
    x, t = ft.input("x", (None, 4, 2, 2), "float64"), ft.input("t", (None, 4, 2, 2), "float64")
    one_hot = np.moveaxis(np.eye(4)[np.where(LABELS < 0, 0, LABELS)], -1, 1)
    each, _ = cross_entropy(LOGITS, np.where(LABELS < 0, 0, LABELS), -100, 0.1, np.ones(4) if weights is None else weights)
    np.testing.assert_allclose(value(ft.cross_entropy(x, t, weights, label_smoothing=0.1), LOGITS, one_hot), each.mean(), rtol=1e-12)


def test_a_label_that_is_no_class_adds_nothing() -> None:
    x, t = ft.input("x", (None, 4), "float64"), ft.input("t", (None,), "int64")
    labels, logits = np.array([1, 4, -1, 2**40]), LOGITS[:, :, 0, 0][[0, 1, 2, 0]]
    each = value(ft.cross_entropy(x, t, reduction="none"), logits, labels)
    assert each[0] > 0 and not each[1:].any()
    assert value(ft.cross_entropy(x, t), logits, labels) == each[0] / 4
    assert value(ft.cross_entropy(x, t, WEIGHTS), logits, labels) == value(ft.cross_entropy(x, t, WEIGHTS), logits[:1], labels[:1])


def test_ignored_labels_have_no_gradient() -> None:
    x, t = ft.input("x", (None, 4, 2, 2), "float64"), ft.input("t", (None, 2, 2), "int64")
    g = evaluate(grad(ft.cross_entropy(x, t), x), {x: LOGITS, t: LABELS})
    assert not g[0, :, 0, 1].any() and not g[2, :, 1, 0].any() and g[1].all()
    nothing = evaluate(ft.cross_entropy(x, t), {x: LOGITS, t: np.full((3, 2, 2), -100)})
    assert np.isnan(nothing), "the mean of nothing"


def test_layers_are_their_functions() -> None:
    x, t = pair()
    labels = ft.input("n", (None,), "int64")
    assert nn.CrossEntropyLoss(label_smoothing=0.1)(x, labels) is ft.cross_entropy(x, labels, label_smoothing=0.1)
    w = ft.constant(np.ones(5), dtype="float64")
    assert nn.CrossEntropyLoss(w)(x, labels) is ft.cross_entropy(x, labels, w)
    assert nn.NLLLoss(w, 2)(x, labels) is ft.nll_loss(x, labels, w, 2)
    assert nn.NLLLoss(reduction="sum")(x, labels) is ft.nll_loss(x, labels, reduction="sum")
    assert nn.MSELoss()(x, t) is ft.mse_loss(x, t) and nn.L1Loss("sum")(x, t) is ft.l1_loss(x, t, "sum")
    assert nn.HuberLoss(delta=2)(x, t) is ft.huber_loss(x, t, delta=2)
    assert nn.SmoothL1Loss(beta=2)(x, t) is ft.smooth_l1_loss(x, t, beta=2)
    assert nn.BCELoss(reduction="none")(x, t) is ft.binary_cross_entropy(x, t, reduction="none")
    assert nn.BCEWithLogitsLoss()(x, t) is ft.binary_cross_entropy_with_logits(x, t)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda x, t: ft.mse_loss(x, ft.reshape(t, (-1, 5, 1))), ft.ShapeError, "must have the same shape"),
        (lambda x, t: ft.mse_loss(x, t, "max"), ft.UnsupportedOp, "expected 'none', 'mean', 'sum'"),
        (lambda x, t: ft.huber_loss(x, t, delta=0), ft.UnsupportedOp, "delta=0 must be positive"),
        (lambda x, t: ft.smooth_l1_loss(x, t, beta=-1), ft.UnsupportedOp, "beta=-1 must be positive"),
        (lambda x, t: ft.nll_loss(x, t), ft.ShapeError, r"\(N, K\) and target \(N\)"),
        (lambda x, t: ft.nll_loss(x, t.sum(1)), ft.DTypeError, "labels are integers"),
        (lambda x, t: ft.cross_entropy(x, t, label_smoothing=2), ft.UnsupportedOp, "label_smoothing=2 is a share"),
        (lambda x, t: ft.cross_entropy(x, t, np.ones(4)), ft.ShapeError, "one number for each of the 5 classes"),
        (lambda x, t: nn.MSELoss("median"), ft.UnsupportedOp, "MSELoss: reduction='median'"),
    ],
)
def test_an_error_says_what_does_not_fit(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(*pair())
