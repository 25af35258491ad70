"""Folders of image files, one sub-folder a class, read by Pillow when a batch asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faltung import photos
from faltung.graph.errors import DataError
from faltung.runtime.data import integer

Array = np.ndarray

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # how bright red, green and blue are: Rec. ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Folder:
    """A source of pictures: files, their classes (n,) int64 as numbers of names in `classes`, and how they are read."""

    paths: tuple[Path, ...]
    labels: Array
    classes: tuple[str, ...]
    side: int | None
    gray: bool

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Array) -> tuple[Array, Array]:
        """Pictures (n, channels, height, width) float32 in [0, 1] of those numbers, and their classes. Raises DataError."""
        read = [self._read(self.paths[row]) for row in rows]
        odd = next((n for n, picture in enumerate(read) if picture.shape != read[0].shape), None)
        if odd is not None:
            first, other = (f"{self.paths[rows[n]]} has {read[n].shape[0]}×{read[n].shape[1]} pixels" for n in (0, odd))
            raise DataError(f"{first}, {other}: pass side=, and all are brought to one size")
        return np.stack(read).transpose(0, 3, 1, 2), self.labels[rows]

    def _read(self, path: Path) -> Array:
        picture = photos.read(path)
        if self.gray:
            picture = (picture @ LUMA)[..., None]
        return picture if self.side is None else photos.crop(photos.resize(picture, self.side), self.side)


def image_folder(folder: str | Path, side: int | None = None, gray: bool = False) -> Folder:
    """The image files in the sub-folders of a folder; the sub-folders' names, sorted, are the classes.

    Each picture has its shorter side brought to `side` pixels and the rest of the longer one cut off; without `side` all
    must be of one size. `gray` makes one channel of three. Files of other kinds, and hidden ones, are passed over,
    and so is every folder inside a sub-folder: pictures further down are not looked for.
    Raises DataError where there is no folder, no class, a class without pictures, or a side below 1.
    """
    folder = Path(folder)
    side = None if side is None else integer("image_folder: side", side, 1)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name one that has a sub-folder of image files for each class")
    classes = [entry.name for entry in _entries(folder) if entry.is_dir()]
    if not classes:
        raise DataError(f"{folder} has no sub-folders: put the image files of each class into a sub-folder of its name")
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        files = [path for path in _entries(folder / name) if path.suffix.lower() in ENDINGS and path.is_file()]
        if not files:
            raise DataError(f"{folder / name} has no image files ({' '.join(ENDINGS)}): remove the folder, or fill it")
        paths += files
        labels += [number] * len(files)
    return Folder(tuple(paths), np.array(labels, np.int64), tuple(classes), side, gray)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as reason:
        raise DataError(f"{folder}: cannot be listed: {reason}") from reason
