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

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from faltung.graph.errors import CheckpointError
from faltung.runtime.checkpoint import load_weights, save_weights
from faltung.runtime.files import replacing
from faltung.weights import npz, pth

__all__ = ["ENDINGS", "read", "write"]

Array = np.ndarray


def read(path: str | Path) -> dict[str, Array]:
    """Every array in a file, under its name; the format is told by what the file begins with, not by its name.

    Arrays may be views of what was read: copy one to change it. Raises CheckpointError for a file that is missing,
    damaged, of another format, or that names something to be called.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return _reader(path)(path)
    except CheckpointError as error:
        raise error if str(error).startswith(str(path)) else CheckpointError(f"{path}: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, MemoryError) as reason:
        raise CheckpointError(f"{path}: cannot be read: {reason or type(reason).__name__}") from reason


def write(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under their names; the file takes its place whole or not at all.

    Raises CheckpointError where it cannot be written, or its name does not say the format.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        save_weights(path, arrays)
    elif path.suffix in WRITERS:
        try:
            with replacing(path) as file:
                WRITERS[path.suffix](file, arrays)
        except (OSError, ValueError) as reason:
            raise CheckpointError(f"{path}: cannot be written: {reason}") from reason
    else:
        raise CheckpointError(f"{path}: the name must end in one of {', '.join(ENDINGS)}, which says how to write the file")


WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, Array]], None]] = {
    ".npz": npz.write,
    ".pth": pth.write,
    ".pt": pth.write,
}
ENDINGS = (".safetensors", *WRITERS)


def _reader(path: Path) -> Callable[[Path], dict[str, Array]]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):  # the second is an empty archive
        with zipfile.ZipFile(path) as archive:
            return npz.read if all(name.endswith(".npy") for name in archive.namelist()) else pth.read_zip
    if head[:1] == b"\x80":
        return pth.read_row
    if head[8:] == b"{":
        return load_weights
    raise CheckpointError(f"begins with {head!r}: not a safetensors, npz or PyTorch file")
