"""What classical filters make of a photo: blur, Gauss, sharpen, and edges in both directions, as one convolution.

    python examples/filters.py [--short] [--out FILE]

A network would learn such filters; here they are written down. Pixels and weights are whole numbers, so what the
compiled convolution gives is compared with NumPy's by ==.
"""

from __future__ import annotations

import numpy as np
from drawing import arguments, cells, figure, save, show
from material import photo
from numpy.lib.stride_tricks import sliding_window_view

import faltung as ft

SIZE = 5
BINOMIAL = np.array([1, 4, 6, 4, 1])
SOBEL = np.outer([1, 2, 1], [-1, 0, 1])


def five(kernel: np.ndarray) -> np.ndarray:
    """A smaller kernel in the middle of 5×5 zeros."""
    return np.pad(kernel, (SIZE - len(kernel)) // 2)


# name              weights
FILTERS = {
    "blur":             np.ones((5, 5), int),
    "Gauss":            np.outer(BINOMIAL, BINOMIAL),
    "sharpen":          five(np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])),
    "vertical edges":   five(SOBEL),
    "horizontal edges": five(SOBEL.T),
}  # fmt: skip


def main() -> None:
    """Filter, compare, draw."""
    given = arguments(__doc__, "filters.png")
    side = 48 if given.short else 160
    colours = photo("chelsea", side)[:, None]  # red, green and blue as three pictures of one channel

    weights = np.stack(list(FILTERS.values()))[:, None]
    x = ft.input("x", (None, 1, side, side))
    y = ft.conv2d(x, weights, padding=SIZE // 2)
    print(y.equation)
    seen = ft.compile(y)(colours)  # (3, 5, side, side)

    around = np.pad(colours[:, 0].astype(int), ((0, 0), (2, 2), (2, 2)))
    expected = np.einsum("cijpq,fpq->cfij", sliding_window_view(around, (5, 5), axis=(1, 2)), weights[:, 0])
    assert (seen == expected).all()
    print(f"{seen.size} responses equal NumPy's whole numbers, the largest is {int(np.abs(seen).max())}")

    # what a filter does to an even area is the sum of its weights
    even = ft.compile(y)(np.full((1, 1, side, side), 100))[0, :, side // 2, side // 2]
    for (name, kernel), value in zip(FILTERS.items(), even, strict=True):
        print(f"{name:17} weights add up to {kernel.sum():3d}: an area of 100 becomes {value:g}")
        assert value == 100 * kernel.sum()

    drawn, axes = figure(11, 4.1, 2, 1 + len(FILTERS))
    show(axes[0, 0], colours[:, 0], "the photo")
    axes[1, 0].axis("off")
    axes[1, 0].text(0.5, 0.5, "the weights", ha="center", transform=axes[1, 0].transAxes)
    for number, (name, kernel) in enumerate(FILTERS.items()):
        total = int(kernel.sum())
        if total:
            show(axes[0, 1 + number], seen[:, number] / total, name)
        else:  # edges have a sign; the border's own edge, from 0 to the picture, is left out
            show(axes[0, 1 + number], seen[:, number, 2:-2, 2:-2].sum(axis=0), name, signed=True)
        cells(axes[1, 1 + number], kernel, f"/ {total}" if total > 1 else "")
    save(drawn, given.out)


if __name__ == "__main__":
    main()
