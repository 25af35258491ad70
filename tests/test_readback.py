"""A printed formula says what is computed: read back by an evaluator of its own, it gives what the machine code gives.

Of every op and of its derived gradients, each equation is printed, read back and evaluated on what the ones before it
gave; the compiled results must be equal where whole numbers stay whole, and near otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung.graph.grad import grad
from faltung.graph.ops import REGISTRY
from faltung.graph.tensor import Tensor
from tests.check import distinct, integers
from tests.graph.cases import PLANES, POOLS, SMALL, SOLIDS, Case
from tests.graph.test_convolution_family import FAMILY
from tests.graph.test_gradients import WITHOUT_DERIVATIVE
from tests.readback import evaluate
from tests.sweep.formulas import read_back

CASES = [*PLANES[::2], SOLIDS[1], *POOLS[-12::3], *SMALL, *FAMILY]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_printed_is_what_is_computed(case: Case) -> None:
    xs = [ft.input(f"x{n}", a.shape, "float64") for n, a in enumerate(case.arrays)]
    y = case.build(*xs)
    c = ft.input("c", y.shape, "float64")
    outputs = [y, *grad(y, xs, c)]
    feed: dict[Tensor, Any] = {**dict(zip(xs, case.arrays, strict=True)), c: (integers if case.degree else distinct)(y.shape, 3)}
    printed = read_back(outputs, feed)
    model = ft.compile(outputs)
    for got, want in zip(model(*(feed[t] for t in model.inputs)), printed, strict=True):
        if case.degree and np.array_equal(want, np.round(want)):
            assert np.array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11 * (1 + abs(want).max()))


def test_every_differentiable_op_is_read_back() -> None:
    assert {c.op for c in CASES} == set(REGISTRY) - set(WITHOUT_DERIVATIVE.values())


@pytest.mark.parametrize("name", ("argmax", "argmin"))
def test_a_position_is_read_back(name: str) -> None:
    x = ft.input("x", (3, 4, 5), "float64")
    y, values = getattr(ft, name)(x, (0, 2)), distinct((3, 4, 5), 1)
    assert np.array_equal(ft.compile(y)(values), read_back([y], {x: values})[0])


def test_an_open_batch_and_second_derivatives_are_read_back() -> None:
    x, k, t = ft.input("x", (None, 2, 5, 5), "float64"), ft.input("k", (3, 2, 3, 3), "float64"), ft.input("t", (None,), "int64")
    y = ft.batch_norm(ft.conv2d(x, k, stride=2, padding=1), training=True)
    loss = ft.cross_entropy(ft.max_pool2d(ft.relu(y), 3).reshape(None, 3), t)
    first = grad(loss, [x, k])
    outputs = [loss, *first, *ft.hvp(loss, [x, k], [g * 2 for g in first])]
    feed = {x: distinct((4, 2, 5, 5), 1), k: distinct((3, 2, 3, 3), 2), t: np.array([2, 0, 1, 1])}
    model = ft.compile(outputs)
    for got, want in zip(model(*(feed[i] for i in model.inputs)), read_back(outputs, feed, 4), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


# ---- the evaluator itself, against NumPy by hand ----

A, B = integers((3, 4), 1), integers((4, 5), 2)


@pytest.mark.parametrize(
    ("text", "extents", "want"),
    [
        ("Y[i,j] = Σ_{k} A[i,k]·B[k,j]", {"i": 3, "j": 5, "k": 4}, A @ B),
        ("Y[i] = max_{k} A[i,k-1]", {"i": 3, "k": 6}, A.max(1)),
        ("Y[i] = argmin_{k} A[i,k]", {"i": 3, "k": 4}, A.argmin(1)),
        ("Y[i,k] = A[i,k/2]", {"i": 3, "k": 8}, np.stack([A, 0 * A], 2).reshape(3, 8)),
        ("Y[i,k] = -2·A[i,k]/4 - (1 - k)", {"i": 3, "k": 4}, -A / 2 - 1 + np.arange(4)),
        ("Y[] = Σ_{i,k} [0 ≤ (i-k)/2 < 2]·|A[i,k]|", {"i": 3, "k": 4}, sum(abs(A[i, k]) for i in range(3) for k in range(4) if i >= k and (i - k) % 2 == 0)),
        ("Y[i,k] = log(0)·[A[i,k] > 9]", {"i": 3, "k": 4}, 0 * A),
    ],
)  # fmt: skip
def test_the_notation(text: str, extents: dict[str, int], want: Any) -> None:
    assert np.array_equal(evaluate(text, {"A": A, "B": B}, extents), want)


def test_a_piece_is_written_where_the_left_side_says() -> None:
    out = np.zeros(6)
    evaluate("Y[2·i+1] = A[0,i]", {"A": A}, {"i": 3}, out)
    assert np.array_equal(out, [0, A[0, 0], 0, A[0, 1], 0, A[0, 2]])


@pytest.mark.parametrize("text", ["Y[i] = A[i", "Y[i] A[0,i]", "Y[i] = A[0,i] A[0,i]", "Y[i] = A[i]"])
def test_what_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(AssertionError):
        evaluate(text, {"A": A}, {"i": 3})
