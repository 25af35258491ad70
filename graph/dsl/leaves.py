"""Inputs, parameters and constants: the leaves of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.graph.errors import DTypeError
from faltung.graph.index import Extent
from faltung.graph.room import granted
from faltung.graph.tensor import DTYPES, FLOATS, Tensor, known_dtype, leaf


def input(name: str, shape: Sequence[Extent | None], dtype: str = "float32") -> Tensor:
    """An input of the network. None as the first extent leaves the batch size open.

    Raises ShapeError for a bad extent, DTypeError for an unknown dtype.
    """
    return leaf("input", shape, dtype, name)


def constant(value: Any, name: str = "", dtype: str | None = None) -> Tensor:
    """An array whose values are known when the graph is built; Python and float64 arrays become float32 unless `dtype` says otherwise."""
    array = _array(value, dtype, name or "constant")
    return leaf("constant", array.shape, str(array.dtype), name, array)


def table(values: np.ndarray[Any, Any], dtype: str) -> Tensor:
    """A constant that is worked out, not given: float64 numbers rounded to `dtype`. A graph computed in double precision takes them as they are."""
    found = constant(values, dtype=dtype)
    if found.value is not None and found.value.dtype != values.dtype:
        found.unrounded = values
    return found


def parameter(value: Any, name: str = "", dtype: str | None = None) -> Tensor:
    """A trainable array with its initial value."""
    array = _array(value, dtype, name or "parameter")
    return leaf("parameter", array.shape, str(array.dtype), name, array)


def _array(value: Any, dtype: str | None, name: str) -> np.ndarray[Any, Any]:
    with granted(f"{name}, a copy of what was given", "give it smaller extents", value.nbytes if isinstance(value, np.ndarray) else 0):
        try:
            array = np.array(value)
        except (ValueError, TypeError) as reason:
            raise DTypeError(f"{name}: not an array of numbers ({reason})") from None
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{name}: {array.dtype} is not a numeric dtype; use one of {', '.join(DTYPES)}")
    if dtype is None:
        dtype = "float32" if array.dtype.kind in "f" else {"i": "int64", "u": "int64", "b": "bool"}.get(array.dtype.kind)
        if array.dtype == np.int32:
            dtype = "int32"
    if (dtype := known_dtype(dtype, name)) not in DTYPES:
        raise DTypeError(f"{name}: dtype {dtype} is not supported; use one of {', '.join(DTYPES)}")
    with granted(f"{name} in {dtype}", "give it smaller extents"):
        return np.array(array, dtype=dtype, order="C")


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """A tensor as it is; anything else as a constant (in the dtype of `like` when that is a float)."""
    if isinstance(value, Tensor):
        return value
    return constant(value, dtype=like.dtype if like is not None and like.dtype in FLOATS else None)
