"""The same bits: from any number of threads, from run to run, and from a run that was stopped and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.tensor import Tensor
from faltung.runtime.train import History, one_cycle
from tests.check import Array

COUNTS = [1, 2, 3]


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = ft.get_num_threads()
    yield
    ft.set_num_threads(before)


def network(seed: int = 5) -> tuple[nn.Sequential, Tensor, Tensor]:
    ft.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 20, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(80, 33), nn.ReLU(), nn.Linear(33, 5),
    )  # fmt: skip
    x, t = ft.input("x", (None, 1, 9, 8)), ft.input("t", (None,), dtype="int64")
    return net, x, t


def data(count: int, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 1, 9, 8)).astype(np.float32), random.integers(0, 5, count)


def state(net: nn.Module) -> list[bytes]:
    return [v.tobytes() for v in net.state_dict().values()]


def by_threads(work: Callable[[], object]) -> list[object]:
    found = []
    for count in COUNTS:
        ft.set_num_threads(count)
        assert ft.get_num_threads() == count
        found.append(work())
    return found


@pytest.mark.parametrize("optimiser", [ft.optim.SGD(0.1, momentum=0.9), ft.optim.Adam(0.01)], ids=["SGD", "Adam"])
def test_training_does_not_depend_on_the_number_of_threads(optimiser: ft.optim.Optimiser) -> None:
    def train() -> object:
        net, x, t = network()
        scores = net(x)
        step = ft.compile_step(ft.cross_entropy(scores, t), net, optimiser, outputs=[scores])
        results = [step(*data(size, seed)) for seed, size in enumerate((17, 17, 4, 1, 29))]
        losses = [loss for loss, _ in results]
        return losses, [found.tobytes() for _, found in results], state(net), [v.tobytes() for v in step.state_dict().values()]

    first, *others = by_threads(train)
    assert all(other == first for other in others)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """One model, threads changed between runs: reductions to one number, to a few, over the batch, and none."""
    net, x, t = network()
    scores = net(x)
    loss = ft.cross_entropy(scores, t)
    outputs = [scores, loss, ft.sum(x), ft.mean(x, 0), ft.max(x), (x * x).sum((0, 2)), ft.softmax(scores), *ft.grad(loss, [*net.parameters(), x])]
    model = ft.compile(outputs)
    for size in (1, 2, 19):
        images, labels = data(size, size)
        first, *others = by_threads(lambda images=images, labels=labels: [a.tobytes() for a in model(images, labels)])  # type: ignore[misc]
        assert all(other == first for other in others), size


def test_the_same_run_twice_is_the_same() -> None:
    net, x, t = network()
    model = ft.compile(ft.grad(ft.cross_entropy(net(x), t), dict(net.named_parameters()))["0.weight"])
    images, labels = data(23)
    first = model(images, labels).tobytes()
    for _ in range(5):
        model(*data(7, 1))  # what was in memory before does not matter
        assert model(images, labels).tobytes() == first


def test_two_compilations_are_the_same() -> None:
    images, _ = data(6)
    found = []
    for _ in range(2):
        net, x, _ = network()
        found.append(ft.compile(net(x))(images).tobytes())
    assert found[0] == found[1]


# ---- stopping and going on ----


def prepared(seed: int = 5) -> tuple[nn.Sequential, Any]:
    net, x, t = network(seed)
    scores = net(x)
    return net, ft.compile_step(ft.cross_entropy(scores, t), net, ft.optim.Adam(0.01), outputs=[scores])


def test_resuming_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Stopped after two of four epochs, resumed by a new step over a network that began elsewhere."""
    def train(net: nn.Module, step: Any, path: Path, stop: int = 0) -> History:
        callbacks = [lambda record: record.epoch == stop]
        return ft.fit(
            step, data(50), 4, 16, seed=3, net=net, schedule=one_cycle(0.02, 4), checkpoint=path, progress=False, callbacks=callbacks
        )

    whole, step = prepared()
    history = train(whole, step, tmp_path / "whole")
    first, step = prepared()
    train(first, step, tmp_path / "part", stop=2)
    assert state(first) != state(whole)
    second, step = prepared(seed=8)
    resumed = train(second, step, tmp_path / "part")
    assert state(second) == state(whole)
    assert [r.loss for r in resumed] == [r.loss for r in history]
    assert [r.accuracy for r in resumed] == [r.accuracy for r in history]


CHILD = """
import hashlib
import numpy as np
import faltung as ft
from faltung import nn

ft.manual_seed(1)
net = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9 * 16, 4))
x, t = ft.input("x", (None, 1, 8, 8)), ft.input("t", (None,), dtype="int64")
step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(0.1, momentum=0.9))
random = np.random.default_rng(0)
for _ in range(4):
    step(random.normal(size=(11, 1, 8, 8)).astype(np.float32), random.integers(0, 4, 11))
print(hashlib.sha256(b"".join(v.tobytes() for v in net.state_dict().values())).hexdigest())
"""


def test_every_process_computes_the_same_bits() -> None:
    """Whatever the seed of hashes and the number of threads."""
    found = set()
    for seed, threads in (("1", "1"), ("2", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "FALTUNG_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
