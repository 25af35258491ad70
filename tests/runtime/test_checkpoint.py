"""Checkpoints and the training loop: same bits back, same bits after a resume, typed errors for every damage."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.errors import CheckpointError, DataError
from faltung.runtime import checkpoint as files
from faltung.runtime.augment import shifts
from faltung.runtime.compile import Step
from faltung.runtime.train import Diverged, History, Record, accuracy, fit, one_cycle

STATE = {
    "0.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "0.bias": np.array([np.nan, -0.0, np.inf], dtype=np.float64),
    "count": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 4), dtype=np.float32),
}


class Logistic:
    """Softmax regression by hand with momentum: the smallest thing that `fit` can train."""

    def __init__(self, features: int, classes: int) -> None:
        self.weights = np.zeros((classes, features), np.float32)
        self.velocity = np.zeros_like(self.weights)
        self.lr, self.steps = 0.1, 0
        self.net = Weights(self)

    def scores(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) @ self.weights.T

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        scores = self.scores(images)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        loss = -np.log(shares[np.arange(len(labels)), labels]).mean()
        shares[np.arange(len(labels)), labels] -= 1
        gradient = shares.T @ images.reshape(len(images), -1) / len(images)
        self.velocity = np.float32(0.9) * self.velocity + gradient.astype(np.float32)
        self.weights -= np.float32(self.lr) * self.velocity
        self.steps += 1
        return float(loss), scores

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity, "steps": np.array(self.steps)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.velocity, self.steps = state["velocity"].copy(), int(state["steps"])


class Weights:
    def __init__(self, owner: Logistic) -> None:
        self.owner = owner

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"0.weight": self.owner.weights}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.owner.weights = state["0.weight"].copy()


def stripes(count: int = 90, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose class is the row that is lit, with noise."""
    generator = np.random.default_rng(5)
    labels = generator.integers(0, classes, count)
    images = generator.normal(0, 0.3, (count, 1, classes, 4)).astype(np.float32)
    images[np.arange(count), 0, labels] += 1
    return images, labels


def train(step: Logistic, epochs: int, **options: Any) -> History:
    options = {"augment": shifts(1), "schedule": one_cycle(0.2, 5), "progress": False, "net": step.net, **options}
    return fit(step, stripes(), epochs, 16, seed=3, **options)


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        (left[k].shape, left[k].dtype, left[k].tobytes()) == (right[k].shape, right[k].dtype, right[k].tobytes())
        for k in left
    )


def test_every_bit_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    progress = {"run": {"seed": 4}, "text": "K̄"}
    files.save(path, files.Checkpoint(STATE, {"0.weight": np.ones(3)}, progress))
    back = files.load(path)
    assert same(back.weights, STATE)
    assert same(back.optimiser, {"0.weight": np.ones(3)})
    assert back.progress == progress
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_weights_alone_have_bare_names(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "w.safetensors"
    files.save_weights(path, STATE)
    assert same(load_file(path), STATE)
    assert same(files.load_weights(path), STATE)
    files.save(path, files.Checkpoint(STATE))
    assert same(files.load_weights(path), STATE)


def test_resuming_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, first, second = (Logistic(12, 3) for _ in range(3))
    history = train(whole, 5)
    path = tmp_path / "run.safetensors"
    train(first, 5, checkpoint=path, callbacks=[lambda record: record.epoch == 2])
    assert first.steps == 12
    resumed = train(second, 5, checkpoint=path)
    assert second.weights.tobytes() == whole.weights.tobytes()
    assert second.velocity.tobytes() == whole.velocity.tobytes()
    assert second.steps == whole.steps == 30
    for field in ("epoch", "loss", "accuracy", "lr"):
        assert resumed.column(field) == history.column(field)
    assert len(train(Logistic(12, 3), 5, checkpoint=path)) == 5  # nothing left to do


def dropping() -> tuple[nn.Sequential, Step]:
    """A network that leaves out elements at two places, and its training step."""
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 8), nn.Dropout(0.25), nn.Linear(8, 3))
    loss = ft.cross_entropy(net(ft.input("x", (None, 12))), ft.input("t", (None,), "int64"))
    return net, ft.compile_step(loss, net, ft.optim.SGD(0.1, 0.9))


def walk(step: Step, count: int) -> list[float]:
    images, labels = stripes()
    return [step(images.reshape(len(images), -1), labels) for _ in range(count)]


def test_dropout_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Six steps, and three steps, a file, a network with another seed, and three more: the same bits."""
    path = tmp_path / "half.safetensors"
    ft.manual_seed(1)
    net, step = dropping()
    walk(step, 3)
    files.save(path, files.Checkpoint(net.state_dict(), step.state_dict()))
    rest = walk(step, 3)
    ft.manual_seed(2)
    other, again = dropping()
    saved = files.load(path)
    files.fit_into(other, saved.weights, "weights")
    files.fit_into(again, saved.optimiser, "optimiser's values")
    assert walk(again, 3) == rest and len(set(rest)) == 3
    assert same(other.state_dict(), net.state_dict()) and same(again.state_dict(), step.state_dict())


RESUME = """
import sys, numpy as np, faltung as ft
from tests.runtime.test_checkpoint import dropping, walk
from faltung.runtime import checkpoint as files
net, step = dropping()
saved = files.load(sys.argv[1])
net.load_state_dict(saved.weights), step.load_state_dict(saved.optimiser)
print([loss.hex() for loss in walk(step, 3)])
"""


def test_dropout_goes_on_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    ft.manual_seed(3)
    net, step = dropping()
    walk(step, 3)
    files.save(path, files.Checkpoint(net.state_dict(), step.state_dict()))
    done = subprocess.run([sys.executable, "-c", RESUME, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([loss.hex() for loss in walk(step, 3)])


def test_a_file_of_pytorchs_has_no_counters() -> None:
    net, _ = dropping()
    theirs = {key: value + 1 for key, value in net.state_dict().items() if not files.may_lack(key)}
    assert set(net.state_dict()) - set(theirs) == {"2._step", "4._step"}
    assert net.load_state_dict(theirs) == ([], [])
    files.fit_into(net, theirs, "weights")
    assert (net.state_dict()["0.bias"] == theirs["0.bias"]).all()


def test_a_run_learns_and_is_measured() -> None:
    step = Logistic(12, 3)
    seen: list[Record] = []
    history = train(step, 8, validate=lambda: accuracy(step.scores, stripes(), 7), callbacks=[seen.append], augment=None)
    assert history.records == seen and [record.epoch for record in history] == list(range(1, 9))
    assert history[-1].val_accuracy == accuracy(step.scores, stripes()) > 0.9
    assert history[-1].loss < history[0].loss and history[-1].images_per_s > 0
    assert History.from_json(history.to_json()) == history
    assert json.loads(history.to_json())[0]["epoch"] == 1


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(Logistic(12, 3), 1, checkpoint=path)
    with pytest.raises(CheckpointError, match="batch_size was 16, now 8"):
        fit(step := Logistic(12, 3), stripes(), 1, 8, 3, net=step.net, checkpoint=path, progress=False)
    wider = Logistic(12, 4)
    with pytest.raises(CheckpointError, match=r"0.weight is float32\[3, 12\], the network's is float32\[4, 12\]"):
        train(wider, 2, checkpoint=path)
    assert not wider.weights.any() and wider.steps == 0
    assert len(train(wider, 1, checkpoint=path, resume=False)) == 1
    with pytest.raises(CheckpointError, match="net="):
        train(Logistic(12, 3), 1, checkpoint=path, net=None)


def test_a_missing_folder_is_told_before_the_first_epoch(tmp_path: Path) -> None:
    step = Logistic(12, 3)
    with pytest.raises(CheckpointError, match="no folder .*missing"):
        train(step, 1, checkpoint=tmp_path / "missing" / "run.safetensors")
    assert step.steps == 0


def test_damage_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        files.load(path)
    train(Logistic(12, 3), 1, checkpoint=path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    cuts = [whole[:n] for n in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    flips = []
    for place in generator.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= int(generator.integers(1, 256))
        flips.append(bytes(flipped))
    for data in cuts:
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            files.load(path)
    for data in flips:  # a flipped bit in the numbers cannot be seen; anything else must be a typed error
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            train(Logistic(12, 3), 1, checkpoint=path)
    files.save_weights(path, STATE)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        files.load(path)


def test_an_unwritable_place_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        files.save_weights(tmp_path / "missing" / "w.safetensors", STATE)
    with pytest.raises(CheckpointError, match="cannot be written"):
        files.save_weights(tmp_path / "w.safetensors", {"x": np.zeros(2, np.complex256)})
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused_before_the_library_is_asked(tmp_path: Path) -> None:
    """It panics where it gets no memory, which `except Exception` does not catch."""
    part = SimpleNamespace(get_dtype=lambda: "F32", get_shape=lambda: [2**44])
    with pytest.raises(ft.OutOfMemory, match=str(2**47)):
        files._array(SimpleNamespace(get_slice=lambda key: part), tmp_path, "w")


def test_a_loss_that_is_not_a_number_ends_the_run() -> None:
    step = Logistic(12, 3)
    images, labels = stripes()
    images[:] = np.nan
    with pytest.raises(Diverged, match="batch 1 of epoch 1"), np.errstate(invalid="ignore"):
        fit(step, (images, labels), 1, 16, progress=False)


def test_data_that_cannot_be_trained_on() -> None:
    for options, message in ({"batch_size": 91, "drop_last": True}, "not one whole batch"), ({"batch_size": 0}, "batch_size 0"):
        with pytest.raises(DataError, match=message):
            fit(Logistic(12, 3), stripes(), 1, progress=False, **options)
    with pytest.raises(DataError, match="do not pair up"):
        fit(Logistic(12, 3), (np.zeros((3, 1)), np.zeros(4)), 1, 2, progress=False)


def test_the_schedule_rises_and_falls() -> None:
    rate = one_cycle(0.5, 10)
    assert [rate(0), rate(1), rate(2)] == [0, 0.25, 0.5]
    assert rate(10) == pytest.approx(0) and rate(11) == pytest.approx(0) and 0 < rate(9) < rate(6) < 0.5


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    train(Logistic(12, 3), 2, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and [line.split()[:2] for line in err.splitlines()] == [["epoch", "1/2"], ["epoch", "2/2"]]
