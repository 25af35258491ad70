"""Batches: shuffled index lists over in-memory arrays, drawn from one seeded generator.

A pass over the data is `for images, labels in batches(data, 64, generator): …`. Everything random comes
from the generator that is handed in, so that a run is repeated exactly by restoring that generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from faltung.graph.errors import DataError

Array = np.ndarray
Augment = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples and their classes: `images` (n, …) and `labels` (n,); raises DataError where the counts differ."""

    images: Array
    labels: Array

    def __post_init__(self) -> None:
        if self.images.ndim < 1 or self.labels.ndim != 1 or len(self.images) != len(self.labels):
            raise DataError(
                f"images {self.images.shape} and labels {self.labels.shape} do not pair up: "
                f"expected labels of shape ({len(self.images) if self.images.ndim else 'n'},), one class number a sample"
            )

    def __len__(self) -> int:
        return len(self.labels)


def labelled(data: Labelled | tuple[Array, Array]) -> Labelled:
    """A pair of arrays as `Labelled`; one that is already, unchanged."""
    if isinstance(data, Labelled):
        return data
    images, labels = data
    return Labelled(np.asarray(images), np.asarray(labels))


def batches(
    data: Labelled,
    size: int,
    generator: np.random.Generator | None = None,
    augment: Augment | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Array, Array]]:
    """Contiguous `(images, labels)` of `size` samples, the last possibly fewer; each sample comes once.

    With a generator the order is shuffled and `augment(images, generator)` may alter each batch. `drop_last`
    leaves out a last batch of fewer samples, for a network whose batch size is fixed.
    Raises DataError where `size` is not positive or there is nothing to draw from.
    """
    if size < 1:
        raise DataError(f"batch size {size}: expected at least 1")
    if len(data) == 0:
        raise DataError("0 samples: expected at least 1")
    if augment is not None and generator is None:
        raise DataError("augment draws random numbers: hand in the generator that it draws from")
    order = None if generator is None else generator.permutation(len(data))
    for start in range(0, batch_count(len(data), size, drop_last) * size, size):
        rows = slice(start, start + size) if order is None else order[start : start + size]
        images, labels = data.images[rows], data.labels[rows]
        if augment is not None and generator is not None:
            images = augment(images, generator)
        yield np.ascontiguousarray(images), np.ascontiguousarray(labels)


def batch_count(samples: int, size: int, drop_last: bool = False) -> int:
    """How many batches one pass over that many samples gives."""
    return samples // size if drop_last else -(-samples // size)


def shifts(reach: int) -> Augment:
    """An augmentation that moves each picture by up to `reach` pixels along both axes; zeros come in at the edge."""

    def shift(images: Array, generator: np.random.Generator) -> Array:
        count, _, height, width = images.shape
        padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        corner = generator.integers(0, 2 * reach + 1, size=(2, count))
        rows = corner[0][:, None] + np.arange(height)
        columns = corner[1][:, None] + np.arange(width)
        sample = np.arange(count)[:, None, None]
        # The slice for the channels stands between index arrays, so NumPy puts the channels last.
        return np.moveaxis(padded[sample, :, rows[:, :, None], columns[:, None, :]], -1, 1)

    return shift
