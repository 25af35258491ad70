"""Clothes of Fashion-MNIST, told apart by two convolutions, or better and more slowly by a small residual network.

    python examples/fashion.py                      two convolutions and two linear layers
    python examples/fashion.py --net resnet         ten convolutions, batch normalisation, shortcuts
    python examples/fashion.py --checkpoint run     goes on where it was stopped, ends in the same bits
    python examples/fashion.py --short              one epoch of a few pictures

The data: `apt-get install dataset-fashion-mnist`, or --data FOLDER with the four IDX files. The picture goes to
demo-output/fashion-cnn.png or demo-output/fashion-resnet.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import faltung as ft
from faltung import datasets, nn, pictures, zoo
from faltung.runtime.train import accuracy, one_cycle
from faltung.zoo.resnet import BasicBlock, projected

BATCH, SHORT = 128, 384


def resnet(channels: int = 32) -> nn.Sequential:
    """A convolution at full size, two residual blocks at half and two at a quarter of it: 169,834 parameters."""
    wide = 2 * channels
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
        BasicBlock(channels, channels, 1, nn.Identity()), BasicBlock(channels, channels, 1, nn.Identity()),
        BasicBlock(channels, wide, 2, projected(channels, wide, 2)), BasicBlock(wide, wide, 1, nn.Identity()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10),
    )  # fmt: skip


class Recipe(NamedTuple):
    """A network, and how it is trained."""

    build: Callable[[], nn.Sequential]
    epochs: int
    lr: float
    weight_decay: float


RECIPES = {"cnn": Recipe(zoo.digits, 8, 0.05, 5e-4), "resnet": Recipe(resnet, 12, 0.1, 5e-4)}


def main(argv: Sequence[str] | None = None) -> float:
    """Train, say how many held-out pictures are told, draw; returns that share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--net", choices=RECIPES, default="cnn")
    parser.add_argument("--data", type=Path, help="a folder with the four files")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the picture")
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args(argv)

    clothes, recipe = datasets.fashion_mnist(given.data), RECIPES[given.net]
    count, epochs = (SHORT, 1) if given.short else (len(clothes.train_labels), given.epochs or recipe.epochs)
    train = clothes.train_images[:count], clothes.train_labels[:count]
    test = clothes.test if not given.short else (clothes.test_images[:SHORT], clothes.test_labels[:SHORT])

    ft.manual_seed(0)
    net = recipe.build()
    x, t = ft.input("x", (None, 1, 28, 28)), ft.input("t", (None,), dtype="int64")
    y = net(x)
    optimiser = ft.optim.SGD(lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True)
    step = ft.compile_step(ft.cross_entropy(y, t), net, optimiser, outputs=[y])
    model = ft.compile(net.eval()(x))  # batch normalisation by the running statistics

    history = ft.fit(
        step, train, epochs, BATCH, net=net, augment=clothes.augment, schedule=one_cycle(recipe.lr, epochs),
        validate=lambda: accuracy(model, test), checkpoint=given.checkpoint,
    )  # fmt: skip
    share, seconds = accuracy(model, test), sum(record.seconds for record in history)
    print(f"accuracy {100 * share:.2f} % on {len(test[1])} held-out pictures, {epochs} epochs in {seconds:.0f} s")

    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"fashion-{given.net}.png"
    print("wrote", pictures.classified(history, *test, model(test[0]), clothes.classes, path))
    return share


if __name__ == "__main__":
    main()
