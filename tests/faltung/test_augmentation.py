"""Random changes and batches: each sample once, the same change whatever comes with it, and a thread that ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from faltung.graph.errors import DataError
from faltung.runtime.augment import Augment, Draws, chain, crops, flips, normalise, rotations, shifts, shuffled, turned
from faltung.runtime.data import Labelled, Loader, ahead, source

Array = np.ndarray


def pictures(count: int = 23, channels: int = 2, height: int = 6, width: int = 7) -> Array:
    """Different whole numbers everywhere, none of them 0."""
    return np.arange(1, 1 + count * channels * height * width, dtype=np.float32).reshape(count, channels, height, width)


def draws(count: int, seed: int = 1, epoch: int = 0) -> Draws:
    return Draws(seed, epoch, np.arange(count))


CHANGES: dict[str, Augment] = {
    "shifts": shifts(2),
    "flips": flips(),
    "crops": crops(4, 5),
    "padded": crops(7, 6, padding=2),
    "rotations": rotations(25.0),
    "normalise": normalise([1.0, 2.0], 3.0),
    "chain": chain(crops(5, 5), flips(), rotations(10.0), shifts(1), normalise(0.5, 0.25)),
}


# ---- numbers ----


def test_numbers_are_spread_evenly() -> None:
    many = draws(100_000)
    uniform, whole = many.uniform(-1.0, 3.0), many.integers(-2, 2)
    assert uniform.min() >= -1 and uniform.max() < 3 and abs(uniform.mean() - 1) < 0.02
    assert abs(uniform.var() - 16 / 12) < 0.02
    shares = np.bincount(whole + 2) / len(whole)
    assert shares.shape == (5,) and np.abs(shares - 0.2).max() < 0.01
    # Neighbouring samples, numbers of one sample, epochs and seeds have nothing to do with one another.
    first, second = (draws(100_000, *key).uniform() for key in ((1, 0), (1, 1)))
    third, again = draws(100_000, 2).uniform(), (both := draws(100_000)).uniform()
    for one, other in [(first[1:], first[:-1]), (first, second), (first, third), (again, both.uniform())]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.015


def test_an_order_has_each_once_and_is_the_epochs_own() -> None:
    orders = [shuffled(seed, epoch, 997) for seed in (0, 1) for epoch in range(3)]
    assert all((np.sort(order) == np.arange(997)).all() for order in orders)
    assert len({order.tobytes() for order in orders}) == len(orders)
    assert (shuffled(1, 2, 997) == orders[-1]).all()
    places = np.mean([shuffled(0, epoch, 50) for epoch in range(400)], axis=0)  # which sample is where, on average
    assert np.abs(places - 24.5).max() < 4  # a deviation of 14.4/√400 = 0.72


def test_numbers_that_cannot_be() -> None:
    for seed, epoch in ((-1, 0), (1 << 32, 0), (0, -1), (0, 1 << 22), (0.5, 0)):
        with pytest.raises(DataError, match="expected a whole number from 0 to"):
            Draws(seed, epoch, np.arange(3))  # type: ignore[arg-type]
    few = draws(1)
    with pytest.raises(DataError, match="chain fewer changes"):
        for _ in range(2000):
            few.bits()


# ---- changes ----


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_does_not_depend_on_what_comes_with_it(name: str) -> None:
    images, change = pictures(), CHANGES[name]
    whole = change(images, draws(len(images)))
    for size in (1, 4, 23):
        parts = [change(images[i : i + size], Draws(1, 0, np.arange(23)[i : i + size])) for i in range(0, 23, size)]
        assert (np.concatenate(parts) == whole).all()
    order = shuffled(9, 9, 23)
    assert (change(images[order], Draws(1, 0, order)) == whole[order]).all()
    assert whole.dtype == np.float32 and (images == pictures()).all()  # what was handed in is left alone
    if name != "normalise":
        assert any((change(images, draws(23, *key)) != whole).any() for key in ((1, 1), (2, 0)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_crops_are_windows(height: int, width: int, padding: int, seed: int) -> None:
    images = pictures(5)
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    down, across = padded.shape[2] - height, padded.shape[3] - width
    if down < 0 or across < 0:
        with pytest.raises(DataError, match="no such window in"):
            crops(height, width, padding)(images, draws(5))
        return
    chosen = crops(height, width, padding)(images, draws(5, seed))
    again = draws(5, seed)
    for n, (i, j) in enumerate(zip(again.integers(0, down), again.integers(0, across), strict=True)):
        assert 0 <= i <= down and 0 <= j <= across
        assert (chosen[n] == padded[n, :, i : i + height, j : j + width]).all()


def test_shifts_reach_every_place_and_fill_with_zeros() -> None:
    images = np.zeros((2000, 1, 5, 6), np.float32)
    images[:, 0, 2, 3] = 1
    moved = shifts(2)(images, draws(2000))
    _, _, rows, columns = np.nonzero(moved)
    assert len(rows) == 2000  # nothing is lost, nothing comes twice
    counts = np.zeros((5, 6))
    np.add.at(counts, (rows, columns), 1)
    assert (counts[:, 1:6] > 40).all() and (counts[:, 0] == 0).all()  # 80 of each of the 25 are expected
    assert (shifts(0)(images, draws(2000)) == images).all()


def test_flips() -> None:
    images = pictures(1000)
    flipped = flips(0.25)(images, draws(1000))
    turned_round = (flipped == images[..., ::-1]).all(axis=(1, 2, 3))
    assert (turned_round | (flipped == images).all(axis=(1, 2, 3))).all()
    assert 200 < turned_round.sum() < 300
    assert (flips(1)(images, draws(1000)) == images[..., ::-1]).all() and (flips(0)(images, draws(1000)) == images).all()


def test_turning_is_what_scipy_does() -> None:
    generator = np.random.default_rng(0)
    images = generator.random((9, 2, 8, 11))
    angles = np.array([0.0, 5, -17, 30, 90, -90, 133, 180, 725])
    got = turned(images, angles)
    for n, angle in enumerate(np.radians(angles)):
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        middle = np.array([3.5, 5.0])
        for c in range(2):
            # a pixel outside is a zero that takes part in the interpolation
            want = ndimage.affine_transform(images[n, c], matrix, middle - matrix @ middle, order=1, mode="grid-constant")
            assert np.abs(got[n, c] - want).max() < 1e-12
    square = generator.random((1, 3, 7, 7))
    assert np.allclose(turned(square, np.array([90.0]))[0], np.rot90(square[0], axes=(1, 2)))
    assert (turned(images, np.zeros(9)) == images).all()


def test_rotations_stay_within_their_angle() -> None:
    line = np.zeros((500, 1, 41, 41), np.float32)
    line[:, :, 20, 20:] = 1  # from the middle to the right
    ends = rotations(30)(line, draws(500))[:, 0]
    y, x = (np.arange(41) - 20)[:, None], np.arange(41) - 20
    angles = np.degrees(np.arctan2(-(ends * y).sum((1, 2)), (ends * x).sum((1, 2))))
    assert angles.min() > -31 and angles.max() < 31 and angles.min() < -25 and angles.max() > 25


def test_normalising() -> None:
    images = pictures(3)
    got = normalise([1.0, -2.0], [2.0, 4.0])(images, draws(3))
    assert (got[:, 0] == (images[:, 0] - 1) / 2).all() and (got[:, 1] == (images[:, 1] + 2) / 4).all()
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shifts(-1), "at least 0 pixels"),
        (lambda: flips(1.5), "a share is a number from 0 to 1"),
        (lambda: crops(0, 3), "expected at least 1, 1 and 0"),
        (lambda: crops(3, 3, -1), "expected at least 1, 1 and 0"),
        (lambda: rotations(-1.0), "an angle of at least 0"),
        (lambda: rotations(float("nan")), "an angle of at least 0"),
        (lambda: normalise(0, 0), "the deviation above 0"),
        (lambda: normalise(float("nan"), 1), "the deviation above 0"),
        (lambda: normalise([1, 2, 3], 1)(pictures(), draws(23)), "3 means and 1 deviations for 2 channels"),
        (lambda: rotations(3)(pictures().astype(np.uint8), draws(23)), "convert them to float32"),
        (lambda: crops(9, 2)(pictures(), draws(23)), "no such window in 6×7"),
    ],
)
def test_changes_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize("name", sorted({*CHANGES} - {"chain"}))
def test_changes_are_for_pictures(name: str) -> None:
    with pytest.raises(DataError, match=r"expected pictures \(n, channels, height, width\), got \[3, 4\]"):
        CHANGES[name](np.zeros((3, 4), np.float32), draws(3))


def test_a_thousand_digits_take_no_time() -> None:
    images = np.random.default_rng(0).random((1000, 1, 28, 28), dtype=np.float32)
    for change in (shifts(2), flips(), crops(24, 24), rotations(10)):
        took = []
        for _ in range(3):
            started = time.perf_counter()
            change(images, draws(1000))
            took.append(time.perf_counter() - started)
        assert min(took) < 1.0  # of the order of 0.01; a loop over pictures and pixels takes seconds


# ---- batches ----


def data(count: int = 23) -> tuple[Array, Array]:
    return pictures(count), np.arange(count)


@pytest.mark.parametrize("prefetch", [0, 1, 3, 100])
def test_batches_have_each_sample_once(prefetch: int) -> None:
    images, _ = data()
    for shuffle in (True, False):
        loader = Loader(data(), 5, seed=4, shuffle=shuffle, prefetch=prefetch)
        for epoch in (0, 1):
            got = list(loader.epoch(epoch))
            assert [len(labels) for _, labels in got] == [5, 5, 5, 5, 3] and len(loader) == 5
            rows = np.concatenate([labels for _, labels in got])
            assert (np.sort(rows) == np.arange(23)).all() and ((rows == np.arange(23)).all() != shuffle)
            assert (np.concatenate([pictures for pictures, _ in got]) == images[rows]).all()
            assert all(pictures.flags.c_contiguous for pictures, _ in got)
    whole = Loader(data(), 5, drop_last=True, prefetch=prefetch)
    assert len(whole) == 4 and [len(labels) for _, labels in whole.epoch()] == [5] * 4


def test_a_loop_is_over_an_epoch() -> None:
    loader = Loader(data(), 5)
    for loop in (iter, list, enumerate):
        with pytest.raises(DataError, match=r"write `for images, labels in loader\.epoch\(number\)`"):
            loop(loader)


def test_a_picture_is_changed_alike_in_every_batch_and_thread() -> None:
    found = []
    for size, prefetch, shuffle in [(1, 0, True), (5, 0, False), (7, 2, True), (23, 1, True)]:
        loader = Loader(data(), size, 6, CHANGES["chain"], shuffle=shuffle, prefetch=prefetch)
        batches = list(loader.epoch(3))
        rows = np.argsort(np.concatenate([labels for _, labels in batches]))
        found.append(np.concatenate([images for images, _ in batches])[rows].tobytes())
    assert len(set(found)) == 1
    other = [images for images, _ in Loader(data(), 23, 6, CHANGES["chain"], shuffle=False).epoch(4)]
    assert other[0].tobytes() != found[0]


def threads() -> int:
    return sum(thread.name == "faltung-batches" for thread in threading.enumerate())


def test_an_exception_in_the_thread_is_the_callers() -> None:
    class Broken:
        def __len__(self) -> int:
            return 9

        def take(self, rows: Array) -> tuple[Array, Array]:
            if 6 in rows:
                raise OSError("the disk is gone")
            return np.zeros((len(rows), 1, 2, 2)), rows

    batches = Loader(Broken(), 2, shuffle=False, prefetch=2).epoch()
    assert [next(batches)[1].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert threads() == 0
    with pytest.raises(DataError, match=r"2 samples were asked for: got 1 images and 2 labels"):
        next(Loader(data(), 2, augment=lambda images, draws: images[:1]).epoch())
    assert threads() == 0


@pytest.mark.parametrize("way", ["close", "forget", "break"])
def test_leaving_early_leaves_no_thread(way: str) -> None:
    batches = Loader(data(), 1, prefetch=2).epoch()
    next(batches)
    assert threads() == 1
    if way == "close":
        batches.close()
    elif way == "forget":
        del batches
    else:
        for _ in batches:
            break
        del batches
    gc.collect()
    assert threads() == 0


def test_no_more_is_made_than_was_asked_for() -> None:
    made: list[int] = []

    def items() -> Any:
        for n in range(100):
            made.append(n)
            yield n

    taken = ahead(items(), 3)
    assert next(taken) == 0
    waited = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < waited:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]  # the one that was taken and three ahead
    assert list(taken) == list(range(1, 100)) and threads() == 0


def test_the_next_batch_is_made_while_one_is_used() -> None:
    began = threading.Event()

    class Slow:
        def __len__(self) -> int:
            return 2

        def take(self, rows: Array) -> tuple[Array, Array]:
            if rows[0] == 1:
                began.set()
            return np.zeros((1, 1, 2, 2)), rows

    batches = Loader(Slow(), 1, shuffle=False, prefetch=1).epoch()
    next(batches)
    assert began.wait(20)  # the second is read although nobody has asked for it
    batches.close()


def test_sources() -> None:
    given = Labelled(*data())
    assert source(given) is given and len(source(data())) == 23
    assert (given.take(np.array([3, 1]))[1] == [3, 1]).all()
    with pytest.raises(DataError, match="do not pair up"):
        source((np.zeros((3, 1)), np.zeros(4)))
    with pytest.raises(DataError, match=r"data is a ndarray: expected a pair"):
        source(np.zeros(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"prefetch": -1}, "prefetch -1: expected at least 0"),
        ({"seed": -1}, "seed -1"),
        ({"batch_size": 24, "drop_last": True}, "23 samples in batches of 24: not one whole batch"),
        ({"data": (np.zeros((0, 1, 2, 2)), np.zeros(0, np.int64))}, "0 samples in batches of 5: not one batch"),
    ],
)
def test_loaders_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loader(**{"data": data(), "batch_size": 5, **options})
