"""Deconvolution: a convolution run backwards makes pictures larger; a network that packs digits into 16 numbers unpacks them so.

    python examples/deconvolution.py [--short] [--out FILE]

A transposed convolution is what the gradient of a convolution does, as an operation of its own: every element is spread
over a window, `stride` pixels from the next. With weights 1 3 3 1 that is linear interpolation, but for
the border, which darkens: nothing is spread from outside. A network learns weights of its own.
"""

from __future__ import annotations

import numpy as np
from drawing import arguments, canvas, save, show
from material import photo

import faltung as ft
from faltung import nn

CODE, BATCH, SHOWN = 16, 64, 10
LINEAR = np.outer([1, 3, 3, 1], [1, 3, 3, 1])  # sixteenths


def spread(small: np.ndarray) -> np.ndarray:
    """The transposed convolution by LINEAR of stride 2 and padding 1, element by element."""
    height, width = small.shape
    large = np.zeros((2 * height + 2, 2 * width + 2))
    for i, j in np.ndindex(height, width):
        large[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += small[i, j] * LINEAR
    return large[1:-1, 1:-1]


def check_the_gradient() -> None:
    """Print how the gradient of a convolution is derived, and compare it with the transposed convolution: every bit."""
    x, k, y = ft.input("x", (1, 3, 9, 9)), ft.input("k", (4, 3, 3, 3)), ft.input("y", (1, 4, 5, 5))
    back = ft.grad((ft.conv2d(x, k, stride=2, padding=1) * y).sum(), x)
    for line in back.steps():
        print(f"{line.title:>18}  {line.text}")
    draw = np.random.default_rng(0)
    forth = ft.conv_transpose2d(y, k, stride=2, padding=1)
    weights, values = draw.integers(-9, 10, k.shape), draw.integers(-9, 10, y.shape)
    one, other = (ft.compile(tensor)(k=weights, y=values) for tensor in (back, forth))
    assert (one == other).all()
    print(f"conv_transpose2d gives the same {one.size} whole numbers")


def autoencoder() -> nn.Sequential:
    """28×28 to 14×14 to 7×7 to 16 numbers, and the same way back."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, CODE),
        nn.Linear(CODE, 32 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def main() -> None:
    """The gradient, a photo made larger, digits packed and unpacked."""
    given = arguments(__doc__, "deconvolution.png")
    check_the_gradient()

    side = 12 if given.short else 40
    small = photo("coffee", side)[:, None]  # colours as three pictures
    x = ft.input("x", (None, 1, side, side))
    twice = ft.conv_transpose2d(x, LINEAR[None, None], stride=2, padding=1)
    large, again = ft.compile([twice, ft.conv_transpose2d(twice / 16, LINEAR[None, None], stride=2, padding=1)])(small)
    assert (large[:, 0] == [spread(colour[0]) for colour in small]).all()
    print(f"photo {small.shape[2:]} to {large.shape[2:]}, as spreading element by element gives it, to {again.shape[2:]}")

    digits, steps = ft.datasets.mnist(), 3 if given.short else 600
    ft.manual_seed(0)
    net = autoencoder()
    x = ft.input("x", (None, 1, 28, 28))
    loss = ft.mse_loss(net(x), x)
    step = ft.compile_step(loss, net, ft.optim.Adam(lr=2e-3))
    draw = np.random.default_rng(0)
    for count in range(steps):
        error = step(digits.train_images[draw.integers(len(digits.train_labels), size=BATCH)])
        if count in (0, steps // 4, steps - 1):
            print(f"step {count:3}: mean squared error {error:.4f}")
    unpacked = ft.compile(net(x))(digits.test_images)
    off = float(np.square(unpacked - digits.test_images).mean())
    guess = float(np.square(digits.train_images.mean(axis=0) - digits.test_images).mean())
    print(f"held-out digits from {CODE} numbers instead of {28 * 28}: error {off:.4f}; the mean digit as answer to all: {guess:.4f}")
    assert given.short or off < guess / 3

    drawn = canvas(10, 5.4)
    top, bottom = drawn.subfigures(2, 1, height_ratios=[1.5, 1])
    bottom.suptitle(f"held-out digits, and below what was unpacked from {CODE} numbers", fontsize=9)
    for panel, (seen, title) in zip(top.subplots(1, 3), ((small, "the photo"), (large / 16, "twice as large"), (again / 16, "four times")), strict=True):
        show(panel, seen[:, 0], f"{title}: {seen.shape[2]}×{seen.shape[3]}")
    for column in zip(bottom.subplots(2, SHOWN).T, digits.test_images, unpacked, strict=False):
        for panel, picture in zip(column[0], column[1:], strict=True):
            show(panel, 255 * (1 - picture[0]))
    save(drawn, given.out)


if __name__ == "__main__":
    main()
