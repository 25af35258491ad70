"""Faltung: write a convolutional network as equations, see its gradients, run both as native code.

`import faltung as ft`. Names that need the compiler are imported when first used, so that the import itself stays light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from faltung.graph.dsl import (
    abs,
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    argmax,
    argmin,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    batch_norm,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cat,
    celu,
    channel_shuffle,
    constant,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    cross_entropy,
    dropout,
    elu,
    embedding,
    erf,
    exp,
    flatten,
    flip,
    fold,
    gelu,
    group_norm,
    hardsigmoid,
    hardswish,
    hardtanh,
    huber_loss,
    input,
    instance_norm,
    interpolate,
    l1_loss,
    layer_norm,
    leaky_relu,
    linear,
    local_response_norm,
    log,
    log_softmax,
    logsigmoid,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    matmul,
    max,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
    maximum,
    mean,
    min,
    minimum,
    mish,
    mse_loss,
    nll_loss,
    one_hot,
    pad,
    parameter,
    pixel_shuffle,
    pixel_unshuffle,
    prelu,
    relu,
    relu6,
    reshape,
    selu,
    sigmoid,
    silu,
    smooth_l1_loss,
    softmax,
    softplus,
    softsign,
    sqrt,
    squeeze,
    stack,
    sum,
    tanh,
    transpose,
    unflatten,
    unfold,
    unsqueeze,
)
from faltung.graph.errors import (
    CheckpointError,
    CompileError,
    DataError,
    DTypeError,
    EquationError,
    FaltungError,
    OutOfMemory,
    ShapeError,
    UnsupportedOp,
)
from faltung.graph.ops.table import define
from faltung.graph.tensor import Tensor
from faltung.init import manual_seed

if TYPE_CHECKING:
    from faltung import datasets, landscape, nn as nn, optim as optim, photos, pictures, saliency, weights, zoo
    from faltung.graph.forward import hvp, jvp
    from faltung.graph.grad import grad as grad, vjp
    from faltung.graph.matrix import matrix
    from faltung.graph.winograd import winograd
    from faltung.runtime.compile import compile, compile_step
    from faltung.runtime.threads import set_threads as set_num_threads, threads as get_num_threads
    from faltung.runtime.train import fit
    from faltung.runtime.verify import verify

    __version__: str

# name             module                     attribute; none means the module itself
_LATE = {
    "compile":         ("faltung.runtime.compile", "compile"),
    "compile_step":    ("faltung.runtime.compile", "compile_step"),
    "fit":             ("faltung.runtime.train", "fit"),
    "set_num_threads": ("faltung.runtime.threads", "set_threads"),
    "get_num_threads": ("faltung.runtime.threads", "threads"),
    "datasets":        ("faltung.datasets", ""),
    "grad":            ("faltung.graph.grad", "grad"),
    "hvp":             ("faltung.graph.forward", "hvp"),
    "jvp":             ("faltung.graph.forward", "jvp"),
    "landscape":       ("faltung.landscape", ""),
    "nn":              ("faltung.nn", ""),
    "matrix":          ("faltung.graph.matrix", "matrix"),
    "optim":           ("faltung.optim", ""),
    "photos":          ("faltung.photos", ""),
    "pictures":        ("faltung.pictures", ""),
    "saliency":        ("faltung.saliency", ""),
    "verify":          ("faltung.runtime.verify", "verify"),
    "vjp":             ("faltung.graph.grad", "vjp"),
    "weights":         ("faltung.weights", ""),
    "winograd":        ("faltung.graph.winograd", "winograd"),
    "zoo":             ("faltung.zoo", ""),
}  # fmt: skip

__all__ = [
    "CheckpointError", "CompileError", "DTypeError", "DataError", "EquationError", "FaltungError", "OutOfMemory", "ShapeError",
    "Tensor", "UnsupportedOp", "__version__", "abs", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "argmax", "argmin",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "cat", "celu", "channel_shuffle", "compile", "compile_step", "constant",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cross_entropy",
    "datasets", "define", "dropout", "elu", "embedding", "erf", "exp", "fit", "flatten", "flip", "fold", "gelu",
    "get_num_threads", "grad", "group_norm", "hardsigmoid", "hardswish", "hardtanh", "huber_loss", "hvp", "input",
    "instance_norm", "interpolate", "jvp", "l1_loss", "landscape", "layer_norm", "leaky_relu", "linear",
    "local_response_norm", "log", "log_softmax", "logsigmoid", "lp_pool1d", "lp_pool2d", "lp_pool3d", "manual_seed",
    "matmul", "matrix", "max", "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
    "maximum", "mean", "min", "minimum", "mish", "mse_loss", "nll_loss", "nn", "one_hot", "optim", "pad",
    "parameter", "photos", "pictures", "pixel_shuffle", "pixel_unshuffle", "prelu", "relu", "relu6", "reshape",
    "saliency", "selu", "set_num_threads", "sigmoid", "silu", "smooth_l1_loss", "softmax", "softplus", "softsign",
    "sqrt", "squeeze", "stack", "sum", "tanh", "transpose", "unflatten", "unfold", "unsqueeze", "verify", "vjp",
    "weights", "winograd", "zoo",
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
        from faltung.graph import elsewhere

        raise elsewhere.missing("module 'faltung'", name, sys.modules[__name__], elsewhere.FUNCTIONS)
    globals()[name] = value  # from now on it is found without asking
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
