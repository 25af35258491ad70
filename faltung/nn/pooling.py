"""Layers that shrink or reshape: maxima, means and power means over windows, and flattening."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from faltung.graph import dsl
from faltung.graph.errors import ShapeError
from faltung.graph.tensor import Tensor
from faltung.nn.arguments import Ints, only, per_axis
from faltung.nn.module import Module

# ---- windows of one size ----


class _Pool(Module):
    """What the poolings share: a window, its step (default: the window), padding, and windows that may end outside."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, kernel_size: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool) -> None:
        name = type(self).__name__
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode = bool(ceil_mode)
        per_axis(name, "kernel_size", kernel_size, self.rank, 1)
        per_axis(name, "stride", self.stride, self.rank, 1)
        per_axis(name, "padding", padding, self.rank, 0)

    def extra_repr(self) -> str:
        text = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class _MaxPool(_Pool):
    """Windows of a maximum may be dilated, and it may be told where in the plane the maxima are."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        per_axis(type(self).__name__, "dilation", dilation, self.rank, 1)
        self.dilation, self.return_indices = dilation, bool(return_indices)

    def forward(self, input: Any) -> Any:
        arguments = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return type(self).function(input, *arguments)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dilation={self.dilation}"


class _MaxUnpool(_Pool):
    """The way back, with the indices of the pooling that has these arguments."""

    def __init__(self, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> None:
        super().__init__(kernel_size, stride, padding, False)

    def forward(self, input: Any, indices: Any, output_size: Sequence[int] | None = None) -> Tensor:
        return type(self).function(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class _AvgPool(_Pool):
    """Padding counts as zeros in the mean, or not at all."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def _arguments(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, *self._arguments())

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.count_include_pad else ", count_include_pad=False")


class _DividedAvgPool(_AvgPool):
    """The divisor may be given."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = divisor_override

    def _arguments(self) -> tuple[Any, ...]:
        return *super()._arguments(), self.divisor_override

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", divisor_override={self.divisor_override}" if self.divisor_override is not None else "")


class _LPPool(_Pool):
    """(Σ xᵖ)^(1/p), p = norm_type: the sum for 1, towards the maximum for large p."""

    def __init__(self, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> None:
        super().__init__(kernel_size, stride, 0, ceil_mode)
        self.norm_type = norm_type

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"norm_type={self.norm_type}, {super().extra_repr()}"


class MaxPool1d(_MaxPool):
    """Maximum over windows of (N, C, L), with return_indices also where; the stride defaults to the window. Raises ShapeError."""

    rank = 1
    function = staticmethod(dsl.max_pool1d)


class MaxPool2d(_MaxPool):
    """Maximum over windows of (N, C, H, W), with return_indices also where; the stride defaults to the window. Raises ShapeError."""

    rank = 2
    function = staticmethod(dsl.max_pool2d)


class MaxPool3d(_MaxPool):
    """Maximum over windows of (N, C, D, H, W), with return_indices also where; the stride defaults to the window. Raises ShapeError."""

    rank = 3
    function = staticmethod(dsl.max_pool3d)


class MaxUnpool1d(_MaxUnpool):
    """Elements of (N, C, L) where MaxPool1d took them from, 0 elsewhere: forward(input, indices). Raises ShapeError."""

    rank = 1
    function = staticmethod(dsl.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """Elements of (N, C, H, W) where MaxPool2d took them from, 0 elsewhere: forward(input, indices). Raises ShapeError."""

    rank = 2
    function = staticmethod(dsl.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """Elements of (N, C, D, H, W) where MaxPool3d took them from, 0 elsewhere: forward(input, indices). Raises ShapeError."""

    rank = 3
    function = staticmethod(dsl.max_unpool3d)


class AvgPool1d(_AvgPool):
    """Mean over windows of (N, C, L); the stride defaults to the window. Raises ShapeError."""

    rank = 1
    function = staticmethod(dsl.avg_pool1d)


class AvgPool2d(_DividedAvgPool):
    """Mean over windows of (N, C, H, W); the stride defaults to the window. Raises ShapeError."""

    rank = 2
    function = staticmethod(dsl.avg_pool2d)


class AvgPool3d(_DividedAvgPool):
    """Mean over windows of (N, C, D, H, W); the stride defaults to the window. Raises ShapeError."""

    rank = 3
    function = staticmethod(dsl.avg_pool3d)


class LPPool1d(_LPPool):
    """Power mean over windows of (N, C, L), without the division; the stride defaults to the window. Raises ShapeError."""

    rank = 1
    function = staticmethod(dsl.lp_pool1d)


class LPPool2d(_LPPool):
    """Power mean over windows of (N, C, H, W), without the division; the stride defaults to the window. Raises ShapeError."""

    rank = 2
    function = staticmethod(dsl.lp_pool2d)


class LPPool3d(_LPPool):
    """Power mean over windows of (N, C, D, H, W), without the division; the stride defaults to the window. Raises ShapeError."""

    rank = 3
    function = staticmethod(dsl.lp_pool3d)


# ---- as many positions as are wanted ----


class _Adaptive(Module):
    """Windows follow from the input's extents and the output's; None keeps an axis."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, output_size: int | None | Sequence[int | None], return_indices: bool = False) -> None:
        name = type(self).__name__
        only(name, "return_indices", return_indices, False, "only the values")
        several = isinstance(output_size, Sequence) and not isinstance(output_size, str)
        entries = tuple(output_size) if several else (output_size,) * self.rank  # type: ignore[arg-type]
        if len(entries) != self.rank:
            raise ShapeError(f"{name}: output_size={output_size!r}: expected {self.rank} numbers")
        for entry in entries:
            if entry is not None:
                per_axis(name, "output_size", entry, 1, 1)
        self.output_size = output_size

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """Mean over `output_size` windows of (N, C, L). Raises ShapeError."""

    rank = 1
    function = staticmethod(dsl.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_Adaptive):
    """Mean over windows of (N, C, H, W), as many as `output_size` says; 1 is global pooling. Raises ShapeError."""

    rank = 2
    function = staticmethod(dsl.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_Adaptive):
    """Mean over windows of (N, C, D, H, W), as many as `output_size` says; 1 is global pooling. Raises ShapeError."""

    rank = 3
    function = staticmethod(dsl.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(_Adaptive):
    """Maximum over `output_size` windows of (N, C, L). Raises ShapeError, UnsupportedOp."""

    rank = 1
    function = staticmethod(dsl.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_Adaptive):
    """Maximum over windows of (N, C, H, W), as many as `output_size` says; 1 is global pooling. Raises ShapeError, UnsupportedOp."""

    rank = 2
    function = staticmethod(dsl.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_Adaptive):
    """Maximum over windows of (N, C, D, H, W), as many as `output_size` says; 1 is global pooling. Raises ShapeError, UnsupportedOp."""

    rank = 3
    function = staticmethod(dsl.adaptive_max_pool3d)


# ---- reshaping ----


class Flatten(Module):
    """Axes start_dim … end_dim merged into one; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Any) -> Tensor:
        return dsl.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
