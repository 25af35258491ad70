"""Saliency against NumPy with a backward pass written by hand, in 1, 2 and 3 dimensions; CAM and Grad-CAM symbolically."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn, pictures, saliency
from faltung.graph.evaluate import SYMBOLIC, evaluate

Array = np.ndarray
RANKS = (1, 2, 3)
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
CHANNELS, MAPS, CLASSES, SIDE = 2, 4, 3, 8  # the last map is SIDE/2 wide: means over it divide by powers of 2
LAYER = 4  # the last rectifier


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of products as they are written, so that whole numbers come out exactly."""
    monkeypatch.setattr(saliency.Method, "accuracy", "strict")


def network(rank: int, mean: bool, dtype: str = "float32") -> nn.Sequential:
    """conv - relu - pool - conv - relu, then a global mean or all positions into one linear layer; whole numbers as weights."""
    conv, positions = CONV[rank], 1 if mean else (SIDE // 2) ** rank
    net = nn.Sequential(
        conv(CHANNELS, 3, 3, padding=1, dtype=dtype), nn.ReLU(), MAX[rank](2),
        conv(3, MAPS, 3, padding=1, dtype=dtype), nn.ReLU(),
        *([MEAN[rank](1)] if mean else []), nn.Flatten(), nn.Linear(MAPS * positions, CLASSES, dtype=dtype),
    )  # fmt: skip
    generator = np.random.default_rng(rank)
    net.load_state_dict({k: generator.integers(-2, 3, v.shape) for k, v in net.state_dict().items()})
    return net


def whole(rank: int, images: int = 3) -> Array:
    return np.random.default_rng(10 + rank).integers(-3, 4, (images, CHANNELS, *[SIDE] * rank)).astype(np.float64)


# ---- the oracle: the same network and its backward pass, by hand ----

GRADIENT: Callable[[Array, Array], Array] = lambda g, y: g * (y > 0)  # noqa: E731
GUIDED: Callable[[Array, Array], Array] = lambda g, y: np.maximum(g, 0) * (y > 0)  # noqa: E731
DECONVNET: Callable[[Array, Array], Array] = lambda g, y: np.maximum(g, 0)  # noqa: E731


class Oracle:
    """NumPy's forward pass of `network`, and a backward pass whose rectifiers follow a rule."""

    def __init__(self, net: nn.Sequential, rank: int, mean: bool) -> None:
        self.rank, self.mean = rank, mean
        w = {k: v.astype(np.float64) for k, v in net.state_dict().items()}
        self.first, self.second = (w["0.weight"], w["0.bias"]), (w["3.weight"], w["3.bias"])
        self.last = (w[f"{len(net) - 1}.weight"], w[f"{len(net) - 1}.bias"])

    def _taps(self, shape: tuple[int, ...]) -> list[tuple[Any, Any]]:
        """For each tap of a 3-wide window: its place in the weight, and what it reads of the padded input."""
        return [
            ((slice(None), slice(None), *tap), (slice(None), slice(None), *(slice(t, t + e) for t, e in zip(tap, shape, strict=True))))
            for tap in product(range(3), repeat=self.rank)
        ]

    def _conv(self, x: Array, layer: tuple[Array, Array]) -> Array:
        padded = np.pad(x, [(0, 0), (0, 0)] + [(1, 1)] * self.rank)
        y = sum(np.einsum("nc...,fc->nf...", padded[read], layer[0][tap]) for tap, read in self._taps(x.shape[2:]))
        return y + layer[1].reshape(-1, *[1] * self.rank)

    def _conv_back(self, g: Array, layer: tuple[Array, Array]) -> Array:
        out = np.zeros((len(g), layer[0].shape[1], *(e + 2 for e in g.shape[2:])))
        for tap, read in self._taps(g.shape[2:]):
            out[read] += np.einsum("nf...,fc->nc...", g, layer[0][tap])
        return out[(slice(None), slice(None), *[slice(1, -1)] * self.rank)]

    def _corners(self) -> list[Any]:
        return [(slice(None), slice(None), *(slice(o, None, 2) for o in corner)) for corner in product(range(2), repeat=self.rank)]

    def run(self, x: Array, labels: Any, rule: Callable[[Array, Array], Array] = GRADIENT) -> tuple[Array, Array, Array, Array]:
        """Scores, the last map A, and what the rule makes of the label's score at A and at x."""
        y1 = np.maximum(self._conv(x, self.first), 0)
        windows = np.stack([y1[corner] for corner in self._corners()])
        a = np.maximum(self._conv(windows.max(axis=0), self.second), 0)
        area = np.prod(a.shape[2:])
        features = a.reshape(len(x), MAPS, -1).mean(axis=2) if self.mean else a.reshape(len(x), -1)
        scores = features @ self.last[0].T + self.last[1]
        labels = scores.argmax(axis=1) if labels is None else np.asarray(labels)

        g = self.last[0][labels]
        at_a = np.broadcast_to((g / area).reshape(*g.shape, *[1] * self.rank), a.shape) if self.mean else g.reshape(a.shape)
        g = self._conv_back(rule(at_a, a), self.second)
        chosen, out = windows.argmax(axis=0), np.zeros_like(y1)
        for number, corner in enumerate(self._corners()):
            out[corner] = g * (chosen == number)
        return scores, a, at_a, self._conv_back(rule(out, y1), self.first)


def heat_of(maps: Array, side: int) -> Array:
    """What is positive, scaled, enlarged, and scaled again."""
    return scaled(enlarged(maps, side))


def enlarged(maps: Array, side: int) -> Array:
    """What is positive, scaled, and enlarged linearly between the centres of pixels."""
    found = scaled(np.maximum(maps, 0))
    for axis in range(1, maps.ndim):
        old = maps.shape[axis]
        at = (np.arange(side) + 0.5) * old / side - 0.5
        found = np.apply_along_axis(lambda line, at=at, old=old: np.interp(at, np.arange(old), line), axis, found)
    return found


def scaled(maps: Array) -> Array:
    axes = tuple(range(1, maps.ndim))
    low, high = maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)
    return (maps - low) / np.where(high > low, high - low, 1)


def spatial(rank: int) -> tuple[int, ...]:
    return tuple(range(2, rank + 2))


# ---- activation maps ----


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_grad_cam(rank: int, mean: bool) -> None:
    net, x = network(rank, mean), whole(rank)
    method = saliency.GradCAM(net, [net[LAYER]])
    for labels in (None, [2, 0, 1]):
        scores, a, g, _ = Oracle(net, rank, mean).run(x, labels)
        weights = g.mean(axis=spatial(rank))
        wanted = np.einsum("nf,nf...->n...", weights, a)
        assert (method.scores(x) == scores).all()
        assert (method.maps(x, labels)[0] == wanted).all()  # whole numbers over powers of 2: exact
        heat = method(x, labels)
        assert heat.shape == (3, *x.shape[2:]) and heat.min() >= 0 and heat.max() <= 1
        assert np.allclose(heat, heat_of(wanted, SIDE), atol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_grad_cam_plus_plus_is_the_papers_formula(rank: int) -> None:
    net, x = network(rank, False), whole(rank)
    _, a, g, _ = Oracle(net, rank, False).run(x, [0, 1, 2])
    total = a.sum(axis=spatial(rank), keepdims=True)
    below = 2 * g**2 + total * g**3
    alpha = np.divide(g**2, below, out=np.zeros_like(g), where=(g > 0) & (below != 0))
    wanted = np.einsum("nf,nf...->n...", (alpha * np.maximum(g, 0)).sum(axis=spatial(rank)), a)
    method = saliency.GradCAMPlusPlus(net, net[LAYER])
    assert np.allclose(method.maps(x, [0, 1, 2])[0], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert np.allclose(method(x, [0, 1, 2]), heat_of(wanted, SIDE), atol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_cam_is_grad_cam_times_the_number_of_positions(rank: int) -> None:
    net, x = network(rank, True), whole(rank)
    _, a, _, _ = Oracle(net, rank, True).run(x, [1, 1, 0])
    cam = saliency.CAM(net, str(LAYER))
    found = cam.maps(x, [1, 1, 0])[0]
    weight = net.state_dict()[f"{len(net) - 1}.weight"][[1, 1, 0]]
    assert (found == np.einsum("nf,nf...->n...", weight, a)).all()
    assert found.any() and (found == saliency.GradCAM(net, str(LAYER)).maps(x, [1, 1, 0])[0] * (SIDE // 2) ** rank).all()
    assert np.allclose(cam(x), saliency.GradCAM(net, str(LAYER))(x), atol=1e-6)


def test_symbolically_the_derivative_by_the_activation_is_the_weight_over_the_area() -> None:
    import sympy

    net = network(2, True)
    a = ft.input("A", (1, MAPS, 3, 5))
    v = net[-1].weight
    symbols = np.array(sympy.symbols(f"V:{CLASSES}:{MAPS}")).reshape(CLASSES, MAPS)
    for k in range(CLASSES):
        derivative = evaluate(ft.grad(net[LAYER + 1 :](a)[0, k], a), {v: symbols}, SYMBOLIC)
        for f in range(MAPS):
            assert all(sympy.simplify(d - symbols[k, f] / 15) == 0 for d in derivative[0, f].flat)


def test_several_layers_are_averaged() -> None:
    net, x = network(2, True), whole(2)
    both = saliency.GradCAM(net, [net[1], "4"])
    maps = both.maps(x)
    assert [m.shape for m in maps] == [(3, 8, 8), (3, 4, 4)]
    assert np.allclose(both(x), scaled(enlarged(maps[0], SIDE) + enlarged(maps[1], SIDE)), atol=1e-5)


class Residual(nn.Module):
    """A block with functions between its layers, as users write them."""

    def __init__(self) -> None:
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Any) -> ft.Tensor:
        return ft.relu(self.norm(self.first(x)) + x)


def test_any_layer_of_a_tree_is_reached_and_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential({"block": Residual(), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "drop": nn.Dropout(), "fc": nn.Linear(CHANNELS, 2)})
    net.block.norm.eval()
    before, x = net.state_dict(), whole(2)
    for layer in ("block", "block.first", "block.norm"):
        method = saliency.GradCAM(net, layer)
        assert method(x).shape == (3, SIDE, SIDE)
        assert (method(x) == method(x)).all()  # evaluation: no dropout, running statistics
    assert net.training and net.drop.training and not net.block.norm.training
    assert all((value == before[key]).all() for key, value in net.state_dict().items())
    assert net.updates() == []


# ---- derivatives by the input ----


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("method", "rule"), [(saliency.Gradients, GRADIENT), (saliency.GuidedBackprop, GUIDED), (saliency.Deconvnet, DECONVNET)])
def test_backward_passes(method: type[saliency.Gradients], rule: Callable[[Array, Array], Array], rank: int) -> None:
    net, x = network(rank, False), whole(rank)
    made = method(net)
    for labels in (None, [1, 2, 2]):
        wanted = Oracle(net, rank, False).run(x, labels, rule)[3]
        assert wanted.any() and (made.attributions(x, labels) == wanted).all()
        assert np.allclose(made(x, labels), scaled(np.abs(wanted).max(axis=1)), atol=1e-6)


def test_the_three_rules_differ() -> None:
    x, net = whole(2), network(2, False)
    found = [m(net).attributions(x) for m in (saliency.Gradients, saliency.GuidedBackprop, saliency.Deconvnet)]
    assert all((a != b).any() for a, b in [(found[0], found[1]), (found[1], found[2]), (found[0], found[2])])


def test_rules_hold_for_a_rectifier_that_is_cut_off_and_for_no_other_function() -> None:
    v = np.array([[1.0, -1, 1], [-2, 1, 3]])
    x = np.array([[[-1.0], [3], [8]], [[2.0], [-1], [5]]])
    for layer, gate in ((nn.ReLU6(), lambda x: (x > 0) & (x < 6)), (nn.Hardtanh(), lambda x: (x > -1) & (x < 1))):
        net = nn.Sequential(layer, nn.Flatten(), nn.Linear(3, 2, bias=False))
        net.load_state_dict({"2.weight": v})
        g, inside = v[[0, 1]][..., None], gate(x)
        rectified = isinstance(layer, type(nn.ReLU6()))
        passes = np.maximum(g, 0) if rectified else g
        assert (saliency.GuidedBackprop(net).attributions(x, [0, 1]) == passes * inside).all()
        assert (saliency.Deconvnet(net).attributions(x, [0, 1]) == (passes if rectified else g * inside)).all()


# ---- SmoothGrad and integrated gradients ----


def mix(h: Array) -> Array:
    """lowbias32 by C. Wellons, on 64-bit words."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return h ^ (h >> 16)


def normals(count: int, sample: int, seed: int) -> Array:
    """Sums of twelve uniform numbers, a function of position, sample and seed."""
    at, total = np.arange(count, dtype=np.uint64), np.zeros(count)
    for q in range(12):
        key = mix(mix(np.array([12 * seed + q], np.uint64)) ^ np.uint64(sample))
        total += ((mix(mix(at) ^ key) >> 8) + 0.5) / 2**24
    return total - 6


@pytest.mark.parametrize("rank", RANKS)
def test_smooth_grad(rank: int) -> None:
    net, x = network(rank, False, "float64"), whole(rank)
    oracle, axes = Oracle(net, rank, False), tuple(range(1, rank + 2))
    labels = oracle.run(x, None)[0].argmax(axis=1)
    reach = 0.2 * (x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True))
    noisy = [x + reach * normals(x.size, sample, 7).reshape(x.shape) for sample in range(4)]
    wanted = np.mean([oracle.run(z, labels)[3] for z in noisy], axis=0)
    found = saliency.SmoothGrad(net, samples=4, noise=0.2, seed=7).attributions(x)
    assert np.allclose(found, wanted, atol=1e-12 * np.abs(wanted).max())


def test_smooth_grad_follows_its_seed_and_its_noise_is_normal() -> None:
    net, x = network(2, False), whole(2)
    one, same, other = (saliency.SmoothGrad(net, samples=3, seed=s).attributions(x) for s in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
    assert (saliency.SmoothGrad(net, samples=2, noise=0).attributions(x) == saliency.Gradients(net).attributions(x)).all()
    drawn = np.concatenate([normals(20000, sample, 3) for sample in range(5)])
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01 and abs((np.abs(drawn) < 1).mean() - 0.683) < 0.01


@pytest.mark.parametrize("rank", RANKS)
def test_integrated_gradients(rank: int) -> None:
    net, x = network(rank, False, "float64"), whole(rank)
    start = np.full((CHANNELS, *[1] * rank), 0.5)
    oracle, labels, steps = Oracle(net, rank, False), [2, 1, 0], 8
    ways = [(part + 0.5) / steps for part in range(steps)]
    wanted = (x - start) * np.mean([oracle.run(start + r * (x - start), labels)[3] for r in ways], axis=0)
    found = saliency.IntegratedGradients(net, steps=steps, baseline=start).attributions(x, labels)
    assert np.allclose(found, wanted, atol=1e-12 * np.abs(wanted).max())


def test_integrated_gradients_are_complete() -> None:
    net, x = network(2, False, "float64"), whole(2)
    method = saliency.IntegratedGradients(net, steps=1000)
    scores, zero = method.scores(x), method.scores(np.zeros_like(x))
    best = scores.argmax(axis=1)
    wanted = (scores - zero)[range(3), best]
    assert np.allclose(method.attributions(x).sum(axis=(1, 2, 3)), wanted, rtol=2e-3)
    rough = saliency.IntegratedGradients(net, steps=1).attributions(x).sum(axis=(1, 2, 3))
    assert not np.allclose(rough, wanted, rtol=2e-3)  # so that the tolerance says something


# ---- how they are called ----


def test_targets_are_numbers_or_objects_and_the_best_class_stands_in() -> None:
    net, x = network(2, True), whole(2)
    with saliency.GradCAM(model=net, target_layers=[net[LAYER]]) as method:
        best = method.scores(x).argmax(axis=1)
        wanted = method(input_tensor=x, targets=[saliency.ClassifierOutputTarget(k) for k in best.tolist()])
        assert (method(x, best) == wanted).all() and (method(x, list(best)) == wanted).all()
        assert (method(x) == wanted).all() and (method(input_tensor=x, targets=None) == wanted).all()
        assert (method(x[:1], 2) == method(x[:1], [2])).all()
        callable_too = type("ClassifierOutputTarget", (Softmax,), {})  # pytorch-grad-cam's own is both
        assert (method(x, [callable_too(k) for k in best.tolist()]) == wanted).all()


def test_one_program_serves_every_batch_size_and_follows_the_network() -> None:
    net, x = network(2, True), whole(2, 5)
    method = saliency.GradCAM(net, "4")
    all_five = method(x)
    assert all((method(x[n : n + 1])[0] == all_five[n]).all() for n in range(5)) and method(x[:0]).shape == (0, SIDE, SIDE)
    assert len(method._programs) == 1
    maps = method.maps(x, [0] * 5)[0]
    net.load_state_dict({k: 2 * v if k == "7.weight" else v for k, v in net.state_dict().items()})
    assert (method.maps(x, [0] * 5)[0] == 2 * maps).all() and len(method._programs) == 1


def test_a_flat_map_is_cold() -> None:
    net = network(2, True)
    assert (saliency.GradCAM(net, "4")(np.zeros((1, CHANNELS, SIDE, SIDE)))[0] >= 0).all()
    net.load_state_dict({k: 0 * v for k, v in net.state_dict().items()})
    assert (saliency.GradCAM(net, "4")(whole(2)) == 0).all() and (saliency.Gradients(net)(whole(2)) == 0).all()


def test_overlays_mix_the_picture_and_the_heats_colour() -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from matplotlib import colormaps

    picture, heat = np.full((2, 2, 3), 0.5), np.array([[0.0, 1.0], [0.5, 0.25]])
    wanted = 255 * (0.75 * 0.5 + 0.25 * colormaps[pictures.HEAT](heat)[..., :3])
    assert (pictures.overlay(picture, heat, share=0.25) == wanted.round()).all()
    with pytest.raises(ft.ShapeError, match=r"heat \[2, 2\] goes over a picture \[2, 2, 3\], got \[2, 2\]"):
        pictures.overlay(heat, heat)


class Softmax:
    """A target as pytorch-grad-cam has it: of a class, but another score than the class's own."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, scores: Array) -> Array:
        return np.exp(scores[self.category]) / np.exp(scores).sum()


REFUSED: list[tuple[Callable[[nn.Sequential], Any], type[Exception], str]] = [
    (lambda net: saliency.GradCAM(net, "9"), ft.UnsupportedOp, "no layer '9'; its layers are 0, 1"),
    (lambda net: saliency.GradCAM(net, nn.ReLU()), ft.UnsupportedOp, "ReLU is none of them"),
    (lambda net: saliency.GradCAM(net, []), ft.UnsupportedOp, "target_layers is empty"),
    (lambda net: saliency.GradCAM(net, "7")(whole(2)), ft.ShapeError, "gives [N, 3]; a map is (N, channels, …)"),
    (lambda net: saliency.GradCAM(net[:3], "2")(whole(2)), ft.ShapeError, "must give scores (N, classes)"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2)[0, 0]), ft.ShapeError, "got [8, 8]"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), [0, 1]), ft.ShapeError, "2 targets for 3 images"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), [0, 1, 3]), ft.ShapeError, "target 2 is 3: the network has the classes 0 to 2"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), [0, 1, -1]), ft.ShapeError, "target 2 is -1"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), ["cat", 1, 1]), ft.ShapeError, "target 0 is 'cat'"),
    (lambda net: saliency.CAM(net, "2")(whole(2)), ft.UnsupportedOp, "more than a global mean"),
    (lambda net: saliency.CAM(network(2, False), "4")(whole(2)), ft.UnsupportedOp, "more than a global mean"),
    (lambda net: saliency.CAM(nn.Sequential(net, nn.ReLU()), "0.4")(whole(2)), ft.UnsupportedOp, "not the result of a linear layer"),
    (lambda net: saliency.SmoothGrad(net, samples=0), ft.UnsupportedOp, "samples=0: expected an integer of at least 1"),
    (lambda net: saliency.SmoothGrad(net, noise="much"), ft.DTypeError, "noise: expected real numbers, got str"),
    (lambda net: saliency.GradCAM(net, "4")([[["a"]]]), ft.DTypeError, "images: expected real numbers, got list"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), np.array(1)), ft.ShapeError, "1 targets for 3 images"),
    (lambda net: saliency.IntegratedGradients(net, baseline={}), ft.DTypeError, "baseline: expected real numbers, got dict"),
    (lambda net: saliency.IntegratedGradients(net, baseline=np.zeros(7))(whole(2)), ft.ShapeError, "[7] does not broadcast"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), [True, 1, 1]), ft.ShapeError, "target 0 is True"),
    (lambda net: saliency.GradCAM(net, "4")(whole(2), lambda scores: scores[0]), ft.UnsupportedOp, "target 0 is to be called, <lambda>: "),
    (lambda net: saliency.Gradients(net)(whole(2), [0, 1, Softmax(2)]), ft.UnsupportedOp, "target 2 is to be called, a Softmax: "),
    (lambda net: saliency.Gradients(net)(1j * whole(2)), ft.DTypeError, "images: expected real numbers, got ndarray of complex128"),
    (lambda net: saliency.Gradients(net)(whole(2).astype(str)), ft.DTypeError, "images: expected real numbers, got ndarray of <U"),
    (lambda net: saliency.SmoothGrad(net, noise="0.5"), ft.DTypeError, "noise: expected real numbers, got str of <U3"),
    (lambda net: saliency.SmoothGrad(net, noise=[0.1, 0.2]), ft.DTypeError, "noise: expected one number, got shape [2]"),
    (lambda net: saliency.SmoothGrad(net, samples=True), ft.UnsupportedOp, "samples=True"),
    (lambda net: saliency.Gradients(ft.relu), ft.UnsupportedOp, "an nn.Module, not function"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "says"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_does_not_fit_is_refused(make: Callable[[nn.Sequential], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        make(network(2, True))
    assert says in str(caught.value)
