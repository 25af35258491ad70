"""Batches: the samples of a source in an order of each epoch's own, changed at random, made ready ahead in a thread.

    Source      what has samples: how many, and `take(rows)`, which reads some      Labelled is one in memory
    Loader      source, batch size, seed → for each epoch its batches

What comes is a function of (seed, epoch): the same for every number of threads, and for a run that was resumed.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NoReturn, Protocol, TypeVar, runtime_checkable

import numpy as np

from faltung.graph.errors import DataError
from faltung.graph.room import granted
from faltung.runtime.augment import Augment, Draws, shuffled

Array = np.ndarray
Batch = tuple[Array, Array]
T = TypeVar("T")


@runtime_checkable
class Source(Protocol):
    """What batches are drawn from: `take(rows)` gives the images (n, …) and labels (n,) of the samples of those numbers."""

    def __len__(self) -> int: ...

    def take(self, rows: Array, /) -> Batch: ...


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

    def take(self, rows: Array) -> Batch:
        with granted(f"a batch of {len(rows)} of {self.images.dtype} {list(self.images.shape[1:])}", "take smaller batches"):
            return self.images[rows], self.labels[rows]


Data = Source | tuple[Array, Array]


def integer(name: str, value: object, least: int) -> int:
    """`value`, an integer. Raises DataError for anything else, and below `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise DataError(f"{name} {value!r}: expected at least {least}, a whole number")
    return int(value)


def source(data: Data) -> Source:
    """A pair of arrays as a source; a source, unchanged. Raises DataError for anything else."""
    if isinstance(data, Source) and not isinstance(data, np.ndarray):  # an array has a `take` of another kind
        return data
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError(f"data is a {type(data).__name__}: expected a pair (images, labels), or what has `take` and a length; batches that come from elsewhere are trained on by `step(images, labels)`")
    images, labels = data
    return Labelled(np.asarray(images), np.asarray(labels))


@dataclass(frozen=True, eq=False)
class Loader:
    """Contiguous `(images, labels)` of `batch_size` samples, the last possibly fewer; an epoch has each sample once.

    `augment(images, draws)` alters each batch. `drop_last` leaves out a last batch of fewer samples, for a network
    whose batch size is fixed. `prefetch` batches are made ready ahead in a thread of their own; with 0 there is none.
    It does not count epochs, so that one is the same whenever it is asked for: a loop is over `loader.epoch(number)`.
    Raises DataError for numbers that cannot be, where there is nothing to draw from, and for a loop over itself.
    """

    data: Data
    batch_size: int
    seed: int = 0
    augment: Augment | None = None
    shuffle: bool = True
    drop_last: bool = False
    prefetch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", source(self.data))
        for name, value, least in (("batch_size", self.batch_size, 1), ("prefetch", self.prefetch, 0)):
            object.__setattr__(self, name, integer(name, value, least))
        Draws(self.seed, 0, np.arange(0))  # raises for a seed that cannot be
        if not len(self):
            whole = "whole " * self.drop_last
            raise DataError(f"{self.samples} samples in batches of {self.batch_size}: not one {whole}batch")

    @property
    def samples(self) -> int:
        """How many samples the source has."""
        return len(source(self.data))

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def __iter__(self) -> NoReturn:
        raise DataError("the order of a Loader's batches depends on the epoch: write `for images, labels in loader.epoch(number)`")

    def epoch(self, number: int = 0) -> Generator[Batch, None, None]:
        """The batches of that epoch, counted from 0. What goes wrong in the thread is raised here.

        Leaving the loop early ends the thread, as soon as the iterator is closed or forgotten.
        """
        made = self._batches(number)
        return ahead(made, self.prefetch) if self.prefetch else made

    def _batches(self, number: int) -> Generator[Batch, None, None]:
        given = source(self.data)
        order = shuffled(self.seed, number, len(given)) if self.shuffle else np.arange(len(given))
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = order[start : start + self.batch_size]
            images, labels = given.take(rows)
            if self.augment is not None:
                images = self.augment(images, Draws(self.seed, number, rows))
            if not len(images) == len(labels) == len(rows):
                raise DataError(f"{len(rows)} samples were asked for: got {len(images)} images and {len(labels)} labels")
            yield np.ascontiguousarray(images), np.ascontiguousarray(labels)


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items, of which a thread makes up to `depth` before they are asked for; its exceptions are raised here.

    The thread has ended when this iterator is exhausted or closed.
    """
    ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    room, stopped = threading.Semaphore(depth), threading.Event()

    def work() -> None:
        end: BaseException = StopIteration()
        try:
            iterator = iter(items)
            while room.acquire() and not stopped.is_set():
                ready.put((next(iterator), None))
        except BaseException as reason:  # StopIteration as well: whatever it was, it is the caller's
            end = reason
        ready.put((None, end))

    thread = threading.Thread(target=work, name="faltung-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, end = ready.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            room.release()
            yield item  # type: ignore[misc]  # where there is no end there is an item
    finally:
        stopped.set()
        room.release()
        thread.join()
