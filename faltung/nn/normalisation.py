"""Normalisation layers: batch, instance, layer, group, and local response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from faltung.graph import dsl
from faltung.graph.dsl import normalisation as formulas
from faltung.graph.dsl.pointwise import number
from faltung.graph.errors import ShapeError
from faltung.graph.tensor import Tensor, leaf
from faltung.init import filled
from faltung.nn.arguments import Ints, count
from faltung.nn.module import Module, Now


class _Tracked(Module):
    """What batch and instance norm share: a weight and a bias for each channel, and running statistics."""

    ranks: ClassVar[tuple[int, ...]]

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: str = "float32",
    ) -> None:
        name = type(self).__name__
        self.num_features = count(name, "num_features", num_features)
        self.eps, self.affine, self.track_running_stats = float(number(name, "eps", eps)), affine, track_running_stats
        self.momentum = None if momentum is None else float(number(name, "momentum", momentum))
        ones, zeros = (filled((self.num_features,), value, dtype, name) for value in (1.0, 0.0))
        self.weight = dsl.parameter(ones, "weight", dtype) if affine else None
        self.bias = dsl.parameter(zeros, "bias", dtype) if affine else None
        self.running_mean = leaf("state", zeros.shape, dtype, "running_mean", zeros.copy()) if track_running_stats else None
        self.running_var = leaf("state", ones.shape, dtype, "running_var", ones.copy()) if track_running_stats else None
        steps = np.zeros((), np.int64)
        self.num_batches_tracked = leaf("state", (), "int64", "num_batches_tracked", steps) if track_running_stats else None

    def _input(self, input: Any) -> Tensor:
        x = dsl.as_tensor(input)
        if x.rank not in self.ranks:
            raise ShapeError(f"the input must have {' or '.join(map(str, self.ranks))} axes (N, C, …), got {list(x.shape)}")
        if x.shape[1] != self.num_features:
            raise ShapeError(f"the input has {x.shape[1]} channels (axis 1 of {list(x.shape)}), the layer normalises {self.num_features}")
        return x

    def _remember(self, result: Tensor, mean: Tensor, variance: Tensor) -> None:
        """In a training step the running statistics move towards these."""
        old_mean, old_variance, steps = self.running_mean, self.running_var, self.num_batches_tracked
        if old_mean is None or old_variance is None or steps is None:
            return
        momentum = self.momentum  # the layer itself is not held: it holds this

        def change(now: Now) -> list[tuple[Tensor, Tensor]]:
            return [
                (old_mean, formulas.running(now(old_mean), mean, momentum, now(steps))),
                (old_variance, formulas.running(now(old_variance), variance, momentum, now(steps))),
                (steps, formulas.counted(now(steps))),
            ]

        self.on_update(result, change)

    def extra_repr(self) -> str:
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
        return f"{text}, track_running_stats={self.track_running_stats}"


class _BatchNorm(_Tracked):
    """In training by the batch's own statistics, which move the running ones; in evaluation by those."""

    def forward(self, input: Any) -> Tensor:
        x = self._input(input)
        own = self.training or self.running_mean is None
        if not own:
            return dsl.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        over = formulas.batch_axes("batch_norm", x, self.training)
        mean, variance = formulas.moments(x, over)
        y = formulas.standardise(x, mean, variance, over, self.eps)
        if self.training:
            self._remember(y, mean, formulas.unbiased(variance, x, over))
        return formulas.scale("batch_norm", y, self.weight, self.bias, (1,))


class BatchNorm1d(_BatchNorm):
    """Each channel of (N, C) or (N, C, L) to mean 0 and variance 1, then weight (C) and bias (C). Raises ShapeError."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Each channel of (N, C, H, W) to mean 0 and variance 1, then weight (C) and bias (C). Raises ShapeError."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Each channel of (N, C, D, H, W) to mean 0 and variance 1, then weight (C) and bias (C). Raises ShapeError."""

    ranks = (5,)


class _InstanceNorm(_Tracked):
    """By each example's own statistics; with track_running_stats in evaluation by their running means."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype)

    def forward(self, input: Any) -> Tensor:
        x = self._input(input)
        own = self.training or self.running_mean is None
        y = dsl.instance_norm(x, self.running_mean, self.running_var, None, None, own, eps=self.eps)
        if self.training and self.track_running_stats:
            over = formulas.spatial_axes("instance_norm", x)
            mean, variance = formulas.moments(x, over)
            self._remember(y, dsl.mean(mean, 0), dsl.mean(formulas.unbiased(variance, x, over), 0))
        return formulas.scale("instance_norm", y, self.weight, self.bias, (1,))


class InstanceNorm1d(_InstanceNorm):
    """Each channel of each example of (N, C, L) to mean 0 and variance 1. Raises ShapeError."""

    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    """Each channel of each example of (N, C, H, W) to mean 0 and variance 1. Raises ShapeError."""

    ranks = (4,)


class InstanceNorm3d(_InstanceNorm):
    """Each channel of each example of (N, C, D, H, W) to mean 0 and variance 1. Raises ShapeError."""

    ranks = (5,)


class LayerNorm(Module):
    """The last axes, of shape `normalized_shape`, to mean 0 and variance 1, then weight and bias of that shape.

    Raises ShapeError for a shape that is none, or not the input's.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: Ints,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: str = "float32",
    ) -> None:
        given = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        self.normalized_shape = tuple(count("LayerNorm", "normalized_shape", e) for e in given)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = dsl.parameter(filled(self.normalized_shape, 1.0, dtype, "LayerNorm"), "weight", dtype) if elementwise_affine else None
        self.bias = dsl.parameter(filled(self.normalized_shape, 0.0, dtype, "LayerNorm"), "bias", dtype) if elementwise_affine and bias else None

    def forward(self, input: Any) -> Tensor:
        return dsl.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Groups of channels of each example to mean 0 and variance 1, then weight (C) and bias (C).

    Raises ShapeError for a number of groups that does not divide the channels.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, dtype: str = "float32"
    ) -> None:
        self.num_groups = count("GroupNorm", "num_groups", num_groups)
        self.num_channels = count("GroupNorm", "num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ShapeError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.eps, self.affine = eps, affine
        self.weight = dsl.parameter(filled((self.num_channels,), 1.0, dtype, "GroupNorm"), "weight", dtype) if affine else None
        self.bias = dsl.parameter(filled((self.num_channels,), 0.0, dtype, "GroupNorm"), "bias", dtype) if affine else None

    def forward(self, input: Any) -> Tensor:
        return dsl.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LocalResponseNorm(Module):
    """x/(k + alpha·mean of squares over `size` neighbouring channels)^beta. Raises ShapeError for a size below 1."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size, self.alpha, self.beta, self.k = count("LocalResponseNorm", "size", size), alpha, beta, k

    def forward(self, input: Any) -> Tensor:
        return dsl.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
