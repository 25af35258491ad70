"""The demonstration end to end: one epoch, every file, the fresh process, and the closing line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from faltung.cli import main
from faltung.demo import run
from faltung.graph.errors import DataError
from faltung.runtime.checkpoint import load_weights


def test_one_epoch(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = run(tmp_path / "out", epochs=1, say=said.append)
    assert re.fullmatch(r"accuracy 0\.\d{4} on 1000 held-out digits, trained in \d+\.\d s", said[-1])
    assert outcome.accuracy > 0.7 and len(outcome.history) == 1
    assert any("Σ_{n,i,j}" in line for line in said)  # the derived gradient of the first convolution
    names = {"digits.safetensors", "training.png", "filters.png", "features.png", "mistakes.png"}
    assert {path.name for path in outcome.files} == names == {path.name for path in (tmp_path / "out").iterdir()}
    assert load_weights(tmp_path / "out" / "digits.safetensors")["0.weight"].shape == (32, 1, 3, 3)
    assert json.loads(outcome.to_json())["held_out"] == 1000


def test_training_is_resumed_in_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(name: str, *more: str) -> dict[str, np.ndarray]:
        weights = tmp_path / f"{name}.safetensors"
        assert main(["train", "--net", "lenet5", "--batch-size", "250", "--json", "--save", str(weights), *more]) == 0
        json.loads(capsys.readouterr().out)
        return load_weights(weights)

    whole = train("whole", "--epochs", "1", "--checkpoint", str(tmp_path / "run.safetensors"))
    again = train("again", "--epochs", "1", "--checkpoint", str(tmp_path / "run.safetensors"))  # nothing left to do
    other = train("other", "--epochs", "1")
    for name, array in whole.items():
        assert array.tobytes() == again[name].tobytes() == other[name].tobytes()


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="at least 1"):
        run(epochs=0)
