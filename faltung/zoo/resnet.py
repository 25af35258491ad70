"""Residual networks: blocks that add their input, for photos and for CIFAR's thumbnails; plain ones for comparison.

He et al. 2016, Deep residual learning for image recognition: table 1 (photos) and section 4.2 (CIFAR). As in
torchvision, a bottleneck that halves does so in its 3×3 convolution. `residual=False` leaves out every shortcut.
Initial values of convolutions are He's by fan_out, those of the linear layer PyTorch's default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from faltung import nn
from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from faltung.zoo.initial import he

# ---- blocks ----


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; the result has `width` channels. A block of a plain network has no shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module | None) -> None:
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut

    def forward(self, input: Any) -> Tensor:
        y = dsl.relu(self.bn1(self.conv1(input)))
        y = self.bn2(self.conv2(y))
        return dsl.relu(y if self.downsample is None else y + self.downsample(input))


class Bottleneck(nn.Module):
    """1×1 to `width` channels, 3×3, 1×1 to four times as many. A block of a plain network has no shortcut."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: nn.Module | None) -> None:
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut

    def forward(self, input: Any) -> Tensor:
        y = dsl.relu(self.bn1(self.conv1(input)))
        y = dsl.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return dsl.relu(y if self.downsample is None else y + self.downsample(input))


# ---- shortcuts: from in_channels to out_channels at a stride ----

Shortcut = Callable[[int, int, int], "nn.Module | None"]


class Padded(nn.Module):
    """Every stride-th pixel, with channels of zeros before and behind: no parameters."""

    def __init__(self, stride: int, channels: int) -> None:
        self.stride, self.channels = stride, channels

    def forward(self, input: Any) -> Tensor:
        before = self.channels // 2
        return dsl.pad(input[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.channels - before))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, channels={self.channels}"


def projected(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The input, or where it does not fit a 1×1 convolution of it: option B of the paper."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def padded(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The input, or where it does not fit the input with fewer pixels and more channels: option A of the paper."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return Padded(stride, out_channels - in_channels)


def absent(in_channels: int, out_channels: int, stride: int) -> None:
    """No shortcut: a plain network."""


# ---- networks ----

Block = type[BasicBlock] | type[Bottleneck]


def _network(
    stem: dict[str, nn.Module], block: Block, counts: Sequence[int], width: int, shortcut: Shortcut, num_classes: int
) -> nn.Sequential:
    """Behind the stem stages of `counts` blocks, each stage but the first twice as wide and at half the resolution."""
    parts, channels = dict(stem), width
    for number, count in enumerate(counts):
        stage = nn.Sequential()
        for place in range(count):
            stride = 2 if number and not place else 1
            stage.append(block(channels, width, stride, shortcut(channels, width * block.expansion, stride)))
            channels = width * block.expansion
        parts[f"layer{number + 1}"] = stage
        width *= 2
    parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, num_classes)}
    return he(nn.Sequential(parts), "fan_out")


def _for_photos(block: Block, counts: Sequence[int], num_classes: int, in_channels: int, residual: bool) -> nn.Sequential:
    stem: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False), "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(), "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }  # fmt: skip
    return _network(stem, block, counts, 64, projected if residual else absent, num_classes)


def _for_thumbnails(count: int, num_classes: int, in_channels: int, residual: bool) -> nn.Sequential:
    stem: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), "bn1": nn.BatchNorm2d(16), "relu": nn.ReLU(),
    }  # fmt: skip
    return _network(stem, BasicBlock, (count,) * 3, 16, padded if residual else absent, num_classes)


def resnet18(num_classes: int = 1000, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-18 for 224×224: 11,689,512 parameters."""
    return _for_photos(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, residual)


def resnet34(num_classes: int = 1000, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-34 for 224×224: 21,797,672 parameters."""
    return _for_photos(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, residual)


def resnet50(num_classes: int = 1000, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-50 for 224×224: 25,557,032 parameters."""
    return _for_photos(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, residual)


def resnet101(num_classes: int = 1000, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-101 for 224×224: 44,549,160 parameters."""
    return _for_photos(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, residual)


def resnet152(num_classes: int = 1000, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-152 for 224×224: 60,192,808 parameters."""
    return _for_photos(Bottleneck, (3, 8, 36, 3), num_classes, in_channels, residual)


def resnet20(num_classes: int = 10, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-20 for 32×32: 269,722 parameters."""
    return _for_thumbnails(3, num_classes, in_channels, residual)


def resnet56(num_classes: int = 10, in_channels: int = 3, residual: bool = True) -> nn.Sequential:
    """ResNet-56 for 32×32: 853,018 parameters."""
    return _for_thumbnails(9, num_classes, in_channels, residual)
