"""Networks from the literature, by name: `zoo.resnet50()`, or `zoo.build("resnet50")`; `zoo.TABLE` lists them.

Each function takes `num_classes` and `in_channels` and returns a network whose parameters have the keys of
torchvision's state_dict, where torchvision has the network, and initial values as its docstring says. A network is
in training mode; `net.eval()` is for classifying. Nothing here needs the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from faltung import nn
from faltung.graph.errors import UnsupportedOp
from faltung.nn.state import close_to
from faltung.zoo.alexnet import alexnet, overfeat
from faltung.zoo.densenet import densenet121, densenet169, densenet201
from faltung.zoo.mnist import digits, lenet5, mlp, wide
from faltung.zoo.mobilenet import mobilenet_v2
from faltung.zoo.resnet import resnet18, resnet20, resnet34, resnet50, resnet56, resnet101, resnet152
from faltung.zoo.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

PHOTO, THUMBNAIL, DIGIT = (3, 224, 224), (3, 32, 32), (1, 28, 28)


class Entry(NamedTuple):
    """A function that makes a network, and the (channels, height, width) that the network was published for."""

    build: Callable[..., nn.Module]
    input: tuple[int, int, int]


TABLE: dict[str, Entry] = {
    "mlp":          Entry(mlp, DIGIT),
    "digits":       Entry(digits, DIGIT),
    "wide":         Entry(wide, DIGIT),
    "lenet5":       Entry(lenet5, DIGIT),
    "alexnet":      Entry(alexnet, PHOTO),
    "overfeat":     Entry(overfeat, (3, 231, 231)),
    "vgg11":        Entry(vgg11, PHOTO),
    "vgg13":        Entry(vgg13, PHOTO),
    "vgg16":        Entry(vgg16, PHOTO),
    "vgg19":        Entry(vgg19, PHOTO),
    "vgg11_bn":     Entry(vgg11_bn, PHOTO),
    "vgg13_bn":     Entry(vgg13_bn, PHOTO),
    "vgg16_bn":     Entry(vgg16_bn, PHOTO),
    "vgg19_bn":     Entry(vgg19_bn, PHOTO),
    "resnet18":     Entry(resnet18, PHOTO),
    "resnet34":     Entry(resnet34, PHOTO),
    "resnet50":     Entry(resnet50, PHOTO),
    "resnet101":    Entry(resnet101, PHOTO),
    "resnet152":    Entry(resnet152, PHOTO),
    "resnet20":     Entry(resnet20, THUMBNAIL),
    "resnet56":     Entry(resnet56, THUMBNAIL),
    "densenet121":  Entry(densenet121, PHOTO),
    "densenet169":  Entry(densenet169, PHOTO),
    "densenet201":  Entry(densenet201, PHOTO),
    "mobilenet_v2": Entry(mobilenet_v2, PHOTO),
}  # fmt: skip

__all__ = ["TABLE", "Entry", "build", "imagenet_classes", *TABLE]


def build(name: str, **options: Any) -> nn.Module:
    """A new network of that name. Raises UnsupportedOp, with those there are, for another name and for another option."""
    if not isinstance(name, str) or name not in TABLE:
        raise UnsupportedOp(f"no network is called {name!r}{close_to(str(name), TABLE)}: there are {', '.join(TABLE)}")
    build, known = TABLE[name].build, signature(TABLE[name].build).parameters
    for option in options:
        if option not in known:
            raise UnsupportedOp(f"{name} has no option {option!r}{close_to(option, known)}: there are {', '.join(known)}")
    return build(**options)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1000 classes of ImageNet, ILSVRC 2012, in the order of the scores: short ones, as torchvision has them."""
    return tuple(Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines())
