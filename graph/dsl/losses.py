"""Losses: scalars to train on, or with reduction="none" one number for each element."""

from __future__ import annotations

from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.dsl.pointwise import number, pointwise
from faltung.graph.dsl.reductions import log_softmax, mean, sum
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import FLOATS, Tensor

REDUCTIONS = ("none", "mean", "sum")


def reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    """The elements' losses as they are, their mean or their sum. Raises UnsupportedOp for another reduction."""
    check_reduction(op, reduction)
    return loss if reduction == "none" else mean(loss) if reduction == "mean" else sum(loss)


def check_reduction(op: str, reduction: str) -> None:
    """Raise UnsupportedOp for what is none of REDUCTIONS."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise UnsupportedOp(f"{op}: reduction={reduction!r}: expected {', '.join(map(repr, REDUCTIONS))}")


# ---- classes ----


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[n, target[n, …], …]: input (N, K, …), target (N, …) of integers, or probabilities (N, K, …).

    `weight` (K) weighs the classes. The mean is over the labels other than `ignore_index`, each counting as the
    weight of its class; that of probabilities is over all N · …. Smoothing gives every class that share of 1. A label
    that is no class is no error: as the equation says, none of the input's elements is its, so that it adds 0.
    Raises ShapeError when shapes do not fit, DTypeError for labels that are not integers.
    """
    x, t = as_tensor(input), as_tensor(target)
    if t.dtype in FLOATS and t.shape == x.shape and x.rank >= 2:
        attributes = {"ε": _share("cross_entropy", label_smoothing)}
        weighed = _weighed(log_softmax(x, 1), _class_weights("cross_entropy", x, weight))
        each = apply(REGISTRY["soft_labels"], [weighed, t], words=_words(x), attributes=attributes)
        return reduced("cross_entropy", each, reduction)
    _check_labels("cross_entropy", x, t)
    return _labels("cross_entropy", log_softmax(x, 1), t, weight, ignore_index, reduction, label_smoothing)


def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-input[n, target[n, …], …]: input (N, K, …) logarithms of probabilities, target (N, …) of integers.

    Weights, the mean, labels that are no class and errors are as in `cross_entropy`.
    """
    x, t = as_tensor(input), as_tensor(target)
    _check_labels("nll_loss", x, t)
    return _labels("nll_loss", x, t, weight, ignore_index, reduction, 0.0)


def _check_labels(op: str, x: Tensor, t: Tensor) -> None:
    if x.rank < 2 or t.rank != x.rank - 1:
        raise ShapeError(f"{op}: input must be (N, K) and target (N), or (N, K, …) and (N, …), got {list(x.shape)} and {list(t.shape)}")
    if t.dtype not in ("int32", "int64"):
        raise DTypeError(f"{op}: labels are integers (int64), got {t.dtype}")


def _class_weights(op: str, x: Tensor, weight: Any) -> Tensor | None:
    """One weight for each class, as a tensor of the input's type."""
    if weight is None:
        return None
    w = as_tensor(weight, x)
    if w.shape != x.shape[1:2]:
        raise ShapeError(f"{op}: weight {list(w.shape)} must hold one number for each of the {x.shape[1]} classes of the input {list(x.shape)}")
    return w


def _weighed(x: Tensor, w: Tensor | None) -> Tensor:
    """The logarithms of probabilities times the weights of their classes."""
    return x if w is None else apply(REGISTRY["weigh"], [x, w], words=_words(x))


def _words(x: Tensor) -> dict[str, str]:
    letters = letters_of(x, "cross_entropy")
    return {"all": ",".join(letters), "over": letters[1], "kept": ",".join((letters[0], *letters[2:]))}


def _labels(op: str, x: Tensor, t: Tensor, weight: Any, ignore_index: int, reduction: str, smoothing: float) -> Tensor:
    check_reduction(op, reduction)
    if not isinstance(ignore_index, (int, np.integer)):
        raise DTypeError(f"{op}: ignore_index={ignore_index!r}: expected an integer")
    words, share, w = _words(x), _share(op, smoothing), _class_weights(op, x, weight)
    attributes, classes = {"g": int(ignore_index), "ε": share}, x.shape[1]
    if reduction == "mean" and w is None and not share and isinstance(classes, int) and not 0 <= ignore_index < classes:
        return apply(REGISTRY["nll_mean"], [x, t], words=words, attributes=attributes, dtype=x.dtype)
    each = apply(REGISTRY["smooth" if share else "nll"], [_weighed(x, w), t], words=words, attributes=attributes)
    if reduction != "mean":
        return reduced(op, each, reduction)
    count = REGISTRY["labels" if w is None else "labels_weighted"]
    return sum(each) / apply(count, [t] if w is None else [t, w], words=words, attributes=attributes, dtype=x.dtype)


def _share(op: str, smoothing: float) -> Any:
    share = number(op, "label_smoothing", smoothing)
    if not 0 <= share <= 1:
        raise UnsupportedOp(f"{op}: label_smoothing={smoothing} is a share: expected 0 ≤ label_smoothing ≤ 1")
    return share


# ---- element by element ----


def _pair(op: str, input: Any, target: Any) -> list[Tensor]:
    x = as_tensor(input) if isinstance(input, Tensor) or not isinstance(target, Tensor) else as_tensor(input, target)
    t = as_tensor(target, x)
    if x.shape != t.shape:
        raise ShapeError(f"{op}: input {list(x.shape)} and target {list(t.shape)} must have the same shape; reshape one of them")
    return [x, t]


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(input - target)². Raises ShapeError for different shapes, UnsupportedOp for another reduction."""
    return reduced("mse_loss", apply(REGISTRY["mse"], _pair("mse_loss", input, target)), reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """|input - target|; the derivative at 0 is 0. Raises ShapeError for different shapes, UnsupportedOp."""
    return reduced("l1_loss", apply(REGISTRY["l1"], _pair("l1_loss", input, target)), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d²/2 for d = |input - target| up to delta, above delta·(d - delta/2). Raises ShapeError, UnsupportedOp."""
    each = apply(REGISTRY["huber"], _pair("huber_loss", input, target), attributes={"δ": _positive("huber_loss", "delta", delta)})
    return reduced("huber_loss", each, reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d²/(2·beta) for d = |input - target| up to beta, above d - beta/2. Raises ShapeError, UnsupportedOp."""
    if beta == 0:
        return l1_loss(input, target, reduction)
    each = apply(REGISTRY["smooth_l1"], _pair("smooth_l1_loss", input, target), attributes={"β": _positive("smooth_l1_loss", "beta", beta)})
    return reduced("smooth_l1_loss", each, reduction)


def _positive(op: str, name: str, value: float) -> Any:
    found = number(op, name, value)
    if found <= 0:
        raise UnsupportedOp(f"{op}: {name}={value} must be positive")
    return found


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
    """-(t·log x + (1 - t)·log(1 - x)) for probabilities x, logarithms held above -100, where the derivative is 0.

    `weight` multiplies the elements' losses, before they are reduced. Raises ShapeError for different shapes, UnsupportedOp for another reduction.
    """
    each = apply(REGISTRY["binary_cross_entropy"], _pair("binary_cross_entropy", input, target))
    return reduced("binary_cross_entropy", each if weight is None else pointwise("mul", each, weight), reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """Binary cross entropy of sigmoid(input), which does not overflow; `pos_weight` weighs t·log x, `weight` all of it.

    Weights broadcast to the input. Raises ShapeError for different shapes, UnsupportedOp for another reduction.
    """
    pair = _pair("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        each = apply(REGISTRY["logits"], pair)
    else:
        each = apply(REGISTRY["logits_weighted"], [*pair, as_tensor(pos_weight, pair[0])])
    return reduced("binary_cross_entropy_with_logits", each if weight is None else pointwise("mul", each, weight), reduction)
