"""Recognition goes by the roles of indices: the same equation under other names has the same name."""

from __future__ import annotations

import pytest

from faltung.graph import dsl
from faltung.graph.equation import Equation
from faltung.graph.grad import grad
from faltung.graph.naming import name
from faltung.graph.parse import parse
from faltung.graph.pipeline import optimise
from faltung.graph.recognise import Contraction, contraction
from faltung.graph.tensor import topological


def conv(s: int = 1, p: int = 1, d: int = 1) -> tuple[Equation, Equation, Equation]:
    x, k = dsl.input("x", (None, 2, 9, 9)), dsl.input("k", (4, 2, 3, 3))
    y = dsl.conv2d(x, k, stride=s, padding=p, dilation=d)
    gx, gk = grad(y, [x, k], dsl.input("c", y.shape))
    return y.equation, gx.equation, gk.equation


def roles(eq: Equation) -> Contraction:
    found = contraction(eq)
    assert isinstance(found, Contraction), found
    return found


def test_the_roles_of_a_convolution() -> None:
    c = roles(conv()[0])
    assert (c.batch, c.rows, c.columns, c.reduced) == ((), ("n", "i", "j"), ("f",), ("c", "p", "q"))


def test_the_input_gradient_of_stride_one_is_a_convolution() -> None:
    c = roles(conv()[1])
    assert (c.batch, c.rows, c.columns, c.reduced) == ((), ("n", "u", "v"), ("c",), ("f", "p", "q"))


def test_the_weight_gradient_reduces_over_batch_and_positions() -> None:
    c = roles(conv(2)[2])
    assert set(c.reduced) == {"n", "i", "j"}
    assert (set(c.rows), c.columns) == ({"c", "p", "q"}, ("f",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Y[i] = X[i]", "no reduction"),
        ("Y[i] = max(p<2: X[i+p])", "reduces by max"),
        ("Y[i] = sum(p<2: X[i+p])", "not a product of two reads"),
        ("Y[i] = sum(p<2: X[i+p] * X[i+p])", "squares one read"),
        ("Y[i] = sum(p<2: X[i+p] * X[i-p])", "both reads have windows"),
        ("Y[i<5] = sum(p<2: X[(i-p)/2] * Z[p])", "windows"),
        ("Y[i,j<3] = sum(p: X[p] * Z[i])", "an index is in neither"),
    ],
)
def test_what_is_no_contraction_says_why(text: str, reason: str) -> None:
    eq = parse(text, [(5,)] * (2 if "Z" in text else 1), extents={"p": 2} if "Z[p]" in text else {})
    found = contraction(eq)
    assert isinstance(found, str)
    assert reason in found


def test_every_product_of_a_training_step_is_recognised() -> None:
    """All sums of products in the optimised gradients of a small net are dense contractions."""
    x = dsl.input("x", (None, 1, 12, 12))
    w1, w2, w3 = dsl.input("w1", (4, 1, 3, 3)), dsl.input("w2", (5, 4, 3, 3)), dsl.input("w3", (3, 20))
    y = dsl.max_pool2d(dsl.relu(dsl.conv2d(x, w1, padding=1)), 2)
    y = dsl.max_pool2d(dsl.relu(dsl.conv2d(y, w2, stride=2)), 1)
    loss = dsl.cross_entropy(dsl.linear(dsl.flatten(y), w3), dsl.input("t", (None,), "int64"))
    found = set()
    for t in topological(optimise([loss, *grad(loss, [w1, w2, w3])])):
        for eq in t.equations:
            if eq.reduce is not None and len({a.slot for a in eq.accesses}) > 1 and isinstance(contraction(eq), Contraction):
                found.add(name(eq))
    assert len(found) >= 4, found
