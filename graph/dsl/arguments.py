"""Arguments as users give them: one number or one for each axis, axes counted from either end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from faltung.graph.errors import ShapeError
from faltung.graph.parse import LETTERS
from faltung.graph.tensor import Tensor

Ints = int | Sequence[int]
Axes = int | Sequence[int] | None


def per_axis(value: Ints, rank: int, what: str, least: int) -> tuple[int, ...]:
    """One integer for each of `rank` axes, all at least `least`. Raises ShapeError that names the argument."""
    numbers = (value,) * rank if isinstance(value, (int, np.integer)) else tuple(value) if isinstance(value, Iterable) else None
    if numbers is None or len(numbers) != rank or any(not isinstance(v, (int, np.integer)) or v < least for v in numbers):
        raise ShapeError(f"{what}={value!r}: give an integer of at least {least}, or {rank} of them")
    return tuple(int(v) for v in numbers)


def axes_of(x: Tensor, axis: Axes, what: str) -> tuple[int, ...]:
    """Axes of `x`, counted from the front, in order; None means all. Raises ShapeError that names the function."""
    if axis is not None and not isinstance(axis, (int, np.integer)) and not isinstance(axis, Iterable):
        raise ShapeError(f"{what}: axis {axis!r} must be an integer or several")
    chosen = range(x.rank) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    for a in chosen:
        if not isinstance(a, (int, np.integer)):
            raise ShapeError(f"{what}: axis {a!r} must be an integer")
        if not -x.rank <= a < x.rank:
            raise ShapeError(f"{what}: axis {a} of a tensor with {x.rank} axes {list(x.shape)}")
    return tuple(sorted({int(a) % x.rank for a in chosen}))


def letters_of(x: Tensor, what: str) -> str:
    """One index letter for each axis of `x`. Raises ShapeError for more axes than there are letters."""
    if x.rank not in LETTERS:
        raise ShapeError(f"{what}: a tensor of {x.rank} axes {list(x.shape)}; at most {len(LETTERS) - 1} are supported")
    return LETTERS[x.rank]
