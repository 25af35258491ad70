"""Named arrays in files: what `net.load` reads and `net.save` writes.

    format          known by           read   written as
    safetensors     its JSON header    yes    .safetensors
    npz             a zip of .npy      yes    .npz
    PyTorch         a zip of data.pkl  yes    .pth, .pt
    PyTorch < 1.6   a row of pickles   yes

PyTorch's files are pickles, which can name any function to be called. Here they are read by an interpreter that
knows the few names a file of weights needs and refuses all others; neither PyTorch nor `pickle` takes part.
"""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from faltung.graph.errors import CheckpointError
from faltung.runtime import checkpoint
from faltung.runtime.checkpoint import existing, load_by_name, load_weights, save_weights
from faltung.runtime.files import replacing
from faltung.weights import npz, pth

__all__ = ["ENDINGS", "again", "contents", "filename", "place", "read", "write"]

Array = np.ndarray

# what reading a damaged or vanished file may raise, each of them by a reader of its own; CheckpointError is a ValueError
DAMAGED = (
    OSError, EOFError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError, MemoryError,
    tokenize.TokenError, SyntaxError, TypeError, OverflowError,  # of the header of an .npy, which is text in Python
)  # fmt: skip
GONE = "; the network has not kept its values: leave the file alone, or load it with keep=True"


def read(path: str | Path) -> dict[str, Array]:
    """Every array in a file, under its name; the format is told by what the file begins with, not by its name.

    Arrays may be views of what was read: copy one to change it. Raises CheckpointError for a file that is missing,
    damaged, of another format, or that names something to be called.
    """
    path = filename(path)
    with _naming(path):
        return _reader(existing(path))(path)


def contents(path: str | Path) -> tuple[dict[str, Array], dict[str, Any] | None]:
    """As `read`, and None; of a checkpoint of a training run, every array under its full name, and how far the run was."""
    path = filename(path)
    with _naming(path):
        reader = _reader(existing(path))
        return checkpoint.contents(path) if reader is load_weights else (reader(path), None)


@dataclass(frozen=True)
class Again:
    """One array of a file by its name, as often as it is asked for, and as long as the file is what it was.

    Raises CheckpointError where it has been changed, replaced or removed since.
    """

    path: Path
    was: tuple[int, ...]
    arrays: Mapping[str, Callable[[], Array]]

    def __call__(self, name: str) -> Array:
        try:
            found, now = self.arrays[name](), _facts(self.path)
        except (KeyError, *DAMAGED) as reason:
            raise CheckpointError(f"{self.path}: {name} cannot be read again: {reason or type(reason).__name__}{GONE}") from reason
        if now != self.was:
            raise CheckpointError(f"{self.path} has been changed since it was loaded{GONE}")
        return found

    def outlines(self) -> dict[str, Array]:
        """Every array under its name but for its values: they are read, one after another, and let go of. Raises as `read`."""
        with _naming(self.path):
            return {name: np.broadcast_to(np.zeros((), array.dtype), array.shape) for name, array in ((n, one()) for n, one in self.arrays.items())}


def again(path: str | Path) -> Again:
    """The arrays of a file, to be read when they are needed.

    Raises CheckpointError for a file that is missing or damaged, or that has no access by name (PyTorch's).
    """
    path = filename(path).absolute()
    with _naming(path):
        was, by_name = _facts(existing(path)), BY_NAME.get(_reader(path))
        if by_name is None:
            raise CheckpointError(f"{path}: a file of PyTorch cannot be read array by array; keep its values, or save them as .safetensors or .npz")
        return Again(path, was, by_name(path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What reading raises inside becomes a CheckpointError that begins with the path."""
    try:
        yield
    except CheckpointError as error:
        raise error if str(error).startswith(f"{path}: ") else CheckpointError(f"{path}: {error}") from error
    except DAMAGED as reason:
        raise CheckpointError(f"{path}: cannot be read: {reason or type(reason).__name__}") from reason


def filename(path: str | Path) -> Path:
    """The path itself. Raises CheckpointError for what is none."""
    try:
        return Path(path)
    except TypeError:
        raise CheckpointError(f"{path!r} is not the name of a file") from None


def _facts(path: Path) -> tuple[int, ...]:
    """What tells a file from another, and from itself after a change."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def write(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under their names; the file takes its place whole or not at all.

    Raises CheckpointError where it cannot be written, or its name does not say the format.
    """
    path = place(path)
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise CheckpointError(f"{path}: a dict of names and arrays is written, such as net.state_dict(), not {type(arrays).__name__}")
    if path.suffix == ".safetensors":
        save_weights(path, arrays)
        return
    try:
        with replacing(path) as file:
            WRITERS[path.suffix](file, arrays)
    except (OSError, ValueError) as reason:
        raise CheckpointError(f"{path}: cannot be written: {reason}") from reason


def place(path: str | Path) -> Path:
    """The path of a file to write, before there is anything to write. Raises CheckpointError, as `write` does, for a
    name that does not say the format, for that of a folder, and for one in a folder that does not exist.
    """
    path = filename(path)
    if path.suffix not in ENDINGS:
        raise CheckpointError(f"{path}: the name must end in one of {', '.join(ENDINGS)}, which says how to write the file")
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path) or not os.path.isdir(folder):
        fault = "it is a folder" if os.path.isdir(path) else f"there is no folder {folder}"
        raise CheckpointError(f"{path}: cannot be written: {fault}")
    return path


WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Array]], None]] = {
    ".npz": npz.write,
    ".pth": pth.write,
    ".pt": pth.write,
}
ENDINGS = (".safetensors", *WRITERS)

BY_NAME: dict[Callable[[Path], dict[str, Array]], Callable[[Path], dict[str, Callable[[], Array]]]] = {
    npz.read: npz.by_name,
    load_weights: load_by_name,
}


def _reader(path: Path) -> Callable[[Path], dict[str, Array]]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):  # the second is an empty archive
        with zipfile.ZipFile(path) as archive:
            return npz.read if all(name.endswith(".npy") for name in archive.namelist()) else pth.read_zip
    if head[8:] == b"{":  # before it stands the header's length, which may begin like a pickle
        return load_weights
    if head[:1] == b"\x80":
        return pth.read_row
    raise CheckpointError(f"begins with {head!r}: not a safetensors, npz or PyTorch file")
