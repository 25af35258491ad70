"""The worked exercise comes out as on paper: exactly, with symbols, and compiled."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parent.parent / "examples" / "worked_exercise.py"

X2_W2 = [[4, 1, 4, -2], [2, 0, 4, 1], [2, -2, -4, 2], [2, 1, 2, 1]]
Y = [[0, 5, 8, 0], [6, 10, 1, 5], [4, 0, 2, 11], [0, 1, 11, 3]]
LARGEST = [[10, 8], [4, 11]]
MEAN = [[Fraction(21, 4), Fraction(7, 2)], [Fraction(5, 4), Fraction(27, 4)]]


@pytest.fixture(scope="module")
def exercise() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worked_exercise", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exactly(exercise: ModuleType) -> None:
    steps = {name: matrix.tolist() for name, matrix in exercise.exact().items()}
    assert steps["X2 ∗ W2"] == X2_W2
    assert steps["Y = ReLU(… + 2)"] == Y
    assert steps["2×2 maximum"] == LARGEST
    assert steps["2×2 mean"] == MEAN
    assert all(isinstance(v, Fraction) for row in steps["2×2 mean"] for v in row)


def test_the_channels_add_up(exercise: ModuleType) -> None:
    steps = exercise.exact()
    assert (steps["X0 ∗ W0"] + steps["X1 ∗ W1"] + steps["X2 ∗ W2"] == steps["Σ_c X_c ∗ W_c"]).all()


def test_symbolically(exercise: ModuleType) -> None:
    values = dict(zip(exercise.symbols().ravel(), exercise.W.ravel().tolist(), strict=True))
    assert [[formula.subs(values) for formula in row] for row in exercise.symbolic().tolist()] == Y


def test_compiled(exercise: ModuleType) -> None:
    found = exercise.compiled()
    assert found["Y = ReLU(… + 2)"].tolist() == Y
    assert found["2×2 maximum"].tolist() == LARGEST
    assert found["2×2 mean"].tolist() == MEAN


def test_what_it_prints(exercise: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    exercise.main()
    printed = capsys.readouterr().out
    for line in ("21/4   7/2", "5/4  27/4", "Y[n,f,i,j] = Σ_{c,p,q} X[n,c,i+p-1,j+q-1]·K[f,c,p,q]"):
        assert line in printed
