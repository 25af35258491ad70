"""Why convolution: the parameters of a dense layer explode with the picture, those of a convolution do not.

    python examples/parameters.py [--short] [--out FILE]

A picture of 3×1024×1024 has 3,145,728 numbers. A dense layer of 1,000 neurons has a weight for each number and neuron;
a convolution of 64 filters has 27 weights a filter, wherever it looks. As matrices both are the same kind of thing: a
convolution is a dense layer whose matrix is almost empty and repeats itself.
"""

from __future__ import annotations

import time
from math import prod

import numpy as np
from drawing import BLUE, INK, RED, SIGNED, arguments, figure, frame, save
from material import photo

import faltung as ft
from faltung import nn

NEURONS, FILTERS, SMALL = 1000, 64, 8


def dense(side: int) -> int:
    """Parameters of a dense layer on 3×side×side; shapes are enough to say that, no memory is taken."""
    w, b = ft.input("w", (NEURONS, 3 * side * side)), ft.input("b", (NEURONS,))
    y = ft.linear(ft.input("x", (None, 3, side, side)).reshape(None, 3 * side * side), w, b)
    assert y.shape[1] == NEURONS
    return prod(w.shape) + prod(b.shape)


def as_matrix(kernel: np.ndarray) -> np.ndarray:
    """The convolution of pictures of SMALL×SMALL as a matrix: column by column, what it makes of a single bright pixel."""
    x = ft.input("x", (None, 1, SMALL, SMALL))
    pixels = np.eye(SMALL**2).reshape(-1, 1, SMALL, SMALL)
    return ft.compile(ft.conv2d(x, kernel[None, None], padding=1))(pixels).reshape(SMALL**2, -1).T


def main() -> None:
    """Count, run the convolution that is affordable, show both as matrices."""
    given = arguments(__doc__, "parameters.png")
    conv = nn.Conv2d(3, FILTERS, 3, padding=1)
    sides = [32, 64, 128, 256, 512, 1024]
    print(f"{'picture':>12}  dense, {NEURONS:,} neurons          convolution, {FILTERS} filters 3×3")
    for side in sides:
        print(f"{side:5}×{side:<6}  {dense(side):13,} {4 * dense(side) / 1e9:6.2f} GB {conv.num_parameters:20,}")
    assert dense(1024) == 3 * 1024 * 1024 * 1000 + 1000 == 3_145_729_000
    assert conv.num_parameters == 64 * 3 * 3 * 3 + 64 == 1_792

    side = 64 if given.short else 1024
    picture = photo("astronaut", side)[None] / 255
    model = ft.compile(conv(ft.input("x", (None, 3, side, side))))
    model(picture)
    start = time.perf_counter()
    shape = model(picture).shape
    print(f"the convolution of {picture.shape} gives {shape} in {1e3 * (time.perf_counter() - start):.0f} ms")

    # whole numbers: matrix times picture equals convolution, exactly
    kernel = np.arange(1, 10).reshape(3, 3) - 5.0
    kernel[1, 1] = 5
    matrix = as_matrix(kernel)
    small = np.random.default_rng(0).integers(-9, 10, (SMALL, SMALL))
    around = np.pad(small, 1)
    expected = [[(around[i : i + 3, j : j + 3] * kernel).sum() for j in range(SMALL)] for i in range(SMALL)]
    assert (matrix @ small.ravel() == np.ravel(expected)).all()
    values = set(matrix[matrix != 0])
    print(f"matrix {matrix.shape}: {(matrix != 0).mean():.1%} of its entries are not 0, and they have {len(values)} values")
    assert values == set(kernel.ravel())

    drawn, axes = figure(11, 3.7, 1, 3, width_ratios=[1.25, 1, 1])
    lines = axes[0, 0]
    lines.plot(sides, [dense(s) for s in sides], "o-", color=RED)
    lines.plot(sides, [conv.num_parameters] * len(sides), "o-", color=BLUE)
    lines.text(sides[0], 6e9, f"{NEURONS:,} neurons: up to {dense(1024):,}", color=RED)
    lines.text(sides[0], 3.4e3, f"{FILTERS} filters 3×3: {conv.num_parameters:,}", color=BLUE)
    lines.set(xscale="log", yscale="log", ylim=(5e2, 2e10))
    lines.set_xticks(sides, [str(s) for s in sides], minor=False)
    lines.minorticks_off()
    frame(lines, "Parameters of one layer", "side of a colour picture, pixels")
    full = np.random.default_rng(1).normal(size=matrix.shape)
    for panel, entries, title in ((axes[0, 1], full, "dense: 4,096 weights"), (axes[0, 2], matrix, "a 3×3 convolution: 9 weights")):
        reach = np.abs(entries).max()
        panel.imshow(entries, cmap=SIGNED, vmin=-reach, vmax=reach, interpolation="nearest")
        panel.set_title(f"{title}, as matrix 64×64", fontsize=10, color=INK)
        panel.set(xticks=[], yticks=[])
    save(drawn, given.out)


if __name__ == "__main__":
    main()
