"""The command line: answers for a person and for a program, and one line for each error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import faltung as ft
from faltung import doctor, nn, zoo
from faltung.cli import main
from faltung.graph.errors import EquationError
from faltung.graph.tensor import topological
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
        (["inspect", "Y[n] = X[n]", "--shape", "X=3", "--shape", "X=4"], "two shapes for X: [3] and [4]"),
        (["inspect", "Y[n] = X[n]", "--shape", "X=3", "--shape", "Z=4"], "Z: no operand of the equation, whose operands are X"),
        (["inspect", "lenet5", "--shape", "X=3"], "'lenet5' is none: it has no ="),
        (["inspect", "."], ".: a folder, not a file"),
        (["bench", "--net", "mlp", "--batch-size", "99999999999"], "make the batch smaller"),
        (["inspect", "Y[n,i] = X[n,i]", "--shape", "X=N,99999999999999999999"], "X: extent 99999999999999999999 of axis 1"),
        (["inspect", "missing.safetensors"], "no such file"),
        (["inspect", "missing.pth"], "no such file"),
        (["inspect", "resnet51"], "there are mlp, digits"),
        (["bench", "--net", "resnet51"], "there are mlp, digits"),
        (["train", "--data", "nowhere"], "nowhere is not a folder"),
        (["train", "--data", "nowhere", "--save", "run.bin"], "run.bin: the name must end in one of .safetensors"),
        (["train", "--data", "nowhere", "--save", "nowhere/run.npz"], "nowhere/run.npz: cannot be written: there is no folder"),
        (["train", "--net", "vgg16"], "vgg16 is no network for pictures of 28×28, which are all there is here: MaxPool2d"),
    ],
)
def test_an_error_is_one_line_and_a_code(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("faltung: ") and message in err and "Traceback" not in err
    assert main([*arguments, "--json"]) == 1
    assert message in json.loads(capsys.readouterr().out)["message"]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"faltung {version('faltung')}\n"


def test_a_wrong_call_is_code_2() -> None:
    numbers = (["train", "--epochs", "0"], ["bench", "--seconds", "nan"], ["bench", "--seconds", "-1"], ["train", "--lr", "inf"],
               ["verify", "mlp", "--seed", "-1"], ["train", "--batch-size", "2.5"])  # fmt: skip
    for arguments in ([], ["dance"], *numbers, ["inspect"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_nobody_reads_on() -> None:
    process = subprocess.Popen([sys.executable, "-m", "faltung", "inspect", "mlp"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()  # before it has imported what it needs to print
    assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_the_answer_finds_no_room() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "faltung", "inspect", "mlp"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr.startswith(b"faltung: [Errno 28]") and done.stderr.count(b"\n") == 1


def test_a_cache_that_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder, begins in ((tmp_path / "file", "BAD"), (tmp_path / "new", "ok")):
        monkeypatch.setenv("FALTUNG_CACHE", str(folder))
        (check,) = [check for check in doctor.examine() if check.name == "kernel cache"]
        assert check.well == (begins == "ok") and ("nothing can be kept" in check.finding) == (begins == "BAD")


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


def test_what_is_a_file_is_told_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"0.weight": np.zeros((3, 2), np.float32)}
    save("lr=0.1.safetensors", Checkpoint(weights, {}, {"run": {"seed": 4}}))
    Path("lr=0.1.safetensors").rename("lr=0.1")
    np.savez("w.safetensors", **weights)
    Path("w.safetensors.npz").rename("w.safetensors")
    save_weights("w.safetensors.npz", weights)
    Path("w.safetensors.npz").rename("lenet5")
    for name, says in [("lr=0.1", "weights/0.weight  float32  (3, 2)"), ("w.safetensors", "0.weight  float32"), ("lenet5", "1 arrays, 6 numbers")]:
        assert main(["inspect", name]) == 0
        text = capsys.readouterr().out
        assert says in text and ("checkpoint of the run {'seed': 4}" in text) == (name == "lr=0.1")
    Path("Y[n] = X[n]").write_text("no weights")
    assert main(["inspect", "Y[n] = X[n]"]) == 1 and "Y[n] = X[n]: begins with b'no weight'" in capsys.readouterr().err
    assert main(["inspect", "Y[n] = " + " + ".join(["X[n]"] * 99), "--shape", "X=3"]) == 0  # too long for a file's name


def test_networks_that_help_names_take_its_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    named = set(text.partition("pictures of 28×28: ")[2].partition(";")[0].replace(",", " ").split()) - {"or"}
    assert named >= {name for name, entry in zoo.TABLE.items() if entry.input == zoo.DIGIT}
    for name in named:
        assert zoo.build(name, in_channels=1)(ft.input("x", (None, *zoo.DIGIT))).shape[1] == 10


def test_inference_is_timed_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    def small() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3))

    timed = []
    compile_, compile_step = ft.compile, ft.compile_step
    monkeypatch.setitem(zoo.TABLE, "small", zoo.Entry(small, (1, 4, 4)))
    monkeypatch.setattr(ft, "compile", lambda y: timed.append(y) or compile_(y))
    monkeypatch.setattr(ft, "compile_step", lambda loss, *rest: timed.append(loss) or compile_step(loss, *rest))
    assert set(doctor.speed("small", 2, 0.0)[1]["median_ms"]) == {"inference", "training step"}
    shapes = {t.shape: {part.name for part in topological([t]) if part.kind == "state"} for t in timed}
    loss, scores = (next(held for shape, held in shapes.items() if len(shape) == rank) for rank in (0, 2))
    assert {"1.running_mean", "1.running_var"} <= scores and not loss & {"1.running_mean", "1.running_var"}


def test_shapes_in_words() -> None:
    assert shape_argument("X=N, 3,8") == ("X", (None, 3, 8))
    assert shape_argument("s=") == ("s", ())
    for text in ("X", "=3", "X=a", "X=3,,4", "X=1.5"):
        with pytest.raises(EquationError, match="is no shape"):
            shape_argument(text)
