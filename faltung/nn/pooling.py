"""Layers that shrink or reshape: maxima and means over windows, and flattening."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from faltung.nn.arguments import Ints, only, per_axis
from faltung.nn.module import Module


class _Pool(Module):
    """What the poolings share: a window, its step (default: the window) and zeros or nothing around the input."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, kernel_size: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool) -> None:
        name = type(self).__name__
        only(name, "ceil_mode", ceil_mode, False, "windows that reach beyond the padded input are left out")
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        per_axis(name, "kernel_size", kernel_size, self.rank, 1)
        per_axis(name, "stride", self.stride, self.rank, 1)
        per_axis(name, "padding", padding, self.rank, 0)

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, self.kernel_size, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _MaxPool(_Pool):
    """Windows of a maximum may be dilated."""

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
        only(type(self).__name__, "return_indices", return_indices, False, "only the maxima; ft.argmax gives positions")
        per_axis(type(self).__name__, "dilation", dilation, self.rank, 1)
        self.dilation = dilation

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, self.kernel_size, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dilation={self.dilation}"


class _AvgPool(_Pool):
    """Padding counts as zeros in the mean."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        if any(per_axis(type(self).__name__, "padding", padding, self.rank, 0)):
            only(type(self).__name__, "count_include_pad", count_include_pad, True, "padding counts as zeros in the mean")


class MaxPool1d(_MaxPool):
    """Maximum over windows of (N, C, L); the stride defaults to the window. Raises ShapeError, UnsupportedOp."""

    rank = 1
    function = staticmethod(dsl.max_pool1d)


class MaxPool2d(_MaxPool):
    """Maximum over windows of (N, C, H, W); the stride defaults to the window. Raises ShapeError, UnsupportedOp."""

    rank = 2
    function = staticmethod(dsl.max_pool2d)


class MaxPool3d(_MaxPool):
    """Maximum over windows of (N, C, D, H, W); the stride defaults to the window. Raises ShapeError, UnsupportedOp."""

    rank = 3
    function = staticmethod(dsl.max_pool3d)


class AvgPool1d(_AvgPool):
    """Mean over windows of (N, C, L); the stride defaults to the window. Raises ShapeError, UnsupportedOp."""

    rank = 1
    function = staticmethod(dsl.avg_pool1d)


class AvgPool2d(_AvgPool):
    """Mean over windows of (N, C, H, W); the stride defaults to the window. Raises ShapeError, UnsupportedOp."""

    rank = 2
    function = staticmethod(dsl.avg_pool2d)


class AvgPool3d(_AvgPool):
    """Mean over windows of (N, C, D, H, W); the stride defaults to the window. Raises ShapeError, UnsupportedOp."""

    rank = 3
    function = staticmethod(dsl.avg_pool3d)


class Flatten(Module):
    """Axes start_dim … end_dim merged into one; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Any) -> Tensor:
        return dsl.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
