"""The shape rule, solved from equations, against the closed formulas written here."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from faltung.graph import dsl
from faltung.graph.errors import DTypeError, FaltungError, ShapeError
from faltung.graph.index import BATCH
from faltung.graph.tensor import Tensor

CONVOLUTIONS = (dsl.conv1d, dsl.conv2d, dsl.conv3d)
MAXIMA = (dsl.max_pool1d, dsl.max_pool2d, dsl.max_pool3d)
MEANS = (dsl.avg_pool1d, dsl.avg_pool2d, dsl.avg_pool3d)
loose: Any = dsl  # to hand over wrong types on purpose


def expected(extent: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """⌊(H + 2P − d·(R − 1) − 1) / s⌋ + 1, not positive where the window does not fit."""
    return (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def axes(rank: int) -> st.SearchStrategy[list[tuple[int, int, int, int, int]]]:
    axis = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
    return st.lists(axis, min_size=rank, max_size=rank)


@pytest.mark.parametrize("rank", (1, 2, 3))
@pytest.mark.parametrize("batch", (None, 0, 1, 5))
def test_convolution(rank: int, batch: int | None) -> None:
    @given(axes(rank))
    @settings(max_examples=60, deadline=None)
    def check(geometry: list[tuple[int, int, int, int, int]]) -> None:
        extent, kernel, stride, padding, dilation = zip(*geometry, strict=True)
        x, w = dsl.input("x", (batch, 2, *extent)), dsl.input("w", (4, 2, *kernel))
        out = tuple(expected(*axis) for axis in geometry)
        if min(out) > 0:
            y = CONVOLUTIONS[rank - 1](x, w, stride=stride, padding=padding, dilation=dilation)
            assert y.shape == (BATCH if batch is None else batch, 4, *out)
        else:
            with pytest.raises(ShapeError, match="but there are only"):
                CONVOLUTIONS[rank - 1](x, w, stride=stride, padding=padding, dilation=dilation)

    check()


@pytest.mark.parametrize("rank", (1, 2, 3))
def test_pooling(rank: int) -> None:
    @given(axes(rank))
    @settings(max_examples=80, deadline=None)
    def check(geometry: list[tuple[int, int, int, int, int]]) -> None:
        geometry = [(h, k, s, min(p, k // 2), d) for h, k, s, p, d in geometry]
        extent, kernel, stride, padding, dilation = zip(*geometry, strict=True)
        x = dsl.input("x", (None, 3, *extent))
        out, plain = tuple(expected(*axis) for axis in geometry), tuple(expected(*axis[:4], 1) for axis in geometry)
        if min(out) > 0:
            assert MAXIMA[rank - 1](x, kernel, stride, padding, dilation).shape == (BATCH, 3, *out)
        if min(plain) > 0:
            assert MEANS[rank - 1](x, kernel, stride, padding).shape == (BATCH, 3, *plain)

    check()


def test_the_stride_of_a_pool_defaults_to_its_kernel() -> None:
    x = dsl.input("x", (None, 1, 9, 9))
    assert dsl.max_pool2d(x, 3).shape == dsl.avg_pool2d(x, 3).shape == (BATCH, 1, 3, 3)
    assert dsl.max_pool2d(x, (3, 2)).shape == (BATCH, 1, 3, 4)


@given(st.lists(st.sampled_from([1, 2, 3]), max_size=5), st.lists(st.sampled_from([1, 2, 3]), max_size=5))
@settings(max_examples=200, deadline=None)
def test_elementwise_ops_broadcast_as_numpy_does(a: list[int], b: list[int]) -> None:
    x, z = dsl.input("x", a), dsl.input("z", b)
    try:
        shape = np.broadcast_shapes(tuple(a), tuple(b))
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast"):
            x + z
    else:
        assert (x + z).shape == shape


def test_the_open_batch_broadcasts_with_one_only() -> None:
    x = dsl.input("x", (None, 3))
    for shape in ((3,), (1, 3), (1, 1), ()):
        assert (x + dsl.input("z", shape)).shape == (BATCH, 3)
    with pytest.raises(ShapeError, match="axis 0 is N and 2"):
        x + dsl.input("z", (2, 3))


@pytest.mark.parametrize(("op", "axis"), list(product((dsl.sum, dsl.mean, dsl.max, dsl.min, dsl.argmax), (None, 0, -1, (0, 2), (1, 2)))))
def test_reductions_drop_their_axes(op: Any, axis: Any) -> None:
    x = dsl.input("x", (3, 4, 5))
    assert op(x, axis).shape == np.zeros((3, 4, 5)).sum(axis).shape


def test_reductions_take_numpy_integers_as_axes() -> None:
    x = dsl.input("x", (3, 4))
    assert loose.sum(x, np.int64(1)) is dsl.sum(x, 1)
    assert dsl.sum(x, (1, -1)) is dsl.sum(x, 1)


# ---- reshape ----


def factors(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    shape: list[int] = []
    while len(shape) < 4:
        d = draw(st.sampled_from([d for d in range(1, count + 1) if count % d == 0]))
        shape.append(d)
        count //= d
    return (*shape, count)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    count = draw(st.sampled_from([1, 4, 6, 12, 24, 36]))
    return factors(draw, count), factors(draw, count)


@given(reshapes())
@settings(max_examples=150, deadline=None)
def test_reshape_is_row_major(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    from faltung.graph.evaluate import evaluate

    old, new = shapes
    array = np.arange(np.prod(old)).reshape(old)
    x = dsl.input("x", old)
    assert (evaluate(dsl.reshape(x, new), {x: array}) == array.reshape(new)).all()


def test_reshape_of_an_open_batch() -> None:
    x = dsl.input("x", (None, 4, 6))
    for wanted, shape in {
        (None, 24): (BATCH, 24), (None, -1): (BATCH, 24), (-1, 24): (BATCH, 24), (BATCH, 2, 12): (BATCH, 2, 12), (None, 8, 3): (BATCH, 8, 3),
    }.items():  # fmt: skip
        assert dsl.reshape(x, wanted).shape == shape
    assert dsl.flatten(x).shape == (BATCH, 24)
    assert dsl.flatten(dsl.input("z", (2, 3, 4, 5)), 1, 2).shape == (2, 12, 5)


# ---- errors: call | error | message ----


def given_input(*shape: int | None, dtype: str = "float32") -> Tensor:
    return dsl.input("x", shape, dtype)


X2, X3, X4 = given_input(2, 3), given_input(2, 3, 5), given_input(2, 3, 5, 5)
ONES = np.ones

# fmt: off
ERRORS: list[tuple[str, Any, type[FaltungError], str]] = [
    ("axis left open",      lambda: given_input(2, None),                     ShapeError, "axis 1 is None, but only axis 0"),
    ("negative extent",     lambda: given_input(-1),                          ShapeError, "extent -1 of axis 0"),
    ("float extent",        lambda: loose.input("x", (2.0,)),                   ShapeError, "extent 2.0 of axis 0"),
    ("no sequence",         lambda: loose.input("x", 3),                        ShapeError, "3"),
    ("complex",             lambda: given_input(3, dtype="complex64"),        DTypeError, "complex64 is not supported; use one of float32"),
    ("no dtype",            lambda: given_input(3, dtype="zz"),               DTypeError, "zz"),
    ("object",              lambda: X2 + None,                                DTypeError, "None|object"),
    ("text",                lambda: X2 + "a",                                 DTypeError, "a"),
    ("mixed floats",        lambda: X2 + given_input(2, 3, dtype="float64"),  DTypeError, "mix float32 and float64"),
    ("conv axes",           lambda: loose.conv2d(X3, ONES((1, 3, 3, 3))),       ShapeError, "must have 4 axes, got 3"),
    ("conv channels",       lambda: loose.conv2d(X4, ONES((1, 2, 3, 3))),       ShapeError, "3 channels .* the weight expects 2"),
    ("conv bias",           lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), ONES(2)), ShapeError, r"B\[2\].*index f is 1 .* but 2"),
    ("conv window",         lambda: loose.conv2d(X4, ONES((1, 3, 6, 6))),       ShapeError, "spans 6 elements, but there are only 5; make the input at least 6"),
    ("conv window padded",  lambda: loose.conv2d(X4, ONES((1, 3, 9, 9)), padding=1), ShapeError, r"only 5 \+ 2·1 padding; make the input at least 7"),
    ("stride 0",            lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), stride=0), ShapeError, "stride=0: give an integer of at least 1"),
    ("stride missing",      lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), stride=None), ShapeError, "stride=None"),
    ("padding negative",    lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), padding=-1), ShapeError, "padding=-1: give an integer of at least 0"),
    ("padding in words",    lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), padding="full"), ShapeError, "full"),
    ("padding too many",    lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), padding=(1, 1, 1)), ShapeError, "or 2 of them"),
    ("dilation 0",          lambda: loose.conv2d(X4, ONES((1, 3, 3, 3)), dilation=0), ShapeError, "dilation=0"),
    ("pool axes",           lambda: loose.max_pool2d(X3, 2),                    ShapeError, "4 axes, got"),
    ("pool padding",        lambda: loose.max_pool2d(X4, 2, padding=2),         ShapeError, "at most half the kernel"),
    ("pool window",         lambda: loose.max_pool2d(X4, 6),                    ShapeError, "spans 6 elements, but there are only 5"),
    ("kernel 0",            lambda: loose.avg_pool2d(X4, 0),                    ShapeError, "kernel_size=0"),
    ("linear axes",         lambda: loose.linear(X4, ONES((5, 3))),             ShapeError, "flatten the input first: 4 axes"),
    ("linear inner",        lambda: loose.linear(X2, ONES((5, 4))),             ShapeError, r"\[2, 3\] and weight \[5, 4\]"),
    ("matmul inner",        lambda: loose.matmul(X2, ONES((4, 2))),             ShapeError, "index k is 3 by axis 1 of A .* but 4"),
    ("matmul axes",         lambda: loose.matmul(X3, X2),                       ShapeError, "takes two matrices"),
    ("sum axis",            lambda: loose.sum(X2, 2),                           ShapeError, "axis 2 of a tensor with 2 axes"),
    ("sum axis in words",   lambda: loose.sum(X2, "n"),                         ShapeError, "n"),
    ("softmax dim",         lambda: loose.softmax(X2, 2),                       ShapeError, "axis 2"),
    ("six axes",            lambda: loose.sum(given_input(*6 * [1])),           ShapeError, "6 axes"),
    ("six axes permuted",   lambda: loose.transpose(given_input(*6 * [1])),     ShapeError, "6 axes"),
    ("permutation",         lambda: loose.transpose(X2, (0, 0)),                ShapeError, "not a permutation"),
    ("permutation outside", lambda: loose.transpose(X2, (0, 3)),                ShapeError, "not a permutation"),
    ("flatten outside",     lambda: loose.flatten(X2, 5),                       ShapeError, "5"),
    ("flatten backwards",   lambda: loose.flatten(X4, 2, 1),                    ShapeError, "."),
    ("flatten the batch",   lambda: loose.flatten(given_input(None, 2), 0),     ShapeError, "start at dimension 1"),
    ("reshape count",       lambda: loose.reshape(X2, (4, 2)),                  ShapeError, "6 elements cannot fill 8"),
    ("reshape wild",        lambda: loose.reshape(X2, (-1, 4)),                 ShapeError, "6 elements do not divide by 4"),
    ("reshape two wild",    lambda: loose.reshape(X2, (-1, -1)),                ShapeError, "only one extent may be -1"),
    ("reshape negative",    lambda: loose.reshape(X2, (-2, -3)),                ShapeError, "-2"),
    ("reshape words",       lambda: loose.reshape(X2, "ab"),                    ShapeError, "a"),
    ("reshape the batch",   lambda: loose.reshape(given_input(None, 2), (2, -1)), ShapeError, "batch"),
    ("cross entropy ranks", lambda: loose.cross_entropy(X3, given_input(2, dtype="int64")), ShapeError, r"\(N, K\) and target \(N\)"),
    ("cross entropy type",  lambda: loose.cross_entropy(X2, given_input(2)),    DTypeError, "labels are integers"),
    ("cross entropy batch", lambda: loose.cross_entropy(X2, given_input(3, dtype="int64")), ShapeError, "index n is 3 .* but 2"),
]
# fmt: on


@pytest.mark.parametrize(("call", "error", "message"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_an_error_does_the_arithmetic(call: Any, error: type[FaltungError], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_errors_are_also_built_in_errors() -> None:
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, TypeError)


def test_a_constant_number_has_no_axes() -> None:
    assert dsl.constant(2.0).shape == ()
    assert dsl.parameter(np.float32(1)).shape == ()


def test_an_empty_axis_is_an_axis() -> None:
    x = dsl.input("x", (0, 3))
    assert (x + 1).shape == (0, 3)
    assert dsl.sum(x, 0).shape == (3,)
