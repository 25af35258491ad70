"""Pictures and videos are tensors: grey, colour, and a film that a convolution over space and time looks at.

    python examples/tensors.py [--short] [--out FILE]

A batch of grey pictures is (N, 1, height, width), of colour pictures (N, 3, height, width), of films
(N, channels, time, height, width). A filter that takes the past from the future gives 0 where nothing moves.
"""

from __future__ import annotations

import numpy as np
from drawing import arguments, figure, save, show
from material import photo
from numpy.lib.stride_tricks import sliding_window_view

import faltung as ft

FRAMES = 7
# Sobel's filter in time: smooth in height and width, the frame before taken from the frame after
IN_TIME = np.einsum("t,i,j->tij", [-1, 0, 1], [1, 2, 1], [1, 2, 1])


def film(still: np.ndarray) -> np.ndarray:
    """A coin rolls over a grey picture (height, width): (time, height, width)."""
    side = len(still)
    coin = photo("coins", 303)[0, 171:215, 151:195]
    radius = side // 9
    zoom = (np.arange(2 * radius) * len(coin)) // (2 * radius)
    disc = np.hypot(*np.ogrid[-radius + 0.5 : radius, -radius + 0.5 : radius]) < radius
    frames = np.repeat(still[None], FRAMES, axis=0)
    for number, left in enumerate(np.linspace(0, side - 2 * radius, FRAMES).astype(int)):
        seen = frames[number, side - 2 * radius :, left : left + 2 * radius]
        seen[disc] = np.rot90(coin[np.ix_(zoom, zoom)], -number)[disc]
    return frames


def main() -> None:
    """Colour to grey, a film of grey pictures, and what moves in it."""
    given = arguments(__doc__, "tensors.png")
    side = 48 if given.short else 180
    rgb = photo("coffee", side)

    # grey is a convolution: one filter of 1×1 with a weight for each colour, here eighths
    x = ft.input("x", (None, 3, side, side))
    to_grey = ft.compile(ft.conv2d(x, np.array([2, 5, 1]).reshape(1, 3, 1, 1)))
    eighths = to_grey(rgb[None])
    assert (eighths[0, 0] == 2 * rgb[0] + 5 * rgb[1] + rgb[2]).all()
    grey = (eighths[0, 0] / 8).round()

    frames = film(grey)
    v = ft.input("v", (None, 1, FRAMES, side, side))
    y = ft.conv3d(v, IN_TIME[None, None])
    print("colour", rgb[None].shape, " grey", eighths.shape, " film", frames[None, None].shape)
    print(f"in time {y.equation}")
    moves = ft.compile(y)(frames[None, None])[0, 0]

    # the same with NumPy, in whole numbers: equal in every bit
    seen = sliding_window_view(frames.astype(int), (3, 3, 3))
    assert (moves == np.einsum("tijpqr,pqr->tij", seen, IN_TIME)).all()
    still = (seen == seen[:, :, :, :1]).all(axis=(3, 4, 5))  # the same in all three frames
    assert still.any()
    assert (moves[still] == 0).all()
    print(f"{still.mean():.0%} of the windows of {IN_TIME.shape} are still: there the response is exactly 0")

    drawn, axes = figure(9, 5.9, 3, FRAMES - 2)
    show(axes[0, 0], rgb, "colour: (1, 3, H, W)")
    for channel, (name, colour) in enumerate(zip(("red", "green", "blue"), np.eye(3), strict=True)):
        show(axes[0, 1 + channel], rgb[channel] * colour[:, None, None], f"channel {channel}, {name}")
    show(axes[0, 4], grey, "grey: (1, 1, H, W)")
    for time in range(FRAMES - 2):  # the first and the last have no frame on one side
        show(axes[1, time], frames[1 + time], f"film: frame {2 + time} of {FRAMES}")
        show(axes[2, time], moves[time], f"in time, frame {2 + time}", signed=True)
    save(drawn, given.out)


if __name__ == "__main__":
    main()
