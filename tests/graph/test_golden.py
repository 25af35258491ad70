"""Golden text: printed equations, derivations and LaTeX, as a reader sees them (`pytest --update-golden` rewrites)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faltung.graph import dsl
from faltung.graph.grad import grad
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological

Golden = Callable[..., None]


def conv(stride: int) -> Tensor:
    x, k, b = dsl.input("x", (None, 3, 8, 8)), dsl.input("k", (4, 3, 3, 3)), dsl.input("b", (4,))
    return dsl.conv2d(x, k, b, stride=stride, padding=1)


def cross_entropy() -> Tensor:
    return dsl.cross_entropy(dsl.input("x", (None, 10)), dsl.input("t", (None,), "int64"))


OUTPUTS: dict[str, Callable[[], Tensor]] = {
    "conv2d": lambda: conv(1),
    "conv2d-stride-2": lambda: conv(2),
    "max_pool2d": lambda: dsl.max_pool2d(dsl.input("x", (None, 3, 8, 8)), 2),
    "max_pool2d-overlapping": lambda: dsl.max_pool2d(dsl.input("x", (None, 3, 8, 8)), 3, 2, 1),
    "avg_pool2d": lambda: dsl.avg_pool2d(dsl.input("x", (None, 3, 8, 8)), 2),
    "linear": lambda: dsl.linear(dsl.input("x", (None, 6)), dsl.input("w", (4, 6)), dsl.input("b", (4,))),
    "cross_entropy": cross_entropy,
    "flatten": lambda: dsl.flatten(dsl.input("x", (None, 3, 4, 5))),
    "relu": lambda: dsl.relu(dsl.input("x", (None, 3))),
    "broadcast": lambda: dsl.input("x", (None, 3, 4)) + dsl.input("z", (3, 1)),
}


def computed(outputs: list[Tensor]) -> list[Tensor]:
    return [t for t in topological(outputs) if not t.is_leaf]


def gradients(y: Tensor) -> list[Tensor]:
    wrt = [t for t in topological([y]) if t.is_leaf and t.dtype == "float32"]
    return grad(y, wrt, dsl.input("c", y.shape))


@pytest.mark.parametrize("name", OUTPUTS)
def test_equations(name: str, golden: Golden) -> None:
    """The op, its gradients, how they were derived, and the same after optimisation."""
    y = OUTPUTS[name]()
    gs = gradients(y)
    lines = [str(eq) for t in computed([y]) for eq in t.equations]
    for t in computed(gs):
        if t.steps():
            lines += ["", *(f"{step.title:<18}{step.text}" for step in t.steps())]
    after = [str(eq) for t in computed(optimise(gs)) for eq in t.equations]
    golden("\n".join([*lines, "", "optimised:", *after]))


@pytest.mark.parametrize("name", OUTPUTS)
def test_latex(name: str, golden: Golden) -> None:
    y = OUTPUTS[name]()
    golden("\n".join(t.latex() for t in computed([y, *gradients(y)])))


def test_numbers_of_names_stand_above_their_indices() -> None:
    """Two subscripts of one name are no LaTeX."""
    x, z = (dsl.input(name, (2, 3)) for name in "xz")
    assert dsl.cat([x, z], 0).latex().split(" \\\\\n") == ["Y_{n, k} = X^{(0)}_{n, k}", "Y_{n+2, k} = X^{(1)}_{n, k}"]


LISTING = """
from faltung.graph.pipeline import listing, optimise
from tests.graph.programs import PROGRAMS
print("\\n".join(listing(optimise(p.outputs)) for p in PROGRAMS))
"""


def test_the_text_does_not_depend_on_the_hash_seed() -> None:
    """A fresh process derives and optimises to the same equations in the same order, so that kernels are found again."""
    root = Path(__file__).parent.parent.parent
    texts = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", LISTING], cwd=root, env=environment, check=True, capture_output=True, text=True
        )
        texts.add(done.stdout)
    assert len(texts) == 1
