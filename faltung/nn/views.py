"""Layers that move elements: padding, shuffling, resampling, windows as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from faltung.graph import dsl
from faltung.graph.errors import ShapeError
from faltung.graph.tensor import Tensor
from faltung.nn.arguments import Ints, count
from faltung.nn.module import Module


class Unflatten(Module):
    """Axis `dim` split into axes of the given sizes."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Any) -> Tensor:
        return dsl.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class _Pad(Module):
    """What the paddings share: (before, after) of the last axis, of the one before it, …; a lone integer is all of them.

    Raises ShapeError for another number of integers than two for each spatial axis.
    """

    rank: ClassVar[int]
    mode: ClassVar[str]
    value: float = 0.0

    def __init__(self, padding: Ints) -> None:
        sides = tuple(padding) if isinstance(padding, Sequence) else (padding,) * (2 * self.rank)
        if len(sides) != 2 * self.rank:
            raise ShapeError(f"{type(self).__name__}: padding={padding!r}: expected an integer or {2 * self.rank} of them")
        self.padding = sides

    def forward(self, input: Any) -> Tensor:
        x = dsl.as_tensor(input)
        if x.rank != self.rank + 2:
            raise ShapeError(f"the input must have {self.rank + 2} axes (N, C, …), got {list(x.shape)}")
        return dsl.pad(x, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}" + (f", value={self.value}" if self.value else "")


class _ConstantPad(_Pad):
    """Elements around are a number."""

    mode = "constant"

    def __init__(self, padding: Ints, value: float) -> None:
        super().__init__(padding)
        self.value = value


def _paddings(name: str, base: type[_Pad], mode: str) -> list[type[_Pad]]:
    about = f"{name.removesuffix('Pad')} padding of (N, C, …). Raises ShapeError for what does not fit."
    return [
        type(f"{name}{rank}d", (base,), {"rank": rank, "mode": mode, "__doc__": about, "__module__": __name__})
        for rank in (1, 2, 3)
    ]


ConstantPad1d, ConstantPad2d, ConstantPad3d = _paddings("ConstantPad", _ConstantPad, "constant")
ZeroPad1d, ZeroPad2d, ZeroPad3d = _paddings("ZeroPad", _Pad, "constant")
ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = _paddings("ReflectionPad", _Pad, "reflect")
ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = _paddings("ReplicationPad", _Pad, "replicate")
CircularPad1d, CircularPad2d, CircularPad3d = _paddings("CircularPad", _Pad, "circular")


class PixelShuffle(Module):
    """(N, C·r², H, W) to (N, C, H·r, W·r)."""

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = count("PixelShuffle", "upscale_factor", upscale_factor)

    def forward(self, input: Any) -> Tensor:
        return dsl.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(N, C, H·r, W·r) to (N, C·r², H, W)."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = count("PixelUnshuffle", "downscale_factor", downscale_factor)

    def forward(self, input: Any) -> Tensor:
        return dsl.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """The channels of (N, C, …), in groups, dealt out in turn."""

    def __init__(self, groups: int) -> None:
        self.groups = count("ChannelShuffle", "groups", groups)

    def forward(self, input: Any) -> Tensor:
        return dsl.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class Upsample(Module):
    """(N, C, …) at another resolution, by size or by factor: nearest, linear, bilinear or trilinear."""

    def __init__(
        self,
        size: Ints | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, input: Any) -> Tensor:
        return dsl.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        target = f"scale_factor={self.scale_factor}" if self.size is None else f"size={self.size}"
        return f"{target}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """(N, C, H, W) at another resolution by the nearest element."""

    def __init__(self, size: Ints | None = None, scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """(N, C, H, W) at another resolution, linear between aligned corners."""

    def __init__(self, size: Ints | None = None, scale_factor: float | Sequence[float] | None = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class Unfold(Module):
    """The windows of (N, C, H, W) as columns of (N, C·kh·kw, L)."""

    def __init__(self, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1) -> None:
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Any) -> Tensor:
        return dsl.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Unfold):
    """The columns (N, C·kh·kw, L) of windows added up where they lie in (N, C, H, W)."""

    def __init__(
        self, output_size: Ints, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input: Any) -> Tensor:
        return dsl.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
