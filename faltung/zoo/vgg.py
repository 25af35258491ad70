"""VGG: 3×3 convolutions, a maximum after every few, three fully connected layers.

Simonyan and Zisserman 2015, Very deep convolutional networks for large-scale image recognition, table 1. Initial
values are torchvision's: He's by fan_out for convolutions, deviation 0.01 for linear layers.
"""

from __future__ import annotations

from faltung import nn
from faltung.zoo.initial import he

WIDTHS = (64, 128, 256, 512, 512)  # of the five stages between maxima

# depth  convolutions in each stage
STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}  # fmt: skip


def vgg(depth: int, normalised: bool, num_classes: int, in_channels: int) -> nn.Sequential:
    """The VGG of a depth that STAGES has; `normalised` puts batch norm behind each convolution."""
    features = nn.Sequential()
    for count, width in zip(STAGES[depth], WIDTHS, strict=True):
        for _ in range(count):
            features.append(nn.Conv2d(in_channels, width, 3, padding=1))
            if normalised:
                features.append(nn.BatchNorm2d(width))
            features.append(nn.ReLU())
            in_channels = width
        features.append(nn.MaxPool2d(2))
    net = nn.Sequential({
        "features": features,
        "avgpool": nn.AdaptiveAvgPool2d(7),
        "flatten": nn.Flatten(),
        "classifier": nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, num_classes),
        ),
    })  # fmt: skip
    return he(net, "fan_out", linear_std=0.01)


def vgg11(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-11, configuration A: 132,863,336 parameters."""
    return vgg(11, False, num_classes, in_channels)


def vgg13(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-13, configuration B: 133,047,848 parameters."""
    return vgg(13, False, num_classes, in_channels)


def vgg16(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-16, configuration D: 138,357,544 parameters."""
    return vgg(16, False, num_classes, in_channels)


def vgg19(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-19, configuration E: 143,667,240 parameters."""
    return vgg(19, False, num_classes, in_channels)


def vgg11_bn(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-11 with batch norm: 132,868,840 parameters."""
    return vgg(11, True, num_classes, in_channels)


def vgg13_bn(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-13 with batch norm: 133,053,736 parameters."""
    return vgg(13, True, num_classes, in_channels)


def vgg16_bn(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-16 with batch norm: 138,365,992 parameters."""
    return vgg(16, True, num_classes, in_channels)


def vgg19_bn(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """VGG-19 with batch norm: 143,678,248 parameters."""
    return vgg(19, True, num_classes, in_channels)
