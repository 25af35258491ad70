"""Which class is asked about: numbers, objects with a category, or the class with the highest score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from faltung.graph.errors import ShapeError, UnsupportedOp

BEST = -1  # in place of a class: the one with the highest score


@dataclass(frozen=True)
class ClassifierOutputTarget:
    """The score of one class, under pytorch-grad-cam's name; its own objects of this name are taken as well."""

    category: int


def labels(targets: Any, images: int, classes: int) -> np.ndarray:
    """One class for each image as int64, BEST for None.

    Raises ShapeError for another number of targets, and for what is no class, UnsupportedOp for what is to be called.
    """
    if targets is None:
        return np.full(images, BEST, np.int64)
    several = isinstance(targets, Iterable) and getattr(targets, "ndim", 1) > 0
    given = list(targets) if several else [targets]
    for place, target in enumerate(given):
        # Others of pytorch-grad-cam's targets have a category too, but mean another score: of a softmax, of a mask.
        if callable(target) and type(target).__name__ != ClassifierOutputTarget.__name__:
            raise UnsupportedOp(
                f"target {place} is to be called, {getattr(target, '__name__', None) or 'a ' + type(target).__name__}: here the score "
                f"is a part of the graph, and that of a class; give its number, 0 to {classes - 1}, or None for the best"
            )
    if len(given) != images:
        raise ShapeError(f"{len(given)} targets for {images} images: give one for each, or None for the best class of each")
    found = [getattr(target, "category", target) for target in given]
    for place, label in enumerate(found):
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label < classes:
            raise ShapeError(f"target {place} is {label!r}: the network has the classes 0 to {classes - 1}")
    return np.array(found, np.int64)
