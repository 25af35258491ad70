"""The sparse-matrix view: against loops, SciPy and the definition, with numbers and with symbols."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import sympy
from scipy import signal

import faltung as ft
from faltung import nn
from faltung.graph import drawing, entries, sparse
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.matrix import Matrix
from faltung.graph.tensor import Tensor
from tests.check import Array, distinct, integers
from tests.graph.cases import FEW, Case

CONVOLUTIONS: dict[int, Any] = {1: ft.conv1d, 2: ft.conv2d, 3: ft.conv3d}
TRANSPOSED: dict[int, Any] = {1: ft.conv_transpose1d, 2: ft.conv_transpose2d, 3: ft.conv_transpose3d}


def looped(k: Array, extents: tuple[int, ...], stride: int, padding: int, dilation: int, groups: int) -> Array:
    """The matrix of a convolution, element by element, as a textbook has it."""
    filters, depth, *window = k.shape
    per_group = filters // groups
    out = tuple((e + 2 * padding - dilation * (w - 1) - 1) // stride + 1 for e, w in zip(extents, window, strict=True))
    rows, columns = (filters, *out), (depth * groups, *extents)
    found = np.zeros((int(np.prod(rows)), int(np.prod(columns))))
    for f, c in product(range(filters), range(depth)):
        for at, tap in product(np.ndindex(*out), np.ndindex(*window)):
            read = [stride * i + dilation * p - padding for i, p in zip(at, tap, strict=True)]
            if all(0 <= r < e for r, e in zip(read, extents, strict=True)):
                row = np.ravel_multi_index((f, *at), rows)
                column = np.ravel_multi_index((f // per_group * depth + c, *read), columns)
                found[row, column] += k[(f, c, *tap)]
    return found


def numbers(symbols: Matrix, values: dict[str, Array]) -> Array:
    """Entries with values put in for their symbols, by SymPy."""
    point = {}
    dense = symbols.toarray()
    for entry in dense.reshape(-1):
        for s in sympy.sympify(entry).free_symbols:
            name, index = re.fullmatch(r"(\w+)\[(.*)\]", s.name).groups()  # type: ignore[union-attr]
            point[s] = float(values[name][tuple(map(int, index.split(",")))])
    return np.array([[float(sympy.sympify(e).subs(point)) for e in row] for row in dense])


def configurations(count: int) -> list[Any]:
    """Random convolutions of all ranks: kernel, extents, stride, padding, dilation, groups."""
    generator, found = random.Random(5), []
    for seed in range(count):
        rank = seed % 3 + 1
        stride, padding, dilation, groups = (generator.choice(c) for c in ((1, 1, 2, 3), (0, 1, 2), (1, 1, 2), (1, 1, 2)))
        window = tuple(generator.randint(1, 3) for _ in range(rank))
        extents = tuple(dilation * (w - 1) + generator.randint(1, 6 - rank) for w in window)
        k = integers((groups * generator.randint(1, 2), generator.randint(1, 2), *window), seed)
        found.append(pytest.param(k, extents, stride, padding, dilation, groups, id=f"{rank}d-{seed}"))
    return found


@pytest.mark.parametrize("k, extents, stride, padding, dilation, groups", configurations(45))
def test_a_convolution_and_its_transpose(k: Array, extents: tuple[int, ...], stride: int, padding: int, dilation: int, groups: int) -> None:
    rank = len(extents)
    x = ft.input("x", (None, k.shape[1] * groups, *extents))
    y = CONVOLUTIONS[rank](x, ft.parameter(k), None, stride, padding, dilation, groups)
    a, expected = ft.matrix(y, x), looped(k, extents, stride, padding, dilation, groups)
    assert a.rows == y.shape[1:] and a.columns == x.shape[1:] and a.shape == expected.shape
    assert np.array_equal(a.toarray(), expected)
    assert a.nnz == np.count_nonzero(looped(np.ones_like(k), extents, stride, padding, dilation, groups))
    assert np.array_equal(a.T.toarray(), expected.T) and not a.offset.any()
    image = integers(a.columns, 1)
    assert np.array_equal(a @ image, evaluate(y, {x: image[None]})[0])

    z = ft.input("z", (None, *y.shape[1:]))
    rest = tuple((e + 2 * padding - dilation * (w - 1) - 1) % stride for e, w in zip(extents, k.shape[2:], strict=True))
    back = TRANSPOSED[rank](z, ft.parameter(k), None, stride, padding, rest, groups, dilation)
    assert np.array_equal(ft.matrix(back, z).toarray(), expected.T)


def test_columns_are_what_scipy_makes_of_unit_images() -> None:
    k = distinct((3, 2), 3)
    x = ft.input("x", (1, 1, 5, 4), "float64")
    a = ft.matrix(ft.conv2d(x, ft.parameter(k[None, None], dtype="float64")), x).toarray()
    for column, image in zip(a.T, np.eye(20).reshape(20, 5, 4), strict=True):
        assert np.array_equal(column, signal.correlate(image, k, "valid", "direct").reshape(-1))


@pytest.mark.parametrize("case", FEW, ids=str)
def test_every_op_that_is_linear(case: Case) -> None:
    """By each operand, the others constant: y is A·x + offset, or y does not add up and the error says so."""
    for n in range(len(case.arrays)):
        x = ft.input("x", case.arrays[n].shape, "float64")
        y = case.build(*(x if m == n else ft.constant(a, dtype="float64") for m, a in enumerate(case.arrays)))

        def value(array: Array, y: Tensor = y, x: Tensor = x) -> Array:
            return np.asarray(evaluate(y, {x: array}))

        whole = case.degree is not None and case.op not in ("mean", "avg_pool")  # which divide by 3
        u, v = ((integers if whole else distinct)(x.shape, seed) for seed in (31, 32))
        try:
            a = ft.matrix(y, x)
        except ft.UnsupportedOp as error:
            with np.errstate(all="ignore"):
                straight = np.allclose(value(4 * u + 3 * v) + 6 * value(0 * u), 4 * value(u) + 3 * value(v))
            assert "is not linear in x" in str(error) and not straight, str(error)
            continue
        for array in (u, v):
            predicted = a @ array + a.offset
            assert np.array_equal(predicted, value(array)) if whole else np.allclose(predicted, value(array), 1e-12, 1e-13)
        assert not whole or case.op == "conv" or np.array_equal(a.toarray(), numbers(a.symbols, {}))
        cotangent = (integers if whole else distinct)(y.shape, 33)
        pulled = evaluate(ft.grad(y, x, ft.constant(cotangent, dtype="float64")))
        assert np.allclose(a.T @ cotangent, pulled, 1e-12, 1e-13)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_the_jacobian_at_a_point(case: Case) -> None:
    """Tangents and gradients are linear whatever the op is: J forwards is J backwards, by way of other equations."""
    parameters = [ft.parameter(a, dtype="float64") for a in case.arrays]
    y = case.build(*parameters)
    c = ft.input("c", y.shape, "float64")
    for x in parameters:
        v = ft.input("v", x.shape, "float64")
        forwards, backwards = ft.matrix(ft.jvp(y, x, v), v), ft.matrix(ft.grad(y, x, c), c)
        assert np.allclose(forwards.toarray(), backwards.toarray().T, 1e-12, 1e-13)
        step = distinct(x.shape, 41)
        here, there = (evaluate(y, {x: x.read() + t * step}) for t in (-1e-6, 1e-6))
        assert np.allclose(forwards @ step, (there - here) / 2e-6, 1e-5, 1e-7)


def test_the_jacobian_of_relu_is_decided_by_its_input() -> None:
    x, v = ft.parameter(np.array([2.0, -1, 0, 3])), ft.input("v", (4,))
    a = ft.matrix(ft.jvp(ft.relu(x) * 5, x, v), v)
    assert a.nnz == 2 and np.array_equal(a.toarray(), np.diag([5, 0, 0, 5]))
    assert [str(e) for e in a.symbols.toarray().reshape(-1) if e] == ["5", "5"]


# ---- several tensors ----


def test_two_convolutions_are_the_product_of_their_matrices() -> None:
    x, k, l = ft.input("x", (None, 2, 5, 4)), ft.parameter(integers((3, 2, 2, 3), 1), "k"), ft.parameter(integers((2, 3, 3, 2), 2), "l")
    h = ft.conv2d(x, k, ft.parameter(integers((3,), 3)), padding=1)
    y = ft.conv2d(h, l, ft.parameter(integers((2,), 4)), stride=2)
    first, second, both = ft.matrix(h, x), ft.matrix(y, h), ft.matrix(y, x)
    dense = looped(l.read(), (6, 4), 2, 0, 1, 1) @ looped(k.read(), (5, 4), 1, 1, 1, 1)
    for a in (both, second @ first):
        assert np.array_equal(a.toarray(), dense)
        image = integers((2, 5, 4), 5)
        assert np.array_equal(a @ image + a.offset, evaluate(y, {x: image[None]})[0])
    values = {"K": k.read(), "K2": l.read()}
    for a in (both, second @ first):
        assert np.array_equal(numbers(a.symbols, values), dense)
        assert {str(o) for o in a.symbols.offset.reshape(-1)} == {str(o) for o in both.symbols.offset.reshape(-1)}


def branches(x: Tensor) -> Tensor:
    """Every way of putting tensors together: a sum, a concatenation, a view, a mean, a constant beside."""
    k = ft.parameter(integers((2, 2, 3, 3), 1), "k")
    h = ft.conv2d(x, k, padding=1)
    z = ft.cat([h - 2 * x, ft.flip(x, 3), h[:, ::-1]], 1) + 3
    return ft.flatten(ft.pad(z, (1, 0, 0, 2))) * 2 - ft.flatten(ft.interpolate(ft.sum(h, (2, 3)).reshape(-1, 1, 2), 300))[:, :180]


def test_where_a_graph_branches_matrices_add() -> None:
    x = ft.input("x", (None, 2, 4, 4))
    y = branches(x)
    a = ft.matrix(y, x)
    images = integers((3, 2, 4, 4), 6)
    expected = evaluate(y, {x: images})
    assert np.array_equal(a @ images + a.offset, expected) and a.rows == expected.shape[1:]
    assert np.array_equal(a @ images[0].reshape(-1), a @ images[0])
    assert np.array_equal(a.tocsr() @ images[1].reshape(-1), a @ images[1].reshape(-1))
    units = np.eye(32).reshape(32, 2, 4, 4)
    assert np.array_equal(a.toarray(), (evaluate(y, {x: units}) - evaluate(y, {x: 0 * units})).T)


def test_the_adjoint_is_the_gradient() -> None:
    """As an operator, and entry by entry: the derived gradient is linear in the cotangent."""
    x, c = ft.input("x", (None, 2, 4, 4)), ft.input("c", (None, 180))
    a = ft.matrix(branches(x), x)
    gradient = ft.grad(branches(x), x, c)
    assert np.array_equal(ft.matrix(gradient, c).toarray(), a.T.toarray())
    cotangent = integers((180,), 8)
    assert np.array_equal((a.T @ cotangent).reshape(2, 4, 4), evaluate(gradient, {c: cotangent[None]})[0])
    assert not a.T.offset.any() and a.T.T.rows == a.rows


def test_by_a_tensor_in_the_middle_and_by_parameters() -> None:
    x, k, b = ft.constant(integers((2, 1, 4, 4), 1)), ft.parameter(integers((3, 1, 2, 2), 2), "k"), ft.parameter(integers((3,), 3), "b")
    y = ft.conv2d(x, k, b)
    for t in (k, b):
        a = ft.matrix(y, t)
        assert a.columns == t.shape and a.rows == (2, 3, 3, 3)
        assert np.array_equal(a @ t.read() + a.offset, evaluate(y))
    padded = ft.matrix(ft.conv2d(x, k, padding=1), k)  # its coefficients are pixels; where they are outside, there is no entry
    assert padded.nnz == 2 * 3 * (4 * 4) * (2 * 2) and np.array_equal(padded.T @ np.ones((2, 3, 5, 5)), np.full((3, 1, 2, 2), x.read().sum()))
    bent = ft.relu(ft.input("z", (2, 3)))
    z = bent * 2 + 1
    assert np.array_equal(ft.matrix(z, bent).toarray(), 2 * np.eye(6))
    assert np.array_equal(ft.matrix(z, z).toarray(), np.eye(6))
    other = ft.matrix(y, ft.input("w", (3,)))
    assert other.nnz == 0 and other.shape == (54, 3) and np.array_equal(other.offset, evaluate(y))


def test_an_op_of_your_own() -> None:
    laplace = ft.define("Y[i,j] = X[i-1,j] + X[i+1,j] + X[i,j-1] + X[i,j+1] - 4*X[i,j]")
    x = ft.input("x", (4, 5))
    band = lambda n: np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)  # noqa: E731
    expected = np.kron(band(4), np.eye(5)) + np.kron(np.eye(4), band(5))
    assert np.array_equal(ft.matrix(laplace(x), x).toarray(), expected)
    outer = ft.define("Y[i,j] = sum(p: X[p]*G[p,i]) - H[j]*3 + i*X[j]")
    g, h = integers((3, 2), 1), integers((3,), 2)
    v = ft.input("v", (3,))
    a = ft.matrix(outer(v, ft.constant(g), ft.constant(h)), v)
    at = integers((3,), 4)
    assert np.array_equal(a @ at + a.offset, (at @ g)[:, None] - 3 * h + np.arange(2)[:, None] * at)


def test_blocks_of_points_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = ft.input("x", (None, 2, 4, 4))
    whole = ft.matrix(branches(x), x).toarray()
    for size in (1, 7, 50):
        monkeypatch.setattr(entries, "AT_ONCE", size)
        monkeypatch.setattr(sparse, "AT_ONCE", size)
        assert np.array_equal(ft.matrix(branches(x), x).toarray(), whole)


def test_values_are_those_of_the_call() -> None:
    x, k = ft.input("x", (3, 3)), ft.parameter(integers((2, 2), 1), "k")
    y = ft.define("Y[i,j] = sum(p,q: X[i+p,j+q]*K[p,q])")(x, k)
    a = ft.matrix(y, x)
    before = a.toarray()
    k.assign(integers((2, 2), 2))
    assert np.array_equal(a.toarray(), before) and not np.array_equal(ft.matrix(y, x).toarray(), before)
    with pytest.raises(ValueError, match="read-only"):
        a.offset[0] = 1


# ---- as it is drawn ----


def test_the_matrix_of_a_kernel_as_a_course_draws_it() -> None:
    x, k = ft.input("x", (4, 4)), ft.input("k", (3, 3))
    a = ft.matrix(ft.define("Y[i,j] = sum(p,q: X[i+p,j+q]*K[p,q])")(x, k), x)
    expected = [["0"] * 16 for _ in range(4)]
    for i, j, p, q in product(range(2), range(2), range(3), range(3)):
        expected[2 * i + j][4 * (i + p) + j + q] = f"K[{p},{q}]"
    assert [[str(e) for e in row] for row in a.symbols.toarray()] == expected
    lines = str(a).splitlines()
    assert len(lines) == 5 and set(lines.pop(2)) == {"─", "┼"}
    assert [line.replace("│", " ").split() for line in lines] == expected
    assert [line.index("│") for line in lines] == [28] * 4 and repr(a) == f"<{drawing.summary(a)}>"
    assert drawing.summary(a) == "matrix 4×16 of (2, 2) from (4, 4): 36 entries, 43.8 % zeros, in blocks of 2×4"
    rows = a.latex().splitlines()
    assert rows[0] == r"\left(\begin{array}{cccc|cccc|cccc|cccc}" and rows[3] == r"\hline"
    assert rows[1].removesuffix(r" \\").split(" & ") == [re.sub(r"\[(.*)\]", r"_{\1}", e) for e in expected[0]]


def test_averages_are_fractions() -> None:
    x = ft.input("x", (None, 1, 3, 3))
    assert {str(e) for e in ft.matrix(ft.avg_pool2d(x, 3), x).symbols.toarray().reshape(-1)} == {"1/9"}
    inside = ft.matrix(ft.avg_pool2d(x, 2, padding=1, count_include_pad=False), x)
    assert [[str(e) for e in row if e] for row in inside.symbols.toarray()] == [["1"], ["1/2"] * 2, ["1/2"] * 2, ["1/4"] * 4]
    bilinear = ft.matrix(ft.interpolate(x, (3, 9), mode="bilinear"), x)
    line = ft.input("l", (4,))
    constant = ft.matrix(line * ft.constant(np.array([1 / 9, 0.1, 0.123456, -7])), line)  # in float32
    assert [cell for cell in str(constant).split() if cell != "0"] == ["1/9", "1/10", "0.123456", "-7"]
    assert {str(e) for e in bilinear.symbols.toarray().reshape(-1)} == {"0", "1", "1/3", "2/3"}


def test_sums_products_and_brackets_are_written_as_in_equations() -> None:
    x, k = ft.input("x", (None, 1, 2)), ft.parameter(np.ones((1, 1, 2)), "k")
    twice = ft.define("Y[n,i] = sum(p: X[n,0,i]*K[0,0,p])")(x, k)
    assert str(ft.matrix(twice, x)) == (
        "K[0,0,0] + K[0,0,1] 0\n"
        "0                   K[0,0,0] + K[0,0,1]"
    )  # fmt: skip
    again = ft.conv1d(ft.conv1d(x, k, padding=1), k)
    assert str(ft.matrix(again, x)) == "2·K[0,0,0]·K[0,0,1] K[0,0,1]²\nK[0,0,0]²           2·K[0,0,0]·K[0,0,1]"
    w, t = ft.parameter(np.ones((2, 1)), "w"), ft.input("t", (1,), "int64")
    assert str(ft.matrix(ft.embedding(t, w), w)) == "[T[0] = 0] [T[0] = 1]"
    v = ft.input("v", (1,))
    assert str(ft.matrix(ft.define("Y[i] = X[i]*W[0,i]/√(2 + W[1,i]) + B[i]")(v, w, ft.input("b", (1,))), v)) == "W[0,0]/√(W[1,0] + 2)  +  B[0]"


def test_what_is_large_is_summed_up() -> None:
    a = nn.Conv2d(3, 8, 3, padding=1).matrix((3, 32, 32))
    filled = 3 * 8 * (3 * 32 - 2) ** 2
    share = 100 - 100 * filled / (8 * 3 * 1024**2)
    assert str(a) == f"matrix 8192×3072 of (8, 32, 32) from (3, 32, 32): {filled:,} entries, {share:.4f} % zeros, in blocks of 32×32"
    assert a.nnz == filled
    with pytest.raises(ft.UnsupportedOp, match="entries are too many to be written"):
        _ = a.symbols
    with pytest.raises(ft.UnsupportedOp, match="8192 rows"):
        a.latex()
    two = ft.matrix(ft.sum(ft.input("x", (200,)), 0), ft.input("z", (2,)))
    assert str(two) == "0 0  +  Y[]"


# ---- layers ----


class Block(nn.Module):
    """What a residual network repeats, without what bends."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.Dropout(0.5)

    def forward(self, x: Any) -> Tensor:
        return self.drop(self.norm(self.conv(x))) + x


def test_a_network_in_evaluation_mode() -> None:
    net = nn.Sequential(Block(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(32, 3))
    block = net[0]
    state = {"conv.weight": integers((2, 2, 3, 3), 1), "norm.weight": [2, 3], "norm.bias": [1, -2], "norm.running_mean": [1, 2], "norm.running_var": [0.25, 1]}
    block.load_state_dict({**block.state_dict(), **{key: np.array(v) for key, v in state.items()}})
    a = net.matrix((2, 4, 4))
    assert a.rows == (3,) and a.columns == (2, 4, 4) and all(m.training for m in net.modules())
    image = integers((2, 4, 4), 2)
    k, gain = looped(state["conv.weight"], (4, 4), 1, 1, 1, 1), np.array([2 / np.sqrt(0.25 + 1e-5), 3 / np.sqrt(1 + 1e-5)])
    gain, shift = (np.repeat(v, 16) for v in (gain, np.array([1, -2]) - gain * [1, 2]))
    through = gain[:, None] * k + np.eye(32)
    pool = np.kron(np.eye(2), np.kron(*[np.kron(np.eye(2), np.full((2, 2), 0.5))] * 2))  # the mean of 2×2, at each of the four
    weight, bias = (net[4].state_dict()[key].astype(float) for key in ("weight", "bias"))
    assert np.allclose(a.toarray(), weight @ pool @ through, 1e-12)
    assert np.allclose(a.offset, weight @ pool @ shift + bias, 1e-12)
    model = ft.compile(net.eval()(x := ft.input("x", (None, 2, 4, 4))))
    assert np.allclose(a @ image + a.offset, model(image[None].astype("float32"))[0], 1e-5, 1e-5) and x.rank == 4
    names = {str(s)[0] for e in block.matrix((2, 2, 2)).symbols.toarray().reshape(-1) for s in sympy.sympify(e).free_symbols}
    assert names == {"K", "V", "W"}


# ---- errors ----


def says(error: type[Exception], *words: str) -> Any:
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


@pytest.mark.parametrize("pool", [lambda x: ft.max_pool2d(x, 1, 2), lambda x: ft.adaptive_max_pool2d(x, (5, 4)), lambda x: ft.max(x, 1, keepdim=True)])
def test_a_maximum_of_one_element_is_that_element(pool: Callable[[ft.Tensor], ft.Tensor]) -> None:
    x = ft.input("x", (1, 1, 5, 4))
    y, image = pool(x), integers((1, 1, 5, 4), 3)
    expected = image[:, :, ::2, ::2] if y.shape[2] == 3 else image
    a = ft.matrix(y, x)
    assert a.nnz == expected.size and not a.offset.any() and set(a.toarray().reshape(-1)) == {0, 1}
    assert np.array_equal(a @ image, expected) and np.array_equal(evaluate(y, {x: image}, EXACT), expected)
    assert np.array_equal(a.T @ expected, evaluate(ft.grad(y, x, ft.constant(expected)), {x: image}))


def test_one_element_that_may_lie_outside_is_no_multiple() -> None:
    """Outside, the maximum of one is -∞; a least of one element is that element, too."""
    x = ft.input("x", (4,))
    with says(ft.UnsupportedOp, "max over p chooses by value"):
        ft.matrix(ft.define("Y[i<6] = max(p<1: X[i+p-1])")(x), x)
    least = ft.define("Y[i<3] = min(p<1: 2*X[i+p+1] - 3*i)")(x)
    a = ft.matrix(least, x)
    assert np.array_equal(a.toarray(), 2 * np.eye(4)[1:]) and np.array_equal(a.offset, [0, -3, -6])


def test_what_is_not_linear_is_named() -> None:
    x = ft.input("x", (None, 2, 4, 4))
    h = ft.conv2d(x, ft.parameter(np.ones((2, 2, 3, 3)), "k"))
    with says(ft.UnsupportedOp, "relu is not linear in x", "Y[n,c,i,j] = relu(X[n,c,i,j])", "ft.matrix(ft.jvp(y, x, v), v)"):
        ft.matrix(ft.relu(h) + 1, x)
    with says(ft.UnsupportedOp, "max_pool", "max over p, q chooses by value"):
        ft.matrix(ft.max_pool2d(h, 2), x)
    with says(ft.UnsupportedOp, "mul is not linear", "is multiplied by", "both depend on it"):
        ft.matrix(h * ft.flip(h, 2), x)
    with says(ft.UnsupportedOp, "div is not linear", "1 is divided by Z[n,c,i,j], which depends on it"):
        ft.matrix(1 / h, x)
    with says(ft.UnsupportedOp, "relu is not linear in x"):
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).matrix((1, 5, 5))
    with says(ft.ShapeError, "Conv2d"):
        nn.Conv2d(1, 2, 3).matrix((3, 5, 5))
    with says(ft.ShapeError, "such as (1, 28, 28), got 3"):
        nn.Linear(3, 2).matrix(3)  # type: ignore[arg-type]


def test_what_has_no_value_has_no_numbers() -> None:
    x, k, b = ft.input("x", (None, 1, 3)), ft.input("k", (1, 1, 2)), ft.input("b", (1,))
    a = ft.matrix(ft.conv1d(x, k, b), x)
    assert a.nnz == 4 and str(a).split("\n")[0] == "K[0,0,0] K[0,0,1] 0         +  B[0]"
    for use in (a.toarray, a.tocsr, lambda: a.offset, lambda: a @ np.ones(3), lambda: (a.T @ np.ones(2)), lambda: (a.T @ a).toarray()):
        with says(ft.UnsupportedOp, "k, b has no value", "ft.constant"):
            use()
    beside = ft.matrix(ft.conv1d(x, ft.parameter(np.ones((1, 1, 2))), b), x)
    assert np.array_equal(beside @ np.ones(3), [2, 2])  # the entries are there
    with says(ft.UnsupportedOp, "offset: b has no value"):
        _ = beside.offset


def test_what_does_not_fit() -> None:
    x = ft.input("x", (None, 1, 3))
    a = ft.matrix(ft.conv1d(x, ft.parameter(np.ones((1, 1, 2)))), x)
    with says(ft.ShapeError, "v has shape [4]", "A takes [1, 3], [3] or [N, 1, 3]"):
        a @ np.ones(4)
    with says(ft.ShapeError, "A takes [1, 3] and B gives [1, 2]"):
        a @ a
    for wrong in (x, "abc", np.array("abc"), None, [[1], [1, 2]], np.array([None] * 3)):
        with pytest.raises((ft.DTypeError, ft.ShapeError)):
            a @ wrong
    with pytest.raises(TypeError):
        np.ones(2) @ a
    with says(ft.DTypeError, "y must be a tensor, got int"):
        ft.matrix(3, x)  # type: ignore[arg-type]
    with says(ft.DTypeError, "SciPy has no sparse matrices of symbols"):
        a.symbols.tocsr()


def test_more_than_there_is_memory_for() -> None:
    x = ft.input("x", (None, 1, 200_000, 200_000))
    with says(ft.OutOfMemory, "matrix of Y[n,f,i,j]", "GiB", "smaller image"):
        ft.matrix(ft.conv2d(x, ft.parameter(np.ones((1, 1, 3, 3)))), x)
    big = ft.input("x", (1_000_000,))
    a = ft.matrix(big * 2, big)
    assert a.nnz == 1_000_000
    with says(ft.OutOfMemory, "dense array [1000000, 1000000]", "tocsr"):
        a.toarray()


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    x = ft.input("x", (3,))
    a = ft.matrix(x * 2, x)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with says(ft.UnsupportedOp, "pip install scipy"):
        a.tocsr()
    assert np.array_equal(a @ np.arange(3), [0, 2, 4])


@pytest.mark.parametrize("shape", [(0,), (2, 0), ()])
def test_nothing_and_one_number(shape: tuple[int, ...]) -> None:
    x = ft.input("x", shape)
    a = ft.matrix(x * 2 + 1, x)
    assert a.nnz == int(np.prod(shape)) and a.rows == shape
    assert np.array_equal(a @ np.ones(shape) + a.offset, np.full(shape, 3.0)) and isinstance(str(a), str)
    total = ft.matrix(ft.sum(x) * 2, x) if shape else a
    assert total.shape == (1, int(np.prod(shape)))
