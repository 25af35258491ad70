"""Costs: counted by hand, against the formulas everybody uses, and the same before and after strided reads are split."""

from __future__ import annotations

from itertools import product

import pytest

from faltung.graph import dsl
from faltung.graph.cost import Cost, cost
from faltung.graph.grad import grad
from faltung.graph.ops.table import define
from faltung.graph.pipeline import PASSES
from faltung.graph.tensor import Tensor, topological

SPLIT = next(p for p in PASSES if p.name == "split")


def of(t: Tensor, batch: int = 1) -> Cost:
    return sum((cost(eq, t.operands, t.dtype, batch) for eq in t.equations), Cost())


def image(*shape: int | None, name: str = "x") -> Tensor:
    return dsl.input(name, shape)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (3, 0)])
def test_a_convolution_counts_two_a_product(batch: int, stride: int, padding: int) -> None:
    x, k = image(None, 3, 10, 9), image(4, 3, 3, 3, name="k")
    y = dsl.conv2d(x, k, stride=stride, padding=padding)
    rows, columns = y.shape[2:]
    found = of(y, batch)
    assert found.flops == 2 * batch * 4 * 3 * 9 * rows * columns
    assert found.written == 4 * batch * 4 * rows * columns


def test_bias_and_relu_count_once_an_element() -> None:
    x = image(2, 3, 8, 8)
    plain = dsl.conv2d(x, image(4, 3, 3, 3, name="k"))
    assert of(dsl.relu(plain)).flops == 2 * 4 * 6 * 6
    assert of(dsl.conv2d(x, image(4, 3, 3, 3, name="k"), image(4, name="b"))).flops == of(plain).flops + 2 * 4 * 6 * 6


def test_a_matrix_product() -> None:
    found = of(dsl.matmul(image(5, 7), image(7, 3, name="w")))
    assert found == Cost(2 * 5 * 7 * 3, 4 * (5 * 7 + 7 * 3), 4 * 5 * 3)
    assert found.bytes == 4 * (35 + 21 + 15) and found.intensity == 210 / found.bytes


def test_bytes_follow_the_element_type() -> None:
    x = dsl.input("x", (6, 4), "float64")
    assert of(x + x) == Cost(24, 8 * 24, 8 * 24)


def test_a_lookup_counts_what_is_looked_up() -> None:
    labels, rows = dsl.input("t", (None,), "int64"), image(1000, 8, name="w")
    y = dsl.embedding(labels, rows)
    assert of(y, 4) == Cost(4 * 8, 4 * 4 * 8 + 4 * 8, 4 * 4 * 8)  # four rows of a thousand, and four labels of eight bytes
    assert of(y, 2000).read == 4 * 1000 * 8 + 2000 * 8  # not more rows than there are
    gradient = grad(y, rows, image(None, 8, name="g"))
    assert of(gradient, 4).flops == 4 * 8 and of(gradient, 4).written == 4 * 1000 * 8


def test_a_loss_counts_the_terms_that_labels_single_out() -> None:
    x, t = image(None, 50), dsl.input("t", (None,), "int64")
    picked = define("Y[] = sum(n,k: X[n,k] * X[n,k] * [T[n] = k])")(x, t)
    assert of(picked, 3).flops == 3 * 2 and of(picked, 3).read == 4 * 3 * min(3, 50) + 3 * 8
    scores = define("Y[n,k] = X[n,k] * [T[n] = k]")(x, t)
    assert of(scores, 3).flops == 2 * 3 * 50  # nothing is summed: every element is computed
    counts = define("Y[k<50] = sum(n: [T[n] = k])")(t)
    assert of(counts, 3).flops == 3


def test_only_elements_that_are_reached_are_read() -> None:
    x, k = image(1, 2, 9, 9), image(4, 2, 1, 1, name="k")
    read = of(dsl.conv2d(x, k, stride=2)).read
    assert read == 4 * (2 * 5 * 5 + 4 * 2)  # every other row and column
    padded = of(dsl.conv2d(x, image(4, 2, 3, 3, name="k"), padding=1)).read
    assert padded == 4 * (2 * 81 + 4 * 2 * 9)  # the padding is not in memory


@pytest.mark.parametrize(("extent", "kernel", "stride", "padding"), list(product((7, 12), (1, 2, 3), (1, 2, 3), (0, 1))))
def test_touched_elements_against_counting(extent: int, kernel: int, stride: int, padding: int) -> None:
    y = dsl.conv1d(image(1, 1, extent), image(1, 1, kernel, name="k"), stride=stride, padding=padding)
    count = y.shape[2]
    assert isinstance(count, int)
    reached = {stride * i + p - padding for i in range(count) for p in range(kernel)} & set(range(extent))
    assert of(y).read == 4 * (len(reached) + kernel)


@pytest.mark.parametrize(("stride", "kernel", "extent"), [(2, 3, 9), (2, 3, 10), (3, 2, 11), (3, 5, 17), (2, 1, 8)])
def test_a_strided_gradient_costs_the_same_before_and_after_it_is_split(stride: int, kernel: int, extent: int) -> None:
    x, k = image(2, 3, extent, extent), image(4, 3, kernel, kernel, name="k")
    y = dsl.conv2d(x, k, stride=stride)
    whole = grad(y, x, image(*(e for e in y.shape if isinstance(e, int)), name="y"))
    (split,) = SPLIT.run([whole], ())
    assert len(whole.equations) < len(split.equations)
    products = sum(of(t).flops for t in topological([split]) if not t.is_leaf)
    assert sum(of(t).flops for t in topological([whole]) if not t.is_leaf) == products
    assert products < 2 * 2 * 3 * 4 * (kernel * extent) ** 2  # what looping over inserted zeros would cost


def test_nothing_costs_nothing() -> None:
    assert of(dsl.relu(image(None, 3)), batch=0) == Cost()
    assert Cost().intensity == 0.0


def test_costs_are_whole_numbers() -> None:
    y = dsl.conv2d(image(1, 2, 9, 9), image(3, 2, 3, 3, name="k"), stride=2)
    for t in topological(grad(y.sum(), [t for t in topological([y]) if t.is_leaf])):
        if not t.is_leaf:
            assert all(type(n) is int for n in (of(t).flops, of(t).read, of(t).written))
