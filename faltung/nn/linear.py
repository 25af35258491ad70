"""Layers with weights: convolutions, transposed convolutions and the fully connected layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any, ClassVar

from faltung.graph import dsl
from faltung.graph.dsl.border import MODES, border
from faltung.graph.dsl.convolution import Padding, sides
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.tensor import Tensor
from faltung.init import parameter, uniform
from faltung.nn.arguments import Ints, count, only, per_axis
from faltung.nn.module import Module

# ---- convolution ----


class _Weighted(Module):
    """What all convolutions share: channels in groups, a window over `rank` spatial axes, weight and bias."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    bias: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints, dilation: Ints, groups: int
    ) -> None:  # fmt: skip
        name, rank = type(self).__name__, self.rank
        self.in_channels = count(name, "in_channels", in_channels)
        self.out_channels = count(name, "out_channels", out_channels)
        self.groups = count(name, "groups", groups)
        for what, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ShapeError(f"{name}: {what}={channels} does not divide into {self.groups} groups; {channels} = {self.groups}·{channels // self.groups} + {channels % self.groups}")
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, rank, 1)
        self.stride = per_axis(name, "stride", stride, rank, 1)
        self.dilation = per_axis(name, "dilation", dilation, rank, 1)

    def _fill(self, first: int, second: int, bias: bool, dtype: str) -> None:
        """Weight (first, second, …) and bias, drawn as PyTorch draws them."""
        bound = 1 / sqrt(second * prod(self.kernel_size))
        self.weight = uniform(parameter((first, second, *self.kernel_size), dtype, "weight"), bound)
        self.bias = uniform(parameter((self.out_channels,), dtype, "bias"), bound) if bias else None

    def _described(self, padding: str) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}{padding}"
        text += f", dilation={self.dilation}" if any(d != 1 for d in self.dilation) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return text + ("" if self.bias is not None else ", bias=False")


class _Conv(_Weighted):
    """Padding: a number, one or a pair (before, behind) for each axis, "valid" or "same"; `padding_mode` says what of."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: str = "float32",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups)
        name = type(self).__name__
        if padding_mode not in ("zeros", *MODES):
            raise UnsupportedOp(f"{name}: padding_mode={padding_mode!r}: expected 'zeros', {', '.join(map(repr, MODES))}")
        if isinstance(padding, str) and padding not in ("valid", "same"):
            raise UnsupportedOp(f"{name}: padding={padding!r}: expected integers, 'valid' or 'same'")
        if padding != "same":  # which depends on the input
            found = sides(padding, (), self.kernel_size, self.stride, self.dilation)
            padding = tuple(lo if lo == hi else (lo, hi) for lo, hi in found)
        self.padding: Padding = padding
        self.padding_mode = padding_mode
        self._fill(self.out_channels, self.in_channels // self.groups, bias, dtype)

    def forward(self, input: Any) -> Tensor:
        x, padding = dsl.as_tensor(input), self.padding
        if self.padding_mode != "zeros" and x.rank == self.rank + 2:
            around = sides(padding, x.shape[2:], self.kernel_size, self.stride, self.dilation)
            x, padding = border(x, around, self.padding_mode), "valid"
        return type(self).function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = self._described(f", padding={self.padding!r}" if self.padding != (0,) * self.rank else "")
        return text + (f", padding_mode={self.padding_mode!r}" if self.padding_mode != "zeros" else "")


class Conv1d(_Conv):
    """1-D convolution (cross-correlation) of (N, C, L); weight (F, C / groups, R), bias (F).

    Raises ShapeError for sizes that are no positive integers or channels that do not divide into the groups,
    UnsupportedOp for an unknown padding.
    """

    rank = 1
    function = staticmethod(dsl.conv1d)


class Conv2d(_Conv):
    """2-D convolution (cross-correlation) of (N, C, H, W); weight (F, C / groups, R, S), bias (F).

    Raises ShapeError for sizes that are no positive integers or channels that do not divide into the groups,
    UnsupportedOp for an unknown padding.
    """

    rank = 2
    function = staticmethod(dsl.conv2d)


class Conv3d(_Conv):
    """3-D convolution (cross-correlation) of (N, C, D, H, W); weight (F, C / groups, Q, R, S), bias (F).

    Raises ShapeError for sizes that are no positive integers or channels that do not divide into the groups,
    UnsupportedOp for an unknown padding.
    """

    rank = 3
    function = staticmethod(dsl.conv3d)


# ---- transposed convolution ----


class _ConvTranspose(_Weighted):
    """The weight is (C, F / groups, …), as that of the convolution whose input gradient this computes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        dtype: str = "float32",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups)
        name = type(self).__name__
        only(name, "padding_mode", padding_mode, "zeros", "padding is what is cut off the output")
        self.padding = per_axis(name, "padding", padding, self.rank, 0)
        self.output_padding = per_axis(name, "output_padding", output_padding, self.rank, 0)
        self._fill(self.in_channels, self.out_channels // self.groups, bias, dtype)

    def forward(self, input: Any, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`, the extents wanted of the spatial axes, goes before the layer's output_padding."""
        x = dsl.as_tensor(input)
        more = self.output_padding if output_size is None or x.rank != self.rank + 2 else self._more(x, tuple(output_size))
        return type(self).function(x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation)

    def _more(self, x: Tensor, wanted: tuple[int, ...]) -> tuple[int, ...]:
        axes = zip(x.shape[2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = [(e - 1) * s - 2 * p + d * (k - 1) + 1 for e, s, p, d, k in axes if isinstance(e, int)]
        most = [e + s - 1 for e, s in zip(least, self.stride, strict=True)]
        spatial = wanted[-self.rank :]
        if len(wanted) not in (self.rank, self.rank + 2) or any(not lo <= w <= hi for lo, w, hi in zip(least, spatial, most, strict=True)):
            raise ShapeError(f"output_size={list(wanted)}: an input {list(x.shape)} gives from {least} to {most}")
        return tuple(w - lo for w, lo in zip(spatial, least, strict=True))

    def extra_repr(self) -> str:
        text = f", padding={self.padding}" if any(self.padding) else ""
        return self._described(text + (f", output_padding={self.output_padding}" if any(self.output_padding) else ""))


class ConvTranspose1d(_ConvTranspose):
    """1-D transposed convolution of (N, C, L); weight (C, F / groups, R), bias (F). Raises ShapeError, UnsupportedOp."""

    rank = 1
    function = staticmethod(dsl.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """2-D transposed convolution of (N, C, H, W); weight (C, F / groups, R, S), bias (F). Raises ShapeError, UnsupportedOp."""

    rank = 2
    function = staticmethod(dsl.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """3-D transposed convolution of (N, C, D, H, W); weight (C, F / groups, Q, R, S), bias (F). Raises ShapeError, UnsupportedOp."""

    rank = 3
    function = staticmethod(dsl.conv_transpose3d)


# ---- the fully connected layer ----


class Linear(Module):
    """(N, …, K) to (N, …, O): input times weight (O, K) transposed, plus bias (O). Raises ShapeError for sizes below 1."""

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: str = "float32") -> None:
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        bound = 1 / sqrt(self.in_features)
        self.weight = uniform(parameter((self.out_features, self.in_features), dtype, "weight"), bound)
        self.bias = uniform(parameter((self.out_features,), dtype, "bias"), bound) if bias else None

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
