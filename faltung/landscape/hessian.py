"""The curvature of a loss: its Hessian as a linear map, and the ends of its spectrum.

Nothing of the Hessian is stored: a product with a vector is the tangent of the gradient, one compiled program (`ft.hvp`).
Lanczos' method turns k products into a tridiagonal k×k matrix whose extreme eigenvalues approach those of the Hessian
from inside. Rounding makes its vectors lose their orthogonality, and then found eigenvalues come again; so every vector is made
orthogonal to all before it, twice ("twice is enough": Parlett, The Symmetric Eigenvalue Problem, section 6.9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from faltung.graph import dsl
from faltung.graph.errors import DataError, ShapeError
from faltung.graph.forward import hvp
from faltung.graph.tensor import Tensor
from faltung.landscape.directions import Array, parameters
from faltung.landscape.mean import BATCH, inputs, mean
from faltung.nn.module import Module
from faltung.runtime.compile import compile

Product = Callable[[Array], Array]


class Hessian:
    """The second derivatives of a mean loss by parameters, times vectors; compiled when made.

    `loss` is a scalar, `network` what is differentiated by, or some of its parameters as a dict. A vector is flat: the
    parameters one after another, in the order of the dict. Raises ShapeError for a loss that is no scalar.
    """

    def __init__(self, loss: Tensor, network: Module | Mapping[str, Tensor]) -> None:
        self.parameters = parameters(network)
        self.inputs = inputs(loss)
        self._vectors = {name: dsl.input(f"vector {name}", p.shape, p.dtype) for name, p in self.parameters.items()}
        self._program = compile(list(hvp(loss, self.parameters, self._vectors).values()), accuracy="strict")

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return sum(p.read().size for p in self.parameters.values())

    def flat(self, arrays: Mapping[str, Array]) -> Array:
        """Arrays under the names of the parameters as one vector, float64."""
        return np.concatenate([np.ravel(arrays[name]) for name in self.parameters]).astype(np.float64)

    def times(self, vector: Array, *data: Any, batch_size: int = BATCH) -> Array:
        """H·v over examples, an array for each of the loss's inputs. Raises ShapeError, DataError for what does not fit."""
        if vector.shape != (self.size,):
            raise ShapeError(f"Hessian: a vector has {self.size} numbers, one for each of the parameters; got shape {list(vector.shape)}")
        known, start = {}, 0
        for name, p in self.parameters.items():
            value = p.read()
            known[self._vectors[name].name] = vector[start : start + value.size].reshape(value.shape)
            start += value.size
        return np.concatenate([np.ravel(found) for found in mean(self._program, self.inputs, data, known, batch_size)])

    def ends(
        self, *data: Any, scales: Mapping[str, Array] | None = None, most: int = 60, tolerance: float = 1e-3, batch_size: int = BATCH
    ) -> Ends:  # fmt: skip
        """The smallest and the largest eigenvalue of H, or of S·H·S with S the diagonal matrix of `scales`.

        With `landscape.scales(network)` that is the curvature for steps measured in lengths of the filters, which stays what
        it is when a filter is made longer without changing what the network computes.
        """
        scale = 1.0 if scales is None else self.flat(scales)
        return ends(lambda v: scale * self.times(scale * v, *data, batch_size=batch_size), self.size, most, tolerance)


class Ends(NamedTuple):
    """Both ends of a spectrum. An eigenvalue lies within `error` of each number; `products` were taken."""

    smallest: float
    largest: float
    error: tuple[float, float]
    products: int


def ends(product: Product, size: int, most: int = 60, tolerance: float = 1e-3, seed: int = 0) -> Ends:
    """The ends of the spectrum of a symmetric map of vectors (size,), by at most that many products.

    Stops as soon as each error is within `tolerance` of its own number. The error of a Ritz value θ with vector y is
    ‖A·y - θ·y‖ = β·|last entry of its eigenvector|. Ends that are not reached yet lie outside what is found, not inside.
    Raises DataError for a size or a number of products below 1, and for a product that is not finite.
    """
    if size < 1 or most < 1:
        raise DataError(f"Lanczos: {most} products of vectors of {size} numbers; expected at least 1 of each")
    basis = np.empty((min(most, size), size))
    start = np.random.default_rng(seed).standard_normal(size)
    basis[0] = start / np.linalg.norm(start)
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        k = len(alphas)
        image = np.asarray(product(basis[k]), np.float64)
        if not np.isfinite(image).all():
            raise DataError(f"Lanczos: product {k + 1} is not finite; at these parameters there is no curvature to speak of")
        alphas.append(float(basis[k] @ image))
        for _ in range(2):
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        betas.append(float(np.linalg.norm(image)))
        found = _ends(alphas, betas)
        values = np.abs([found.smallest, found.largest])
        closed = betas[-1] <= 1e-12 * values.max()  # the basis spans an invariant space: nothing further is reached
        if closed or k + 1 == len(basis) or (found.error <= tolerance * values).all():
            return found
        basis[k + 1] = image / betas[-1]


def _ends(alphas: list[float], betas: list[float]) -> Ends:
    between = betas[:-1]
    values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(between, 1) + np.diag(between, -1))
    error = (betas[-1] * abs(vectors[-1, 0]), betas[-1] * abs(vectors[-1, -1]))
    return Ends(float(values[0]), float(values[-1]), (float(error[0]), float(error[1])), len(alphas))
