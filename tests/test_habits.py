"""What somebody who comes from PyTorch writes first: it works, or the error says what is written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph import elsewhere
from faltung.graph.evaluate import evaluate

OWNERS: list[tuple[Any, elsewhere.Table]] = [
    (ft.input("x", (None, 3)), elsewhere.TENSOR),
    (ft, elsewhere.FUNCTIONS),
    (nn, elsewhere.LAYERS),
    (nn.ReLU(), elsewhere.MODULE),
    (ft.optim, elsewhere.OPTIMISERS),
    (ft.datasets, elsewhere.DATASETS),
]
ROWS = [(owner, name, text) for owner, table in OWNERS for name, text in table.items()]


@pytest.mark.parametrize(("owner", "name", "text"), ROWS, ids=[f"{n}-{name}" for n, (_, name, _) in enumerate(ROWS)])
def test_a_missing_name_says_what_is_written_instead(owner: Any, name: str, text: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(f"no attribute {name!r}; here: {text}")):
        getattr(owner, name)
    for module, function in re.findall(r"\b(ft|nn)\.([\w.]*\w)", text):
        found: Any = {"ft": ft, "nn": nn}[module]
        for part in function.split("."):
            found = getattr(found, part)


def test_a_function_needs_no_row() -> None:
    x = ft.input("x", (None, 3))
    for name in ("relu", "softmax", "flatten", "max"):
        with pytest.raises(AttributeError, match=re.escape(f"no attribute {name!r}; here: ft.{name}(x)")):
            getattr(x, name)
    for owner in (x, nn.ReLU(), ft, nn, ft.optim, ft.datasets):
        assert not hasattr(owner, "nonsense") and not hasattr(owner, "__nonsense__")


@pytest.mark.parametrize("line", ["import faltung.nn.functional as F", "from faltung.nn import functional", "from faltung.nn.functional import relu"])
def test_an_import_of_the_functions_says_where_they_are(line: str) -> None:
    with pytest.raises(ImportError, match=re.escape("there is no module 'faltung.nn.functional'; here: functions are in ft itself: ft.relu(x)")):
        exec(line)
    assert not hasattr(nn, "functional")


def test_a_network_of_another_name() -> None:
    with pytest.raises(ft.UnsupportedOp, match=r"no network is called 'resnet19' \(did you mean resnet1.*\): there are mlp, digits"):
        ft.zoo.build("resnet19")
    for name in (None, 50, ["vgg16"], nn.ReLU):
        with pytest.raises(ft.UnsupportedOp, match="no network is called .*: there are mlp, digits"):
            ft.zoo.build(name)  # type: ignore[arg-type]
    with pytest.raises(ft.DTypeError, match="position 'relu' in a sequence of 1 modules: give a whole number or a slice"):
        nn.Sequential(nn.ReLU())["relu"]  # type: ignore[call-overload]


# ---- what is written instead is so ----

CUBES = np.random.default_rng(0).integers(-9, 10, (2, 3, 4, 4)).astype("float32")


def test_the_equations_that_are_told() -> None:
    x, z = ft.input("x", (None, 3, 4, 4)), ft.input("z", (None, 3, 4, 4))
    (masked,) = re.findall(r"'(.*)'", elsewhere.TENSOR["where"])
    assert np.array_equal(evaluate(ft.define(masked)(x, z), {x: CUBES, z: 2 * CUBES}), np.where(CUBES > 0, 2 * CUBES, 0))
    (stopped,) = re.findall(r"'(.*)'", elsewhere.TENSOR["detach"])
    assert not evaluate(ft.grad((ft.define(stopped)(x) ** 2).sum(), x), {x: CUBES}).any()
    (product,) = re.findall(r"'(.*)'", elsewhere.TENSOR["bmm"])
    a, b = ft.input("a", (None, 4, 4)), ft.input("b", (None, 4, 4))
    assert np.array_equal(evaluate(ft.define(product)(a, b), {a: CUBES[:, 0], b: CUBES[:, 1]}), CUBES[:, 0] @ CUBES[:, 1])
    variance = eval(elsewhere.TENSOR["var"], {"x": x, "d": (0, 2, 3)})
    assert np.allclose(evaluate(variance, {x: CUBES}), CUBES.var((0, 2, 3)))


def test_gradients_clipped_by_their_norm() -> None:
    class Clipped(ft.optim.SGD):
        def update(self, parameters: Sequence[ft.Tensor], gradients: Sequence[ft.Tensor]) -> ft.optim.Update:
            norm = ft.sqrt(sum((g * g).sum() for g in gradients))
            return super().update(parameters, [g * ft.minimum(1 / norm, 1.0) for g in gradients])

    p, q = ft.parameter(np.zeros(2), "p"), ft.parameter(np.zeros(1), "q")
    step = ft.compile_step((p * ft.constant([2.0, 3.0])).sum() + 6 * q.sum(), {"p": p, "q": q}, Clipped(lr=7.0))
    step()
    assert np.allclose([*p.read(), *q.read()], [-2, -3, -6])  # the gradient (2, 3, 6) has the norm 7


# ---- what works as it is written there ----


@pytest.mark.parametrize("dim", [None, 0, 1, -1, (2, 3), (0, 2, 3)])
@pytest.mark.parametrize("name", ["sum", "max", "min", "argmax", "argmin"])
def test_reduced_axes_are_kept(name: str, dim: Any) -> None:
    x = ft.input("x", (None, 3, 4, 4))
    kept, dropped = (getattr(ft, name)(x, dim=dim, keepdim=keep) for keep in (True, False))
    axes = range(4) if dim is None else np.atleast_1d(dim) % 4
    a, b = ft.compile([kept, dropped])(CUBES)
    assert a.shape == tuple(1 if axis in axes else e for axis, e in enumerate(CUBES.shape))
    assert np.array_equal(a.reshape(b.shape), b)
    if not name.startswith("arg"):
        assert np.array_equal(b, getattr(np, name)(CUBES, axis=dim))


def test_a_mean_that_broadcasts_back() -> None:
    x = ft.input("x", (None, 3, 4, 4))
    y = x - x.mean((2, 3), keepdim=True)
    value, slope = ft.compile([y, ft.grad((y * y).sum(), x)])(16 * CUBES)
    centred = 16 * CUBES - (16 * CUBES).mean((2, 3), keepdims=True)
    assert np.array_equal(value, centred) and np.allclose(slope, 2 * centred, rtol=1e-6, atol=1e-3)


def test_several_axes_are_one_tuple_under_either_name() -> None:
    x = ft.input("x", (None, 3, 4, 4))
    assert ft.sum(x, axis=1).equation == ft.sum(x, 1).equation and x.mean(axis=(2, 3)).shape == x.mean((2, 3)).shape
    with pytest.raises(ft.DTypeError, match="dim=0 and axis=1 are two words for the same: give one"):
        ft.sum(x, 0, axis=1)
    with pytest.raises(ft.DTypeError, match=re.escape("keepdim=3: expected True or False; several axes are one tuple")):
        x.sum(2, 3)


@pytest.mark.parametrize("exponent", [1, 2, 3, 8, 2.0, np.int64(3), -1, -2])
def test_a_whole_power(exponent: Any) -> None:
    x = ft.input("x", (2, 3))
    array = np.array([[1, 2, -1], [-2, 1, 2]], np.float32)
    y = x**exponent
    value, slope = ft.compile([y, ft.grad(y.sum(), x)])(array)
    assert np.array_equal(value, array ** float(exponent)) and np.array_equal(slope, exponent * array ** float(exponent - 1))


def test_other_powers() -> None:
    x = ft.input("x", (2, 3))
    assert str((x**0.5).equation) == "Y[n,k] = √(X[n,k])"
    for exponent in (0, 9, 1.5, float("nan"), float("inf"), None, "2", x, np.ones(2)):
        with pytest.raises(ft.UnsupportedOp, match=r"a power is a product, of 1 to 8 factors.*ft\.exp\(exponent \* ft\.log\(x\)\)"):
            x**exponent


@pytest.mark.parametrize("between", [(), (4,), (3, 2), (2, 1, 3)])
def test_a_linear_layer_maps_the_last_axis(between: tuple[int, ...]) -> None:
    draw = np.random.default_rng(1).integers
    array, weight, bias = draw(-3, 4, (2, *between, 5)).astype("f"), draw(-3, 4, (7, 5)), draw(-3, 4, 7)
    x, w, b = ft.input("x", (None, *between, 5)), ft.parameter(weight, "w", "float32"), ft.parameter(bias, "b", "float32")
    y = ft.linear(x, w, b)
    expected = array @ weight.T + bias
    rows = expected.reshape(-1, 7)
    wanted = [expected, 2 * expected @ weight, 2 * rows.T @ array.reshape(-1, 5), 2 * rows.sum(0)]
    for got, value in zip(ft.compile([y, *ft.grad((y * y).sum(), [x, w, b])])(array), wanted, strict=True):
        assert np.array_equal(got, value)


def test_shapes_and_axes_may_be_one_tuple() -> None:
    x = ft.input("x", (None, 3, 4, 4))
    assert x.reshape((-1, 48)) is x.reshape(-1, 48) and x.reshape([None, 48]) is x.reshape(-1, 48)
    assert x.transpose((0, 2, 3, 1)) is x.transpose(0, 2, 3, 1)
    with pytest.raises(ft.ShapeError, match="to exchange two axes name all of them: 0, 2, 1, 3"):
        x.transpose(1, 2)
    with pytest.raises(ft.ShapeError, match="is not a permutation"):
        x.transpose("ab", None)
    m = ft.input("m", (4, 2))
    assert np.array_equal(evaluate(np.ones((3, 4)) @ m, {m: CUBES[0, 0, :, :2]}), np.ones((3, 4)) @ CUBES[0, 0, :, :2])


# ---- what cannot be meant ----


def test_optimisers_are_not_given_the_parameters() -> None:
    net = nn.Linear(3, 2)
    for optimiser in (ft.optim.SGD, ft.optim.Adam, ft.optim.AdamW):
        for given in (net.parameters(), list(net.parameters()), [{"params": net.parameters()}]):
            with pytest.raises(ft.FaltungError, match=re.escape(f"ft.compile_step(loss, net, ft.optim.{optimiser.__name__}(lr=…))")):
                optimiser(given, lr=0.1)  # type: ignore[misc, arg-type]


def test_a_tensor_is_no_array() -> None:
    x = ft.input("x", (None, 3))
    for wrong in (np.asarray, np.array, lambda x: np.array([x, x])):
        with pytest.raises(ft.DTypeError):
            wrong(x)
    for compare in (lambda: x > 0, lambda: x < x, lambda: x <= 0, lambda: x >= 1):
        with pytest.raises(ft.UnsupportedOp, match="a comparison of tensors is a bracket of an equation"):
            compare()
    with pytest.raises(ft.DTypeError, match="complex numbers"):
        nn.Linear(3, 2).weight.assign(np.ones((2, 3), complex))


def test_types_as_numpy_has_them() -> None:
    assert nn.Linear(3, 2, dtype=np.float64).weight.dtype == nn.BatchNorm2d(3, dtype=np.dtype("f8")).weight.dtype == "float64"
    assert ft.constant([1, 2], dtype=np.float32).dtype == "float32"
    for wrong in (None, "text", object(), ft.input("x", (3,))):
        with pytest.raises(ft.DTypeError):
            nn.Linear(3, 2, dtype=wrong)
        with pytest.raises(ft.DTypeError):
            ft.input("x", (3,), dtype=wrong)


def test_a_misspelt_attribute_is_no_attribute() -> None:
    op = ft.define("Y[n] = X[s*n+P]")
    assert op(ft.input("X", (9,)), s=2, P=1).shape == (4,)
    with pytest.raises(ft.EquationError, match="attribute Q does not occur in it"):
        op(ft.input("X", (9,)), s=2, P=1, Q=1)
    with pytest.raises(ft.EquationError, match="an equation is text"):
        ft.define(3)  # type: ignore[arg-type]


def test_what_is_no_picture_and_no_file() -> None:
    picture = np.ones((30, 40, 3), np.float32)
    for call in (
        lambda: ft.photos.read(None), lambda: ft.photos.prepare("cat.jpg"), lambda: ft.photos.prepare([[1]]),
        lambda: ft.photos.resize(picture, 1.5), lambda: ft.photos.crop(picture, 0), lambda: ft.photos.crop(picture, None),
        lambda: ft.weights.write("a.npz", None), lambda: ft.weights.write("a.pth", {1: picture}),
    ):  # fmt: skip
        with pytest.raises(ft.FaltungError):
            call()
    assert ft.photos.crop(picture, 30).shape == (30, 30, 3)
