"""PyTorch's files of weights, read and written without PyTorch.

    zip (since 1.6)   <any>/data.pkl   the state_dict; a tensor is a storage's key, an offset, extents and strides
                      <any>/data/KEY   the storage's bytes, not compressed
                      <any>/byteorder  little or big; files before 2.1 lack it and are little
    row (before)      five pickles: a magic number, a version, facts of the machine, the state_dict, a list of keys;
                      then each key's storage: its length as 8 bytes, and its bytes
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from faltung.graph.errors import CheckpointError
from faltung.runtime.checkpoint import widened
from faltung.weights import pickled

Array = np.ndarray

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
INSIDE = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights beside other things

# storage                 element type; NumPy has no bfloat16, the upper half of a float32
STORAGES = {
    "torch.FloatStorage":    "f4",
    "torch.DoubleStorage":   "f8",
    "torch.HalfStorage":     "f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage":     "i8",
    "torch.IntStorage":      "i4",
    "torch.ShortStorage":    "i2",
    "torch.CharStorage":     "i1",
    "torch.ByteStorage":     "u1",
    "torch.BoolStorage":     "bool",
}  # fmt: skip

ELEMENTS = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes that tensors share: their key in the file, element type and number of elements."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True, eq=False)
class Strided:
    """A tensor: an element of a storage for each place, offset + Σ place·stride."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Strided:
    """A tensor that lies inside its storage; whether it is trained and its hooks do not matter."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise ValueError("a tensor needs a storage, an offset, and extents and strides that are no less than 0")
    if 0 not in shape:
        last = offset + sum((e - 1) * s for e, s in zip(shape, strides, strict=True))
        if last >= storage.count or prod(shape) > storage.count:
            raise CheckpointError(
                f"a tensor of shape {list(shape)}, offset {offset} and strides {list(strides)} has {prod(shape):,} elements up "
                f"to number {last:,}, its storage {storage.key!r} has {storage.count:,}"
            )
    return Strided(storage, offset, tuple(shape), tuple(strides))


def _ordered_dict() -> dict[str, Any]:
    """Only an empty one: entries follow one by one, where their keys are looked at."""
    return {}


# name                                 what calling it does
NAMES: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict":         _ordered_dict,
    "torch._utils._rebuild_tensor":    _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch.Size":                      tuple,
    **dict.fromkeys(STORAGES),
    **dict.fromkeys(f"torch.{name}" for name in ELEMENTS),
}  # fmt: skip


# ---- reading ----


def read_zip(path: Path) -> dict[str, Array]:
    """The tensors of a zip file. Raises CheckpointError, or what `zipfile` raises for a damaged archive."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        program = next((name for name in members if name.rpartition("/")[2] == "data.pkl"), None)
        if program is None:
            raise CheckpointError("a zip archive with neither .npy files nor a data.pkl")
        packed = [name for name, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
        total, size = sum(info.file_size for info in members.values()), path.stat().st_size
        if packed or total > size:
            fault = f"{packed[0]} is compressed" if packed else f"its members have {total:,} bytes, the file {size:,}"
            raise CheckpointError(f"not as PyTorch writes it: {fault}")
        folder = program.removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder").strip() if f"{folder}byteorder" in members else b"little"
        storages: dict[str, Storage] = {}
        value = pickled.run(io.BytesIO(archive.read(program)), NAMES, _collector(storages))
        missing = [key for key in storages if f"{folder}data/{key}" not in members]
        if missing:
            raise CheckpointError(f"the archive lacks the storage {missing[0]!r}")
        data = {key: archive.read(f"{folder}data/{key}") for key in storages}
    return _arrays(value, data, ">" if order == b"big" else "<")


def read_row(path: Path) -> dict[str, Array]:
    """The tensors of a row of pickles. Raises CheckpointError."""
    storages: dict[str, Storage] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        first = pickled.run(file, NAMES, _collector(storages))
        if first != MAGIC:
            raise CheckpointError(f"a pickle, but no file of PyTorch: it begins with a {type(first).__name__}, not with PyTorch's number")
        version, machine, value, keys = (pickled.run(file, NAMES, _collector(storages)) for _ in range(4))
        if version != VERSION or not isinstance(machine, dict) or not isinstance(keys, list):
            raise CheckpointError(f"a file of PyTorch, but not of its version {VERSION}")
        order = "<" if machine.get("little_endian", True) else ">"
        data: dict[str, bytes] = {}
        for key in keys:
            if key not in storages or key in data:
                raise CheckpointError("the list of storages does not fit the tensors")
            wanted, head = storages[key], file.read(8)
            stored = struct.unpack(f"{order}q", head)[0] if len(head) == 8 else -1
            length, left = wanted.count * _width(wanted.kind), size - file.tell()
            if stored != wanted.count or length > left:
                raise CheckpointError(
                    f"the storage {key!r} should have {wanted.count:,} elements in {length:,} bytes; "
                    f"it says {stored:,}, and {left:,} bytes are left"
                )
            data[key] = file.read(length)
    return _arrays(value, data, order)


def _collector(storages: dict[str, Storage]) -> Callable[[Any], Storage]:
    """What stands for a persistent id ("storage", type, key, device, count[, view]); each key is noted."""

    def storage(identity: Any) -> Storage:
        tag, kind, key, _, count, *view = identity if isinstance(identity, tuple) else ()
        if tag != "storage" or not isinstance(kind, pickled.Name) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("a storage needs a type, a key and a number of elements")
        if kind.text not in STORAGES:
            raise CheckpointError(f"a storage of the type {kind.text}: those known are {', '.join(STORAGES)}")
        if view and view[0] is not None:
            raise CheckpointError(f"the storage {key!r} is part of another, as PyTorch before 0.4 had it: save the file anew with a later one")
        found = storages.setdefault(key, Storage(key, STORAGES[kind.text], count))
        if (found.kind, found.count) != (STORAGES[kind.text], count):
            raise CheckpointError(f"the storage {key!r} is declared twice, differently")
        return found

    return storage


def _arrays(value: Any, data: Mapping[str, bytes], order: str) -> dict[str, Array]:
    """The tensors of the dict of weights inside a dict, or where there is none, of that itself."""
    if not isinstance(value, dict):
        raise CheckpointError(f"holds a {type(value).__name__}, expected a dict of tensors: save net.state_dict()")
    inside = (_tensors(value.get(name)) for name in INSIDE)  # first: beside the weights may stand a tensor as well
    found = next(filter(None, inside), None) or _tensors(value)
    if not found and value:
        raise CheckpointError(f"holds no tensors: its entries are {', '.join(map(str, list(value)[:6]))}")
    return {str(key): _array(tensor, data.get(tensor.storage.key, b""), order) for key, tensor in found.items()}


def _tensors(value: Any) -> dict[Any, Strided]:
    return {key: item for key, item in value.items() if isinstance(item, Strided)} if isinstance(value, dict) else {}


def _array(tensor: Strided, data: bytes, order: str) -> Array:
    storage, width = tensor.storage, _width(tensor.storage.kind)
    if len(data) != storage.count * width:
        raise CheckpointError(f"the storage {storage.key!r} has {len(data):,} bytes, expected {storage.count:,}·{width} = {storage.count * width:,}")
    kind = {"bfloat16": "u2", "bool": "u1"}.get(storage.kind, storage.kind)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, kind)
    strides = tuple(s * width for s in tensor.strides)
    array = np.ndarray(tensor.shape, np.dtype(order + kind), data, tensor.offset * width, strides)
    if storage.kind == "bfloat16":
        return widened(array)
    return array != 0 if storage.kind == "bool" else array


def _width(kind: str) -> int:
    return {"bfloat16": 2, "bool": 1}.get(kind) or np.dtype(kind).itemsize


# ---- writing ----


def write(file: IO[bytes], arrays: Mapping[str, Array]) -> None:
    """A state_dict as PyTorch saves it, for `torch.load`. Raises ValueError for an element type that it lacks."""
    stored = {name: np.asarray(array) for name, array in arrays.items()}
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, data: bytes) -> None:
            with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=True) as member:
                member.write(data)

        add("data.pkl", _program(stored))
        add("byteorder", b"little")
        for number, array in enumerate(stored.values()):
            add(f"data/{number}", array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        add("version", b"3\n")


def _program(arrays: Mapping[str, Array]) -> bytes:
    """A pickle that makes an OrderedDict of tensors, each the whole of a storage of its own."""
    types = {kind: name for name, kind in STORAGES.items()}
    ordered_dict = _name("collections.OrderedDict") + b")R"
    entries = []
    for number, (key, array) in enumerate(arrays.items()):
        kind = "bool" if array.dtype == bool else f"{array.dtype.kind}{array.dtype.itemsize}"
        if kind not in types:
            raise ValueError(f"{key} holds {array.dtype}, for which PyTorch has no storage")
        identity = _text("storage") + _name(types[kind]) + _text(str(number)) + _text("cpu") + _number(array.size)
        strides = tuple(prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        arguments = b"(" + identity + b"tQ" + _number(0) + _numbers(array.shape) + _numbers(strides) + b"\x89" + ordered_dict
        entries.append(_text(key) + _name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR")
    return b"\x80\x02" + ordered_dict + b"(" + b"".join(entries) + b"u."


def _name(text: str) -> bytes:
    module, _, name = text.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
