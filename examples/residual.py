"""Residual against plain: the same blocks with and without the shortcut that adds a block's input to its result.

    python examples/residual.py [--short] [--out FILE]

Both networks are deep, begin with the same weights and see the same digits in the same order. What a block adds to its
shortcut may begin at nothing: then every block hands the gradient on as it came, to the last bit.
"""

from __future__ import annotations

import time

import numpy as np
from drawing import BLUE, RED, arguments, figure, frame, save

import faltung as ft
from faltung import nn
from faltung.runtime.train import accuracy
from faltung.zoo.resnet import BasicBlock

WIDTH, BATCH = 16, 64


def network(blocks: int, residual: bool) -> nn.Sequential:
    """A convolution to 7×7, blocks of two convolutions each, a mean over the positions, a linear layer."""
    ft.manual_seed(0)  # shortcuts have no parameters: both networks begin with the same weights
    return nn.Sequential({
        "stem": nn.Sequential(nn.Conv2d(1, WIDTH, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        "blocks": nn.Sequential(*(BasicBlock(WIDTH, WIDTH, 1, nn.Identity() if residual else None) for _ in range(blocks))),
        "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)),
    })  # fmt: skip


def gradients(net: nn.Sequential, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """What arrives of the gradient of the loss at the input of every block, first block first."""
    x, t = ft.input("x", (None, 1, 28, 28)), ft.input("t", (None,), "int64")
    at = [net.stem(x)]
    for block in net.blocks:
        at.append(block(at[-1]))
    return ft.compile(ft.grad(ft.cross_entropy(net.head(at[-1]), t), at[:-1]))(images, labels)


def train(net: nn.Sequential, digits: ft.datasets.Dataset, steps: int) -> tuple[list[float], float]:
    """The loss of every step, and the share of held-out digits that are read correctly in the end."""
    x, t = ft.input("x", (None, 1, 28, 28)), ft.input("t", (None,), "int64")
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(lr=0.05, momentum=0.9))
    draw = np.random.default_rng(0)
    batches = (draw.integers(len(digits.train_labels), size=BATCH) for _ in range(steps))
    losses = [step(digits.train_images[batch], digits.train_labels[batch]) for batch in batches]
    return losses, accuracy(ft.compile(net.eval()(x)), digits.test)


def main() -> None:
    """Gradients at the start, the identity, then training of both."""
    given = arguments(__doc__, "residual.png")
    digits, blocks, steps = ft.datasets.mnist(), *((2, 3) if given.short else (24, 150))
    some = digits.train_images[:BATCH], digits.train_labels[:BATCH]

    resting = network(blocks, residual=True)
    resting.load_state_dict({key: 0 * value if key.endswith("bn2.weight") else value for key, value in resting.state_dict().items()})
    arriving = gradients(resting, *some)
    assert all((array == arriving[0]).all() for array in arriving)
    print(f"blocks that add nothing: through {2 * blocks} convolutions the gradient arrives unchanged in every bit")

    drawn, axes = figure(10.5, 3.6, 1, 2)
    reached = {}
    for name, residual, colour in (("residual", True, BLUE), ("plain", False, RED)):
        net = network(blocks, residual)
        sizes = [float(np.linalg.norm(array)) for array in gradients(net, *some)]
        start = time.perf_counter()
        losses, reached[name] = train(net, digits, steps)
        print(f"{name:9} {net.num_parameters:,} parameters, gradient at the first block {sizes[0]:.2g}, at the last {sizes[-1]:.2g};", end=" ")
        print(f"loss {np.mean(losses[-10:]):.2f}, {reached[name]:.1%} of held-out digits, {time.perf_counter() - start:.0f} s")
        smooth = np.convolve(losses, np.ones(min(9, steps)) / min(9, steps), mode="valid")
        axes[0, 0].plot(range(1, blocks + 1), sizes, "o-", color=colour, markersize=4, label=name)
        axes[0, 1].plot(smooth, color=colour, linewidth=2, label=f"{name}: {reached[name]:.1%} of held-out digits")
    axes[0, 0].set_yscale("log")
    frame(axes[0, 0], "Size of the gradient that arrives, before training", "block")
    frame(axes[0, 1], f"Loss while training, {2 * blocks} convolutions", "step")
    for panel in axes[0]:
        panel.legend(frameon=False)
    save(drawn, given.out)
    assert given.short or reached["residual"] > reached["plain"] + 0.1, "the shortcuts made no difference"


if __name__ == "__main__":
    main()
