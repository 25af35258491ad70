"""Arguments as users give them: one number or one for each axis, axes counted from either end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.graph.errors import ShapeError
from faltung.graph.parse import LETTERS
from faltung.graph.tensor import Tensor

Ints = int | Sequence[int]
Axes = int | Sequence[int] | None


def listed(value: Any) -> tuple[Any, ...] | None:
    """What a sequence holds; None for what is none, which an array without axes does not say of itself."""
    try:
        return tuple(value)
    except TypeError:
        return None


def per_axis(value: Ints, rank: int, what: str, least: int) -> tuple[int, ...]:
    """One integer for each of `rank` axes, all at least `least`. Raises ShapeError that names the argument."""
    numbers = (value,) * rank if isinstance(value, (int, np.integer)) else listed(value)
    if numbers is None or len(numbers) != rank or any(not isinstance(v, (int, np.integer)) or v < least for v in numbers):
        raise ShapeError(f"{what}={value!r}: give an integer of at least {least}, or {rank} of them")
    return tuple(int(v) for v in numbers)


def axes_of(x: Tensor, axis: Axes, what: str) -> tuple[int, ...]:
    """Axes of `x`, counted from the front, in order; None means all. Raises ShapeError that names the function."""
    chosen = tuple(range(x.rank)) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else listed(axis)
    if chosen is None:
        raise ShapeError(f"{what}: axis {axis!r} must be an integer or several")
    for a in chosen:
        if not isinstance(a, (int, np.integer)):
            raise ShapeError(f"{what}: axis {a!r} must be an integer")
        if not -x.rank <= a < x.rank:
            raise ShapeError(f"{what}: axis {a} of a tensor with {x.rank} axes {list(x.shape)}")
    return tuple(sorted({int(a) % x.rank for a in chosen}))


def axis_of(x: Tensor, axis: int, what: str) -> int:
    """One axis of `x`, counted from the front. Raises ShapeError that names the function."""
    found = axes_of(x, axis, what) if axis is not None else ()
    if len(found) != 1:
        raise ShapeError(f"{what}: axis {axis!r} must be one integer")
    return found[0]


def letters_of(x: Tensor, what: str) -> str:
    """One index letter for each axis of `x`. Raises ShapeError for more axes than there are letters."""
    if x.rank not in LETTERS:
        raise ShapeError(f"{what}: a tensor of {x.rank} axes {list(x.shape)}; at most {len(LETTERS) - 1} are supported")
    return LETTERS[x.rank]
