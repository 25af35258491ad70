"""IDX files: a big-endian header and raw bytes.

Two zero bytes, the element type (8 is unsigned byte), the number of axes, one 32-bit extent an axis, then the elements
in row-major order.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from faltung.graph.errors import DataError

UNSIGNED_BYTE = 8


def read_idx(path: str | Path, axes: int) -> np.ndarray:
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
