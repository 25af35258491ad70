"""Random changes of pictures, each a function of (seed, epoch, sample) and of nothing else.

    Draws      a stream of random numbers for every sample of a batch
    Augment    (images, draws) → images, where images are (n, channels, height, width)
    ORDER, …   which numbers of a stream are for what

Numbers are counter-based: number t of sample i is a hash of (i, t, seed), the one that dropout uses. So a picture is
changed in the same way in whatever batch, order or thread it comes, and a resumed run needs no state of a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from faltung.graph.errors import DataError
from faltung.graph.functions import BITS, mixed

Array = np.ndarray

ORDER, CHANGES, EACH = 0, 2, 1 << 10  # two numbers for the order of the samples, the others for changes; EACH an epoch
WORD = 1 << 32  # seeds, and numbers of all epochs, are counted with so many


@dataclass
class Draws:
    """One stream of random numbers for each of `rows`, the samples' numbers in their data set; a call takes the next of each.

    Raises DataError for a seed or an epoch that is no whole number in the range, and when a stream is used up.
    """

    seed: int
    epoch: int
    rows: Array
    taken: int = field(default=CHANGES)

    def __post_init__(self) -> None:
        for name, value, end in (("seed", self.seed, WORD), ("epoch", self.epoch, WORD // EACH)):
            if not isinstance(value, (int, np.integer)) or not 0 <= value < end:
                raise DataError(f"{name} {value!r}: expected a whole number from 0 to {end - 1:,}")

    def __len__(self) -> int:
        return len(self.rows)

    def bits(self) -> Array:
        """The next 24 random bits of each sample, as uint64 (n,)."""
        if self.taken == EACH:
            raise DataError(f"a sample has {EACH - CHANGES} random numbers an epoch, and all are taken: chain fewer changes")
        number = int(self.epoch) * EACH + self.taken
        self.taken += 1
        return np.asarray(mixed(np.asarray(self.rows, np.uint64), number, int(self.seed)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:
        """Numbers in [low, high), float64 (n,)."""
        return low + (high - low) * (self.bits() / float(1 << BITS))

    def integers(self, low: int, high: int) -> Array:
        """Whole numbers from `low` to `high`, both included, int64 (n,)."""
        return low + (self.bits() * np.uint64(high - low + 1) >> np.uint64(BITS)).astype(np.int64)


Augment = Callable[[Array, Draws], Array]


def shuffled(seed: int, epoch: int, count: int) -> Array:
    """The numbers below `count` in an order of that epoch's own."""
    draws = Draws(seed, epoch, np.arange(count), ORDER)
    return np.argsort(draws.bits() << np.uint64(BITS) | draws.bits(), kind="stable")


def chain(*changes: Augment) -> Augment:
    """Several changes, one after another."""

    def all_of_them(images: Array, draws: Draws) -> Array:
        for change in changes:
            images = change(images, draws)
        return images

    return all_of_them


def flips(share: float = 0.5) -> Augment:
    """Left and right exchanged in that share of the pictures. Raises DataError for a share outside [0, 1]."""
    if not 0 <= share <= 1:
        raise DataError(f"flips({share!r}): a share is a number from 0 to 1")

    def flip(images: Array, draws: Draws) -> Array:
        chosen = draws.uniform() < share
        return np.where(chosen[:, None, None, None], _checked("flips", images)[..., ::-1], images)

    return flip


def crops(height: int, width: int, padding: int = 0) -> Augment:
    """A window of that many pixels at a random place of the picture with `padding` zeros on all four sides.

    Raises DataError for extents that cannot be, and where the window does not fit into the picture.
    """
    if height < 1 or width < 1 or padding < 0:
        raise DataError(f"crops({height}, {width}, padding={padding}): expected at least 1, 1 and 0")

    def crop(images: Array, draws: Draws) -> Array:
        down, across = (extent + 2 * padding for extent in _checked("crops", images).shape[2:])
        if height > down or width > across:
            raise DataError(f"crops({height}, {width}, padding={padding}): no such window in {down}×{across}, padding included")
        padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = draws.integers(0, down - height), draws.integers(0, across - width)
        return windows[np.arange(len(images)), :, top, left]

    return crop


def shifts(reach: int) -> Augment:
    """Pictures moved by up to `reach` pixels along both axes; zeros come in at the edge. Raises DataError below 0."""
    if reach < 0:
        raise DataError(f"shifts({reach}): expected at least 0 pixels")

    def shift(images: Array, draws: Draws) -> Array:
        height, width = _checked("shifts", images).shape[2:]
        return crops(height, width, reach)(images, draws)

    return shift


def rotations(degrees: float) -> Augment:
    """Pictures turned about their middle by up to that angle either way; zeros come in at the edge.

    A pixel is interpolated linearly between the four around the place it comes from.
    Raises DataError for an angle that is no number of at least 0, and for pictures that are not of floats.
    """
    if not 0 <= degrees < np.inf:
        raise DataError(f"rotations({degrees!r}): expected an angle of at least 0 degrees")
    return lambda images, draws: turned(images, draws.uniform(-degrees, degrees))


def turned(images: Array, degrees: Array) -> Array:
    """Each picture turned counterclockwise by its own angle (n,), in degrees. Raises DataError."""
    count, channels, height, width = _checked("rotations", images).shape
    if images.dtype.kind != "f":
        raise DataError(f"rotations: pictures of {images.dtype} cannot be interpolated: convert them to float32")
    y, x = (np.arange(extent, dtype=images.dtype) - images.dtype.type((extent - 1) / 2) for extent in (height, width))
    y = y[:, None]
    cosine, sine = (f(np.radians(degrees)).astype(images.dtype)[:, None, None] for f in (np.cos, np.sin))
    # Where each pixel comes from; whatever lies farther out than the ring of zeros reads that ring.
    down = (sine * x + cosine * y + (height - 1) / 2).clip(-1, height)
    across = (cosine * x - sine * y + (width - 1) / 2).clip(-1, width)
    top, left = np.floor(down), np.floor(across)
    below, right = (down - top)[:, None], (across - left)[:, None]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2), (1, 2)))
    pitch, plane = width + 3, (height + 3) * (width + 3)
    corner = ((top + 1) * pitch + left + 1).astype(np.int64)
    places = corner[:, None] + plane * np.arange(count * channels).reshape(count, channels, 1, 1)

    def row(offset: int) -> Array:
        a, b = (np.take(padded, places + at, mode="clip") for at in (offset, offset + 1))  # clip: none is outside, none is checked
        return a + right * (b - a)

    upper, lower = row(0), row(pitch)
    return np.asarray(upper + below * (lower - upper))


def normalise(mean: float | Array, deviation: float | Array) -> Augment:
    """Pictures less the mean, divided by the deviation: numbers, or one for each channel. Draws nothing; put it last.

    Raises DataError for a deviation that is not above 0, and for as many numbers as the pictures have no channels.
    """
    means, deviations = (np.atleast_1d(np.asarray(v, np.float32)) for v in (mean, deviation))
    if means.ndim != 1 or deviations.ndim != 1 or not (deviations > 0).all() or not np.isfinite([*means, *deviations]).all():
        raise DataError(f"normalise({mean!r}, {deviation!r}): expected numbers, one or one a channel, the deviation above 0")

    def normal(images: Array, draws: Draws | None = None) -> Array:
        channels = _checked("normalise", images).shape[1]
        if not {len(means), len(deviations)} <= {1, channels}:
            raise DataError(f"normalise: {len(means)} means and {len(deviations)} deviations for {channels} channels")
        return (images - means[:, None, None]) / deviations[:, None, None]

    return normal


def _checked(what: str, images: Array) -> Array:
    if images.ndim != 4:
        raise DataError(f"{what}: expected pictures (n, channels, height, width), got {list(images.shape)}")
    return images
