"""What a trained network sees in a photo after its first convolutions, and how much of the photo a response depends on.

    python examples/layers.py [--short] [--out FILE]

With the weights of material.py the network is MobileNetV2, without them a small one that learns in seconds to tell
crops of six photos apart. What a response sees follows from kernels and strides, and is where its derivative is not 0.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import numpy as np
from drawing import CYAN, arguments, figure, outline, save, show
from material import photo, weights

import faltung as ft
from faltung import nn, photos, zoo

PHOTOS = ("chelsea", "coffee", "motorcycle_left", "astronaut", "rocket", "brick")
SHOWN, CROP, NEAR = 5, 64, 40  # channels, pixels of a crop to learn from, and of the piece drawn larger


def scaled(pictures: np.ndarray) -> np.ndarray:
    """Pictures (…, 3, height, width) from 0 to 255 as ImageNet's networks take them."""
    return (pictures / 255 - photos.MEAN[:, None, None]) / photos.DEVIATION[:, None, None]


def mobilenet(saved: Path) -> list[nn.Sequential]:
    """MobileNetV2 in parts: up to its first convolution, on to the 5th, on to the 11th."""
    net = zoo.mobilenet_v2().eval()
    net.load(saved)
    stem, first, second, third, fourth, *_ = net.features
    return [nn.Sequential(stem), nn.Sequential(first, second.conv[:2]), nn.Sequential(second.conv[2:], third, fourth.conv[:2])]


def trained(steps: int) -> list[nn.Sequential]:
    """A small network that has learned from which photo a crop is, in three parts of a convolution each."""
    ft.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(PHOTOS)),
    )  # fmt: skip
    x, t = ft.input("x", (None, 3, CROP, CROP)), ft.input("t", (None,), "int64")
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.Adam(lr=3e-3), [net(x)])
    pictures, draw = scaled(np.stack([photo(name, 3 * CROP) for name in PHOTOS])), np.random.default_rng(0)
    for count in range(steps):
        which, at = draw.integers(len(PHOTOS), size=32), draw.integers(2 * CROP, size=(32, 2))
        crops = np.stack([pictures[n, :, i : i + CROP, j : j + CROP] for n, (i, j) in zip(which, at, strict=True)])
        loss, scores = step(crops, which)
        if count in (0, steps - 1):
            print(f"step {count:3}: loss {loss:.2f}, {np.mean(scores.argmax(axis=1) == which):.0%} of 32 crops told apart")
    return [net[:2], net[2:5], net[5:8]]


def reach(windows: list[nn.Module]) -> int:
    """How many pixels, in height and in width, a response depends on: each window adds its extent at its distance."""
    seen, apart = 1, 1
    for layer in windows:
        size, stride = (np.ravel(value)[0] for value in (layer.kernel_size, layer.stride))
        seen, apart = seen + (size - 1) * apart, apart * stride
    return int(seen)


def main() -> None:
    """Find a network, look at it in three places, draw."""
    given, saved = arguments(__doc__, "layers.png"), weights()
    stages = mobilenet(saved) if saved and not given.short else trained(3 if given.short else 120)
    side = 96 if given.short else 400
    seen, corner = photo("motorcycle_left", side), (side - NEAR) // 2

    x = ft.input("x", (1, 3, side, side))
    layers = list(accumulate(stages, lambda y, stage: stage(y), initial=x))[1:]
    responses = ft.compile(layers)(scaled(seen[None]))

    drawn, axes = figure(9.6, 4.5, len(layers), 2 + SHOWN)
    windows: list[nn.Module] = []
    for row, stage, y, found in zip(axes, stages, layers, responses, strict=True):
        windows += [layer for layer in stage.modules() if "kernel_size" in vars(layer)]
        after = sum(isinstance(layer, nn.Conv2d) for layer in windows)
        middle, expected = y[:, :, y.shape[2] // 2, y.shape[3] // 2], reach(windows)
        # strict: sums of products alone, so that what is not read is exactly 0
        derivative = ft.compile(ft.grad(middle.sum(), x), accuracy="strict")(scaled(seen[None]))
        (top, bottom), (left, right) = ((int(at.min()), int(at.max()) + 1) for at in np.nonzero(derivative[0].any(axis=0)))
        print(f"after {after:2}: {found.shape[1:]}, a response sees {bottom - top}×{right - left} pixels, by arithmetic {expected}")
        assert (bottom - top, right - left) == (expected, expected)
        show(row[0], seen, f"{after} convolution{'s' * (after > 1)}")
        outline(row[0], corner, corner, NEAR, CYAN)
        show(row[1], seen[:, corner : corner + NEAR, corner : corner + NEAR], f"{expected}×{expected} pixels")
        outline(row[1], top - corner, left - corner, expected, CYAN)
        liveliest = np.argsort(-found[0].std(axis=(1, 2)))[:SHOWN]
        for axis, channel in zip(row[2:], sorted(liveliest), strict=True):
            show(axis, found[0, channel], f"channel {channel}", cmap="magma", vmax=np.percentile(found[0, channel], 99.5) or 1)
    save(drawn, given.out)


if __name__ == "__main__":
    main()
