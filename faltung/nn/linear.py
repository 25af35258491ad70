"""Layers with weights: convolutions and the fully connected layer."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

from faltung.graph import dsl
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.tensor import Tensor
from faltung.init import uniform
from faltung.nn.arguments import Ints, count, only, per_axis
from faltung.nn.module import Module


class _Conv(Module):
    """What the convolutions share; a subclass says how many spatial axes it has and which function it is."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: str = "float32",
    ) -> None:
        name, rank = type(self).__name__, self.rank
        only(name, "groups", groups, 1, "every output channel reads every input channel")
        only(name, "padding_mode", padding_mode, "zeros", "a read outside the input gives 0")
        self.in_channels = count(name, "in_channels", in_channels)
        self.out_channels = count(name, "out_channels", out_channels)
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, rank, 1)
        self.stride = per_axis(name, "stride", stride, rank, 1)
        self.dilation = per_axis(name, "dilation", dilation, rank, 1)
        self.padding = self._named_padding(padding) if isinstance(padding, str) else per_axis(name, "padding", padding, rank, 0)
        fan_in = self.in_channels * prod(self.kernel_size)
        self.weight = dsl.parameter(uniform((self.out_channels, self.in_channels, *self.kernel_size), fan_in, dtype), "weight", dtype)
        self.bias = dsl.parameter(uniform((self.out_channels,), fan_in, dtype), "bias", dtype) if bias else None

    def _named_padding(self, padding: str) -> tuple[int, ...]:
        name = type(self).__name__
        if padding == "valid":
            return (0,) * self.rank
        total = tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        if padding != "same":
            raise UnsupportedOp(f"{name}: padding={padding!r}: expected integers, 'valid' or 'same'")
        if any(s != 1 for s in self.stride):
            raise UnsupportedOp(f"{name}: padding='same' needs stride 1, got {self.stride}; give the padding in numbers")
        if any(t % 2 for t in total):
            raise UnsupportedOp(
                f"{name}: padding='same' needs dilation·(kernel_size - 1) zeros in all, here {total}, half on each side; "
                "an odd number is not supported, an odd kernel_size is"
            )
        return tuple(t // 2 for t in total)

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if any(self.padding) else ""
        text += f", dilation={self.dilation}" if any(d != 1 for d in self.dilation) else ""
        return text + ("" if self.bias is not None else ", bias=False")


class Conv1d(_Conv):
    """1-D convolution (cross-correlation) of (N, C, L); weight (F, C, R), bias (F).

    Raises ShapeError for sizes that are no positive integers, UnsupportedOp for groups and paddings that are not built.
    """

    rank = 1
    function = staticmethod(dsl.conv1d)


class Conv2d(_Conv):
    """2-D convolution (cross-correlation) of (N, C, H, W); weight (F, C, R, S), bias (F).

    Raises ShapeError for sizes that are no positive integers, UnsupportedOp for groups and paddings that are not built.
    """

    rank = 2
    function = staticmethod(dsl.conv2d)


class Conv3d(_Conv):
    """3-D convolution (cross-correlation) of (N, C, D, H, W); weight (F, C, Q, R, S), bias (F).

    Raises ShapeError for sizes that are no positive integers, UnsupportedOp for groups and paddings that are not built.
    """

    rank = 3
    function = staticmethod(dsl.conv3d)


class Linear(Module):
    """(N, K) to (N, O): input times weight (O, K) transposed, plus bias (O). Raises ShapeError for sizes below 1."""

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: str = "float32") -> None:
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        self.weight = dsl.parameter(uniform((self.out_features, self.in_features), self.in_features, dtype), "weight", dtype)
        self.bias = dsl.parameter(uniform((self.out_features,), self.in_features, dtype), "bias", dtype) if bias else None

    def forward(self, input: Any) -> Tensor:
        x = dsl.as_tensor(input)
        if x.rank == 2 and x.shape[1] != self.in_features:
            raise ShapeError(
                f"the input has {x.shape[1]} features (axis 1 of {list(x.shape)}), the weight expects {self.in_features} "
                f"(axis 1 of {list(self.weight.shape)}); for this input write Linear({x.shape[1]}, {self.out_features})"
            )
        return dsl.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
