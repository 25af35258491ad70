"""Directions in the space of parameters, filter by filter as long as the parameters themselves.

A network with batch normalisation, or with rectifiers alone, computes the same when a filter is made longer and what
follows undoes it; a step of a given length then means less. Measured in lengths of each filter, steps in different
networks compare (Li et al. 2018, section 4):

    D[f,…] = G[f,…] · ‖W[f,…]‖/‖G[f,…]‖        G Gaussian, f a filter: a slice along the first axis

Biases and the parameters of batch normalisation, all that have one axis, do not move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from faltung.graph.errors import DataError, DTypeError
from faltung.graph.tensor import Tensor
from faltung.nn.module import Module

Array = np.ndarray[Any, Any]
Direction = dict[str, Array]  # float64 arrays under the keys and in the shapes of the parameters


def weights(network: Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters with filters, by name: those with two axes or more."""
    return {name: p for name, p in parameters(network).items() if p.rank > 1}


def parameters(network: Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a network, or those of a dict. Raises DTypeError for anything else."""
    if isinstance(network, Module):
        return dict(network.named_parameters())
    if isinstance(network, Mapping) and all(isinstance(p, Tensor) and p.kind == "parameter" for p in network.values()):
        return dict(network)
    raise DTypeError(f"expected a network or a dict of parameters, got {type(network).__name__}")


def directions(network: Module | Mapping[str, Tensor], count: int = 2, seed: int = 0) -> list[Direction]:
    """Random directions for all parameters of a network; equal seeds give equal directions.

    Each filter is as long as the network's; a filter of zeros does not move. The first axis counts filters, which in a
    transposed convolution are those of an input channel. Raises DataError for a count below 1.
    """
    if count < 1:
        raise DataError(f"{count} directions: expected at least 1")
    generator = np.random.default_rng(seed)
    lengths = scales(network)
    found = []
    for _ in range(count):
        draws = {name: np.asarray(generator.standard_normal(length.shape)) for name, length in lengths.items()}
        found.append({name: d * (lengths[name] / _norms(d)) if d.ndim > 1 else np.zeros(d.shape) for name, d in draws.items()})
    return found


def scales(network: Module | Mapping[str, Tensor]) -> Direction:
    """For every element of the parameters the length of its filter; 0 for what has no filters."""
    values = {name: p.read() for name, p in parameters(network).items()}
    return {name: np.array(np.broadcast_to(_norms(w), w.shape)) if w.ndim > 1 else np.zeros(w.shape) for name, w in values.items()}


def _norms(array: Array) -> Array:
    """The length of each slice along the first axis, (n, 1, …)."""
    norms = np.sqrt(np.square(array.astype(np.float64)).sum(axis=tuple(range(1, array.ndim)), keepdims=True))
    return np.asarray(norms)
