"""AlexNet and OverFeat: large windows first, then 3×3, then fully connected layers with dropout."""

from __future__ import annotations

from faltung import nn
from faltung.zoo.initial import gaussian


def alexnet(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """AlexNet on one device, for 224×224: 61,100,840 parameters; initial values are PyTorch's defaults.

    Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, as torchvision has it.
    """
    return nn.Sequential({
        "features": nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        ),
        "avgpool": nn.AdaptiveAvgPool2d(6),
        "flatten": nn.Flatten(),
        "classifier": nn.Sequential(
            nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        ),
    })  # fmt: skip


def overfeat(num_classes: int = 1000, in_channels: int = 3) -> nn.Sequential:
    """OverFeat's fast model, for 231×231: 145,920,872 parameters, initially normal with deviation 0.01.

    Sermanet et al. 2014, OverFeat: integrated recognition, localization and detection using convolutional networks,
    table 1 and section 3.1.
    """
    net = nn.Sequential({
        "features": nn.Sequential(
            nn.Conv2d(in_channels, 96, 11, stride=4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(96, 256, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(),
            nn.Conv2d(512, 1024, 3, padding=1), nn.ReLU(),
            nn.Conv2d(1024, 1024, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ),
        "flatten": nn.Flatten(),
        "classifier": nn.Sequential(
            nn.Dropout(), nn.Linear(1024 * 6 * 6, 3072), nn.ReLU(),
            nn.Dropout(), nn.Linear(3072, 4096), nn.ReLU(),
            nn.Linear(4096, num_classes),
        ),
    })  # fmt: skip
    return gaussian(net, std=0.01)
