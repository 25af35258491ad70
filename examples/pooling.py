"""Pooling: of each 2×2 window the maximum or the mean is kept; pictures shrink, what was found stays.

    python examples/pooling.py [--short] [--out FILE]

A colour picture (3, 100, 100) through a 3×3 convolution is (3, 98, 98), and after 2×2 pooling (3, 49, 49).
"""

from __future__ import annotations

import numpy as np
from drawing import arguments, cells, figure, save, show
from material import photo

import faltung as ft

SIDE = 100
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])


def windows(picture: np.ndarray) -> np.ndarray:
    """The 2×2 windows of (…, height, width), cut with NumPy: (…, height/2, width/2, 4)."""
    *front, height, width = picture.shape
    cut = picture.reshape(*front, height // 2, 2, width // 2, 2)
    return np.moveaxis(cut, -3, -2).reshape(*front, height // 2, width // 2, 4)


def main() -> None:
    """Convolve, pool in both ways and once more, compare with NumPy, draw."""
    given = arguments(__doc__, "pooling.png")
    picture = photo("chelsea", SIDE)
    kernel = np.zeros((3, 3, 3, 3))
    for colour in range(3):  # each colour is sharpened by itself
        kernel[colour, colour] = SHARPEN

    x = ft.input("x", (3, SIDE, SIDE))
    sharp = ft.conv2d(ft.reshape(x, (1, 3, SIDE, SIDE)), kernel)
    largest, mean = ft.max_pool2d(sharp, 2), ft.avg_pool2d(sharp, 2)
    again = ft.max_pool2d(ft.max_pool2d(largest[:, :, :48, :48], 2), 2)
    for name, tensor in {"convolution": sharp, "largest": largest, "mean": mean}.items():
        print(f"{name:12} {tensor.shape[1:]!s:13} {tensor.equation}")
    assert sharp.shape[1:] == (3, 98, 98)
    assert largest.shape[1:] == mean.shape[1:] == (3, 49, 49)

    s, top, average, top8 = (tensor[0] for tensor in ft.compile([sharp, largest, mean, again])(picture))
    assert (top == windows(s).max(axis=-1)).all()
    assert (average == windows(s).mean(axis=-1)).all()  # whole numbers over 4: exact, too
    assert (top8 == top[:, :48, :48].reshape(3, 12, 4, 12, 4).max(axis=(2, 4))).all()
    print(f"{top.size + average.size:,} results equal NumPy's; twice more, the largest of 8×8 pixels: {top8.shape}")

    # moved by one pixel, the largest of a window is often the same one: pooling forgives small shifts
    moved = ft.compile([sharp, largest])(np.roll(picture, 1, axis=2))
    change = [np.abs(a[0] - b)[..., 1:-1].mean() for a, b in zip(moved, (s, top), strict=True)]
    print(f"the picture moved by a pixel: responses change by {change[0]:.1f} on average, the largest of windows by {change[1]:.1f}")

    drawn, axes = figure(11, 4.6, 2, 4, height_ratios=[1.25, 1])
    shown = [(picture, "picture (3, 100, 100)"), (s, "3×3 convolution (3, 98, 98)"), (top, "largest of 2×2 (3, 49, 49)"), (average, "mean of 2×2 (3, 49, 49)")]
    for panel, (seen, title) in zip(axes[0], shown, strict=True):
        show(panel, seen, title)
    corner = np.array([[4, 1, 3, 0], [2, 8, 5, 4], [0, 6, 1, 1], [2, 4, 3, 7]])
    y = ft.input("y", (1, 1, 4, 4))
    pooled = [found[0, 0] for found in ft.compile([ft.max_pool2d(y, 2), ft.avg_pool2d(y, 2)])(corner[None, None])]
    assert pooled[0].tolist() == [[8, 5], [6, 7]]
    assert pooled[1].tolist() == [[3.75, 3], [3, 3]]
    marked = np.isin(np.arange(16), [5, 6, 9, 15]).reshape(4, 4)
    show(axes[1, 0], top8, "largest of 8×8, again pooled: (3, 12, 12)")
    cells(axes[1, 1], corner, "in numbers: 4×4", marked, 8)
    cells(axes[1, 2], pooled[0], "the largest", reach=8)
    cells(axes[1, 3], pooled[1], "the mean", reach=8)
    save(drawn, given.out)


if __name__ == "__main__":
    main()
