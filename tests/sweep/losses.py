"""Losses, and tables that whole numbers look up."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep import oracles
from tests.sweep.draw import (
    DISCRETE,
    EXTENTS,
    POLYNOMIAL,
    SMOOTH,
    VECTORS,
    Drawn,
    Labels,
    Row,
    any_shape,
    between,
    labels,
)
from tests.sweep.oracles import Array

Draw = Callable[[random.Random], Drawn]
SHARE, POSITIVE = between(0.05, 0.95), between(0.5, 1.5)
REDUCTIONS: dict[str, Callable[[Array], Array]] = {"none": np.asarray, "sum": lambda x: np.asarray(x.sum()), "mean": lambda x: np.asarray(x.mean())}


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


# ---- element by element ----

PAIRS: dict[str, tuple[Callable[..., Tensor], Callable[..., Array], tuple[Any, ...]]] = {
    # name                              on tensors                                        on arrays, an element                                      values
    "mse_loss":                         (dsl.mse_loss,                                    lambda x, t: (x - t) ** 2,                                 ()),
    "l1_loss":                          (dsl.l1_loss,                                     lambda x, t: np.abs(x - t),                                ()),
    "huber_loss":                       (lambda x, t, **o: dsl.huber_loss(x, t, delta=0.75, **o), lambda x, t: np.where(np.abs(x - t) < 0.75, (x - t) ** 2 / 2, 0.75 * (np.abs(x - t) - 0.375)), ()),
    "smooth_l1_loss":                   (lambda x, t, **o: dsl.smooth_l1_loss(x, t, beta=0.75, **o), lambda x, t: np.where(np.abs(x - t) < 0.75, (x - t) ** 2 / 1.5, np.abs(x - t) - 0.375), ()),
    "binary_cross_entropy":             (dsl.binary_cross_entropy,                        lambda x, t: -(t * np.log(x) + (1 - t) * np.log(1 - x)),   (SHARE, SHARE)),
    "binary_cross_entropy, weight":     (dsl.binary_cross_entropy,                        lambda x, t, w: -w * (t * np.log(x) + (1 - t) * np.log(1 - x)), (SHARE, SHARE, POSITIVE)),
    "binary_cross_entropy_with_logits": (dsl.binary_cross_entropy_with_logits,            lambda x, t: _softplus(x) - t * x,                         (None, SHARE)),
    "binary_cross_entropy_with_logits, pos_weight": (lambda x, t, w, **o: dsl.binary_cross_entropy_with_logits(x, t, pos_weight=w, **o),
                                         lambda x, t, w: (1 - t) * _softplus(x) + w * t * _softplus(-x),                                            (None, SHARE, POSITIVE)),
}  # fmt: skip


def _pair(name: str) -> Draw:
    build, oracle, fills = PAIRS[name]
    count = max(2, len(fills))

    def draw(r: random.Random) -> Drawn:
        shape, reduction = any_shape(r), r.choice([*REDUCTIONS])
        third = shape if r.random() < 0.5 else shape[1:]
        return Drawn(
            (shape, shape, *(third,) * (count - 2)), SMOOTH, lambda *xs: build(*xs, reduction=reduction),
            lambda *xs: REDUCTIONS[reduction](oracle(*xs)), {"reduction": reduction}, fills, least=int(reduction == "mean"),
        )  # fmt: skip

    return draw


# ---- classes ----


def classes(*, logits: bool, weighed: bool = False, smooth: bool = False) -> Draw:
    """Labels against logarithms of probabilities, or against logits; labels may be ignored, images are allowed."""

    def draw(r: random.Random) -> Drawn:
        k = r.choice([v for v in VECTORS if v > 1])
        space = r.choice(((), (), (r.choice(EXTENTS),), (2, 3)))
        reduction, smoothing = r.choice([*REDUCTIONS]), r.choice((0.1, 0.25)) if smooth else 0.0
        ignored = r.choice((None, -100, 1))
        options: dict[str, Any] = {"reduction": reduction, "ignore_index": -100 if ignored is None else ignored}
        if smooth:
            options["label_smoothing"] = smoothing
        function = dsl.cross_entropy if logits else dsl.nll_loss

        def build(x: Tensor, t: Tensor, w: Tensor | None = None) -> Tensor:
            return function(x, t, w, **options)

        def oracle(x: Array, t: Array, w: Array | None = None) -> Array:
            return oracles.labelled(np.log(oracles.softmax(x, 1)) if logits else x, t, w, options["ignore_index"], reduction, smoothing)

        return Drawn(
            ((None, k, *space), (None, *space), *([(k,)] if weighed else [])), SMOOTH if logits or weighed else POLYNOMIAL, build, oracle,
            options, (None, labels(k, ignored), *([POSITIVE] if weighed else [])), rounded=reduction == "mean", least=int(reduction == "mean"),
        )  # fmt: skip

    return draw


def _soft(weighed: bool) -> Draw:
    """Probabilities in the place of labels."""

    def draw(r: random.Random) -> Drawn:
        k = r.choice([v for v in VECTORS if v > 1])
        shape = (None, k, *r.choice(((), (3,), (2, 2))))
        reduction, smoothing = r.choice([*REDUCTIONS]), r.choice((0.0, 0.25))
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}

        def oracle(x: Array, t: Array, w: Array | None = None) -> Array:
            weights = np.ones(k) if w is None else w
            each = -(np.log(oracles.softmax(x, 1)) * ((1 - smoothing) * t + smoothing / k) * weights.reshape(-1, *(1,) * (x.ndim - 2))).sum(1)
            return REDUCTIONS[reduction](each)

        return Drawn(
            (shape, shape, *([(k,)] if weighed else [])), SMOOTH, lambda x, t, w=None: dsl.cross_entropy(x, t, w, **options), oracle,
            options, (None, SHARE, POSITIVE)[: 3 if weighed else 2], least=int(reduction == "mean"),
        )  # fmt: skip

    return draw


# ---- tables ----


def _embedding(padded: bool) -> Draw:
    def draw(r: random.Random) -> Drawn:
        rows, width = r.choice(VECTORS), r.choice(VECTORS)
        shape = (None, *r.choice(((), (3,), (5, 2))))
        absent = r.randrange(rows) if padded else None

        def oracle(t: Array, w: Array) -> Array:
            return w[t]

        def gradient(t: Array, w: Array, c: Array) -> Array:
            found = np.zeros_like(w)
            np.add.at(found, t, c)
            if absent is not None:
                found[absent] = 0
            return found

        return Drawn(
            (shape, (rows, width)), DISCRETE if padded else POLYNOMIAL, lambda t, w: dsl.embedding(t, w, absent), oracle,
            {"padding_idx": absent}, (labels(rows), None), gradient=gradient if padded else None,
        )  # fmt: skip

    return draw


def _one_hot(r: random.Random) -> Drawn:
    k = r.choice(VECTORS)
    shape = (None, *r.choice(((), (3,), (5, 2))))
    return Drawn(
        (shape,), DISCRETE, lambda t: dsl.one_hot(t, k), lambda t: (t[..., None] == np.arange(k)).astype(float), {"num_classes": k},
        (labels(k),), constant="integer result",
    )  # fmt: skip


PAIR = {"X": (None, 10), "T": (None, 10)}
LABELLED: dict[str, Any] = {"X": (None, 1000), "T": Labels((None,))}
WEIGHED: dict[str, Any] = {**LABELLED, "W": (1000,)}
ROWS = (
    *(Row(name, 2, _pair(name), build, {**PAIR, **({"W": (10,)} if len(fills) > 2 else {})}) for name, (build, _, fills) in PAIRS.items()),
    Row("nll_loss", 2, classes(logits=False), dsl.nll_loss, LABELLED),
    Row("nll_loss, not reduced", 1, classes(logits=False), lambda x, t: dsl.nll_loss(x, t, reduction="none"), LABELLED),
    Row("nll_loss, weight", 2, classes(logits=False, weighed=True), dsl.nll_loss, WEIGHED),
    Row("cross_entropy", 3, classes(logits=True), dsl.cross_entropy, LABELLED),
    Row("cross_entropy, weight", 2, classes(logits=True, weighed=True), dsl.cross_entropy, WEIGHED),
    Row("cross_entropy, label_smoothing", 2, classes(logits=True, smooth=True), lambda x, t: dsl.cross_entropy(x, t, label_smoothing=0.1), LABELLED),
    Row("cross_entropy, label_smoothing and weight", 1, classes(logits=True, weighed=True, smooth=True), lambda x, t, w: dsl.cross_entropy(x, t, w, label_smoothing=0.1), WEIGHED),
    Row("cross_entropy, probabilities", 1, _soft(False), dsl.cross_entropy, {"X": (None, 1000), "T": (None, 1000)}),
    Row("cross_entropy, probabilities and weight", 1, _soft(True), dsl.cross_entropy, {"X": (None, 1000), "T": (None, 1000), "W": (1000,)}),
    Row("embedding", 3, _embedding(False), dsl.embedding, {"T": Labels((None, 16)), "W": (1000, 64)}),
    Row("embedding, padding_idx", 2, _embedding(True), lambda t, w: dsl.embedding(t, w, 0), {"T": Labels((None, 16)), "W": (1000, 64)}),
    Row("one_hot", 1, _one_hot, lambda t: dsl.one_hot(t, 10), {"T": Labels((None,))}),
)
