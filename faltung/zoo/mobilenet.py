"""MobileNetV2: blocks that widen by 1×1, filter each channel by 3×3, and narrow by 1×1 without a function behind.

Sandler et al. 2018, MobileNetV2: inverted residuals and linear bottlenecks, table 2. Initial values are torchvision's:
He's by fan_out for convolutions, deviation 0.01 for the linear layer.
"""

from __future__ import annotations

from typing import Any

from faltung import nn
from faltung.graph.tensor import Tensor
from faltung.zoo.initial import he

FIRST, LAST = 32, 1280

# expansion  channels  blocks  stride of the first
STAGES = (
    (1,  16, 1, 1),
    (6,  24, 2, 2),
    (6,  32, 3, 2),
    (6,  64, 4, 2),
    (6,  96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def _filtered(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the resolution at stride 1, batch norm, ReLU6."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """One block; it adds its input where that has the shape of the result."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        inner = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([_filtered(in_channels, inner, 1)] if expansion > 1 else []),
            _filtered(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, input: Any) -> Tensor:
        y = self.conv(input)
        return input + y if self.adds else y


def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """MobileNetV2 at full width, for 224×224: 3,504,872 parameters."""
    features = nn.Sequential(_filtered(in_channels, FIRST, 3, stride=2))
    width = FIRST
    for expansion, channels, count, stride in STAGES:
        for place in range(count):
            features.append(InvertedResidual(width, channels, 1 if place else stride, expansion))
            width = channels
    features.append(_filtered(width, LAST, 1))
    net = nn.Sequential({
        "features": features,
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, num_classes)),
    })  # fmt: skip
    return he(net, "fan_out", linear_std=0.01)
