"""Landscapes and curvature against NumPy: lengths of filters, points of a plane, exact Hessians, second differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import faltung as ft
from faltung import landscape, nn, pictures, zoo
from faltung.landscape.mean import mean
from tests.check import integers

Array = np.ndarray

# ---- networks ----


def convolutional(dtype: str = "float32") -> tuple[nn.Module, ft.Tensor]:
    """A small network with batch normalisation in evaluation mode, and its loss; running statistics are not 0 and 1."""
    ft.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False, dtype=dtype), nn.BatchNorm2d(4, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, dtype=dtype), nn.Flatten(), nn.Linear(24, 5, dtype=dtype),
    )  # fmt: skip
    draw = np.random.default_rng(4)
    net.load_state_dict({k: draw.uniform(0.5, 1.5, v.shape) if "running" in k else v for k, v in net.state_dict().items()})
    x, t = ft.input("x", (None, 2, 8, 8), dtype), ft.input("t", (None,), "int64")
    return net, ft.cross_entropy(net.eval()(x), t)


def examples(count: int) -> tuple[Array, Array]:
    draw = np.random.default_rng(5)
    return draw.standard_normal((count, 2, 8, 8)), draw.integers(0, 5, count)


def lengths(array: Array) -> Array:
    """The length of each filter, one at a time."""
    return np.array([np.sqrt(sum(float(w) ** 2 for w in part.ravel())) for part in array])


# ---- directions ----


def test_each_filter_of_a_direction_is_as_long_as_the_networks() -> None:
    net = zoo.resnet20(in_channels=1)
    found = landscape.directions(net, 2, seed=1)
    assert len(found) == 2 and all(list(d) == [name for name, _ in net.named_parameters()] for d in found)
    for direction in found:
        for name, p in net.named_parameters():
            assert direction[name].shape == p.shape
            if p.rank == 1:
                assert not direction[name].any(), name
            else:
                assert np.allclose(lengths(direction[name]), lengths(p.read()), rtol=1e-14, atol=0), name
    assert np.abs(np.vdot(found[0]["fc.weight"], found[1]["fc.weight"])) < 0.2 * np.square(found[0]["fc.weight"]).sum()


def test_directions_come_from_their_seed_and_follow_the_weights() -> None:
    net, _ = convolutional()
    one, again, other = (landscape.directions(net, 1, seed)[0] for seed in (1, 1, 2))
    assert all((one[k] == again[k]).all() for k in one) and (one["0.weight"] != other["0.weight"]).all()
    net[0].weight.assign(4 * net[0].weight.read() * np.array([1, 0, 1, 1]).reshape(4, 1, 1, 1))
    longer = landscape.directions(net, 1, 1)[0]["0.weight"]
    assert (longer == 4 * one["0.weight"] * np.array([1, 0, 1, 1]).reshape(4, 1, 1, 1)).all()


def test_scales_are_the_length_of_the_filter_of_each_element() -> None:
    net, _ = convolutional()
    found = landscape.scales(net)
    assert np.allclose(found["4.weight"], np.broadcast_to(lengths(net[4].weight.read()).reshape(6, 1, 1, 1), (6, 4, 3, 3)), rtol=1e-14)
    assert not found["1.weight"].any() and not found["6.bias"].any()
    assert list(landscape.weights(net)) == ["0.weight", "4.weight", "6.weight"]


# ---- the plane ----


def test_points_of_the_plane_are_exact_on_whole_numbers() -> None:
    x, t = ft.input("x", (None, 3)), ft.input("t", (None, 2))
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    w = {k: integers(v.shape, seed) for seed, (k, v) in enumerate(net.state_dict().items())}
    d, e = ({k: integers(v.shape, seed + 10 * n) for seed, (k, v) in enumerate(w.items())} for n in (1, 2))
    net.load_state_dict(w)
    plane = landscape.Landscape(ft.mse_loss(net(x), t), net, [d, e])
    images, targets = integers((8, 3), 30), integers((8, 2), 31)

    def loss(a: float, b: float) -> float:
        p = {k: w[k] + a * d[k] + b * e[k] for k in w}
        hidden = np.maximum(images @ p["0.weight"].T + p["0.bias"], 0)
        return float(np.square(hidden @ p["2.weight"].T + p["2.bias"] - targets).mean())

    a, b = np.arange(-2, 3), np.arange(-1, 2)
    found = plane.surface(a, b, images, targets, batch_size=4)
    assert found.loss.tolist() == [[loss(x, y) for y in b] for x in a]
    assert found.a.tolist() == a.tolist() and found.b.tolist() == b.tolist()


def test_the_centre_is_the_loss_and_other_points_are_the_loss_with_other_weights() -> None:
    net, loss = convolutional()
    data = examples(10)
    plane = landscape.Landscape(loss, net, landscape.directions(net, 2))
    model = ft.compile(loss, accuracy="strict")
    assert np.isclose(plane((0, 0), *data), model(*data), rtol=1e-6)
    was = net.state_dict()
    for a, b in ((0.5, -1.0), (2.0, 0.25)):
        d, e = landscape.directions(net, 2)
        there = plane((a, b), *data)
        net.load_state_dict({k: v + (a * d[k] + b * e[k] if k in d else 0) for k, v in was.items()})
        assert np.isclose(there, model(*data), rtol=1e-5)
        net.load_state_dict(was)


def test_the_plane_follows_the_parameters() -> None:
    net, loss = convolutional()
    data, model = examples(6), ft.compile(loss, accuracy="strict")
    plane = landscape.Landscape(loss, net, landscape.directions(net, 1))
    before = plane((0,), *data)
    net[6].weight.assign(2 * net[6].weight.read())
    assert np.isclose(plane((0,), *data), model(*data), rtol=1e-6) and not np.isclose(plane((0,), *data), before, rtol=1e-3)


def test_the_mean_is_over_examples_however_they_are_cut() -> None:
    x = ft.input("x", (None, 2))
    program = ft.compile([ft.mean(x), ft.sum(ft.mean(x, 0))])
    rows = integers((7, 2), 1)
    for size in (7, 3, 1, 100):
        assert [float(part) for part in mean(program, [x], [rows], {}, size)] == pytest.approx([rows.mean(), rows.mean(0).sum()], rel=1e-6)


def test_a_surface_knows_its_curvatures_and_minima() -> None:
    a, b = np.linspace(-1, 1, 9), np.linspace(-2, 2, 9)
    bowl = landscape.Surface(a, b, 3 * a[:, None] ** 2 - 2 * a[:, None] * b + b**2 / 2)
    assert np.allclose(bowl.curvatures(), np.linalg.eigvalsh([[6, -2], [-2, 1]]), atol=1e-12)
    saddle = landscape.Surface(a, b, a[:, None] ** 2 - b**2)
    assert saddle.minima() == [] and (saddle.curvatures()[..., 0] < 0).all()
    crate = landscape.Surface(a, b, np.cos(4 * np.pi * a)[:, None] + np.cos(2 * np.pi * b))
    assert crate.minima() == [(i, j) for i in (1, 3, 5, 7) for j in (1, 3, 5, 7)]


def test_curvatures_need_even_steps() -> None:
    a = np.linspace(-1, 1, 41, dtype=np.float32).astype(np.float64)  # even up to rounding
    assert np.allclose(landscape.Surface(a, a, a[:, None] ** 2 + a**2).curvatures(), 2, atol=1e-3)
    for wrong, steps in ((np.array([0.0, 1, 3]), "1 to 2"), (np.array([0.0, 0, 0]), "0 to 0"), (np.array([0.0, 1, 0]), "-1 to 1")):
        for name, axes in (("a", (wrong, a)), ("b", (a, wrong))):
            with pytest.raises(ft.ShapeError, match=f"curvatures: steps along {name} are {steps}; .* need even ones"):
                landscape.Surface(*axes, np.zeros([len(axis) for axis in axes])).curvatures()


# ---- Lanczos ----


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_both_ends_of_a_spectrum(size: int) -> None:
    draw = np.random.default_rng(size)
    a = draw.standard_normal((size, size))
    a += a.T
    exact = np.linalg.eigvalsh(a)
    found = landscape.ends(lambda v: a @ v, size, most=size, tolerance=0.0)
    assert (found.smallest, found.largest) == pytest.approx((exact[0], exact[-1]), rel=1e-10, abs=1e-12)
    assert found.products <= size


def test_the_error_bounds_the_distance_to_an_eigenvalue() -> None:
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.standard_normal((200, 200)))[0]
    exact = np.sort(draw.standard_normal(200))
    for most in (2, 5, 12, 30):
        found = landscape.ends(lambda v: basis @ (exact * (basis.T @ v)), 200, most, tolerance=0.0)
        assert found.products == most
        for value, error in zip((found.smallest, found.largest), found.error, strict=True):
            assert np.abs(exact - value).min() <= error + 1e-12
        assert exact[0] - 1e-12 <= found.smallest and found.largest <= exact[-1] + 1e-12


def test_an_eigenvalue_that_stands_alone_is_found_at_once_and_repeated_ones_do_not_disturb() -> None:
    exact = np.array([1000.0, *[1.0] * 50, *[-3.0] * 49])
    found = landscape.ends(lambda v: exact * v, 100, most=60)
    assert (found.smallest, found.largest) == pytest.approx((-3, 1000), rel=1e-3) and found.products <= 3


def test_rounding_does_not_make_ghosts() -> None:
    """Eigenvalues far apart: without reorthogonalisation their vectors come back within a few products."""
    exact = np.concatenate([np.geomspace(1, 1e9, 12), np.linspace(0, 1, 100)])
    seen: list[Array] = []

    def product(v: Array) -> Array:
        seen.append(v.copy())
        return exact * v

    landscape.ends(product, 112, most=50, tolerance=0.0)
    basis = np.array(seen)
    assert np.abs(basis @ basis.T - np.eye(len(basis))).max() < 1e-12


# ---- Hessians ----


def test_the_hessian_of_linear_regression_is_exact() -> None:
    """L = mean((X·Wᵀ + 1·bᵀ - T)²): for each output 2/(n·outputs)·[X 1]ᵀ[X 1]."""
    net = nn.Linear(4, 2)
    x, t = ft.input("x", (None, 4)), ft.input("t", (None, 2))
    hessian = landscape.Hessian(ft.mse_loss(net(x), t), net)
    rows, targets = integers((16, 4), 2), integers((16, 2), 3)
    plain = np.concatenate([rows, np.ones((16, 1))], axis=1)
    block = 2 / (16 * 2) * plain.T @ plain
    exact = np.zeros((10, 10))  # order: weight[0], weight[1], bias[0], bias[1]
    for output in range(2):
        places = [*range(4 * output, 4 * output + 4), 8 + output]
        exact[np.ix_(places, places)] = block
    columns = [hessian.times(column, rows, targets, batch_size=8) for column in np.eye(10)]
    assert np.array(columns).T.tolist() == exact.tolist()
    found = hessian.ends(rows, targets, tolerance=1e-7)
    values = np.linalg.eigvalsh(exact)
    assert (found.smallest, found.largest) == pytest.approx((values[0], values[-1]), rel=1e-6)


def test_a_loss_without_examples() -> None:
    w = ft.parameter(np.array([3.0, -1.0]), "w", dtype="float64")
    saddle = ft.sum(w * w * ft.constant(np.array([2.0, -5.0]), dtype="float64"))
    found = landscape.Hessian(saddle, {"w": w}).ends()
    assert (found.smallest, found.largest) == pytest.approx((-10, 4), rel=1e-12)


def test_products_are_second_differences_of_the_loss() -> None:
    """uᵀ·H·v of a network with tanh, against a mixed second difference of the same network written in NumPy."""
    ft.manual_seed(8)
    net = nn.Sequential(nn.Linear(5, 7, dtype="float64"), nn.Tanh(), nn.Linear(7, 3, dtype="float64"))
    x, t = ft.input("x", (None, 5), "float64"), ft.input("t", (None,), "int64")
    hessian = landscape.Hessian(ft.cross_entropy(net(x), t), net)
    draw = np.random.default_rng(9)
    rows, labels, w = draw.standard_normal((12, 5)), draw.integers(0, 3, 12), net.state_dict()
    u, v = ({k: draw.standard_normal(a.shape) for k, a in w.items()} for _ in range(2))

    def loss(a: float, b: float) -> float:
        p = {k: w[k] + a * u[k] + b * v[k] for k in w}
        y = np.tanh(rows @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]
        return float((np.log(np.exp(y).sum(axis=1)) - y[range(12), labels]).mean())

    h = 1e-3
    mixed = (loss(h, h) - loss(h, -h) - loss(-h, h) + loss(-h, -h)) / (4 * h * h)
    product = hessian.times(hessian.flat(v), rows, labels, batch_size=5)
    assert hessian.flat(u) @ product == pytest.approx(mixed, rel=1e-5)


def test_the_plane_bends_as_the_hessian_says() -> None:
    net, loss = convolutional("float64")
    data = examples(9)
    d, e = landscape.directions(net, 2)
    plane, hessian = landscape.Landscape(loss, net, [d, e]), landscape.Hessian(loss, net)
    step = 1e-4
    drawn = plane.surface([-step, 0, step], [-step, 0, step], *data).curvatures()[0, 0]
    both = np.array([hessian.flat(d), hessian.flat(e)])
    exact = both @ np.array([hessian.times(v, *data) for v in both]).T
    assert drawn == pytest.approx(np.linalg.eigvalsh(exact), rel=1e-4, abs=1e-4)


def test_curvature_in_lengths_of_filters_does_not_depend_on_how_the_weights_are_split() -> None:
    ft.manual_seed(11)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    x, t = ft.input("x", (None, 2, 8, 8)), ft.input("t", (None,), "int64")
    data = examples(6)[0], np.random.default_rng(2).integers(0, 4, 6)
    hessian = landscape.Hessian(ft.cross_entropy(net(x), t), landscape.weights(net))

    def curvature(scaled: bool) -> landscape.Ends:
        return hessian.ends(*data, scales=landscape.scales(net) if scaled else None, tolerance=1e-5)

    before = curvature(True), curvature(False)
    net[0].weight.assign(net[0].weight.read() * 4)
    net[3].weight.assign(net[3].weight.read() / 4)
    after = curvature(True), curvature(False)
    assert after[0].largest == pytest.approx(before[0].largest, rel=1e-4)
    assert after[1].largest > 4 * before[1].largest


# ---- faults ----

HALF = {"0.weight": np.zeros(3)}
PLANE_FAULTS: dict[str, tuple[Callable[[], object], type[ft.FaltungError], str]] = {
    "loss":        (lambda: landscape.Landscape(ft.input("y", (2,)), {}, []), ft.ShapeError, r"shape \[2\]; reduce it"),
    "direction":   (lambda: landscape.Landscape(convolutional()[1], convolutional()[0], [HALF]), ft.ShapeError, r"'0.weight' of shape \[3\], .* \[4, 2, 3, 3\]"),
    "name":        (lambda: landscape.Landscape(convolutional()[1], convolutional()[0], [{"z": np.ones(3)}]), ft.ShapeError, "no such parameter"),
    "network":     (lambda: landscape.directions("resnet"), ft.DTypeError, "a network or a dict of parameters, got str"),
    "inputs":      (lambda: landscape.directions({"x": ft.input("x", (2,))}), ft.DTypeError, "dict of parameters"),
    "count":       (lambda: landscape.directions(convolutional()[0], 0), ft.DataError, "0 directions"),
    "points":      (lambda: landscape.Surface(np.arange(2), np.arange(3), np.ones((2, 3))).minima(), ft.ShapeError, "this surface has 2×3"),
    "products":    (lambda: landscape.ends(lambda v: v, 3, most=0), ft.DataError, "0 products of vectors of 3 numbers"),
    "not a number": (lambda: landscape.ends(lambda v: v * np.nan, 3), ft.DataError, "product 1 is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANE_FAULTS)
def test_what_does_not_fit_is_told(fault: str) -> None:
    run, error, text = PLANE_FAULTS[fault]
    with pytest.raises(error, match=text):
        run()


def test_arguments_that_do_not_fit_are_told() -> None:
    net, loss = convolutional()
    plane, hessian = landscape.Landscape(loss, net, landscape.directions(net)), landscape.Hessian(loss, net)
    images, labels = examples(4)
    with pytest.raises(ft.ShapeError, match="1 coordinates for 2 directions"):
        plane((0,), images, labels)
    with pytest.raises(ft.DataError, match=r"do not pair up: arrays of shapes \(4, 2, 8, 8\), \(3,\)"):
        plane((0, 0), images, labels[:3])
    with pytest.raises(ft.DataError, match="0 arrays for 2 inputs of the loss: x, t"):
        plane((0, 0))
    with pytest.raises(ft.DataError, match="batch size 0"):
        plane((0, 0), images, labels, batch_size=0)
    with pytest.raises(ft.ShapeError, match=f"a vector has {net.num_parameters} numbers"):
        hessian.times(np.ones(3), images, labels)


# ---- the picture ----


def test_surfaces_are_drawn_side_by_side(tmp_path: Path) -> None:
    a = np.linspace(-1, 1, 7)
    smooth = landscape.Surface(a, a, a[:, None] ** 2 + a**2)
    wild = landscape.Surface(a, a, np.where(a[:, None] > 0.5, np.nan, 1 + 50 * np.abs(np.sin(9 * a[:, None] * a))))
    path = pictures.landscapes({"smooth": smooth, "wild": wild}, tmp_path / "two.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 20_000
    cut = pictures.landscapes({"smooth": smooth, "wild": wild}, tmp_path / "cut.png", highest=1.5)
    assert cut.read_bytes() != path.read_bytes()
    pictures.landscapes({"one height": landscape.Surface(a, a, np.ones((7, 7)))}, tmp_path / "flat.png")
    with pytest.raises(ft.DataError, match="below -1: the least is 0"):
        pictures.landscapes({"smooth": smooth}, tmp_path / "none.png", highest=-1)
    with pytest.raises(ft.DataError, match="none is finite"):
        pictures.landscapes({"nowhere": landscape.Surface(a, a, np.full((7, 7), np.nan))}, tmp_path / "none.png")
