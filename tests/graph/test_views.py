"""Views, and tensors put together from several, against NumPy: every element is a copy, so `==`."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.dsl import getitem
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import grad
from faltung.graph.tensor import topological
from tests.check import Array, distinct, hits, integers

X = integers((3, 4, 5, 6), 1)


def image(shape: tuple[int | None, ...] = (None, 4, 5, 6), dtype: str = "float64") -> ft.Tensor:
    return ft.input("x", shape, dtype)


def value(result: ft.Tensor, *arrays: Array) -> Array:
    """The result, its inputs given in order of creation."""
    inputs = sorted((t for t in topological([result]) if t.kind == "input"), key=lambda t: t.serial)
    return np.asarray(evaluate(result, dict(zip(inputs, arrays, strict=True))))


def same(result: ft.Tensor, expected: Array, *arrays: Array) -> None:
    """Equal in value, shape and type of element, and written once everywhere."""
    found = value(result, *arrays)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    assert result.is_leaf or (hits(result, 3) == 1).all()


# ---- parts ----

S = slice
KEYS = [
    1, -1, (0, 2), S(1, 3), S(None, None, 2), S(None, None, -1), (S(None), S(3, 0, -2)), (..., 0), (..., S(1, None, 3)),
    (0, ..., -1), (S(None), None, 1), (None, 2, ..., None, 3), (S(0, 99), S(-2, None)), (1, 2, 3, 4), (S(None),) * 4, (),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_slice_is_numpys(key: Any) -> None:
    same(getitem(image((3, 4, 5, 6)), key), X[key], X)


def test_a_slice_beside_the_open_batch() -> None:
    same(getitem(image(), (S(None), 2, S(4, None, -2))), X[:, 2, 4::-2], X)
    same(getitem(image(), 1), X[1], X)
    assert getitem(image(), (S(None), S(0, 4))).is_leaf, "all of it is the tensor itself"


def test_views_keep_the_type_of_elements() -> None:
    t = image((3, 4), "int64")
    views = [ft.reshape(t, (12,)), ft.transpose(t), getitem(t, (0, S(1, 3))), ft.flip(t), ft.cat([t, t]), ft.pad(t, (1, 1)), ft.stack([t, t])]
    assert {v.dtype for v in views} == {"int64"}


@pytest.mark.parametrize("dims", (None, 0, (1, 3), (-1,)))
def test_flip(dims: Any) -> None:
    same(ft.flip(image((3, 4, 5, 6)), dims), np.flip(X, dims), X)


def test_axes_of_extent_one() -> None:
    x, values = image((3, 1, 4, 1)), X[:, :1, :, :1][:, :, :4]
    same(ft.squeeze(x), values[:, 0, :, 0], values)
    same(ft.squeeze(x, (0, 1)), values[:, 0], values)
    for dim in (0, 1, 2, -1):
        same(ft.unsqueeze(image((3, 4)), dim), np.expand_dims(X[:, :, 0, 0], dim), X[:, :, 0, 0])
    same(ft.unflatten(image(), 1, (2, -1)), X.reshape(3, 2, 2, 5, 6), X)


# ---- several tensors ----


@pytest.mark.parametrize("dim", (0, 1, 2, -1))
def test_cat_and_stack(dim: int) -> None:
    y = np.moveaxis(np.moveaxis(X, dim, 0)[:2] + 100, 0, dim)
    a, b = image(X.shape), ft.input("y", y.shape, "float64")
    same(ft.cat([a, b, a], dim), np.concatenate([X, y, X], dim), X, y)
    same(ft.cat([a], dim), X, X)
    small = X[..., 0]
    c, d = ft.input("c", small.shape, "float64"), ft.input("d", small.shape, "float64")
    same(ft.stack([c, d, c], dim), np.stack([small, small + 1, small], dim), small, small + 1)


def test_the_gradient_of_cat_is_a_piece_of_the_cotangent_for_each() -> None:
    a, b, c = image(), ft.input("y", (None, 2, 5, 6), "float64"), ft.input("c", (None, 6, 5, 6), "float64")
    given = integers((3, 6, 5, 6), 2)
    for g, expected in zip(grad(ft.cat([a, b], 1), [a, b], c), (given[:, :4], given[:, 4:]), strict=True):
        np.testing.assert_array_equal(value(g, given), expected)
    assert "[n,c+4,i,j]" in str(grad(ft.cat([a, b], 1), b, c).equation)


# ---- padding ----

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sides", [(1, 2), (0, 3, 2, 0), (4, 4, 3, 3)], ids=str)
def test_pad(mode: str, sides: tuple[int, ...]) -> None:
    around = [(0, 0)] * (4 - len(sides) // 2) + [tuple(sides[n : n + 2]) for n in range(len(sides) - 2, -1, -2)]
    same(ft.pad(image(), sides, mode), np.pad(X, around, mode=MODES[mode]), X)  # type: ignore[call-overload]


def test_pad_with_a_value_and_cutting() -> None:
    expected = np.pad(X, [(0, 0), (0, 0), (2, 0), (1, 3)], constant_values=7)
    same(ft.pad(image(), (1, 3, 2, 0), value=7), expected, X)
    same(ft.pad(image(), (1, 3, 2, -1), value=7), expected[:, :, :-1], X)
    same(ft.pad(image(), (-2, -1)), X[..., 2:-1], X)
    same(ft.pad(image(), (-2, 1), "replicate"), np.pad(X[..., 2:], [(0, 0)] * 3 + [(0, 1)], mode="edge"), X)
    same(ft.pad(image((3, 4, 5, 6)), (0, 0) * 3 + (1, 0), value=-1), np.pad(X, [(1, 0)] + [(0, 0)] * 3, constant_values=-1), X)
    assert ft.pad(image(), (0, 0)).is_leaf


# ---- channels and space ----


def test_shuffles() -> None:
    many = integers((2, 12, 3, 5), 3)
    up = many.reshape(2, 3, 2, 2, 3, 5).transpose(0, 1, 4, 2, 5, 3).reshape(2, 3, 6, 10)
    same(ft.pixel_shuffle(image((None, 12, 3, 5)), 2), up, many)
    same(ft.pixel_unshuffle(image((None, 3, 6, 10)), 2), many, up)
    dealt = many.reshape(2, 3, 4, 3, 5).swapaxes(1, 2).reshape(2, 12, 3, 5)
    same(ft.channel_shuffle(image((None, 12, 3, 5)), 3), dealt, many)


@pytest.mark.parametrize(("kernel", "dilation", "padding", "stride"), [(2, 1, 0, 1), ((2, 3), 1, (1, 2), (2, 1)), (3, (1, 2), 1, 2)], ids=str)
def test_unfold_and_fold(kernel: Any, dilation: Any, padding: Any, stride: Any) -> None:
    g, h, d, e, p, q, s, t = (v for pair in (kernel, dilation, padding, stride) for v in (pair if isinstance(pair, tuple) else (pair,) * 2))
    padded = np.pad(X, [(0, 0), (0, 0), (p, p), (q, q)])
    rows, columns = (padded.shape[2] - d * (g - 1) - 1) // s + 1, (padded.shape[3] - e * (h - 1) - 1) // t + 1
    windows = [
        padded[:, :, i * s : i * s + d * (g - 1) + 1 : d, j * t : j * t + e * (h - 1) + 1 : e].reshape(3, -1)
        for i in range(rows)
        for j in range(columns)
    ]
    columns_of = np.stack(windows, 2)
    y = ft.unfold(image(), kernel, dilation, padding, stride)
    same(y, columns_of, X)
    added = np.zeros_like(padded)
    given = integers(columns_of.shape, 4)
    for n in range(rows * columns):
        i, j = divmod(n, columns)
        added[:, :, i * s : i * s + d * (g - 1) + 1 : d, j * t : j * t + e * (h - 1) + 1 : e] += given[:, :, n].reshape(3, 4, g, h)
    c = ft.input("c", (None, *columns_of.shape[1:]), "float64")
    np.testing.assert_array_equal(value(ft.fold(c, (5, 6), kernel, dilation, padding, stride), given), added[:, :, p : p + 5, q : q + 6])


# ---- resolution ----


def nearest(x: Array, sizes: tuple[int, ...], offset: float = 0.0) -> Array:
    for axis, n in enumerate(sizes, 2):
        x = np.take(x, [min(floor((o + offset) * x.shape[axis] / n), x.shape[axis] - 1) for o in range(n)], axis)
    return x


def linear(x: Array, sizes: tuple[int, ...], corners: bool) -> Array:
    """Axis by axis with np.interp, which holds the ends as they are."""
    for axis, n in enumerate(sizes, 2):
        e = x.shape[axis]
        at = np.linspace(0, e - 1, n) if corners and n > 1 else (np.arange(n) + 0.5) * e / n - 0.5 if not corners else np.zeros(1)
        x = np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), axis, x)  # noqa: B023
    return x


@pytest.mark.parametrize("size", [(10, 12), (7, 4), (5, 18), (1, 1), (2, 9)], ids=str)
def test_interpolation(size: tuple[int, int]) -> None:
    same(ft.interpolate(image(), size), nearest(X, size), X)
    same(ft.interpolate(image(), size, mode="nearest-exact"), nearest(X, size, 0.5), X)
    for corners in (False, True):
        found = value(ft.interpolate(image(), size, mode="bilinear", align_corners=corners), X)
        np.testing.assert_allclose(found, linear(X, size, corners), atol=1e-12)


def test_interpolation_by_a_factor() -> None:
    same(ft.interpolate(image(), scale_factor=2), X.repeat(2, 2).repeat(2, 3), X)
    same(ft.interpolate(image(), scale_factor=(1, 0.5)), X[..., ::2], X)
    line = X[:, :, 0]
    np.testing.assert_allclose(value(ft.interpolate(image((None, 4, 6)), scale_factor=3, mode="linear"), line), linear(line, (18,), False), atol=1e-12)
    found = value(ft.interpolate(image((None, 4, 6)), scale_factor=1.3, mode="linear"), line)  # ⌊6·1.3⌋ = 7, steps of 1/1.3
    at = np.clip((np.arange(7) + 0.5) / 1.3 - 0.5, 0, 5)
    np.testing.assert_allclose(found[0, 0], np.interp(at, np.arange(6), line[0, 0]), atol=1e-12)


@pytest.mark.parametrize("extent, factor, expected", [(6, 1 / 3, 2), (3, 1 / 3, 1), (9, 2 / 3, 6), (10, 1.3, 13), (7, 0.3, 2), (5, 1e-3, 0)])
def test_a_factor_is_the_number_that_it_was_written_for(extent: int, factor: float, expected: int) -> None:
    x = ft.input("x", (1, 1, extent))
    if expected:
        assert ft.interpolate(x, scale_factor=factor).shape == (1, 1, expected)
    else:
        with pytest.raises(ft.ShapeError, match="leaves nothing"):
            ft.interpolate(x, scale_factor=factor)


@pytest.mark.parametrize("options", [{"size": (11, 8)}, {"size": (3, 5)}, {"size": (11, 8), "align_corners": True}, {"scale_factor": 3}], ids=str)
def test_interpolation_in_double_precision(options: dict[str, Any]) -> None:
    """Weights are rounded to the type that is computed in, not to the image's before."""
    x, doubles = ft.input("x", (None, 2, 5, 6)), np.random.default_rng(3).standard_normal((2, 2, 5, 6))
    y = ft.interpolate(x, mode="bilinear", **options)
    sizes = options.get("size", (15, 18))
    expected = linear(doubles, sizes, options.get("align_corners", False))
    for found in (ft.compile(y, dtype="float64")(doubles), evaluate(y, {x: doubles}), ft.matrix(y, x) @ doubles):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    single = ft.compile(y)(doubles)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-6)


def test_nothing_gets_through_from_an_element_that_is_not_taken() -> None:
    spoilt = X.copy()
    spoilt[:, :, 2, 3] = np.nan
    found = value(ft.interpolate(image(), (7, 8)), spoilt)
    assert np.isnan(found).sum() == np.isnan(nearest(spoilt, (7, 8))).sum()


# ---- indices ----


def test_embedding_and_one_hot() -> None:
    table, places = integers((5, 3), 5), np.array([[0, 4], [2, 2]])
    t, w = ft.input("t", (2, 2), "int64"), ft.input("w", (5, 3), "float64")
    np.testing.assert_array_equal(value(ft.embedding(t, w), places, table), table[places])
    np.testing.assert_array_equal(value(ft.one_hot(t, 5), places), np.eye(5)[places])
    assert ft.one_hot(t, 5).dtype == "int64"
    counts = value(grad(ft.embedding(t, w).sum(), w), places)
    assert counts[:, 0].tolist() == [1, 0, 2, 0, 1]
    padded = ft.embedding(t, w, padding_idx=2)
    np.testing.assert_array_equal(value(padded, places, table), table[places])
    assert evaluate(grad(padded.sum(), w), {t: places, w: table}, EXACT)[:, 0].tolist() == [1, 0, 0, 0, 1]
    np.testing.assert_array_equal(value(ft.embedding(t, w), np.array([[-1, 5], [0, 1]]), table)[0], np.zeros((2, 3)))
    layer = nn.Embedding(5, 3, padding_idx=-1)
    assert list(layer.state_dict()) == ["weight"] and not layer.weight.read()[4].any() and layer(t).shape == (2, 2, 3)


def test_argmin() -> None:
    x = distinct((3, 4), 6)
    assert value(ft.argmin(image((3, 4)), 1), x).tolist() == x.argmin(1).tolist()


# ---- layers ----


def test_layers_are_their_functions() -> None:
    x = image((None, 4, 6, 6))
    pairs: list[tuple[nn.Module, Callable[[], ft.Tensor]]] = [
        (nn.ReflectionPad2d(2), lambda: ft.pad(x, (2, 2, 2, 2), "reflect")),
        (nn.ReplicationPad2d((0, 1, 2, 3)), lambda: ft.pad(x, (0, 1, 2, 3), "replicate")),
        (nn.CircularPad2d(1), lambda: ft.pad(x, (1,) * 4, "circular")),
        (nn.ZeroPad2d(1), lambda: ft.pad(x, (1,) * 4)),
        (nn.ConstantPad2d(1, 0.5), lambda: ft.pad(x, (1,) * 4, value=0.5)),
        (nn.PixelShuffle(2), lambda: ft.pixel_shuffle(x, 2)),
        (nn.PixelUnshuffle(3), lambda: ft.pixel_unshuffle(x, 3)),
        (nn.ChannelShuffle(2), lambda: ft.channel_shuffle(x, 2)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), lambda: ft.interpolate(x, None, 2, "bilinear")),
        (nn.UpsamplingBilinear2d(9), lambda: ft.interpolate(x, 9, None, "bilinear", True)),
        (nn.UpsamplingNearest2d(scale_factor=2), lambda: ft.interpolate(x, scale_factor=2)),
        (nn.Unfold(3, padding=1), lambda: ft.unfold(x, 3, padding=1)),
        (nn.Unflatten(1, (2, 2)), lambda: ft.unflatten(x, 1, (2, 2))),
    ]
    for layer, function in pairs:
        assert layer(x).shape == function().shape
        np.testing.assert_array_equal(value(layer(x), X[..., :1, :].repeat(6, 2)), value(function(), X[..., :1, :].repeat(6, 2)))


ERRORS = [
    (lambda x: getitem(x, (S(None), 9)), ft.ShapeError, "index 9 of axis 1, whose extent is 4"),
    (lambda x: getitem(x, S(1, None)), ft.ShapeError, "the open batch size cannot be cut"),
    (lambda x: getitem(x, -1), ft.ShapeError, "index -1 of axis 0"),
    (lambda x: getitem(x, (0,) * 5), ft.ShapeError, "5 positions"),
    (lambda x: getitem(x, (S(None), S(3, 3))), ft.ShapeError, "slice 3:3:None of axis 1, whose extent is 4, has no elements"),
    (lambda x: getitem(x, (S(None), S(None, None, 0))), ft.ShapeError, "zero"),
    (lambda x: getitem(x, "a"), ft.UnsupportedOp, "index by str"),
    (lambda x: getitem(x, (S(None), np.array([1]))), ft.UnsupportedOp, "index by ndarray"),
    (lambda x: ft.flip(x), ft.ShapeError, "open batch size"),
    (lambda x: ft.cat([x, x]), ft.ShapeError, "open batch size"),
    (lambda x: ft.cat([x, ft.input("y", (None, 4, 5, 7), "float64")], 1), ft.ShapeError, "all other axes must agree"),
    (lambda x: ft.cat([]), ft.ShapeError, "at least one tensor"),
    (lambda x: ft.cat([x, ft.input("y", (None, 4, 5, 6))], 1), ft.DTypeError, "float64, float32"),
    (lambda x: ft.stack([x, x]), ft.ShapeError, "must stay axis 0"),
    (lambda x: ft.unsqueeze(x, 0), ft.ShapeError, "must stay axis 0"),
    (lambda x: ft.pad(x, (1,)), ft.ShapeError, "expected pairs of integers"),
    (lambda x: ft.pad(x, (6, 0), "reflect"), ft.ShapeError, "at most 5 elements on axis 3"),
    (lambda x: ft.pad(x, (-4, -2)), ft.ShapeError, "leave none"),
    (lambda x: ft.pad(x, (1, 1), "mirror"), ft.UnsupportedOp, "mode='mirror'"),
    (lambda x: ft.pad(x, (0, 0) * 2 + (1, 1), "reflect"), ft.ShapeError, "spatial axes"),
    (lambda x: ft.pixel_shuffle(x, 3), ft.ShapeError, "4 channels do not divide by 3·3 = 9"),
    (lambda x: ft.pixel_unshuffle(x, 2), ft.ShapeError, "5×6 does not divide by 2"),
    (lambda x: ft.channel_shuffle(x, 3), ft.ShapeError, "groups=3"),
    (lambda x: ft.unfold(x, 7), ft.ShapeError, "do not fit"),
    (lambda x: ft.fold(ft.flatten(x, 2), (6, 6), 2), ft.ShapeError, "5·5 = 25"),
    (lambda x: ft.interpolate(x), ft.ShapeError, "either size or scale_factor"),
    (lambda x: ft.interpolate(x, 3, mode="linear"), ft.ShapeError, "linear is for 1 spatial axes"),
    (lambda x: ft.interpolate(x, 3, mode="cubic"), ft.UnsupportedOp, "mode='cubic'"),
    (lambda x: ft.interpolate(x, 3, align_corners=True), ft.UnsupportedOp, "no corners"),
    (lambda x: ft.interpolate(x, scale_factor=0.1), ft.ShapeError, "leaves nothing"),
    (lambda x: ft.embedding(x, np.ones((3, 2))), ft.DTypeError, "indices are integers"),
    (lambda x: ft.embedding(ft.input("t", (3,), "int64"), np.ones((3, 2)), 3), ft.ShapeError, "none of the 3 rows"),
    (lambda x: ft.one_hot(ft.input("t", (3,), "int64"), 0), ft.ShapeError, "num_classes=0"),
    (lambda x: nn.ZeroPad2d((1, 2))(x), ft.ShapeError, "an integer or 4 of them"),
    (lambda x: nn.ZeroPad1d(1)(x), ft.ShapeError, "must have 3 axes"),
]


@pytest.mark.parametrize(("build", "error", "message"), ERRORS, ids=[e[2] for e in ERRORS])
def test_an_error_says_what_does_not_fit(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(image())
