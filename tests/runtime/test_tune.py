"""Choosing by timing: the fastest way is taken, what was timed is kept, and nothing changes but the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.codegen.choose import Way, choose
from faltung.codegen.machine import Machine
from faltung.codegen.program import lower
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import named
from faltung.graph.pipeline import optimise
from faltung.runtime import cache, facts, tune
from faltung.runtime.threads import set_threads, threads
from faltung.runtime.verify import verify


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of their own, in which nothing is decided."""
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Way, ...]]]:
    """The ways that were timed; each takes as many seconds as its number, from `fastest` on."""
    found: list[tuple[Way, ...]] = []

    def timed(task: Task, possible: Sequence[Way], batch: int) -> list[float]:
        found.append(tuple(possible))
        return [1.0 + (n - timed.fastest) % len(possible) for n in range(len(possible))]  # type: ignore[attr-defined]

    timed.fastest = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(tune, "timed", timed)
    yield found


def network(layers: int = 1) -> tuple[nn.Module, Any]:
    """A convolution in blocks of channels, which Winograd's algorithm applies to, `layers` times."""
    ft.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 32, 1), *(nn.Conv2d(32, 32, 3, padding=1) for _ in range(layers)), nn.ReLU())
    return net, net(ft.input("x", (None, 4, 14, 14)))


def schedules(model: Any) -> list[str]:
    return [s.schedule for s in model.program.steps]


@pytest.mark.parametrize("fastest", range(4))
def test_the_fastest_is_taken(fastest: int, timings: list[tuple[Way, ...]]) -> None:
    tune.timed.fastest = fastest  # type: ignore[attr-defined]
    _, y = network()
    model = ft.compile(y, tune=True)
    (possible,) = timings
    way = possible[fastest]
    assert any(s.startswith(way.name if way.sizes else "contraction, tile") for s in schedules(model)[1:])
    assert any(s.startswith("F(") for s in schedules(model)) == bool(way.sizes)


def test_what_the_others_take_is_told(timings: list[tuple[Way, ...]]) -> None:
    _, y = network()
    model = ft.compile(y, tune=True)
    (possible,) = timings
    refused = dict(model.program.steps[-1].refused)
    assert possible[0].name == "sums of products" and len(possible) > 2
    assert {w.name for w in possible[1:]} <= refused.keys() and "sums of products" not in refused
    assert refused[possible[1].name] == "it takes 2e+06 µs, sums of products 1e+06 µs"
    assert f"not {possible[1].name}, because it takes" in str(model.explain(batch=1))


def test_nothing_is_timed_twice(timings: list[tuple[Way, ...]]) -> None:
    """Equal layers are one task, and a decision outlives the model."""
    tune.timed.fastest = 2  # type: ignore[attr-defined]
    _, y = network(3)
    first = ft.compile(y, tune=True)
    assert len(timings) == 2  # with and without an activation
    again = ft.compile(network(3)[1], tune=True)
    assert len(timings) == 2 and schedules(again) == schedules(first)
    ft.compile(y)
    assert len(timings) == 2
    ft.compile(y, tune=True, batch=16)
    ft.compile(y, tune=True, accuracy="fast")
    assert len(timings) == 6


def test_a_decision_is_for_a_number_of_threads(timings: list[tuple[Way, ...]]) -> None:
    before = threads()
    try:
        for count in (1, 2, 1):
            set_threads(count)
            ft.compile(network()[1], tune=True)
    finally:
        set_threads(before)
    assert len(timings) == 2


def test_a_damaged_decision_is_made_again(timings: list[tuple[Way, ...]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    put = cache.put
    monkeypatch.setattr(cache, "put", lambda key, value: (written.append(key) if str(key).startswith("ways") else None, put(key, value))[1])
    first = ft.compile(network()[1], tune=True)
    (key,) = written
    for bad in (b"", b"[]", b"[1]", b"nonsense", b'{"a": 1}', b"[-1, -1, -1, -1, -1]", b'["x", 1, 1, 1, 1]'):
        put(key, bad)
        again = ft.compile(network()[1], tune=True)
        assert schedules(again) == schedules(first)
    assert len(timings) == 8
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    ft.compile(network()[1], tune=True)
    assert len(timings) == 9


def test_where_there_is_no_counter_the_estimate_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "timed", lambda task, possible, batch: [0.0] * len(possible))
    _, y = network()
    assert schedules(ft.compile(y, tune=True)) == schedules(ft.compile(y, batch=1))


def test_where_there_is_no_choice_nothing_is_timed(timings: list[tuple[Way, ...]]) -> None:
    net = nn.Sequential(nn.Conv2d(4, 32, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 9, 5))
    ft.compile(net(ft.input("x", (None, 4, 14, 14))), tune=True)
    ft.compile(network()[1], tune=True, accuracy="strict")
    assert not timings


@pytest.mark.parametrize("batch", [0, -1, 2.0, "all", True])
def test_what_is_no_batch(batch: Any) -> None:
    with pytest.raises(ft.ShapeError, match=r"batch=.* is no batch size; write a whole number from 1 on"):
        ft.compile(network()[1], batch=batch)
    if batch is not True:
        with pytest.raises(ft.DTypeError, match=r"is neither True nor False; for a batch size write tune=True, batch="):
            ft.compile(network()[1], tune=batch)


MACHINE = Machine(2, 8e9, 48 << 10, 1 << 20, 32 << 20, 40e9, 50e9)


def test_the_choice_is_for_the_batch_that_will_come() -> None:
    """512 channels at 7×7: weights are what one image waits for, products what sixteen do."""
    x, k = ft.input("x", (None, 512, 7, 7)), ft.parameter(np.zeros((512, 512, 3, 3), np.float32), "k")
    outputs = optimise([ft.conv2d(ft.conv2d(x, k, padding=1), k, padding=1)])

    def taken(images: int) -> list[str]:
        choose_for = lambda task: choose(replace(task, facts=lambda: MACHINE, images=images))  # noqa: E731
        return [s.schedule for s in lower(outputs, {}, named("avx512"), accuracy="balanced", choose=choose_for).steps]

    assert any(s.startswith("F(4+3,3)") for s in taken(16)) and any(s.startswith("F(4+3,3)") for s in taken(64))
    assert not any(s.startswith("F(4+3,3)") for images in (0, 1) for s in taken(images))


def test_every_kernel_is_chosen_for_that_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are those that are verified, which are chosen anew."""
    seen: list[int] = []
    monkeypatch.setattr(facts, "recall", lambda task, choose: (seen.append(task.images), choose(task))[1])
    for batch, images in ((None, 0), (16, 16)):
        seen.clear()
        model = ft.compile(network()[1], batch=batch)
        assert seen and set(seen) == {images}
        seen.clear()
        assert verify(model, batch=2).well and set(seen) == {images}


# ---- timed in earnest ----


@pytest.mark.parametrize("fixed", [False, True], ids=["open", "fixed"])
def test_a_tuned_model_computes_the_same(fixed: bool) -> None:
    ft.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(4, 32, 1), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 32, 3, padding=1))
    x = ft.input("x", (3 if fixed else None, 4, 12, 12))
    y = net(x) + net[0](x)
    images = np.random.default_rng(0).standard_normal((3, 4, 12, 12)).astype(np.float32)
    tuned, double = ft.compile(y, tune=True, batch=2), ft.compile(y, dtype="float64")(images.astype(np.float64))
    got = tuned(images)
    assert np.linalg.norm(got - double) <= 1e-5 * np.linalg.norm(double)
    assert any("it takes" in why for s in tuned.program.steps for _, why in s.refused)
    assert ft.compile(y, tune=True, batch=2)(images).tobytes() == got.tobytes()


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_exact_verification_sees_the_tuned_kernels(dtype: str | None, timings: list[tuple[Way, ...]]) -> None:
    """The way that is taken is one that the estimate would not take."""
    _, y = network()
    for fastest in (0, 3):
        tune.timed.fastest = fastest  # type: ignore[attr-defined]
        model = ft.compile(y, tune=True, batch=1 + fastest, dtype=dtype)
        report = verify(model, batch=2)
        assert report.well
        taken = [s for s in schedules(model) if s.startswith("F(")]
        assert bool(taken) == bool(fastest) and all(any(s in line.schedule for line in report.lines) for s in taken)


def test_the_bits_do_not_depend_on_threads(timings: list[tuple[Way, ...]]) -> None:
    tune.timed.fastest = 1  # type: ignore[attr-defined]
    model = ft.compile(network()[1], tune=True)
    images, before, found = np.random.default_rng(0).standard_normal((2, 4, 14, 14)).astype(np.float32), threads(), set()
    try:
        for count in (1, 2, 3):
            set_threads(count)
            found.add(model(images).tobytes())
    finally:
        set_threads(before)
    assert len(found) == 1


def test_weights_that_are_new_in_every_run_are_timed_with_it() -> None:
    """An input as weights: their transform is a part of what is timed."""
    x, k = ft.input("x", (None, 4, 14, 14)), ft.input("k", (32, 32, 3, 3))
    y = ft.conv2d(nn.Conv2d(4, 32, 1)(x), k, padding=1)
    model = ft.compile(y, tune=True)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 4, 14, 14)).astype(np.float32), rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    want = ft.compile(y, accuracy="strict")(*values)
    assert np.linalg.norm(model(*values) - want) <= 1e-5 * np.linalg.norm(want)
