"""Saving and resuming: weights, optimiser state and counters in one safetensors file.

    tensors    weights/<name>, optimiser/<name>        arrays exactly as they are in memory
    metadata   format, version, progress               `progress` is JSON: settings of the run, history

A file is written beside its target and renamed over it, so that a reader sees the old one or the new one
and never a part. A file of weights alone has bare names and is readable by any safetensors reader.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from faltung.graph.errors import CheckpointError
from faltung.graph.room import granted
from faltung.runtime.files import replacing

Array = np.ndarray
State = dict[str, Array]

FORMAT, VERSION = "faltung.checkpoint", "1"
WEIGHTS, OPTIMISER = "weights/", "optimiser/"
KINDS = {  # safetensors' names, and bytes of an element
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip


class Stateful(Protocol):
    """What can be saved: a network, or the optimiser inside a compiled training step."""

    def state_dict(self) -> Mapping[str, Array]: ...

    def load_state_dict(self, state: dict[str, Array], /) -> Any: ...


@dataclass(eq=False)
class Checkpoint:
    """Everything that the rest of a training run depends on; `progress` holds JSON values only."""

    weights: State
    optimiser: State = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; CheckpointError where the place cannot be written."""
    tensors = {WEIGHTS + name: array for name, array in checkpoint.weights.items()}
    tensors |= {OPTIMISER + name: array for name, array in checkpoint.optimiser.items()}
    metadata = {"format": FORMAT, "version": VERSION, "progress": json.dumps(checkpoint.progress)}
    _write(Path(path), tensors, metadata)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint back, equal in every bit; CheckpointError where the file is missing, damaged or another's."""
    path = Path(path)
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but no checkpoint: its metadata has no format {FORMAT!r}")
    if metadata.get("version") != VERSION:
        raise CheckpointError(f"{path}: checkpoint version {metadata.get('version')!r}, this program reads {VERSION!r}")
    try:
        progress = json.loads(metadata["progress"])
    except (KeyError, ValueError) as reason:
        raise CheckpointError(f"{path}: its training progress cannot be read: {reason}") from reason
    if not isinstance(progress, dict):
        raise CheckpointError(f"{path}: its training progress is a {type(progress).__name__}, expected a JSON object")
    return Checkpoint(_part(tensors, WEIGHTS), _part(tensors, OPTIMISER), progress)


def save_weights(path: str | Path, weights: Mapping[str, Array]) -> None:
    """Write named arrays alone, as any safetensors reader expects them; CheckpointError where that fails."""
    _write(Path(path), weights, {})


def load_weights(path: str | Path) -> State:
    """Named arrays of a safetensors file; of a checkpoint, its weights. CheckpointError where that fails."""
    tensors, metadata = _read(Path(path))
    return _part(tensors, WEIGHTS) if metadata.get("format") == FORMAT else tensors


def load_by_name(path: str | Path) -> dict[str, Callable[[], Array]]:
    """What reads each of the arrays that `load_weights` gives. CheckpointError where that fails, both of them."""
    from safetensors import SafetensorError, safe_open

    def one(key: str) -> Array:
        try:
            with safe_open(str(path), framework="np") as file:
                return _array(file, Path(path), key)
        except CheckpointError:
            raise
        except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as reason:
            raise CheckpointError(f"{path}: {key} cannot be read: {reason}") from reason

    try:
        with safe_open(str(path), framework="np") as file:
            prefix = WEIGHTS if (file.metadata() or {}).get("format") == FORMAT else ""
            return {key.removeprefix(prefix): partial(one, key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as reason:
        raise CheckpointError(f"{path}: cannot be read: {reason}") from reason


def contents(path: str | Path) -> tuple[State, dict[str, Any] | None]:
    """Every array of a file under its full name, and a checkpoint's progress; None for a file of weights alone."""
    tensors, metadata = _read(Path(path))
    return tensors, load(path).progress if metadata.get("format") == FORMAT else None


def may_lack(name: str) -> bool:
    """Whether a file need not hold this array: its last part starts with _, so that PyTorch has no name for it."""
    return name.rpartition(".")[2].startswith("_")


def fit_into(target: Stateful, state: Mapping[str, Array], what: str) -> None:
    """Load a state after checking that it has the target's names, shapes and element types.

    Raises CheckpointError naming the first few differences, before anything has been changed.
    """
    present = target.state_dict()
    faults = [f"lacks {name}" for name in present if name not in state and not may_lack(name)]
    faults += [f"has {name}, which the network does not" for name in state if name not in present]
    for name in present.keys() & state.keys():
        want, got = np.asarray(present[name]), np.asarray(state[name])
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            faults.append(f"{name} is {got.dtype}{list(got.shape)}, the network's is {want.dtype}{list(want.shape)}")
    if faults:
        rest = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise CheckpointError(f"the {what} do not fit this network: the file {'; '.join(sorted(faults)[:4])}{rest}")
    target.load_state_dict(dict(state))


def widened(upper: Array) -> Array:
    """float32 of bfloat16, which NumPy does not have: its bits, as uint16, are the upper half of a float32."""
    return (upper.astype("u4") << 16).view("f4")


def _array(file: Any, path: Path, key: str) -> Array:
    """An array of a safetensors file that is open as `file`. Raises CheckpointError for an element type that NumPy lacks."""
    part = file.get_slice(key)
    kind = part.get_dtype()
    if kind == "BF16":
        with path.open("rb") as raw:
            (length,) = struct.unpack("<Q", raw.read(8))
            about = json.loads(raw.read(length))[key]
            first, last = about["data_offsets"]
            raw.seek(8 + length + first)
            return widened(np.frombuffer(raw.read(last - first), "<u2")).reshape(about["shape"])
    if kind not in KINDS:
        raise CheckpointError(f"{path}: {key} is {kind}, an element type that NumPy does not have; save it as one of {', '.join(KINDS)}")
    shape = part.get_shape()
    with granted(f"{key} {shape}", "load it where there is more memory"):
        np.empty((2, *shape), f"V{KINDS[kind]}")  # the library does not raise where it gets no memory, it panics
        return np.array(file.get_tensor(key))


def existing(path: Path) -> Path:
    """The path of a file. Raises CheckpointError where there is none."""
    if not path.is_file():
        raise CheckpointError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    return path


def _part(tensors: Mapping[str, Array], prefix: str) -> State:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save as encode

    # Zero-dimensional arrays must stay so, which np.ascontiguousarray would not grant.
    contiguous = {name: np.array(array, order="C") for name, array in tensors.items()}
    try:
        data = encode(contiguous, metadata or None)
        with replacing(path) as file:
            file.write(data)
    except (OSError, SafetensorError, KeyError) as reason:  # KeyError: an element type that the format lacks
        raise CheckpointError(f"{path}: cannot be written: {reason}") from reason


def _read(path: Path) -> tuple[State, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    existing(path)
    try:
        with safe_open(str(path), framework="np") as file:
            tensors = {name: _array(file, path, name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as reason:
        raise CheckpointError(f"{path}: not a whole safetensors file: {reason}") from reason
