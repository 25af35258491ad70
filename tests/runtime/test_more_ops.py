"""Layers compiled: values and gradients equal the equations', dropout has the same bits, states move with the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.codegen.program import in_place, lower
from faltung.codegen.target import host
from faltung.graph.dsl import getitem
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.pipeline import optimise
from faltung.runtime.model import Model
from tests.check import Array, distinct, integers, positive
from tests.graph.cases import ACTIVATIONS, LOSSES, MOVES, NORMS, Case

Build = Callable[..., ft.Tensor]


def assert_compiled(build: Build, arrays: list[Array], dtype: str, tolerance: float) -> None:
    """The result and its gradients as machine code and by their equations."""
    xs = [ft.input(f"x{n}", a.shape, dtype) for n, a in enumerate(arrays)]
    y = build(*xs)
    c = ft.input("c", y.shape, dtype)
    outputs = [y, *grad(y, xs, c)]
    feed = {**dict(zip(xs, arrays, strict=True)), c: distinct(y.shape, 3)}
    feed = {t: np.asarray(v, dtype).astype(np.float64) for t, v in feed.items()}
    with np.errstate(all="ignore"):
        expected = evaluate(outputs, feed)
    model = ft.compile(outputs)
    found = model(*(feed[t] for t in model.inputs))
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * (1 + abs(want).max()))


@pytest.mark.parametrize("case", [*ACTIVATIONS, *NORMS, *LOSSES, *MOVES], ids=str)
def test_compiled_is_the_equation(case: Case) -> None:
    assert_compiled(case.build, list(case.arrays), "float64", 1e-11)


BIG: list[tuple[str, Build, tuple[tuple[int, ...], ...]]] = [
    ("batch_norm", lambda x, w, b: ft.batch_norm(x, None, None, w, b, True), ((9, 37, 7, 5), (37,), (37,))),
    ("batch_norm of vectors", lambda x: ft.batch_norm(x, training=True), ((67, 33),)),
    ("layer_norm", lambda x, w, b: ft.layer_norm(x, 70, w, b), ((5, 6, 70), (70,), (70,))),
    ("group_norm", lambda x, w: ft.group_norm(x, 3, w), ((2, 48, 5, 7), (48,))),
    ("local_response_norm", lambda x: ft.local_response_norm(x, 5, 0.1), ((2, 35, 4, 6),)),
    ("gelu", ft.gelu, ((3, 77),)),
    ("softplus", ft.softplus, ((3, 77),)),
    ("cat", lambda x, z: ft.cat([ft.relu(x), z, x], 1), ((2, 19, 5, 6), (2, 7, 5, 6))),
    ("pixel_shuffle", lambda x: ft.pixel_shuffle(x, 2), ((2, 36, 5, 17),)),
    ("reflect", lambda x: ft.pad(x, (3, 2, 1, 4), "reflect"), ((2, 17, 6, 18),)),
    ("bilinear by 2", lambda x: ft.interpolate(x, None, 2, "bilinear"), ((1, 17, 9, 16),)),
    ("bilinear", lambda x: ft.interpolate(x, (13, 21), None, "bilinear", True), ((1, 17, 9, 16),)),
    ("slice", lambda x: getitem(x, (..., slice(None, None, -2), slice(1, 30, 3))), ((2, 5, 7, 33),)),
    ("fold", lambda x: ft.fold(ft.unfold(x, 3, 1, 1, 2), (9, 11), 3, 1, 1, 2), ((2, 17, 9, 11),)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "build", "shapes"), BIG, ids=[row[0] for row in BIG])
def test_in_float32_and_across_vectors(name: str, build: Build, shapes: tuple[tuple[int, ...], ...]) -> None:
    assert_compiled(build, [2 * distinct(s, n) for n, s in enumerate(shapes)], "float32", 2e-5)


def test_embedding_compiled() -> None:
    t, w = ft.input("t", (None, 5), "int64"), ft.input("w", (11, 19))
    y = ft.embedding(t, w, 3)
    model = ft.compile([y, grad((y * y).sum(), w), ft.one_hot(t, 11)])
    places, table = np.arange(35).reshape(7, 5) * 3 % 13, integers((11, 19), 1).astype(np.float32)
    inside = places[..., None] < 11
    rows, slope, hot = model(places, table)
    np.testing.assert_array_equal(rows, np.where(inside, table[places % 11], 0))
    expected = np.zeros_like(table)
    np.add.at(expected, places[places < 11], 2 * table[places[places < 11]])
    expected[3] = 0
    np.testing.assert_array_equal(slope, expected)
    assert hot.dtype == np.int64 and (hot == (places[..., None] == np.arange(11))).all()


def first_maxima(x: Array, k: int, s: int, p: int, d: int, ceil: bool) -> tuple[Array, Array]:
    """Maxima over windows of (N, C, …) and their row-major numbers in the plane, in loops."""
    extents, span = x.shape[2:], d * (k - 1) + 1
    counts = [-(-(e + 2 * p - span) // s) + 1 if ceil else (e + 2 * p - span) // s + 1 for e in extents]
    counts = [n - ((n - 1) * s >= e + p) for n, e in zip(counts, extents, strict=True)] if ceil else counts
    values, places = np.zeros((*x.shape[:2], *counts)), np.zeros((*x.shape[:2], *counts), np.int64)
    for at in np.ndindex(values.shape):
        best = -np.inf
        for tap in np.ndindex((k,) * len(extents)):
            here = tuple(s * i + d * q - p for i, q in zip(at[2:], tap, strict=True))
            if all(0 <= h < e for h, e in zip(here, extents, strict=True)) and x[(*at[:2], *here)] > best:
                best = x[(*at[:2], *here)]
                values[at], places[at] = best, np.ravel_multi_index(here, extents)
    return values, places


WINDOWS = [(2, 2, 0, 1, False), (3, 2, 1, 1, False), (3, 1, 1, 1, False), (2, 3, 1, 1, True), (2, 2, 0, 1, True), (3, 2, 1, 2, True)]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("extents", [(9,), (7, 8), (5, 6, 5)], ids=str)
def test_where_maxima_are_and_the_way_back(extents: tuple[int, ...], window: tuple[int, int, int, int, bool]) -> None:
    k, s, p, d, ceil = window
    rank, array = len(extents), distinct((2, 17, *extents), 3).astype(np.float32)
    x = ft.input("x", (None, 17, *extents))
    y, places = getattr(ft, f"max_pool{rank}d")(x, *window, return_indices=True)
    got, where = ft.compile([y, places])(array)
    values, expected = first_maxima(array, k, s, p, d, ceil)
    np.testing.assert_array_equal(got, values)
    np.testing.assert_array_equal(where, expected)
    assert where.dtype == np.int64
    if d == 1:
        back = ft.compile(getattr(ft, f"max_unpool{rank}d")(y, places, k, s, p, extents))(array)
        flat = np.zeros((2, 17, int(np.prod(extents))))
        np.put_along_axis(flat, expected.reshape(2, 17, -1), values.reshape(2, 17, -1), -1)
        np.testing.assert_array_equal(back, flat.reshape(array.shape))


def test_indices_that_name_no_element_of_their_window_have_no_place() -> None:
    x, at = ft.input("x", (1, 1, 3)), ft.input("at", (1, 1, 3), "int64")
    model = ft.compile(ft.max_unpool1d(x, at, 2))
    assert model([[[1, 2, 3]]], np.array([[[1, 0, 4]]]))[0, 0].tolist() == [0, 1, 0, 0, 3, 0]
    assert not model([[[1, 2, 3]]], np.array([[[-1, 2**40, -(2**63)]]])).any()


# ---- rows of tables ----


@pytest.mark.parametrize("width", [1, 3, 16, 33])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_rows_are_looked_up_and_their_gradients_shared_out(width: int, dtype: str) -> None:
    t, w, c = ft.input("t", (None, 3), dtype), ft.input("w", (200, width)), ft.input("c", (None, 3, width))
    y = ft.embedding(t, w)
    model = ft.compile([y, grad(y, w, c), 2 * grad(y, w, c) + w])
    assert [s.schedule for s in model.program.steps if s.schedule == "scatter"], "not every row looks at every label"
    far = np.iinfo(dtype)
    labels = np.random.default_rng(0).integers(-2, 203, (29, 3)).astype(dtype)
    labels[0] = far.min, far.max, 199
    table, slope = integers((200, width), 1).astype(np.float32), integers((29, 3, width), 2).astype(np.float32)
    inside = (labels >= 0) & (labels < 200)
    rows, given, update = model(labels, table, slope)
    np.testing.assert_array_equal(rows, np.where(inside[..., None], table[np.where(inside, labels, 0)], 0))
    expected = np.zeros_like(table)
    np.add.at(expected, labels[inside], slope[inside])
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(update, 2 * expected + table)


def test_the_gradient_of_a_table_does_not_depend_on_the_number_of_threads() -> None:
    t, w, c = ft.input("t", (None,), "int64"), ft.parameter(np.zeros((100, 24))), ft.input("c", (None, 24))
    model = ft.compile(grad(ft.embedding(t, w), w, c))
    threads = ft.get_num_threads()
    labels, slope = np.random.default_rng(1).integers(0, 100, 500), np.random.default_rng(2).normal(size=(500, 24))
    results = []
    try:
        for count in (1, 2, 3):
            ft.set_num_threads(count)
            results.append(model(labels, slope).tobytes())
    finally:
        ft.set_num_threads(threads)
    assert len(set(results)) == 1


def test_a_label_is_looked_up_in_its_row() -> None:
    """The loss of labels reads one class, whatever their number; a label that is no class gives 0."""
    x, t = ft.input("x", (None, 1000)), ft.input("t", (None,), "int64")
    model = ft.compile(ft.nll_loss(x, t, reduction="none"))
    assert "for k" not in model.loops()
    scores, labels = integers((7, 1000), 1), np.array([0, 999, 1000, -1, 500, -100, 2**62])
    inside = (labels >= 0) & (labels < 1000)
    np.testing.assert_array_equal(model(scores, labels), np.where(inside, -scores[np.arange(7), np.where(inside, labels, 0)], 0))


# ---- random bits ----


@pytest.mark.parametrize("shape", [(7,), (5, 33), (2, 17, 5, 3)], ids=str)
def test_dropout_has_the_bits_of_its_equation(shape: tuple[int, ...]) -> None:
    x, step = ft.input("x", shape), ft.input("step", (), "int64")
    y = ft.dropout(x, 0.3, step=step, key=2**31 - 1)
    model = ft.compile([y, grad(y.sum(), x)])
    ones = np.ones(shape)
    masks = []
    for t in (0, 1, 2**31 + 5, 2**40 + 7):  # its lower 32 bits count
        expected = evaluate(y, {x: ones, step: t})
        got, slope = model(ones, t)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        np.testing.assert_array_equal(got, slope)
        masks.append(got > 0)
    assert shape == (7,) or all((a != b).any() for n, a in enumerate(masks) for b in masks[:n])


def test_dropout_does_not_depend_on_the_number_of_threads() -> None:
    x = ft.input("x", (None, 64, 9, 9))
    model = ft.compile(ft.dropout(x, 0.5, key=5))
    threads = ft.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            ft.set_num_threads(count)
            results.append(model(np.ones((6, 64, 9, 9))).tobytes())
    finally:
        ft.set_num_threads(threads)
    assert results[0] == results[1]


# ---- states ----


def compile_updates(loss: ft.Tensor, net: nn.Module) -> Model:
    """The loss and the changes of the network's states, in place, as one program."""
    pairs = net.updates(loss)
    value, *targets = optimise([loss, *(new for _, new in pairs)])
    updates = {new: state for (state, _), new in zip(pairs, targets, strict=True)}
    assert all(in_place(new, state) for new, state in updates.items())
    return Model(lower([value], updates, host()), True, {}, updates)


@pytest.mark.parametrize("momentum", (0.1, None))
def test_states_move_with_every_step(momentum: float | None) -> None:
    net = nn.Sequential(nn.Conv2d(2, 20, 3), nn.BatchNorm2d(20, momentum=momentum), nn.ReLU(), nn.Dropout(0.25), nn.BatchNorm2d(20))
    x = ft.input("x", (None, 2, 7, 6))
    loss = (net(x) * net(x)).mean()
    model = compile_updates(loss, net)
    for step in range(1, 5):
        batch = distinct((step + 2, 2, 7, 6), step).astype(np.float32)
        pairs = net.updates(loss)
        expected = [loss, *(new for _, new in pairs)]
        value, *states = evaluate(expected, {x: batch})
        np.testing.assert_allclose(model(batch), value, rtol=1e-4)
        for (state, _), new in zip(pairs, states, strict=True):
            np.testing.assert_allclose(state.read(), new, rtol=1e-4, atol=1e-5)
    assert net.state_dict()["1.num_batches_tracked"] == 4
    net.eval()
    shown = ft.compile(net(x))(batch)
    np.testing.assert_allclose(shown, evaluate(net(x), {x: batch}), rtol=1e-4, atol=1e-4)


def test_counts_stay_whole_beyond_what_a_float_holds() -> None:
    layer, x = nn.BatchNorm1d(2), ft.input("x", (None, 2))
    steps: Any = layer.num_batches_tracked
    steps.assign(2**53 + 1)
    y = layer(x)
    compile_updates(y.sum(), layer)(positive((3, 2)))
    assert steps.read() == 2**53 + 2


def test_a_network_learns_with_them() -> None:
    """Gradient descent through batch norm, gelu, dropout and group norm by hand-made steps: the loss falls."""
    ft.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 3)
    )
    x, t = ft.input("x", (None, 8)), ft.input("t", (None,), "int64")
    loss = ft.cross_entropy(net(x), t, label_smoothing=0.05)
    named = dict(net.named_parameters())
    model = ft.compile([loss, *grad(loss, named).values()])
    inputs = distinct((96, 8), 2)
    labels = (inputs[:, :3]).argmax(1)
    losses = []
    for _ in range(60):
        value, *gradients = model(inputs, labels)
        losses.append(float(value))
        for parameter, g in zip(named.values(), gradients, strict=True):
            parameter.assign(parameter.read() - 0.2 * g)
    assert losses[-1] < 0.5 * losses[0]
