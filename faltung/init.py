"""Initial values of layers: each drawn from a stream of its own, when it is first read.

    parameter(shape, dtype, name)            a leaf that has no value yet
    uniform, normal, kaiming_normal, constant    take such a leaf, say how its value is drawn, and return it

Every call that draws takes the next stream of the seed, so that the numbers do not depend on the order in which they
are read; and a network that is given saved weights never draws any. Numbers are drawn in float32, so that a float64
network starts from the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from faltung.graph.descent import HyperparameterError
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.room import granted
from faltung.graph.tensor import FLOATS, Tensor, known_dtype, leaf

_seed, _streams = 0, 0


def manual_seed(seed: int) -> None:
    """Start the sequence of initial values anew; the same seed gives the same networks.

    Without a call the seed is 0. Raises HyperparameterError for what is not a non-negative integer.
    """
    global _seed, _streams
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise HyperparameterError(f"manual_seed({seed!r}): expected a non-negative integer")
    _seed, _streams = int(seed), 0


def key() -> int:
    """31 random bits: what tells one layer's random numbers from another's."""
    return int(_stream()().integers(2**31))


def parameter(shape: Sequence[int], dtype: str, name: str) -> Tensor:
    """A trainable leaf without a value.

    Raises DTypeError for a type that is not float, OutOfMemory for an array that does not fit into memory.
    """
    if (dtype := known_dtype(dtype, name)) not in FLOATS:
        raise DTypeError(f"dtype {dtype} cannot be trained; use {' or '.join(FLOATS)}")
    _empty(shape, dtype, name)
    return leaf("parameter", shape, dtype, name)


def filled(shape: Sequence[int], value: float, dtype: str, name: str) -> np.ndarray:
    """An array of one number, the first value of `name`. Raises OutOfMemory where it does not fit into memory."""
    array = _empty(shape, dtype, name)
    array[...] = value
    return array


def _empty(shape: Sequence[int], dtype: str, name: str) -> np.ndarray:
    count = math.prod(shape)
    size = count * np.dtype(known_dtype(dtype, name)).itemsize
    with granted(f"{name} {list(shape)}, {count:,} values", "give the layer fewer features", size):
        return np.empty(tuple(shape), dtype)  # address space only: nothing is written


def uniform(tensor: Tensor, bound: float) -> Tensor:
    """Uniform in ±bound. PyTorch's layers take 1/√fan_in, which is He's bound √6/√((1 + a²)·fan_in) at a = √5."""
    return _drawn(tensor, lambda g, shape: np.float32(2 * bound) * g.random(shape, np.float32) - np.float32(bound))


def normal(tensor: Tensor, std: float = 1.0) -> Tensor:
    """Normal with mean 0 and standard deviation `std`."""
    return _drawn(tensor, lambda g, shape: np.float32(std) * g.standard_normal(shape, np.float32))


def kaiming_normal(tensor: Tensor, mode: str = "fan_in") -> Tensor:
    """Normal with variance 2/fan, which keeps the scale of values (fan_in) or of gradients (fan_out) behind ReLU.

    He et al. 2015, Delving deep into rectifiers, equations 10 and 14. The weight is (out, in, …): its fan is the
    elements of a window times `in` or `out`, which is how PyTorch counts, for groups as well.
    Raises HyperparameterError for another mode, ShapeError for fewer than two axes.
    """
    if mode not in ("fan_in", "fan_out"):
        raise HyperparameterError(f"kaiming_normal: mode={mode!r}: expected 'fan_in' or 'fan_out'")
    if tensor.rank < 2:
        raise ShapeError(f"kaiming_normal: {tensor.name} has shape {list(tensor.shape)}; a fan needs the axes (out, in, …)")
    outputs, inputs, *window = (extent for extent in tensor.shape if isinstance(extent, int))
    return normal(tensor, math.sqrt(2 / (math.prod(window) * (inputs if mode == "fan_in" else outputs))))


def constant(tensor: Tensor, value: float) -> Tensor:
    """The same number everywhere."""
    tensor.lend(lambda: np.full(tensor.shape, value, tensor.dtype))
    return tensor


def _drawn(tensor: Tensor, draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Tensor:
    stream, shape, dtype = _stream(), tuple(e for e in tensor.shape if isinstance(e, int)), tensor.dtype
    tensor.lend(lambda: np.asarray(draw(stream(), shape), dtype))
    return tensor


def _stream() -> Callable[[], np.random.Generator]:
    """The next stream of the seed: a generator that starts at the same place whenever it is asked for."""
    global _streams
    seed, number = _seed, _streams
    _streams += 1
    return lambda: np.random.Generator(np.random.SFC64([seed, number]))
