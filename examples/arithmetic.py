"""The arithmetic of a convolution as a film: what each element reads, with padding, stride and dilation.

    python examples/arithmetic.py [--short] [--out FILE]

Of E elements, P zeros on both sides, a kernel of R elements D apart and steps of S come

    ⌊(E + 2·P - D·(R - 1) - 1) / S⌋ + 1

elements. What an element reads is asked of the compiler: it is where its derivative by the input is not 0.
"""

from __future__ import annotations

import io
from itertools import product
from typing import Any

import numpy as np
from drawing import BLUE, INK, RED, arguments, figure

import faltung as ft

# title                     E  R  how
CASES = {
    "no padding":          (5, 3, {}),
    "padding 1":           (5, 3, {"padding": 1}),
    "stride 2, padding 1": (5, 3, {"stride": 2, "padding": 1}),
    "dilation 2":          (7, 3, {"dilation": 2}),
}  # fmt: skip
# an element of the input or a zero around it, read or not; of the result, written or not
COLOURS = {(True, False): "#c9d8ea", (False, False): "#e6e8ec", (True, True): BLUE, (False, True): "#8fb1da"}
WRITTEN, OPEN = RED, "#f6ddd0"


def check_the_formula() -> int:
    """Hold the formula against the shapes of many convolutions, and say of how many."""
    count = 0
    for e, r, p, s, d in product(range(1, 13), range(1, 6), range(3), range(1, 4), range(1, 4)):
        if e + 2 * p >= d * (r - 1) + 1:
            y = ft.conv1d(ft.input("x", (1, 1, e)), ft.input("k", (1, 1, r)), stride=s, padding=p, dilation=d)
            assert y.shape == (1, 1, (e + 2 * p - d * (r - 1) - 1) // s + 1)
            count += 1
    return count


def reads(extent: int, size: int, padding: int = 0, **how: int) -> np.ndarray:
    """For each element of the result where it reads the padded input: (height, width, padded, padded), True and False."""
    padded = extent + 2 * padding
    x, k = ft.input("x", (None, 1, padded, padded)), np.ones((1, 1, size, size))
    y = ft.conv2d(x, k, **how)
    assert y.shape[2:] == ft.conv2d(ft.input("x", (1, 1, extent, extent)), k, padding=padding, **how).shape[2:]
    height = y.shape[2]
    which = ft.input("which", (None, 1, height, height))
    derivative = ft.compile(ft.grad((y * which).sum(), x))
    units = np.eye(height * height).reshape(-1, 1, height, height)  # as a batch: one element chosen in each example
    return derivative(units).reshape(height, height, padded, padded) != 0


def draw(footprints: dict[str, np.ndarray], frame: int) -> Any:
    """One frame of the film, a Pillow image: below the padded input, above it the result."""
    from matplotlib.patches import Rectangle
    from PIL import Image

    drawn, axes = figure(8.8, 3.5, 1, len(CASES))
    for panel, (title, (extent, _, how)) in zip(axes[0], CASES.items(), strict=True):
        read, padding = footprints[title], how.get("padding", 0)
        height, padded = len(read), read.shape[2]
        at = divmod(frame % height**2, height)
        for i, j in np.ndindex(padded, padded):
            inside = padding <= i < padded - padding and padding <= j < padded - padding
            panel.add_patch(Rectangle((j, 5.6 + i), 0.94, 0.94, color=COLOURS[inside, bool(read[at][i, j])], linewidth=0))
        left, top = (padded - height) / 2, (5 - height) / 2
        for i, j in np.ndindex(height, height):
            colour = WRITTEN if (i, j) == at else OPEN
            panel.add_patch(Rectangle((left + j, top + i), 0.94, 0.94, color=colour, linewidth=0))
        panel.set(xlim=(padded / 2 - 3.6, padded / 2 + 3.6), ylim=(13, -0.2), aspect="equal")
        panel.axis("off")
        panel.set_title(f"{title}\n{extent}×{extent} to {height}×{height}", fontsize=10, color=INK)
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=80)
    return Image.open(file).convert("RGB").quantize(32)  # areas are flat: few colours are enough


def main() -> None:
    """The formula, what is read, and the film."""
    given = arguments(__doc__, "arithmetic.gif")
    print(f"the formula gives the extent of {check_the_formula()} convolutions")
    footprints = {title: reads(extent, size, **how) for title, (extent, size, how) in CASES.items()}
    for title, read in footprints.items():
        print(f"{title:20} {read.shape[2]}×{read.shape[3]} with its zeros to {len(read)}×{len(read)}, each reads {read[0, 0].sum()}")
        assert (read.sum(axis=(2, 3)) == 9).all()
    pictures = [draw(footprints, frame) for frame in range(2 if given.short else 25)]
    pictures[0].save(given.out, save_all=True, append_images=pictures[1:], duration=450, loop=0)  # ms a frame, for ever
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
