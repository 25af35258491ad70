"""Layers that work element by element or normalise along one axis: TABLE of functions, and those with state of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from faltung.init import filled
from faltung.nn.arguments import count
from faltung.nn.module import Module


class Identity(Module):
    """The input itself; takes and ignores any arguments, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def forward(self, input: Any) -> Tensor:
        return dsl.as_tensor(input)


class _Function(Module):
    """A function of one tensor as a layer, with the function's own numbers as arguments.

    `inplace` is taken for PyTorch's sake: memory is planned by the compiler.
    """

    function: ClassVar[Callable[..., Tensor]]
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = (*self.defaults, "inplace")
        if len(args) > len(names) or any(n not in names for n in kwargs):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}; got {[*args, *kwargs]}")
        given = self.defaults | dict(zip(names, args, strict=False)) | kwargs
        self.inplace = bool(given.pop("inplace", False))
        self.numbers = given

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, **self.numbers)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.numbers.items())


def _layer(name: str, function: Callable[..., Tensor]) -> type[_Function]:
    """The layer of a function, whose arguments behind the first are the layer's, with their defaults."""
    _, *rest = inspect.signature(function).parameters.values()
    inplace = inspect.Parameter("inplace", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=bool)
    body = {
        "function": staticmethod(function),
        "defaults": {p.name: p.default for p in rest},
        "__signature__": inspect.Signature([*rest, inplace]),
        "__doc__": inspect.getdoc(function),
        "__module__": __name__,
    }
    return type(name, (_Function,), body)


ReLU = _layer("ReLU", dsl.relu)
ReLU6 = _layer("ReLU6", dsl.relu6)
LeakyReLU = _layer("LeakyReLU", dsl.leaky_relu)
Hardtanh = _layer("Hardtanh", dsl.hardtanh)
ELU = _layer("ELU", dsl.elu)
CELU = _layer("CELU", dsl.celu)
SELU = _layer("SELU", dsl.selu)
GELU = _layer("GELU", dsl.gelu)
SiLU = _layer("SiLU", dsl.silu)
Mish = _layer("Mish", dsl.mish)
Tanh = _layer("Tanh", dsl.tanh)
Sigmoid = _layer("Sigmoid", dsl.sigmoid)
LogSigmoid = _layer("LogSigmoid", dsl.logsigmoid)
Hardsigmoid = _layer("Hardsigmoid", dsl.hardsigmoid)
Hardswish = _layer("Hardswish", dsl.hardswish)
Softplus = _layer("Softplus", dsl.softplus)
Softsign = _layer("Softsign", dsl.softsign)
Softmax = _layer("Softmax", dsl.softmax)
LogSoftmax = _layer("LogSoftmax", dsl.log_softmax)


class PReLU(Module):
    """x above 0, weight·x elsewhere: one trained weight, or one for each channel. Raises ShapeError."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype: str = "float32") -> None:
        self.weights = count("PReLU", "num_parameters", num_parameters)
        self.weight = dsl.parameter(filled((self.weights,), init, dtype, "PReLU"), "weight", dtype)

    def forward(self, input: Any) -> Tensor:
        return dsl.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.weights}"
