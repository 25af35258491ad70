"""Layers without parameters that work element by element or normalise along one axis."""

from __future__ import annotations

from typing import Any

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from faltung.nn.module import Module


class Identity(Module):
    """The input itself; takes and ignores any arguments, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def forward(self, input: Any) -> Tensor:
        return dsl.as_tensor(input)


class ReLU(Module):
    """max(x, 0). `inplace` is taken for PyTorch's sake: memory is planned by the compiler."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def forward(self, input: Any) -> Tensor:
        return dsl.relu(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Any) -> Tensor:
        return dsl.tanh(input)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Any) -> Tensor:
        return dsl.sigmoid(input)


class Softmax(Module):
    """exp(x) normalised to sum 1 along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Any) -> Tensor:
        return dsl.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """Logarithm of the softmax along `dim`."""

    def forward(self, input: Any) -> Tensor:
        return dsl.log_softmax(input, self.dim)
