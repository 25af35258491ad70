"""Arguments of layers, checked when the layer is made rather than when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.graph.errors import ShapeError, UnsupportedOp

Ints = int | Sequence[int]


def count(layer: str, name: str, value: Any) -> int:
    """A positive integer. Raises ShapeError naming the layer and the argument."""
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ShapeError(f"{layer}: {name}={value!r}: expected a positive integer")
    return int(value)


def per_axis(layer: str, name: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """One integer for each of `rank` spatial axes; a lone one stands for all. Raises ShapeError."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = tuple(value) if several else (value,) * rank
    if len(numbers) != rank or any(not isinstance(v, (int, np.integer)) or v < least for v in numbers):
        wanted = f"an integer of at least {least}" + (f", or {rank} of them" if rank > 1 else "")
        raise ShapeError(f"{layer}: {name}={value!r}: expected {wanted}")
    return tuple(int(v) for v in numbers)


def only(layer: str, name: str, value: Any, supported: Any, meaning: str) -> None:
    """Refuse what is not built. Raises UnsupportedOp saying what is and what it means."""
    if value != supported:
        raise UnsupportedOp(f"{layer}: {name}={value!r} is not supported; {name}={supported!r} is ({meaning})")
