"""Default initial values of layers, drawn from one seeded generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from faltung.graph.descent import HyperparameterError
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.tensor import FLOATS

_generator: np.random.Generator | None = None


def manual_seed(seed: int) -> None:
    """Start the sequence of initial values anew; the same seed gives the same networks.

    Without a call the seed is 0. Raises HyperparameterError for what is not a non-negative integer.
    """
    global _generator
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise HyperparameterError(f"manual_seed({seed!r}): expected a non-negative integer")
    _generator = np.random.default_rng(int(seed))


def normal(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Values normal with mean 0 and variance 1, drawn in float32. Raises DTypeError for a type that is not float."""
    if dtype not in FLOATS:
        raise DTypeError(f"dtype {dtype} cannot be trained; use {' or '.join(FLOATS)}")
    return _seeded().standard_normal(tuple(shape), dtype=np.float32).astype(dtype, copy=False)


def key() -> int:
    """31 random bits: what tells one layer's random numbers from another's."""
    return int(_seeded().integers(2**31))


def _seeded() -> np.random.Generator:
    if _generator is None:
        manual_seed(0)
    assert _generator is not None
    return _generator


def uniform(shape: Sequence[int], fan_in: int, dtype: str) -> np.ndarray:
    """Values uniform in ±1/√fan_in, where fan_in counts the inputs that one output sums over.

    That is what PyTorch draws for weights (He's bound √6/√((1 + a²)·fan_in) at a = √5) and for biases. Always drawn
    in float32, so that a float64 network starts from the same numbers. Raises DTypeError for a type that is not
    float, ShapeError for an array that does not fit into memory.
    """
    if dtype not in FLOATS:
        raise DTypeError(f"dtype {dtype} cannot be trained; use {' or '.join(FLOATS)}")
    generator = _seeded()
    bound = np.float32(1 / math.sqrt(fan_in))
    try:
        values = generator.random(tuple(shape), dtype=np.float32)
        values *= 2 * bound
        values -= bound
        return values.astype(dtype, copy=False)
    except (MemoryError, ValueError) as reason:
        count = math.prod(shape)
        raise ShapeError(f"shape {list(shape)} is {count:,} values, {4 * count / 2**30:,.1f} GiB, which cannot be had") from reason
