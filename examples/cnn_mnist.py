"""Digits read by a convolutional network, trained on digits that are shifted and turned at random.

    python examples/cnn_mnist.py                    the 5,000 digits of the extra `demo`, 4,000 to train on
    python examples/cnn_mnist.py --data FOLDER      the four files of MNIST, or of any set in its format
    python examples/cnn_mnist.py --short            one epoch of a few digits

The picture, demo-output/cnn_mnist.png, has the training curve and some digits with what they were read as.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import faltung as ft
from faltung import datasets, nn, pictures
from faltung.runtime.train import accuracy, one_cycle

EPOCHS, BATCH, LR = 20, 64, 0.1
SHORT = 320  # digits of the short mode
CHANGES = datasets.chain(datasets.rotations(10), datasets.shifts(2))


def network() -> nn.Sequential:
    """Two convolutions, each halved by a maximum, and two linear layers: 421,642 parameters.

    It is zoo.digits, written out to be read.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        nn.Linear(128, 10),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> float:
    """Train, say how many held-out digits are read, draw; returns that share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with the four MNIST files")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the picture")
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args(argv)

    digits = datasets.mnist(given.data)
    count, epochs = (SHORT, 1) if given.short else (len(digits.train_labels), given.epochs)
    train = digits.train_images[:count], digits.train_labels[:count]
    print(f"{count} digits to train on, {len(digits.test_labels)} held out, from {digits.source}")

    ft.manual_seed(0)
    net = network()
    x, t = ft.input("x", (None, 1, 28, 28)), ft.input("t", (None,), dtype="int64")
    y = net(x)
    optimiser = ft.optim.SGD(lr=LR, momentum=0.9, weight_decay=1e-3, nesterov=True)
    step = ft.compile_step(ft.cross_entropy(y, t), net, optimiser, outputs=[y])
    model = ft.compile(y)

    started = perf_counter()
    history = ft.fit(
        step, train, epochs, BATCH, augment=CHANGES, schedule=one_cycle(LR, epochs),
        validate=lambda: accuracy(model, digits.test),
    )  # fmt: skip
    seconds = perf_counter() - started
    share = accuracy(model, digits.test)
    print(f"accuracy {100 * share:.2f} % on {len(digits.test_labels)} held-out digits, {epochs} epochs in {seconds:.1f} s")

    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "cnn_mnist.png"
    print("wrote", pictures.classified(history, *digits.test, model(digits.test_images), digits.classes, path))
    return share


if __name__ == "__main__":
    main()
