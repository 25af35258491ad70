"""NumPy's .npz: a zip archive with one .npy for each array, read and written without pickles."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

END = ".npy"
HEAD = struct.Struct("<4s22xHH")  # of a member, where it lies: signature, and the lengths of what comes before its data
ENCRYPTED = 1


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the archive. Raises ValueError, OSError or BadZipFile for one that is damaged or holds objects."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                arrays[name.removesuffix(END)] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def by_name(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """What reads each array of the archive, whose contents are listed now, once for all of them. Both raise as `read` does."""

    def one(found: zipfile.ZipInfo) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(found.header_offset)
            head = HEAD.unpack(file.read(HEAD.size))
            if head[0] != b"PK\3\4" or found.flag_bits & ENCRYPTED:
                raise zipfile.BadZipFile(f"no array at byte {found.header_offset}")
            file.seek(head[1] + head[2], os.SEEK_CUR)  # its name again, and what some writers add
            with zipfile.ZipExtFile(file, "r", found) as member:
                return np.lib.format.read_array(member, allow_pickle=False)

    with zipfile.ZipFile(path) as archive:
        return {member.filename.removesuffix(END): partial(one, member) for member in archive.infolist()}


def write(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """The archive as `np.load` reads it. Raises ValueError for arrays of objects."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + END), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
