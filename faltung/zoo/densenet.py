"""DenseNet: each layer reads the concatenated results of all layers before it in its block.

Huang et al. 2017, Densely connected convolutional networks, table 1. Initial values are torchvision's: He's by fan_in
for convolutions, no bias for the linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from faltung import nn
from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from faltung.init import constant
from faltung.zoo.initial import he

OLD_KEY = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
BOTTLENECK = 4  # channels between a layer's convolutions for each channel that it adds


class DenseLayer(nn.Module):
    """`growth` new channels: batch norm and ReLU before a 1×1 and before a 3×3 convolution."""

    def __init__(self, in_channels: int, growth: int) -> None:
        inner = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, input: Any) -> Tensor:
        y = self.conv1(dsl.relu(self.norm1(input)))
        return self.conv2(dsl.relu(self.norm2(y)))


class DenseBlock(nn.Sequential):
    """Layers whose results are appended to the input, one after the other."""

    def __init__(self, count: int, in_channels: int, growth: int) -> None:
        super().__init__({f"denselayer{n + 1}": DenseLayer(in_channels + n * growth, growth) for n in range(count)})

    def forward(self, input: Any) -> Tensor:
        x = dsl.as_tensor(input)
        for layer in self:
            x = dsl.cat([x, layer(x)], 1)
        return x


class DenseNet(nn.Sequential):
    """Blocks of `counts` layers with transitions that halve channels and resolution between them."""

    def __init__(self, counts: Sequence[int], growth: int, width: int, num_classes: int, in_channels: int) -> None:
        parts: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False), "norm0": nn.BatchNorm2d(width),
            "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, stride=2, padding=1),
        }  # fmt: skip
        for number, count in enumerate(counts, 1):
            parts[f"denseblock{number}"] = DenseBlock(count, width, growth)
            width += count * growth
            if number < len(counts):
                parts[f"transition{number}"] = nn.Sequential({
                    "norm": nn.BatchNorm2d(width), "relu": nn.ReLU(),
                    "conv": nn.Conv2d(width, width // 2, 1, bias=False), "pool": nn.AvgPool2d(2),
                })  # fmt: skip
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        classifier = nn.Linear(width, num_classes)
        super().__init__({
            "features": nn.Sequential(parts), "relu": nn.ReLU(), "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(), "classifier": classifier,
        })  # fmt: skip
        he(self, "fan_in")
        if classifier.bias is not None:
            constant(classifier.bias, 0)

    def _renamed(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """In torchvision's older files norm1 is called norm.1."""
        return {OLD_KEY.sub(r"\1\2", str(key)): array for key, array in given.items()}


def densenet121(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-121 for 224×224, 32 channels a layer: 7,978,856 parameters."""
    return DenseNet((6, 12, 24, 16), 32, 64, num_classes, in_channels)


def densenet169(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-169 for 224×224, 32 channels a layer: 14,149,480 parameters."""
    return DenseNet((6, 12, 32, 32), 32, 64, num_classes, in_channels)


def densenet201(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-201 for 224×224, 32 channels a layer: 20,013,928 parameters."""
    return DenseNet((6, 12, 48, 32), 32, 64, num_classes, in_channels)
