"""Normalisation over the batch, a layer, groups of channels, one channel of one example, or neighbouring channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import Ints, letters_of, listed
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.dsl.pointwise import number
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.index import Batch
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import Tensor


def _words(x: Tensor, over: Sequence[int], to: Sequence[int] = ()) -> dict[str, str]:
    """Index lists: all axes, those averaged over, the rest, and those of weight and bias."""
    letters = letters_of(x, "normalisation")
    kept = [c for a, c in enumerate(letters) if a not in over]
    return {"all": ",".join(letters), "over": ",".join(letters[a] for a in over), "kept": ",".join(kept), "to": ",".join(letters[a] for a in to)}


def moments(x: Tensor, over: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over axes. Raises ShapeError where there is nothing to average."""
    if not over or any(x.shape[a] == 0 for a in over):
        raise ShapeError(f"normalisation of {list(x.shape)} over axes {list(over)}: there are no elements to average")
    words = _words(x, over)
    mean = apply(REGISTRY["mean"], [x], words=words)
    return mean, apply(REGISTRY["variance"], [x, mean], words=words)


def standardise(x: Tensor, mean: Tensor, variance: Tensor, over: Sequence[int], eps: float) -> Tensor:
    """(x - mean)/√(variance + eps), mean and variance indexed by the axes that are not in `over`."""
    return apply(REGISTRY["standardise"], [x, mean, variance], words=_words(x, over), attributes={"ε": _eps(eps)})


def scale(op: str, x: Tensor, weight: Any, bias: Any, at: Sequence[int]) -> Tensor:
    """x·weight + bias, both indexed by the axes `at`, either may be None. Raises ShapeError where they do not fit."""
    words, shape = _words(x, (), at), tuple(x.shape[a] for a in at)
    given = {name: as_tensor(t, x) for name, t in (("weight", weight), ("bias", bias)) if t is not None}
    for name, t in given.items():
        if t.shape != shape:
            raise ShapeError(f"{op}: {name} must be {list(shape)}, axes {list(at)} of the input {list(x.shape)}; got {list(t.shape)}")
    if not given:
        return x
    return apply(REGISTRY["scale" if "weight" in given else "shift"], [x, *given.values()], words=words)


def _eps(eps: Any) -> Any:
    value = number("normalisation", "eps", eps)
    if value < 0:
        raise UnsupportedOp(f"normalisation: eps={eps} must not be negative, it stands under a root")
    return value


def batch_axes(op: str, x: Tensor, training: bool) -> tuple[int, ...]:
    """All axes but the channels'. Raises ShapeError for an input without channels, or one element a channel in training."""
    if x.rank < 2:
        raise ShapeError(f"{op}: the input must have at least 2 axes (N, C, …), got {list(x.shape)}")
    over = tuple(a for a in range(x.rank) if a != 1)
    _several(op, x, over, training)
    return over


def _several(op: str, x: Tensor, over: Sequence[int], training: bool) -> None:
    sizes = [x.shape[a] for a in over]
    if training and all(e == 1 for e in sizes):
        raise ShapeError(f"{op}: statistics of the input {list(x.shape)} need more than one element, axes {list(over)} have 1 in all")


def batch_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of (N, C, …) brought to mean 0 and variance 1: the batch's with training=True, else the running ones.

    A graph has no side effects: running statistics change in a training step by `running`, as nn.BatchNorm has it.
    Raises ShapeError for statistics, weight or bias that do not fit, UnsupportedOp for none outside training.
    """
    del momentum  # only the change of running statistics knows it
    x = as_tensor(input)
    over = batch_axes("batch_norm", x, training)
    if training:
        mean, variance = moments(x, over)
    else:
        mean, variance = statistics("batch_norm", x, running_mean, running_var)
    return scale("batch_norm", standardise(x, mean, variance, over, eps), weight, bias, (1,))


def statistics(op: str, x: Tensor, mean: Any, variance: Any) -> tuple[Tensor, Tensor]:
    """Running statistics as tensors. Raises UnsupportedOp where there are none, ShapeError where they do not fit."""
    if mean is None or variance is None:
        raise UnsupportedOp(f"{op}: without running statistics it normalises by those of its input only")
    found = as_tensor(mean, x), as_tensor(variance, x)
    for t in found:
        if t.shape != x.shape[1:2]:
            raise ShapeError(f"{op}: running statistics must have one element for each of {x.shape[1]} channels (axis 1 of {list(x.shape)}), got {list(t.shape)}")
    return found


def running(state: Tensor, statistic: Tensor, momentum: float | None, counted: Tensor | None = None) -> Tensor:
    """The next value of a running statistic; momentum None averages all batches, of which there were `counted`."""
    words = {"to": ",".join(letters_of(state, "running"))}
    if momentum is None:
        assert counted is not None, "an average needs to know how many went before"
        return apply(REGISTRY["running_average"], [state, statistic, counted], words=words)
    return apply(REGISTRY["running"], [state, statistic], words=words, attributes={"μ": number("running", "momentum", momentum)})


def unbiased(variance: Tensor, x: Tensor, over: Sequence[int]) -> Tensor:
    """The variance of the elements of `x` over axes as an estimate for those to come: n/(n - 1) times as much."""
    fixed = prod(e for a in over if not isinstance(e := x.shape[a], Batch))
    count = f"N*{fixed}" if any(isinstance(x.shape[a], Batch) for a in over) else str(fixed)
    return apply(REGISTRY["unbiased"], [variance], words={"to": ",".join(letters_of(variance, "unbiased")), "over": count})


def counted(steps: Tensor) -> Tensor:
    """A whole number and one."""
    return apply(REGISTRY["count"], [steps], dtype=steps.dtype)


def layer_norm(input: Any, normalized_shape: Ints, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """The last axes, whose shape is given, brought to mean 0 and variance 1. Raises ShapeError where they differ."""
    x = as_tensor(input)
    shape = listed(normalized_shape) or (normalized_shape,)  # () is refused below
    if any(not isinstance(e, (int, np.integer)) for e in shape):
        raise ShapeError(f"layer_norm: normalized_shape={normalized_shape!r}: give the extents of the last axes")
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(f"layer_norm: the last axes of the input {list(x.shape)} must be {list(shape)}")
    over = tuple(range(x.rank - len(shape), x.rank))
    return scale("layer_norm", standardise(x, *moments(x, over), over, eps), weight, bias, over)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Groups of channels of each example brought to mean 0 and variance 1; weight and bias are a channel's.

    Raises ShapeError for a number of groups that does not divide the channels.
    """
    x = as_tensor(input)
    if x.rank < 2 or not isinstance(num_groups, (int, np.integer)) or num_groups < 1 or _channels(x) % num_groups:
        raise ShapeError(f"group_norm: num_groups={num_groups!r} must divide the channels, axis 1 of the input {list(x.shape)}")
    size = _channels(x) // int(num_groups)
    _several("group_norm", x, tuple(range(2, x.rank)), size == 1)
    extents = {"g": int(num_groups), "c": size}
    y = apply(REGISTRY["group_norm"], [x], rank=x.rank - 2, extents=extents, attributes={"s": size, "ε": _eps(eps)})
    return scale("group_norm", y, weight, bias, (1,))


def _channels(x: Tensor) -> int:
    e = x.shape[1]
    if isinstance(e, Batch):
        raise ShapeError(f"group_norm: axis 1 of {list(x.shape)} is the open batch size, not channels")
    return e


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of each example of (N, C, …) brought to mean 0 and variance 1, or by running statistics.

    Raises ShapeError for an input without spatial axes and for what does not fit, UnsupportedOp for missing statistics.
    """
    del momentum
    x = as_tensor(input)
    over = spatial_axes("instance_norm", x)
    if use_input_stats:
        _several("instance_norm", x, over, True)
        y = standardise(x, *moments(x, over), over, eps)
    else:
        y = standardise(x, *statistics("instance_norm", x, running_mean, running_var), (0, *over), eps)
    return scale("instance_norm", y, weight, bias, (1,))


def spatial_axes(op: str, x: Tensor) -> tuple[int, ...]:
    """The axes behind batch and channels. Raises ShapeError where there are none."""
    if x.rank < 3:
        raise ShapeError(f"{op}: the input must have spatial axes (N, C, …), got {list(x.shape)}")
    return tuple(range(2, x.rank))


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x/(k + alpha·mean of squares over `size` neighbouring channels)^beta, with zeros beside the channels.

    Raises ShapeError for an input without channels or a size below 1.
    """
    x = as_tensor(input)
    if x.rank < 2 or not isinstance(size, (int, np.integer)) or size < 1:
        raise ShapeError(f"local_response_norm: size={size!r} must be a positive integer and the input (N, C, …), got {list(x.shape)}")
    numbers = {name: number("local_response_norm", name, v) for name, v in (("alpha", alpha), ("beta", beta), ("k", k))}
    attributes = {"w": int(size), "h": int(size) // 2, "α": numbers["alpha"] / int(size), "β": numbers["beta"], "κ": numbers["k"]}
    return apply(REGISTRY["local_response_norm"], [x], rank=x.rank - 2, extents={"c": x.shape[1]}, attributes=attributes)
