"""What is in a photo: MobileNetV2 with ImageNet's weights, and a picture of the five likeliest classes.

    python examples/classify_photo.py                        the cat, the cup and the motorcycle of scikit-image
    python examples/classify_photo.py a.jpg b.png --weights mobilenet_v2.pth --out classes.png

Weights are any file with torchvision's keys. Without --weights the installed ones are taken; material.py says how they
and the photos are installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from drawing import BLUE, arguments, figure, save
from material import PHOTOS, WEIGHTS, shipped, weights

import faltung as ft
from faltung import photos, zoo

MOST = 5


def classifier(saved: Path | None) -> ft.nn.Module:
    """MobileNetV2, with saved weights if there are any, and behind it the softmax that makes shares of scores."""
    net = zoo.mobilenet_v2()
    if saved is not None:
        net.load(saved)
    return ft.nn.Sequential(net, ft.nn.Softmax(1)).eval()


def shares(net: ft.nn.Module, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The share (n, 1000) of each class in each picture."""
    model = ft.compile(net(ft.input("x", (None, 3, 224, 224))))
    return model(np.concatenate([photos.prepare(picture) for picture in pictures]))


def draw(pictures: Sequence[np.ndarray], found: np.ndarray, path: Path) -> None:
    """What the network saw of each photo, beside bars of the likeliest classes."""
    drawn, axes = figure(8, 2.6 * len(pictures), len(pictures), 2, width_ratios=[1, 1.4])
    for row, (seen, bars) in enumerate(axes):
        seen.imshow(photos.crop(photos.resize(pictures[row], 256), 224).clip(0, 1))
        seen.axis("off")
        best = np.argsort(-found[row])[:MOST]
        shown = bars.barh(range(MOST), 100 * found[row, best], color=BLUE)
        bars.bar_label(shown, [f"{100 * found[row, k]:.1f} %" for k in best], padding=4)
        bars.set_yticks(range(MOST), [zoo.imagenet_classes()[k] for k in best])
        bars.invert_yaxis()
        bars.set_xlim(0, 118)
        bars.set_xticks([])
        bars.spines[:].set_visible(False)
    save(drawn, path)


def main() -> None:
    """Classify photos, print the likeliest classes of each, and save the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--weights", type=Path, help="not needed with --short; without them classes mean nothing")
    given = arguments(__doc__, "classify_photo.png", parser)
    saved, paths = given.weights or weights(), given.photos or shipped()
    if (saved is None and not given.short) or not paths:
        parser.error(f"no weights: {WEIGHTS}, or give --weights FILE; --short needs none" if paths else f"no photos: {PHOTOS}, or name some")
    pictures = [photos.read(path) for path in paths]
    found = shares(classifier(saved), pictures)
    for path, row in zip(paths, found, strict=True):
        best = np.argsort(-row)[:MOST]
        print(f"{path.stem:16}", ", ".join(f"{k} {zoo.imagenet_classes()[k]} {row[k]:.3f}" for k in best))
    draw(pictures, found, given.out)


if __name__ == "__main__":
    main()
