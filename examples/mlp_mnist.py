"""Digits read by a multilayer perceptron: two hidden layers of 512, every pixel connected to every neuron.

    python examples/mlp_mnist.py                    the 5,000 digits of the extra `demo`, 4,000 to train on
    python examples/mlp_mnist.py --data FOLDER      the four files of MNIST, or of any set in its format
    python examples/mlp_mnist.py --short            one epoch of a few digits

The picture, demo-output/mlp_mnist.png, has the training curve and some digits with what they were read as.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import faltung as ft
from faltung import datasets, nn, pictures
from faltung.runtime.train import accuracy, one_cycle

EPOCHS, BATCH, LR = 10, 32, 0.05
SHORT = 320  # digits of the short mode


def network() -> nn.Sequential:
    """28·28 pixels, 512 and 512 neurons, 10 classes: 669,706 parameters.

    It is zoo.mlp, written out to be read.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 512), nn.ReLU(),
        nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, 10),
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
    optimiser = ft.optim.SGD(lr=LR, momentum=0.9, weight_decay=1e-4)
    step = ft.compile_step(ft.cross_entropy(y, t), net, optimiser, outputs=[y])
    model = ft.compile(y)

    started = perf_counter()
    history = ft.fit(step, train, epochs, BATCH, schedule=one_cycle(LR, epochs), validate=lambda: accuracy(model, digits.test))
    seconds = perf_counter() - started
    share = accuracy(model, digits.test)
    print(f"accuracy {100 * share:.2f} % on {len(digits.test_labels)} held-out digits, {epochs} epochs in {seconds:.1f} s")

    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "mlp_mnist.png"
    print("wrote", pictures.classified(history, *digits.test, model(digits.test_images), digits.classes, path))
    return share


if __name__ == "__main__":
    main()
