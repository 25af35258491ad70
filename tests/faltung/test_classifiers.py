"""The classifiers of the examples: a run that goes on, and other files posing as MNIST's."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from faltung import pictures
from faltung.cli import main
from faltung.graph.errors import CheckpointError, DataError
from faltung.runtime.train import History, Record
from tests.faltung.test_datasets import write

EXAMPLES = Path(__file__).parents[2] / "examples"


def command(name: str) -> Callable[[Sequence[str]], float]:
    """`main` of an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], float] = module.main
    return main


@pytest.mark.parametrize("name", ["mlp_mnist", "cnn_mnist"])
def test_a_folder_of_mnists_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, train=40, test=20)
    share = command(name)(["--data", str(tmp_path), "--epochs", "2", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert f"40 digits to train on, 20 held out, from {tmp_path}" in said
    assert f"accuracy {100 * share:.2f} % on 20 held-out digits, 2 epochs" in said
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000
    with pytest.raises(DataError, match="is not a folder"):
        command(name)(["--data", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("net", ["cnn", "resnet"])
def test_clothes(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, train=60, test=20)
    given = ["--net", net, "--data", str(tmp_path), "--epochs", "2", "--out", str(tmp_path), "--checkpoint", str(tmp_path / "run")]
    first = command("fashion")(given)
    assert (tmp_path / f"fashion-{net}.png").is_file()
    assert command("fashion")(given) == first  # nothing is left to do
    said = capsys.readouterr()
    assert said.out.count("on 20 held-out pictures, 2 epochs") == 2 and said.err.count("epoch 2/2") == 1
    write(tmp_path, train=61)
    with pytest.raises(CheckpointError, match="samples was 60, now 61"):
        command("fashion")(given)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_the_train_command_takes_either_set(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, train=50, test=20)
    given = ["train", "--net", "mlp", "--dataset", dataset, "--data", str(tmp_path), "--epochs", "1"]
    assert main(given) == 0
    assert "on 20 held-out pictures" in capsys.readouterr().out
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"] == dataset and found["history"][0]["epoch"] == 1
    with pytest.raises(SystemExit):
        main([*given, "--seed", "-1"])
    assert "'-1' is no whole number from 0 on" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [0, 1, 30])
def test_a_picture_of_what_was_read(wrong: int, tmp_path: Path) -> None:
    history = History([Record(n + 1, 1 / (n + 1), 0.9, 0.8, 0.1, 1.0, 1.0) for n in range(1 + wrong)])
    images, labels = np.random.default_rng(0).random((40, 1, 28, 28)), np.arange(40) % 3
    scores = 5 * np.eye(3)[(labels + (np.arange(40) < wrong)) % 3]
    path = pictures.classified(history, images, labels, scores, ("cat", "dog", "bird"), tmp_path / "read.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    few = pictures.classified(history, images[:4], labels[:4], scores[:4], ("cat", "dog", "bird"), tmp_path / "few.png")
    assert few.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(DataError, match="at least 1 epoch"):
        pictures.classified(History([]), images, labels, scores, ("cat", "dog", "bird"), tmp_path / "none.png")
