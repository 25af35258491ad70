"""Barriers that are left out: no two threads meet, as an oracle sees it that notes every access (tests/codegen/sharing.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import graph, nn
from faltung.codegen.target import host
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor
from faltung.runtime import plan, reached, recall, threads
from faltung.runtime.compile import Step
from faltung.runtime.model import Model
from faltung.runtime.waits import waits
from tests.check import Array
from tests.codegen.mutations import Fault
from tests.codegen.sharing import Touched, needed, race, touched
from tests.graph.programs import PROGRAMS

THREADS = (2, 3, 5, 8)
BATCHES = (1, 3)


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = ft.get_num_threads()
    yield
    ft.set_num_threads(before)


# ---- programs ----


def small_lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 3), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 5),
    )  # fmt: skip


def separable() -> nn.Sequential:
    """1×1, depthwise, 1×1, as in MobileNet, with channels that are no whole blocks."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 1), nn.ReLU6(), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU6(), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 40, 1), nn.ReLU6(),
        nn.Conv2d(40, 40, 3, 2, 1, groups=40), nn.ReLU6(), nn.Conv2d(40, 16, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def normalised() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 20, 3, stride=2, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(20, 20, 3, padding=1, groups=4),
        nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(), nn.Linear(80, 5),
    )  # fmt: skip


NETWORKS = {"small lenet": small_lenet, "separable": separable, "normalised": normalised}
OPTIMISERS = {"SGD": ft.optim.SGD(0.1), "momentum": ft.optim.SGD(0.1, momentum=0.9, weight_decay=1e-4), "Adam": ft.optim.Adam(0.01)}


def inference(name: str) -> Model:
    net = NETWORKS[name]()
    net.eval()
    return ft.compile(net(ft.input("x", (None, 1, 8, 8))))


def training(name: str, optimiser: str) -> Step:
    net = NETWORKS[name]()
    x, t = ft.input("x", (None, 1, 8, 8)), ft.input("t", (None,), dtype="int64")
    return ft.compile_step(ft.cross_entropy(net(x), t), net, OPTIMISERS[optimiser])


def dense() -> Model:
    """Layers that lie in one buffer, each reading all before it."""
    x = ft.input("x", (None, 3, 4, 4))
    y = nn.Conv2d(3, 16, 1)(x)
    for count in (16, 32, 48):
        y = ft.cat([y, ft.relu(nn.Conv2d(32, 16, 3, padding=1)(ft.relu(nn.Conv2d(count, 32, 1)(y))))], 1)
    return ft.compile(ft.avg_pool2d(ft.relu(nn.Conv2d(64, 32, 1)(y)), 2))


def residual() -> Model:
    x = ft.input("x", (None, 16, 4, 4))
    y = x
    for _ in range(3):
        y = ft.relu(y + nn.Conv2d(32, 16, 1)(ft.relu(nn.Conv2d(16, 32, 1)(y))))
    return ft.compile([y, ft.softmax(y.mean((2, 3)))])


def grouped() -> Model:
    """Copies of a kernel that two convolutions read, each in its own layout; four lanes, so that the layouts differ."""
    x, k = ft.input("x", (None, 32, 5, 4)), ft.input("k", (32, 16, 3, 3))
    y = ft.conv2d(x, k, padding=1, groups=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FALTUNG_TARGET", "baseline")
        return ft.compile([y, *ft.grad(y, [x, k], ft.input("c", y.shape))])


MODELS: dict[str, Callable[[], Model]] = {
    "dense": dense,
    "grouped": grouped,
    "residual": residual,
    **{f"{name}, inference": lambda name=name: inference(name) for name in NETWORKS},  # type: ignore[misc]
    **{f"small lenet, {rule}": lambda rule=rule: training("small lenet", rule) for rule in OPTIMISERS},  # type: ignore[misc]
    "normalised, momentum": lambda: training("normalised", "momentum"),
}


# ---- what they touch ----


def values(model: Model, batch: int) -> list[Array]:
    random = np.random.default_rng(batch)

    def value(t: Tensor) -> Array:
        shape = [batch if isinstance(e, Batch) else e for e in t.shape]
        return random.integers(0, 5, shape) if t.dtype == "int64" else random.integers(-3, 4, shape).astype(t.dtype)

    return [value(t) for t in model._inputs]


def seen(model: Model, batch: int) -> list[list[Touched]]:
    """A run in the interpreter, on the memory of the model itself."""
    given = values(model, batch)
    model._run(given)
    memory = model._memory
    assert memory.main is not None
    used = {b for s in model.program.steps for b in s.buffers}
    arrays: list[Any] = [memory.flat(b, batch) if b in used else None for b in range(len(model.program.slots))]
    model._write(given, batch)
    return touched(model.program.steps, arrays, memory.main._addresses, batch)


@cache
def recorded(name: str, batch: int) -> tuple[Model, list[list[Touched]], tuple[int, ...]]:
    """A model, what it touches, and where its buffers lie."""
    ft.set_num_threads(2)
    model = MODELS[name]()
    notes = seen(model, batch)
    assert model._memory.main is not None
    return model, notes, tuple(model._memory.main._addresses)


def standing(model: Model, count: int, batch: int) -> tuple[bool, ...]:
    main = model._memory.main
    assert main is not None
    main.settle(count, batch)
    return main.barriers


@pytest.mark.parametrize("name", MODELS)
def test_no_threads_meet_in_networks(name: str) -> None:
    for batch in BATCHES:
        model, notes, _ = recorded(name, batch)
        for count in THREADS:
            assert race(notes, standing(model, count, batch), count) is None, (batch, count)


def test_one_image_is_waited_for_no_more_where_the_batch_is_fixed() -> None:
    """Rows of all channels, one after the other, where a tile has them all: both threads have the same rows in every layer."""
    threads.set_threads(2)
    lanes = host().lanes("f32")
    two, most = 2 * lanes, (3 if host().registers == 32 else 2) * lanes
    net = nn.Sequential(nn.Conv2d(lanes, two, 3, padding=1), nn.ReLU(), nn.Conv2d(two, most, 1), nn.ReLU(), nn.Conv2d(most, two, 1))
    for batch in (1, None):
        model = ft.compile(net(ft.input("x", (batch, lanes, 16, 16))))
        model(np.zeros((1, lanes, 16, 16), np.float32))
        assert sum(standing(model, 2, 1)) == 0, batch


@pytest.mark.parametrize("case", [c for c in PROGRAMS if c.name != "constant under padding"], ids=str)  # that one reads no input
def test_no_threads_meet_in_small_programs(case: Any) -> None:
    threads.set_threads(2)
    model = ft.compile(case.outputs)
    for batch in reversed(BATCHES):  # one image in memory for more
        notes = seen(model, batch)
        for count in THREADS:
            assert race(notes, standing(model, count, batch), count) is None, (batch, count)


@pytest.mark.parametrize("name", ["dense", "separable, inference", "normalised, momentum"])
def test_a_barrier_too_few_is_noticed(name: str) -> None:
    """Each of the barriers that the oracle itself finds needed, left out alone."""
    _, notes, _ = recorded(name, 3)
    for count in THREADS:
        least = needed(notes, count)
        assert race(notes, least, count) is None
        assert sum(least) >= 2
        for number in np.flatnonzero(least):
            assert race(notes, [b and n != number for n, b in enumerate(least)], count) is not None


FAULTS = tuple(
    Fault(where, before, after)
    for where, before, after in (
        #  function                       source                                            instead
        ("codegen.interval:combined",     "a.hi + b.hi",                                    "a.lo + b.lo"),
        ("codegen.interval:_over",        "turn(a.hi / c)",                                 "turn(a.lo / c)"),
        ("codegen.reach:Reach.below",     "return max(end, ",                               "return min(end, "),
        ("codegen.reach:Reach.above",     "return min(start, ",                             "return max(start, "),
        ("codegen.reach:_Walk.loop",      "hi.hi - 1, shape)",                              "lo.lo, shape)"),
        ("codegen.reach:_Walk.loop",      "if start is end and d > c:",                     "if d >= c:"),
        ("codegen.reach:_Walk.note",      "np.minimum.at(first, ",                          "np.maximum.at(first, "),
        ("codegen.reach:_Walk.block",     "holds.hi > 0",                                   "holds.lo > 1"),
        ("codegen.reach:_Walk.block",     "if isinstance(x, (Load, Gather)):",              "if isinstance(x, Gather):"),
        ("runtime.waits:_meet",           "(x.written or y.written)",                       "(x.written and y.written)"),
        ("runtime.waits:_meet",           "if at != place or x.bytes != y.bytes:",          "if False:"),
        ("runtime.waits:_apart",          "p.below(i, a.each) <= q.above(j, b.each, b.n) and", ""),
        ("runtime.waits:_apart",          "and q.below(j, b.each) <= p.above(i, a.each, a.n)", ""),
        ("runtime.waits:waits",           "since.append(here)",                             "since = [here]"),
    )
)  # fmt: skip


def with_the_fault(name: str, batch: int, count: int) -> str | None:
    """The race that there would be, with what is known about a model worked out anew."""
    model, notes, addresses = recorded(name, batch)
    steps = model.program.steps
    found = reached.reached(model.program, model._code)
    calls = plan.calls([plan.Step(1, s.buffers, s.kernel.units, s.barrier, 0, uses) for s, uses in zip(steps, found, strict=True)])
    assert calls is not None
    return race(notes, waits(calls, addresses, count, batch), count)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_in_the_analysis_is_noticed(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reached, "_read", lambda *_: None)  # nothing is kept
    names = ("small lenet, inference", "dense", "residual", "separable, inference", "small lenet, momentum", "normalised, momentum")
    subjects = [(name, batch, count) for name in names for batch in (1, 3) for count in (2, 3)]
    for name, batch, _ in subjects:
        recorded(name, batch)
    with fault.installed():
        assert any(with_the_fault(*subject) for subject in subjects), f"{fault}: nothing notices"


def test_most_of_what_can_be_left_out_is(say: Callable[[str], None]) -> None:
    """Against the fewest barriers that are possible where buffers lie as they do."""
    for name in MODELS:
        model, notes, _ = recorded(name, 1)
        least, found, all_ = sum(needed(notes, 2)), sum(standing(model, 2, 1)), sum(s.barrier for s in model.program.steps)
        say(f"{name}: {found} barriers of {all_} stand, {least} are needed")
        assert least <= found <= min(all_, least + 4)


def test_elementwise_neighbours_need_no_barrier() -> None:
    """A training step's updates read the gradient of the same elements."""
    threads.set_threads(2)
    model = training("small lenet", "momentum")
    model._memory.fit(1)
    main = model._memory.main
    assert main is not None
    before = sum(s.barrier for s in model.program.steps)
    assert sum(standing(model, 2, 1)) < before
    assert sum(standing(model, 1, 1)) == 0


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_kept_and_worked_out_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path))
    monkeypatch.setattr(graph, "READ", graph.READ + 1e9)  # the source counts as unchanged
    recall.source.cache_clear()
    model = inference(name)
    with monkeypatch.context() as patch:
        patch.setattr(reached, "_read", lambda *_: None)
        first = reached.reached(model.program, model._code)
    monkeypatch.setattr(reached.reach, "reach", lambda *_: pytest.fail("worked out again"))
    second = reached.reached(model.program, model._code)
    recall.source.cache_clear()
    for a, b in zip(first, second, strict=True):
        for u, v in zip(a, b, strict=True):
            assert (u.buffer, u.bytes, u.size, u.written) == (v.buffer, v.bytes, v.size, v.written)
            for r, s in zip(u.reaches, v.reaches, strict=True):
                assert (r.slope, r.period) == (s.slope, s.period)
                assert np.array_equal(r.first, s.first) and np.array_equal(r.last, s.last)


def test_the_profile_counts_barriers() -> None:
    threads.set_threads(2)
    found = inference("small lenet").explain(batch=1)
    assert found.barriers == sum(r.barrier for r in found.rows)
    assert f"{found.barriers} barriers, {found.left_out} left out" in str(found)
    threads.set_threads(1)
    assert inference("small lenet").explain(batch=1).barriers == 0
