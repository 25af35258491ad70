"""Borders around spatial axes that repeat the input, where convolution's own padding is zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faltung.graph.dsl.arguments import letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import ShapeError
from faltung.graph.index import Batch
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import Tensor

#  mode         what it repeats                            elements of L that it cannot repeat (None: it repeats one)
MODES: dict[str, tuple[str, int | None]] = {
    "reflect":   ("the input mirrored at its last element", 1),
    "replicate": ("the last element",                       None),
    "circular":  ("the input from its other end",           0),
}  # fmt: skip


def border(input: Any, around: Sequence[tuple[int, int]], mode: str) -> Tensor:
    """The input (N, C, …) with `around` = (before, behind) more elements on each spatial axis, one equation an axis.

    `mode` is one of MODES. Raises ShapeError for another mode, and for a border longer than what it repeats.
    """
    x = as_tensor(input)
    if mode not in MODES:
        raise ShapeError(f"padding mode {mode!r}: give {', '.join(map(repr, MODES))}")
    if x.rank != len(around) + 2:
        raise ShapeError(f"padding of {len(around)} spatial axes: the input must be (N, C, …) with {len(around) + 2} axes, got {list(x.shape)}")
    meaning, left_out = MODES[mode]
    letters = letters_of(x, "padding")
    for axis, (before, behind) in enumerate(around, 2):
        extent = x.shape[axis]
        assert not isinstance(extent, Batch)  # only axis 0 can be open
        if not extent:
            raise ShapeError(f"padding mode {mode!r}: axis {axis} of {list(x.shape)} has no elements to repeat")
        most = max(before, behind) if left_out is None else extent - left_out
        if max(before, behind) > most:
            raise ShapeError(f"padding mode {mode!r} repeats {meaning}: at most {most} elements on axis {axis} of {list(x.shape)}, not {max(before, behind)}")
        if before or behind:
            words = {"pre": "".join(f"{c}," for c in letters[:axis]), "post": "".join(f",{c}" for c in letters[axis + 1 :])}
            x = apply(REGISTRY[f"border_{mode}"], [x], attributes={"A": before, "L": extent, "U": before + extent + behind}, words=words)
    return x
