"""Faltung: write a convolutional network as equations, see its gradients, run both as native code.

`import faltung as ft`. Names that need the compiler are imported when first used, so that the import itself stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faltung import nn, optim
from faltung.graph.dsl import (
    abs,
    argmax,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    constant,
    conv1d,
    conv2d,
    conv3d,
    cross_entropy,
    exp,
    flatten,
    input,
    linear,
    log,
    log_softmax,
    matmul,
    max,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    maximum,
    mean,
    min,
    minimum,
    parameter,
    relu,
    reshape,
    sigmoid,
    softmax,
    sqrt,
    sum,
    tanh,
    transpose,
)
from faltung.graph.errors import (
    CheckpointError,
    CompileError,
    DataError,
    DTypeError,
    EquationError,
    FaltungError,
    ShapeError,
    UnsupportedOp,
)
from faltung.graph.grad import grad
from faltung.graph.ops.table import define
from faltung.graph.tensor import Tensor
from faltung.init import manual_seed

if TYPE_CHECKING:
    from faltung import datasets
    from faltung.runtime.compile import compile, compile_step
    from faltung.runtime.threads import set_threads as set_num_threads, threads as get_num_threads
    from faltung.runtime.train import fit

    __version__: str

# name             module                     attribute; none means the module itself
_LATE = {
    "compile":         ("faltung.runtime.compile", "compile"),
    "compile_step":    ("faltung.runtime.compile", "compile_step"),
    "fit":             ("faltung.runtime.train", "fit"),
    "set_num_threads": ("faltung.runtime.threads", "set_threads"),
    "get_num_threads": ("faltung.runtime.threads", "threads"),
    "datasets":        ("faltung.datasets", ""),
}  # fmt: skip

__all__ = [
    "CheckpointError", "CompileError", "DTypeError", "DataError", "EquationError", "FaltungError", "ShapeError", "Tensor",
    "UnsupportedOp", "__version__", "abs", "argmax", "avg_pool1d", "avg_pool2d", "avg_pool3d", "compile", "compile_step",
    "constant", "conv1d", "conv2d", "conv3d", "cross_entropy", "datasets", "define", "exp", "fit", "flatten",
    "get_num_threads", "grad", "input", "linear", "log", "log_softmax", "manual_seed", "matmul", "max", "max_pool1d",
    "max_pool2d", "max_pool3d", "maximum", "mean", "min", "minimum", "nn", "optim", "parameter", "relu", "reshape",
    "set_num_threads", "sigmoid", "softmax", "sqrt", "sum", "tanh", "transpose",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("faltung")
    elif name in _LATE:
        path, attribute = _LATE[name]
        module = import_module(path)
        value = getattr(module, attribute) if attribute else module
    else:
        raise AttributeError(f"module 'faltung' has no attribute {name!r}")
    globals()[name] = value  # from now on it is found without asking
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
