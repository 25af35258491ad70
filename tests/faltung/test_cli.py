"""The command line: answers for a person and for a program, and one line for each error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from faltung.cli import main
from faltung.graph.errors import EquationError
from faltung.inspection import shape_argument
from faltung.runtime.checkpoint import Checkpoint, save, save_weights

STRIDED = "Y[n,f,i,j] = sum(c,p,q: X[n,c,2*i+p-1,2*j+q-1]*K[f,c,p,q])"
SHAPES = ["--shape", "X=N,3,8,8", "--shape", "K=4,3,3,3"]


def test_an_equation_and_its_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", STRIDED, *SHAPES, "--steps"]) == 0
    text = capsys.readouterr().out
    assert "Y  (N, 4, 4, 4)" in text and "free n, f, i, j; bound c, p, q" in text
    assert "[f,c,p,q] = Σ_{n,i,j} Y\u0304[n,f,i,j]·X[n,c,2·i+p-1,2·j+q-1]" in text
    assert "solve the deltas" in text
    assert main(["inspect", STRIDED, *SHAPES, "--json", "--latex"]) == 0
    rows = json.loads(capsys.readouterr().out)["tensors"]
    assert [(row["role"], row["name"], row["shape"]) for row in rows] == [
        ("equation", "Y", [None, 4, 4, 4]),
        ("gradient", "X", [None, 3, 8, 8]),
        ("gradient", "K", [4, 3, 3, 3]),
    ]
    assert r"\sum" in rows[0]["equations"][0]


def test_any_network_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "mobilenet_v2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("mobilenet_v2: (N, 3, 224, 224) → (N, 1000)\n") and "2-D depthwise convolution, stride 2" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["inspect", STRIDED], "--shape X=… --shape K=…"),
        (["inspect", "Y[n] = X[n+", "--shape", "X=3"], "expected a number"),
        (["inspect", "Y[n] = X[n]", "--shape", "X=3,q"], "write NAME=extents"),
        (["inspect", "missing.safetensors"], "no such file"),
        (["inspect", "missing.pth"], "no such file"),
        (["inspect", "resnet51"], "there are mlp, digits"),
        (["bench", "--net", "resnet51"], "there are mlp, digits"),
        (["train", "--data", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_an_error_is_one_line_and_a_code(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("faltung: ") and message in err and "Traceback" not in err
    assert main([*arguments, "--json"]) == 1
    assert message in json.loads(capsys.readouterr().out)["message"]


def test_a_wrong_call_is_code_2() -> None:
    for arguments in ([], ["dance"], ["train", "--epochs", "0"], ["inspect"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"0.weight": np.zeros((3, 2), np.float32)}
    bare, full = tmp_path / "w.safetensors", tmp_path / "c.safetensors"
    save_weights(bare, weights)
    save(full, Checkpoint(weights, {"count": np.array(1)}, {"run": {"seed": 4}}))
    assert main(["inspect", str(bare)]) == 0
    assert "0.weight  float32  (3, 2)" in capsys.readouterr().out
    assert main(["inspect", str(full), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    np.savez(tmp_path / "w.npz", **weights)
    assert main(["inspect", str(tmp_path / "w.npz")]) == 0
    assert "0.weight  float32  (3, 2)" in capsys.readouterr().out
    assert found["run"] == {"seed": 4} and [row["name"] for row in found["arrays"]] == ["optimiser/count", "weights/0.weight"]


def test_shapes_in_words() -> None:
    assert shape_argument("X=N, 3,8") == ("X", (None, 3, 8))
    assert shape_argument("s=") == ("s", ())
    for text in ("X", "=3", "X=a", "X=3,,4", "X=1.5"):
        with pytest.raises(EquationError, match="is no shape"):
            shape_argument(text)
