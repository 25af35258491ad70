"""NumPy's .npz: a zip archive with one .npy for each array, read and written without pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

END = ".npy"


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the archive. Raises ValueError, OSError or BadZipFile for one that is damaged or holds objects."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                arrays[name.removesuffix(END)] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def read_one(path: Path, name: str) -> np.ndarray:
    """One array of the archive. Raises as `read` does, KeyError for a name that it lacks."""
    with zipfile.ZipFile(path) as archive, archive.open(name + END) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def write(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """The archive as `np.load` reads it. Raises ValueError for arrays of objects."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + END), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
