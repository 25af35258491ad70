"""Whole numbers as indices: rows of a table, indicator vectors; and dropout, where the index decides."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.dsl.pointwise import number
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.functions import BITS
from faltung.graph.index import Batch
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import LETTERS
from faltung.graph.tensor import Tensor

WHOLE = ("int32", "int64")


def _whole(op: str, t: Tensor) -> Tensor:
    if t.dtype not in WHOLE:
        raise DTypeError(f"{op}: indices are integers (int64), got {t.dtype}")
    if t.rank + 1 not in LETTERS:
        raise ShapeError(f"{op}: the result of {list(t.shape)} would have {t.rank + 1} axes; at most {max(LETTERS)} are supported")
    return t


def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Tensor:
    """Rows of weight (V, K) at integers of any shape; a number that is no row gives zeros.

    The row `padding_idx` is read like any other and has gradient 0. Raises DTypeError for indices that are not
    integers, ShapeError for a weight that is no matrix or a padding_idx outside.
    """
    t, w = _whole("embedding", as_tensor(input)), as_tensor(weight)
    if w.rank != 2:
        raise ShapeError(f"embedding: weight must be (V, K), got {list(w.shape)}")
    letters = LETTERS[t.rank + 1]
    words = {"all": ",".join(letters[:-1]), "over": letters[-1], "to": ",".join(letters)}
    if padding_idx is None:
        return apply(REGISTRY["embedding"], [t, w], words=words)
    rows = w.shape[0]
    if isinstance(rows, Batch) or not isinstance(padding_idx, (int, np.integer)) or not -rows <= padding_idx < rows:
        raise ShapeError(f"embedding: padding_idx={padding_idx!r} is none of the {rows} rows of the weight")
    return apply(REGISTRY["embedding_padded"], [t, w], words=words, attributes={"P": padding_idx % rows})


def one_hot(input: Any, num_classes: int) -> Tensor:
    """1 at the place that the integer names, 0 elsewhere, along a new last axis (int64); none for a number outside.

    Raises DTypeError for what is no integer, ShapeError for fewer than one class.
    """
    t = _whole("one_hot", as_tensor(input))
    if not isinstance(num_classes, (int, np.integer)) or num_classes < 1:
        raise ShapeError(f"one_hot: num_classes={num_classes!r}: a graph has to know it, give a positive integer")
    letters = letters_of(t, "one_hot")
    words = {"all": ",".join(letters), "to": ",".join([*letters, "v"])}
    return apply(REGISTRY["one_hot"], [t], words=words, extents={"v": int(num_classes)}, dtype="int64")


def dropout(input: Any, p: float = 0.5, training: bool = True, *, step: Any = 0, key: int = 0, axes: int | None = None) -> Tensor:
    """Elements set to 0 with probability p, the others scaled by 1/(1 - p); the input itself outside training.

    Which, is a function of the position, the `step` (a whole number, tensor or not) and the `key`: the same for any
    number of threads, and anew with every step. `axes` leading axes decide together for what lies behind them.
    Raises DTypeError for a p outside [0, 1] or no number.
    """
    x = as_tensor(input)
    share = Fraction(number("dropout", "p", p))
    if not 0 <= share <= 1:
        raise DTypeError(f"dropout: p={p} is no probability: expected 0 ≤ p ≤ 1")
    if not training or share == 0:
        return x
    letters = letters_of(x, "dropout")
    counted = range(x.rank if axes is None else min(axes, x.rank))
    weights = [prod(_size(x, b) for b in counted if b > a) for a in counted]
    position = "+".join(f"{w}*{letters[a]}" for a, w in zip(counted, weights, strict=True)) or "0"
    attributes = {"κ": key, "t": round(share * 2**BITS), "γ": 1 / (1 - share) if share < 1 else Fraction(1)}
    when = step if isinstance(step, Tensor) else as_tensor(step)
    return apply(REGISTRY["dropout"], [x, when], words={"all": ",".join(letters), "over": position}, attributes=attributes)


def _size(x: Tensor, axis: int) -> int:
    e = x.shape[axis]
    if isinstance(e, Batch):
        raise ShapeError(f"dropout: the open batch size of {list(x.shape)} must be axis 0")
    return e
