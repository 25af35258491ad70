"""OverFeat's idea: a classifier of 28×28 pixels, its linear layers turned into convolutions, reads a whole page at once.

    python examples/overfeat.py [--short] [--out FILE]

A small network without padding learns what lies in the middle of a window, a digit or nothing. The same parameters as a
convolution give the scores of every window of a page: each what the classifier says about that crop, up to rounding,
and with whole numbers as weights and pixels the same by ==.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from timeit import repeat

import numpy as np
from drawing import RED, arguments, figure, outline, save

import faltung as ft
from faltung import nn

SIDE, NOTHING, SLACK, STRIDE, PAGE = 28, 10, 3, 4, (100, 184)  # a digit up to SLACK pixels off the middle counts


def windows(digits: ft.datasets.Dataset, count: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows on pages, more than half of them with a digit in the middle, and what lies there."""
    x, t = np.zeros((count, 1, 3 * SIDE, 3 * SIDE), np.float32), np.full(count, NOTHING)
    for n in range(count):
        down, right = draw.integers(-(far := SLACK + n % 2 * 14), far + 1, 2)
        which = draw.integers(len(digits.train_images), size=3)
        if max(abs(down), abs(right)) <= SLACK:
            t[n] = digits.train_labels[which[0]]
        for digit, below, beside in zip(which, (0, 0, draw.choice([-52, 52])), (0, draw.choice([-34, 34]), 0), strict=True):
            y, z = np.clip((SIDE + down + below, SIDE + right + beside), 0, 2 * SIDE)
            x[n, 0, y : y + SIDE, z : z + SIDE] = np.maximum(x[n, 0, y : y + SIDE, z : z + SIDE], digits.train_images[digit, 0])
    return x[..., SIDE : 2 * SIDE, SIDE : 2 * SIDE], t


def page(digits: ft.datasets.Dataset, draw: np.random.Generator) -> np.ndarray:
    """A page (1, 1, height, width) of held-out digits in uneven lines."""
    paper = np.zeros((1, 1, *PAGE), np.float32)
    for corner in product((6, 58), range(4, PAGE[1] - 40, 34)):
        y, x = corner + draw.integers(0, 10, 2)
        paper[0, 0, y : y + SIDE, x : x + SIDE] = draw.choice(digits.test_images)[0]
    return paper


def draw_page(paper: np.ndarray, shares: np.ndarray, path: Path) -> None:
    """The page with what was found on it, above how sure the network is of a digit at each position."""
    surest = shares[:NOTHING].max(axis=0)
    drawn, ((above,), (below,)) = figure(7, 7.6, 2, 1)
    start, (rows, columns) = (SIDE - STRIDE) / 2, surest.shape  # of the first position's square on the page
    below.imshow(surest, extent=(start, start + STRIDE * columns, start + STRIDE * rows, start), cmap="magma", vmin=0, vmax=1)
    above.imshow(paper, cmap="gray_r")
    while surest.max() > 0.5:
        u, v = (int(at) for at in np.unravel_index(surest.argmax(), surest.shape))
        outline(above, STRIDE * u, STRIDE * v, SIDE, RED)
        above.text(STRIDE * v + 1, STRIDE * u + 6, shares[:NOTHING, u, v].argmax(), color=RED, weight="bold")
        surest[max(u - 4, 0) : u + 5, max(v - 4, 0) : v + 5] = 0
    for axes, title in ((above, "a page, and its surest windows"), (below, "the share of the likeliest digit, window by window")):
        axes.set(title=title, xlim=(0, PAGE[1]), ylim=(PAGE[0], 0), xticks=[], yticks=[])
    save(drawn, path)


def main() -> None:
    """Train, convert, compare every window, draw."""
    given = arguments(__doc__, "overfeat.png")
    digits, draw = ft.datasets.mnist(), np.random.default_rng(0)
    x, t = ft.input("x", (None, 1, SIDE, SIDE)), ft.input("t", (None,), "int64")
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 4 * 4, 96), nn.ReLU(), nn.Linear(96, 11),
    )  # fmt: skip
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.Adam(lr=1e-3))
    for count in range(5 if given.short else 601):
        loss = step(*windows(digits, 128, draw))
        if count % 150 == 0:
            print(f"step {count:3d}  loss {loss:.3f}")
    dense = net.eval().fully_convolutional((1, SIDE, SIDE))
    print(dense[6:])
    paper, y = page(digits, np.random.default_rng(5)), dense(ft.input("page", (None, 1, *PAGE)))
    small, large = ft.compile(net(x)), ft.compile([y, ft.softmax(y, 1)])
    scores, shares = large(paper)
    corners = product(range(0, STRIDE * scores.shape[2], STRIDE), range(0, STRIDE * scores.shape[3], STRIDE))
    crops = np.concatenate([paper[..., u : u + SIDE, v : v + SIDE] for u, v in corners])
    apart = np.abs(scores[0].reshape(11, -1).T - small(crops)).max()
    assert apart < 1e-4, "the map is not what the classifier says about the crops"
    print(f"{len(crops)} windows: the map and the crops one by one differ by at most {apart:.1e}")
    print(f"map {1e3 * min(repeat(lambda: large(paper), number=1)):.1f} ms, crops {1e3 * min(repeat(lambda: small(crops), number=1)):.1f} ms")
    draw_page(paper[0, 0], shares[0], given.out)

    net.load_state_dict({key: draw.integers(-1, 2, value.shape) for key, value in net.state_dict().items()})
    small, large = ft.compile(net(x), accuracy="strict"), ft.compile(y, accuracy="strict")  # sums of products alone
    assert (small(crops.round()) == large(paper.round())[0].reshape(11, -1).T).all()
    print("with whole numbers from -1 to 1 as weights and 0 or 1 as pixels: the same by ==")


if __name__ == "__main__":
    main()
