"""How saved arrays differ from what a network holds, told so that the reader sees what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from faltung.graph.tensor import Tensor
from faltung.runtime.checkpoint import may_lack

MOST = 3  # a message names that many differences of each kind, then counts
COUNTER = "num_batches_tracked"  # which files of PyTorch before 0.4.1 lack


@dataclass(frozen=True)
class Difference:
    """Keys that only one side has, and for each array that cannot be loaded the reason."""

    missing: list[str]
    unexpected: list[str]
    unfit: dict[str, str]

    def __bool__(self) -> bool:
        """Is there any?"""
        return bool(self.missing or self.unexpected or self.unfit)

    def __str__(self) -> str:
        """The first few differences of each kind; close names and a common prefix are pointed out."""
        told = [f"{key} is missing" for key in self.missing[:MOST]]
        told += [f"{key} is unexpected{close_to(key, self.missing)}" for key in self.unexpected[:MOST]]
        told += [f"{key} {reason}" for key, reason in list(self.unfit.items())[:MOST]]
        kinds = {"missing": len(self.missing), "unexpected": len(self.unexpected), "that do not fit": len(self.unfit)}
        told += [f"{count - MOST} more {kind}" for kind, count in kinds.items() if count > MOST]
        return "; ".join(told) + self._hint()

    def _hint(self) -> str:
        first = {key.partition(".")[0] for key in self.unexpected}
        rest = {key.partition(".")[2] for key in self.unexpected}
        if len(first) == 1 and rest & set(self.missing):
            prefix = f"{first.pop()}."
            return f". All unexpected keys begin with {prefix!r}: net.load(path, prefix={prefix!r}) takes it off"
        return ""


def difference(held: Mapping[str, Tensor], given: Mapping[str, Any]) -> tuple[Difference, dict[str, np.ndarray]]:
    """What differs between a network's tensors and arrays under their keys, and the arrays that fit."""
    fitting: dict[str, np.ndarray] = {}
    unfit: dict[str, str] = {}
    for key, tensor in held.items():
        if key in given:
            array, reason = _array(given[key], tensor)
            if reason:
                unfit[key] = reason
            else:
                fitting[key] = array
    missing = [key for key in held if key not in given and not may_lack(key) and not key.endswith(COUNTER)]
    return Difference(missing, [str(key) for key in given if key not in held], unfit), fitting


def close_to(name: str, names: Iterable[str]) -> str:
    """` (did you mean …?)` with the name that is most like it, or nothing where none is."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(names), 1, cutoff=0.75)
    return f" (did you mean {found[0]}?)" if found else ""


def _array(value: Any, tensor: Tensor) -> tuple[np.ndarray, str]:
    """The value as an array, and what keeps it from being the tensor's, or nothing."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as reason:
        return np.empty(0), f"cannot be read as an array: {reason}"
    if array.dtype.kind not in "fiub":
        return array, f"holds {array.dtype}, not real numbers"
    if array.shape != tensor.shape:
        return array, f"has shape {list(array.shape)}, expected {list(tensor.shape)}"
    return array, ""
