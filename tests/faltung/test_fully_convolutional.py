"""A classifier as a convolution: equal, crop by crop and bit by bit, to the classifier run on every window of a larger image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.nn.sliding import SlidingLinear, total_stride

Net = Callable[[], nn.Module]


def strictly(y: ft.Tensor) -> Any:
    """Compiled as it is written, so that whole numbers come out exactly."""
    return ft.compile(y, accuracy="strict")


def whole(net: nn.Module, reach: int = 1) -> nn.Module:
    """The network with small whole numbers as parameters and states, so that every sum is exact in float32."""
    generator = np.random.default_rng(3)
    state = {k: generator.integers(-reach, reach + 1, v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict(state | {k: np.full(v.shape, 4) for k, v in state.items() if "running_var" in k})
    return net.eval()


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * 4 * 4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5),
    )  # fmt: skip


def named() -> nn.Module:
    """As torchvision lays its networks out: features, a pooling to a fixed size, a classifier of several layers."""
    return nn.Sequential({
        "features": nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, eps=0.0), nn.ReLU6()),
        "avgpool": nn.AdaptiveAvgPool2d((2, 1)),
        "flatten": nn.Flatten(),
        "classifier": nn.Sequential(nn.Dropout(), nn.Linear(8, 3, bias=False), nn.Softmax(-1)),
    })  # fmt: skip


class Block(nn.Module):
    """A residual block of 1×1 convolutions: no padding, and a forward of its own."""

    def __init__(self, channels: int) -> None:
        self.first, self.second = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Any) -> ft.Tensor:
        return ft.relu(self.second(ft.relu(self.first(x))) + x)


def residual() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, dilation=2), Block(3), nn.AvgPool2d(2), Block(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


def line() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 4, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(15, 4), nn.Linear(4, 2))


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, 2), nn.MaxPool3d((1, 2, 2)), nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.Linear(2, 3))


#  network   image           larger image     stride
CASES: dict[str, tuple[Net, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "lenet":    (lenet,    (1, 28, 28),    (37, 44),        (4, 4)),
    "named":    (named,    (2, 9, 17),     (14, 23),        (2, 2)),
    "residual": (residual, (1, 12, 12),    (17, 20),        (2, 2)),
    "line":     (line,     (2, 16),        (31,),           (3,)),
    "volume":   (volume,   (1, 3, 5, 5),   (4, 9, 8),       (1, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_crop_is_classified_alike_bit_for_bit(case: str) -> None:
    make, shape, larger, stride = CASES[case]
    net = whole(make())
    dense = net.fully_convolutional(shape)
    assert total_stride(dense, shape) == stride
    small = strictly(net(ft.input("x", (None, *shape))))
    large = strictly(dense(ft.input("x", (None, shape[0], *larger))))
    image = np.random.default_rng(0).integers(-2, 3, (2, shape[0], *larger)).astype(np.float32)
    found = large(image)
    counts = [(e - s) // t + 1 for e, s, t in zip(larger, shape[1:], stride, strict=True)]
    assert found.shape[2:] == tuple(counts) and found.any() and max(counts) > 2
    for at in product(*map(range, counts)):
        crop = tuple(slice(a * t, a * t + s) for a, t, s in zip(at, stride, shape[1:], strict=True))
        assert (found[(..., *at)] == small(image[(..., *crop)])).all()


def test_the_network_it_was_made_from_is_unchanged_and_shares_its_parameters() -> None:
    net = whole(lenet())
    before, text = net.state_dict(), repr(net)
    dense = net.fully_convolutional()
    assert repr(net) == text and [t.name for t in net.parameters()] == [t.name for t in dense.parameters()]
    assert list(dense.parameters()) == list(net.parameters()) and list(dense.state_dict()) == list(before)
    model = strictly(dense(ft.input("x", (1, 1, 28, 28))))
    image = np.ones((1, 1, 28, 28), np.float32)
    first = model(image)
    dense.load_state_dict({k: 2 * v if k.startswith("10.") else v for k, v in before.items()})  # the last layer, doubled
    assert (model(image) == 2 * first).all() and (net.state_dict()["10.weight"] == 2 * before["10.weight"]).all()


def test_the_layers_say_what_they_became() -> None:
    dense = lenet().fully_convolutional()
    assert repr(dense[7]) == "SlidingLinear(4, 6, kernel_size=(4, 4))" and repr(dense[10]) == "SlidingLinear(6, 5, kernel_size=(1, 1))"
    assert isinstance(dense[6], nn.Identity) and isinstance(dense[9], nn.Dropout)
    made = named().fully_convolutional((2, 9, 17))
    assert repr(made.avgpool) == "AvgPool2d(kernel_size=(2, 8), stride=1, padding=0)"
    assert repr(made.classifier[1]) == "SlidingLinear(4, 3, kernel_size=(2, 1), dilation=(2, 8), bias=False)"
    assert repr(made.classifier[2]) == "Softmax(dim=1)"


def test_left_out_the_image_is_the_smallest_square_that_fits() -> None:
    dense = lenet().fully_convolutional()
    assert [dense(ft.input("x", (1, 1, side, side))).shape[2] for side in (28, 31, 32)] == [1, 1, 2]
    assert line().fully_convolutional()(ft.input("x", (1, 2, 16))).shape == (1, 2, 1)


def test_it_is_trained_with_the_classifier() -> None:
    net = whole(lenet()).train()
    dense = net.fully_convolutional()
    x, t = ft.input("x", (None, 1, 28, 28)), ft.input("t", (None,), "int64")
    before = net.state_dict()
    step = ft.compile_step(ft.cross_entropy(ft.flatten(dense(x)), t), dense, ft.optim.SGD(lr=0.01))
    step(np.ones((2, 1, 28, 28), np.float32), np.array([1, 2]))
    assert all((value != before[key]).any() for key, value in net.state_dict().items() if key.startswith("10."))


def test_with_padding_the_positions_agree_that_see_the_same() -> None:
    """A crop that is the whole image is exact; inside, a crop has zeros where the larger image has pixels."""
    net = whole(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 36, 3)))
    dense = net.fully_convolutional((1, 6, 6))
    image = np.random.default_rng(1).integers(1, 4, (1, 1, 8, 8)).astype(np.float32)
    small, large = strictly(net(ft.input("x", (None, 1, 6, 6)))), strictly(dense(ft.input("x", (None, 1, 8, 8))))
    exact = strictly(dense(ft.input("x", (None, 1, 6, 6))))
    assert (exact(image[..., :6, :6])[..., 0, 0] == small(image[..., :6, :6])).all()
    assert (large(image)[..., 1, 1] != small(image[..., 1:7, 1:7])).any()
    image[..., [0, -1], :] = image[..., [0, -1]] = 0  # surroundings of zeros are what padding pretends
    assert (large(image)[..., 1, 1] == small(image[..., 1:7, 1:7])).all()


class Functional(nn.Module):
    """Reshapes by a function, where no layer can be replaced."""

    def __init__(self, pool: bool) -> None:
        self.conv, self.fc, self.pool = nn.Conv2d(1, 2, 3), nn.Linear(2 if pool else 8, 2), pool

    def forward(self, x: Any) -> ft.Tensor:
        y = self.conv(x)
        return self.fc(ft.flatten(ft.adaptive_avg_pool2d(y, 1) if self.pool else y))


class Fixed(nn.Module):
    """Pools to a fixed size by a function."""

    def __init__(self) -> None:
        self.conv, self.flat, self.fc = nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)

    def forward(self, x: Any) -> ft.Tensor:
        return self.fc(self.flat(ft.adaptive_avg_pool2d(self.conv(x), 1)))


def behind(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers)


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: named().fully_convolutional(), ft.ShapeError, 'layer "avgpool" takes maps of any size'),
    (lambda: named().fully_convolutional((2, 8, 17)), ft.UnsupportedOp, 'AdaptiveAvgPool2d "avgpool" (output_size=(2, 1)) cannot be converted: its windows differ in size: 3 × 8'),
    (lambda: lenet().fully_convolutional(28), ft.ShapeError, "as in (3, 224, 224)"),
    (lambda: lenet().fully_convolutional((1, 32, 32)), ft.ShapeError, 'Linear "7"'),
    (lambda: behind(nn.Flatten(), nn.Linear(10, 2)).fully_convolutional(), ft.ShapeError, "no square image has as many features"),
    (lambda: behind(nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 2)).fully_convolutional(), ft.UnsupportedOp, 'GroupNorm "1"'),
    (lambda: behind(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 2)).fully_convolutional(), ft.UnsupportedOp, 'BatchNorm1d "2"'),
    (lambda: behind(nn.Flatten(2), nn.Flatten(), nn.Linear(8, 2)).fully_convolutional(), ft.UnsupportedOp, 'Flatten "1"'),
    (lambda: behind(nn.AdaptiveAvgPool2d(2), nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(2, 2)).fully_convolutional((1, 6, 6)), ft.UnsupportedOp, 'Conv2d "2"'),
    (lambda: Functional(False).fully_convolutional((1, 4, 4)), ft.UnsupportedOp, "flattened by a function; give the network an nn.Flatten()"),
    (lambda: Functional(True).fully_convolutional((1, 4, 4)), ft.UnsupportedOp, 'Linear "fc"'),
    (lambda: Fixed().fully_convolutional((1, 4, 4)), ft.UnsupportedOp, "gives [2, 1, 1], not [2, 2, 2]"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).fully_convolutional(), ft.UnsupportedOp, "no convolution"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "says"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_cannot_be_converted_is_named(make: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert says in str(caught.value)


def test_a_convolutional_network_is_itself() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    assert net.fully_convolutional((1, 5, 5)) is net
    assert not any(isinstance(m, SlidingLinear) for m in net.modules())
