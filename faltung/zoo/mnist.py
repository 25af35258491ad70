"""Small networks for handwritten digits, (n, 1, 28, 28); initial values are PyTorch's defaults.

    name      layers
    mlp       fc512 - fc512 - fc10
    digits    conv32 - pool - conv64 - pool - fc128 - fc10       what the demo trains
    lenet5    conv6 5×5 - pool - conv16 5×5 - pool - fc120 - fc84 - fc10
    wide      conv32 - conv64 - pool - fc128 - fc10
"""

from __future__ import annotations

from collections.abc import Sequence

from faltung import nn

SIDE, CLASSES = 28, 10


def mlp(num_classes: int = CLASSES, in_channels: int = 1, hidden: Sequence[int] = (512, 512)) -> nn.Sequential:
    """Every pixel connected to every neuron, layers of the `hidden` widths with ReLU: 669,706 parameters."""
    widths = (in_channels * SIDE * SIDE, *hidden)
    layers = [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))


def digits(num_classes: int = CLASSES, in_channels: int = 1) -> nn.Sequential:
    """Two 3×3 convolutions, each halved by a maximum: 421,642 parameters."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        nn.Linear(128, num_classes),
    )  # fmt: skip


def lenet5(num_classes: int = CLASSES, in_channels: int = 1) -> nn.Sequential:
    """LeNet-5 as it is usually drawn today, with maxima and ReLU: 61,706 parameters.

    LeCun et al. 1998, Gradient-based learning applied to document recognition. There the second convolution reads
    parts of the channels, pooling is a trained mean, and functions are tanh.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, num_classes),
    )  # fmt: skip


def wide(num_classes: int = CLASSES, in_channels: int = 1) -> nn.Sequential:
    """Two 3×3 convolutions at full size before the only maximum: 1,625,866 parameters, most of the work in one layer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128), nn.ReLU(),
        nn.Linear(128, num_classes),
    )  # fmt: skip
