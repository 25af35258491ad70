"""Which class is asked about: numbers, objects with a category, or the class with the highest score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from faltung.graph.errors import ShapeError

BEST = -1  # in place of a class: the one with the highest score


@dataclass(frozen=True)
class ClassifierOutputTarget:
    """The score of one class, under pytorch-grad-cam's name."""

    category: int


def labels(targets: Any, images: int, classes: int) -> np.ndarray:
    """One class for each image as int64, BEST for None.

    Raises ShapeError for another number of targets, and for what is no class.
    """
    if targets is None:
        return np.full(images, BEST, np.int64)
    several = isinstance(targets, Iterable) and getattr(targets, "ndim", 1) > 0
    given = list(targets) if several else [targets]
    if len(given) != images:
        raise ShapeError(f"{len(given)} targets for {images} images: give one for each, or None for the best class of each")
    found = [getattr(target, "category", target) for target in given]
    for place, label in enumerate(found):
        if not isinstance(label, (int, np.integer)) or not 0 <= label < classes:
            raise ShapeError(f"target {place} is {label!r}: the network has the classes 0 to {classes - 1}")
    return np.array(found, np.int64)
