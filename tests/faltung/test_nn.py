"""Layers: names, shapes, values, initial values and messages; and the names of the package itself."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.evaluate import evaluate


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))


class Residual(nn.Module):
    """A block that adds its input, as users write them."""

    def __init__(self, channels: int) -> None:
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.scale = ft.parameter(np.ones((1, channels, 1, 1)))
        self.shift = ft.constant(0.0)

    def forward(self, x: Any) -> ft.Tensor:
        return ft.relu(self.conv(x) * self.scale + x + self.shift)


# ---- parameters and their names ----


def test_keys_are_pytorchs() -> None:
    net = nn.Sequential(small(), Residual(2), nn.Linear(3, 4, bias=False))
    keys = ["0.0.weight", "0.0.bias", "0.4.weight", "0.4.bias", "1.scale", "1.conv.weight", "2.weight"]
    assert [key for key, _ in net.named_parameters()] == keys
    assert [t.name for t in net.parameters()] == keys
    assert list(net.state_dict()) == keys
    assert net.num_parameters == 3 * 9 + 3 + 24 + 2 + 2 + 36 + 12


def test_the_first_example_of_the_design() -> None:
    net = small()
    x, t = ft.input("x", (None, 1, 4, 4)), ft.input("t", (None,), dtype="int64")
    g = ft.grad(ft.cross_entropy(net(x), t), dict(net.named_parameters()))
    assert list(g) == ["0.weight", "0.bias", "4.weight", "4.bias"]
    assert [g[k].shape for k in g] == [v.shape for v in net.state_dict().values()]
    text = unicodedata.normalize("NFC", str(g["0.weight"].equation))
    assert text == "K̄[f,c,p,q] = Σ_{n,i,j} \u0232[n,f,i,j]·X[n,c,i+p-1,j+q-1]"


def test_a_dict_names_the_parts() -> None:
    net = nn.Sequential({"conv": nn.Conv1d(1, 1, 2), "relu": nn.ReLU()})
    assert list(net.state_dict()) == ["conv.weight", "conv.bias"]
    assert net.conv is net[0] and len(net) == 2


def test_positions_slices_and_iteration() -> None:
    net = small()
    assert net[-1] is net[4] and [type(m).__name__ for m in net][:2] == ["Conv2d", "ReLU"]
    tail = net[3:]
    assert isinstance(tail, nn.Sequential) and tail[1] is net[4]
    assert list(tail.state_dict()) == ["1.weight", "1.bias"]
    assert net[4].weight.name == "4.weight"  # a slice shares layers and leaves their names alone
    assert tail.append(nn.ReLU()) is tail and len(tail) == 3 and len(net) == 5
    with pytest.raises(IndexError, match="position 5 in a sequence of 5"):
        net[5]


def test_a_shared_layer_counts_once_and_is_saved_under_both_keys() -> None:
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    assert [key for key, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert net.num_parameters == 12


def test_modules_and_modes() -> None:
    net = nn.Sequential(Residual(2), nn.ReLU())
    assert [path for path, _ in net.named_modules()] == ["", "0", "0.conv", "1"]
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train() is net and all(m.training for m in net.modules())


def test_a_module_prints_as_in_pytorch() -> None:
    assert repr(nn.Sequential(Residual(2), nn.Linear(3, 4, bias=False))) == (
        "Sequential(\n"
        "  (0): Residual(\n"
        "    (conv): Conv2d(2, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)\n"
        "  )\n"
        "  (1): Linear(in_features=3, out_features=4, bias=False)\n"
        ")"
    )
    assert repr(nn.MaxPool2d((2, 3))) == "MaxPool2d(kernel_size=(2, 3), stride=(2, 3), padding=0, dilation=1)"
    assert repr(nn.Sequential()) == "Sequential()"


@pytest.mark.parametrize("name", ["a.b", "", "forward"])
def test_a_part_has_a_name_that_can_be_a_key(name: str) -> None:
    with pytest.raises(ft.UnsupportedOp, match=repr(name)):
        setattr(nn.Module(), name, nn.ReLU())


def test_a_module_is_no_part_of_itself() -> None:
    net = nn.Sequential(nn.Sequential())
    with pytest.raises(ft.UnsupportedOp, match="part of itself"):
        net[0].inner = net


# ---- values ----


def test_state_dict_gives_copies() -> None:
    net = small()
    state = net.state_dict()
    state["0.weight"][:] = 0
    assert net.state_dict()["0.weight"].any()


def test_loading_converts_and_says_what_it_passed_over() -> None:
    net = small()
    weights = np.arange(24).reshape(2, 12)
    passed = net.load_state_dict({"4.weight": weights, "extra": 1}, strict=False)
    assert passed.missing_keys == ["0.weight", "0.bias", "4.bias"] and passed.unexpected_keys == ["extra"]
    loaded = net.state_dict()["4.weight"]
    assert loaded.dtype == np.float32 and (loaded == weights).all()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    net, before = small(), small().state_dict()
    net.load_state_dict(before)
    wrong = before | {"0.weight": np.zeros((3, 1, 5, 5)), "5.weight": np.zeros(2), "0.bias": np.array(["a"] * 3)}
    del wrong["4.bias"]
    with pytest.raises(ft.CheckpointError) as caught:
        net.load_state_dict(wrong)
    for words in (
        "4.bias is missing", "5.weight is unexpected", "0.weight has shape [3, 1, 5, 5], expected [3, 1, 3, 3]",
        "0.bias holds <U1",
    ):  # fmt: skip
        assert words in str(caught.value)
    assert all((a == before[key]).all() for key, a in net.state_dict().items())
    with pytest.raises(ft.CheckpointError, match="0.weight has shape"):
        net.load_state_dict({"0.weight": np.zeros(1)}, strict=False)
    with pytest.raises(ft.CheckpointError, match="takes a dict"):
        net.load_state_dict([1, 2])  # type: ignore[arg-type]


def test_initial_values_are_seeded_and_bounded() -> None:
    ft.manual_seed(3)
    net = nn.Conv2d(16, 32, (3, 5))
    weight, bias = net.state_dict().values()
    bound = 1 / np.sqrt(16 * 15)
    assert 0.98 * bound < np.abs(weight).max() <= bound * (1 + 1e-6) and 0.5 * bound < np.abs(bias).max() <= bound * (1 + 1e-6)
    assert abs(weight.mean()) < 0.03 * bound and abs(weight.std() / (bound / np.sqrt(3)) - 1) < 0.02
    ft.manual_seed(3)
    double = nn.Conv2d(16, 32, (3, 5), dtype="float64").state_dict()["weight"]
    assert double.dtype == np.float64 and (double == weight).all()
    with pytest.raises(ft.FaltungError, match="manual_seed"):
        ft.manual_seed(-1)


# ---- what layers compute: the functional form, with the layer's parameters ----

rng = np.random.default_rng(0)

#  layer                                      input            the same, functionally
LAYERS: list[tuple[nn.Module, tuple[int, ...], Callable[[Any, Any], ft.Tensor]]] = [
    (nn.Conv1d(2, 3, 3, 2, 1, 2),             (2, 2, 9),       lambda m, x: ft.conv1d(x, m.weight, m.bias, 2, 1, 2)),
    (nn.Conv2d(2, 3, (1, 2), bias=False),     (2, 2, 4, 5),    lambda m, x: ft.conv2d(x, m.weight)),
    (nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 2, 4, 5),    lambda m, x: ft.conv2d(x, m.weight, m.bias, 1, (1, 2))),
    (nn.Conv2d(2, 3, 3, padding="valid"),     (2, 2, 4, 5),    lambda m, x: ft.conv2d(x, m.weight, m.bias)),
    (nn.Conv3d(1, 2, 2),                      (1, 1, 3, 3, 3), lambda m, x: ft.conv3d(x, m.weight, m.bias)),
    (nn.Linear(4, 3),                         (2, 4),          lambda m, x: ft.linear(x, m.weight, m.bias)),
    (nn.MaxPool1d(2, 1),                      (1, 2, 5),       lambda m, x: ft.max_pool1d(x, 2, 1)),
    (nn.MaxPool2d(3, 2, 1, 2),                (1, 2, 9, 9),    lambda m, x: ft.max_pool2d(x, 3, 2, 1, 2)),
    (nn.MaxPool3d(2),                         (1, 1, 4, 4, 4), lambda m, x: ft.max_pool3d(x, 2)),
    (nn.MaxPool2d(2, 1, return_indices=True), (1, 2, 4, 4),    lambda m, x: list(ft.max_pool2d(x, 2, 1, return_indices=True))),
    (nn.AvgPool1d(3, 1, 1),                   (1, 2, 5),       lambda m, x: ft.avg_pool1d(x, 3, 1, 1)),
    (nn.AvgPool2d(2),                         (1, 2, 5, 4),    lambda m, x: ft.avg_pool2d(x, 2)),
    (nn.AvgPool3d(2, 1),                      (1, 1, 3, 3, 3), lambda m, x: ft.avg_pool3d(x, 2, 1)),
    (nn.Flatten(),                            (2, 3, 4),       lambda m, x: ft.reshape(x, (2, 12))),
    (nn.Flatten(0, 1),                        (2, 3, 4),       lambda m, x: ft.reshape(x, (6, 4))),
    (nn.ReLU(),                               (2, 3),          lambda m, x: ft.relu(x)),
    (nn.Tanh(),                               (2, 3),          lambda m, x: ft.tanh(x)),
    (nn.Sigmoid(),                            (2, 3),          lambda m, x: ft.sigmoid(x)),
    (nn.Softmax(0),                           (2, 3),          lambda m, x: ft.softmax(x, 0)),
    (nn.LogSoftmax(dim=1),                    (2, 3),          lambda m, x: ft.log_softmax(x, 1)),
    (nn.Identity(54, unused=True),            (2, 3),          lambda m, x: x),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shape", "function"), LAYERS, ids=lambda v: repr(v) if isinstance(v, nn.Module) else "")
def test_a_layer_is_its_function(layer: nn.Module, shape: tuple[int, ...], function: Callable[[Any, Any], ft.Tensor]) -> None:
    x = ft.input("x", shape)
    values = {x: rng.normal(size=shape)}
    found, expected = layer(x), function(layer, x)
    np.testing.assert_array_equal(evaluate(found, values), evaluate(expected, values))


def test_cross_entropy_as_a_module() -> None:
    x, t = ft.input("x", (None, 3)), ft.input("t", (None,), "int64")
    assert nn.CrossEntropyLoss()(x, t) is ft.cross_entropy(x, t)


# ---- messages ----


def test_an_error_names_the_innermost_layer_once() -> None:
    net = nn.Sequential(nn.Sequential(nn.Identity(), nn.Conv2d(1, 32, 3)))
    with pytest.raises(ft.ShapeError) as caught:
        net(ft.input("x", (None, 3, 28, 28)))
    text = str(caught.value)
    assert text.startswith('Conv2d "0.1" (1, 32, kernel_size=(3, 3), stride=(1, 1)): the input has 3 channels')
    assert text.count("Conv2d") == 1 and "Sequential" not in text


def test_a_linear_layer_says_what_to_write() -> None:
    with pytest.raises(ft.ShapeError, match=r'Linear "4" .*has 27 features .* expects 12 .* write Linear\(27, 2\)'):
        small()(ft.input("x", (None, 1, 6, 6)))


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.Conv2d(4, 4, 3, padding="full"), ft.UnsupportedOp, "'valid' or 'same'"),
    (lambda: nn.Conv2d(0, 4, 3), ft.ShapeError, "in_channels=0"),
    (lambda: nn.Conv2d(1, 4, (3, 3, 3)), ft.ShapeError, "or 2 of them"),
    (lambda: nn.Conv1d(1, 4, 3, padding=-1), ft.ShapeError, "padding=-1"),
    (lambda: nn.Linear(1.5, 4), ft.ShapeError, "in_features=1.5"),  # type: ignore[arg-type]
    (lambda: nn.Linear(1, 4, dtype="int64"), ft.DTypeError, "int64 cannot be trained"),
    (lambda: nn.MaxUnpool2d(2)(ft.input("x", (1, 1, 2, 2)), ft.input("i", (1, 1, 2, 3), "int64")), ft.ShapeError, "indices are integers"),
    (lambda: nn.MaxUnpool1d(2)(ft.input("x", (1, 1, 2)), ft.input("i", (1, 1, 2), "int64"), (7,)), ft.ShapeError, "less than a stride"),
    (lambda: nn.MaxPool2d(2, return_indices=True)(ft.input("x", (1, 1, 2**13, 2**13))), ft.UnsupportedOp, "exact up to 16777216"),
    (lambda: nn.MaxPool2d(0), ft.ShapeError, "kernel_size=0"),
    (lambda: nn.Sequential(ft.relu), ft.DTypeError, "relu is nn.ReLU()"),  # type: ignore[arg-type]
    (lambda: nn.Sequential(nn.ReLU), ft.DTypeError, "write ReLU()"),  # type: ignore[arg-type]
    (lambda: nn.CrossEntropyLoss(reduction="max"), ft.UnsupportedOp, "expected 'none', 'mean', 'sum'"),
    (lambda: nn.Module()(ft.input("x", (1,))), ft.UnsupportedOp, "defines no forward"),
    (lambda: nn.Conv2d(10**8, 10**8, 3), ft.OutOfMemory, "90,000,000,000,000,000 values"),
]


@pytest.mark.parametrize(("make", "kind", "says"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_is_not_built_is_refused(make: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert says in str(caught.value)


# ---- the package ----


def test_the_import_is_light_and_the_names_are_listed() -> None:
    code = (
        "import sys, faltung as ft\n"
        "heavy = {'sympy', 'networkx', 'llvmlite', 'matplotlib', 'scipy', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert dir(ft) == sorted(ft.__all__) and len(set(ft.__all__)) == len(ft.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there() -> None:
    for name in ft.__all__:
        assert getattr(ft, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'conv4d'"):
        ft.conv4d  # noqa: B018
