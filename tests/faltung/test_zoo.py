"""Networks of the zoo: published sizes, torchvision's keys, initial values, blocks against NumPy, a step of training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn, zoo
from faltung.graph.evaluate import evaluate
from faltung.graph.index import Batch
from faltung.zoo import densenet, mobilenet, resnet

Array = np.ndarray

# ---- sizes ----

# name          parameters    where it is published
PARAMETERS = {
    "mlp":           669_706,  # 784·512 + 512 + 512·512 + 512 + 512·10 + 10
    "digits":        421_642,  # 320 + 18,496 + 401,536 + 1,290
    "wide":        1_625_866,  # 320 + 18,496 + 1,605,760 + 1,290
    "lenet5":         61_706,  # 156 + 2,416 + 48,120 + 10,164 + 850: the paper's layers, the second fully connected
    "alexnet":    61_100_840,  # torchvision.models, table of classification weights, num_params; so all of these:
    "vgg11":     132_863_336,
    "vgg13":     133_047_848,
    "vgg16":     138_357_544,
    "vgg19":     143_667_240,
    "vgg11_bn":  132_868_840,
    "vgg13_bn":  133_053_736,
    "vgg16_bn":  138_365_992,
    "vgg19_bn":  143_678_248,
    "resnet18":   11_689_512,
    "resnet34":   21_797_672,
    "resnet50":   25_557_032,
    "resnet101":  44_549_160,
    "resnet152":  60_192_808,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "mobilenet_v2": 3_504_872,
    "overfeat":  145_920_872,  # Sermanet et al. 2014, table 4: 145 million
    "resnet20":      269_722,  # He et al. 2016, table 6: 0.27 million
    "resnet56":      853_018,  # He et al. 2016, table 6: 0.85 million
}  # fmt: skip


def test_every_network_has_a_published_size() -> None:
    assert set(PARAMETERS) == set(zoo.TABLE)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_the_published_size_and_gives_a_score_for_each_class(name: str) -> None:
    entry = zoo.TABLE[name]
    net = zoo.build(name)
    assert net.num_parameters == PARAMETERS[name]
    classes = 10 if entry.input[1] < 224 else 1000
    scores = net.eval()(ft.input("x", (None, *entry.input)))
    assert isinstance(scores.shape[0], Batch) and scores.shape[1:] == (classes,)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "alexnet", "overfeat", "vgg11", "vgg11_bn", "resnet18", "resnet50", "resnet20", "densenet121", "mobilenet_v2"])
def test_classes_and_channels_are_the_users(name: str) -> None:
    height, width = zoo.TABLE[name].input[1:]
    net = zoo.build(name, num_classes=7, in_channels=2).eval()
    assert net(ft.input("x", (None, 2, height, width))).shape[1:] == (7,)


def test_an_unknown_network_is_told_the_known_ones() -> None:
    with pytest.raises(ft.UnsupportedOp, match=r"'mobilenetv2' \(did you mean mobilenet_v2\?\): there are mlp, "):
        zoo.build("mobilenetv2")


def test_an_unknown_option_is_told_the_known_ones() -> None:
    with pytest.raises(ft.UnsupportedOp, match="mlp has no option 'residual': there are num_classes, in_channels, hidden"):
        zoo.build("mlp", residual=False)
    with pytest.raises(ft.UnsupportedOp, match=r"resnet20 has no option 'num_class' \(did you mean num_classes\?\)"):
        zoo.build("resnet20", num_class=3)


# ---- keys ----

# name: how many keys, and the shapes of some, as in torchvision's state_dict
KEYS: dict[str, tuple[int, dict[str, tuple[int, ...]]]] = {
    "alexnet": (16, {"features.0.weight": (64, 3, 11, 11), "features.10.bias": (256,), "classifier.1.weight": (4096, 9216), "classifier.6.bias": (1000,)}),
    "vgg16": (32, {"features.0.weight": (64, 3, 3, 3), "features.28.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 25088), "classifier.6.weight": (1000, 4096)}),
    "vgg19_bn": (118, {"features.1.running_mean": (64,), "features.49.weight": (512, 512, 3, 3), "features.50.num_batches_tracked": (), "classifier.3.weight": (4096, 4096)}),
    "resnet18": (122, {"conv1.weight": (64, 3, 7, 7), "layer1.0.bn2.weight": (64,), "layer2.0.downsample.0.weight": (128, 64, 1, 1), "layer2.0.downsample.1.running_var": (128,), "layer4.1.conv2.weight": (512, 512, 3, 3), "fc.weight": (1000, 512)}),
    "resnet50": (320, {"bn1.num_batches_tracked": (), "layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.2.conv3.weight": (2048, 512, 1, 1), "layer4.2.bn3.bias": (2048,), "fc.bias": (1000,)}),
    "resnet152": (932, {"layer2.7.conv1.weight": (128, 512, 1, 1), "layer3.35.conv3.weight": (1024, 256, 1, 1)}),
    "densenet121": (727, {"features.conv0.weight": (64, 3, 7, 7), "features.norm0.weight": (64,), "features.denseblock1.denselayer6.norm1.weight": (224,), "features.denseblock4.denselayer16.conv1.weight": (128, 992, 1, 1), "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3), "features.transition3.norm.running_mean": (1024,), "features.transition3.conv.weight": (512, 1024, 1, 1), "features.norm5.bias": (1024,), "classifier.weight": (1000, 1024)}),
    "densenet201": (1207, {"features.denseblock3.denselayer48.norm1.weight": (1760,), "classifier.weight": (1000, 1920)}),
    "mobilenet_v2": (314, {"features.0.0.weight": (32, 3, 3, 3), "features.1.conv.0.0.weight": (32, 1, 3, 3), "features.1.conv.1.weight": (16, 32, 1, 1), "features.1.conv.2.running_var": (16,), "features.17.conv.1.0.weight": (960, 1, 3, 3), "features.17.conv.3.weight": (320,), "features.18.0.weight": (1280, 320, 1, 1), "classifier.1.weight": (1000, 1280)}),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_keys_are_torchvisions(name: str) -> None:
    number, shapes = KEYS[name]
    net = zoo.build(name)
    held = {key: t.shape for key, t in (*net.named_parameters(), *net.named_buffers()) if not key.endswith("._step")}
    assert len(held) == number
    assert {key: held.get(key) for key in shapes} == shapes


# ---- initial values ----


def test_values_are_drawn_when_they_are_read_in_any_order() -> None:
    def drawn(backwards: bool) -> dict[str, Array]:
        ft.manual_seed(5)
        named = list(zoo.resnet20().named_parameters())
        assert not any(t.value is not None for key, t in named if key.endswith(("conv1.weight", "conv2.weight")))
        return {key: t.read() for key, t in (named[::-1] if backwards else named)}

    forwards, backwards = drawn(False), drawn(True)
    assert all((forwards[key] == backwards[key]).all() for key in forwards)
    assert (forwards["layer1.0.conv1.weight"] != forwards["layer1.0.conv2.weight"]).all()


#  network             key                              deviation
DRAWN: list[tuple[str, str, float]] = [
    ("resnet18",     "layer2.0.conv1.weight",            np.sqrt(2 / (128 * 9))),      # fan_out
    ("resnet18",     "fc.weight",                        1 / np.sqrt(3 * 512)),        # uniform in ±1/√512
    ("densenet121",  "features.transition1.conv.weight", np.sqrt(2 / 256)),            # fan_in
    ("mobilenet_v2", "features.5.conv.1.0.weight",       np.sqrt(2 / (192 * 9))),      # fan_out over all groups
    ("mobilenet_v2", "classifier.1.weight",              0.01),
    ("vgg11_bn",     "features.4.weight",                np.sqrt(2 / (128 * 9))),
    ("vgg11",        "classifier.6.weight",              0.01),
    ("alexnet",      "features.3.weight",                1 / np.sqrt(3 * 64 * 25)),
    ("overfeat",     "features.3.weight",                0.01),
]  # fmt: skip
BIASES = {"vgg11": "features.0.bias", "densenet121": "classifier.bias", "mobilenet_v2": "classifier.1.bias", "overfeat": "classifier.6.bias"}


@pytest.mark.parametrize(("name", "key", "deviation"), DRAWN, ids=[f"{name}-{key}" for name, key, _ in DRAWN])
def test_initial_values_have_the_papers_deviation(name: str, key: str, deviation: float) -> None:
    ft.manual_seed(0)
    values = dict(zoo.build(name).named_parameters())[key].read()
    spread = deviation / np.sqrt(2 * values.size)  # of the deviation of that many normal numbers
    assert abs(values.std() - deviation) < 5 * spread
    assert abs(values.mean()) < 5 * deviation / np.sqrt(values.size)


@pytest.mark.parametrize("name", BIASES)
def test_biases_start_at_zero(name: str) -> None:
    assert not dict(zoo.build(name).named_parameters())[BIASES[name]].read().any()


def test_building_needs_no_compiler() -> None:
    code = "import sys; from faltung import zoo; zoo.resnet50(); assert not {'llvmlite', 'sympy', 'networkx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- blocks, against NumPy ----


def conv(x: Array, w: Array, stride: int = 1) -> Array:
    """Convolution of one image that keeps the resolution at stride 1; a weight of one input channel is one for each."""
    reach = w.shape[2] // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (reach, reach), (reach, reach))), w.shape[2:], (1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum("chwpq,cpq->chw", windows, w[:, 0]) if w.shape[1] == 1 else np.einsum("chwpq,fcpq->fhw", windows, w)


class Written:
    """A block written down in NumPy: its parameters by their keys."""

    def __init__(self, block: nn.Module) -> None:
        generator = np.random.default_rng(2)
        state = {key: generator.integers(-2, 3, a.shape).astype(float) for key, a in block.state_dict().items()}
        self.state = {key: np.abs(a) + 1 if key.endswith("running_var") else a for key, a in state.items()}
        block.load_state_dict(self.state)

    def conv(self, key: str, x: Array, stride: int = 1) -> Array:
        return conv(x, self.state[f"{key}.weight"], stride)

    def norm(self, key: str, x: Array) -> Array:
        weight, bias, mean, variance = (self.state[f"{key}.{name}"][:, None, None] for name in ("weight", "bias", "running_mean", "running_var"))
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def basic(b: Written, x: Array) -> Array:
    y = b.norm("bn2", b.conv("conv2", relu(b.norm("bn1", b.conv("conv1", x, 2)))))
    half = x[:, ::2, ::2]
    return relu(y + np.concatenate([np.zeros_like(half[:1]), half, np.zeros_like(half[:1])]))


def plain(b: Written, x: Array) -> Array:
    return relu(b.norm("bn2", b.conv("conv2", relu(b.norm("bn1", b.conv("conv1", x))))))


def bottleneck(b: Written, x: Array) -> Array:
    y = relu(b.norm("bn2", b.conv("conv2", relu(b.norm("bn1", b.conv("conv1", x))), 2)))
    return relu(b.norm("bn3", b.conv("conv3", y)) + b.norm("downsample.1", b.conv("downsample.0", x, 2)))


def dense(b: Written, x: Array) -> Array:
    for n in (1, 2):
        key = f"denselayer{n}."
        y = b.conv(key + "conv1", relu(b.norm(key + "norm1", x)))
        x = np.concatenate([x, b.conv(key + "conv2", relu(b.norm(key + "norm2", y)))])
    return x


def inverted(b: Written, x: Array) -> Array:
    y = np.clip(b.norm("conv.0.1", b.conv("conv.0.0", x)), 0, 6)
    y = np.clip(b.norm("conv.1.1", b.conv("conv.1.0", y)), 0, 6)
    return x + b.norm("conv.3", b.conv("conv.2", y))


#  block                                                                   the same in NumPy
BLOCKS: list[tuple[Callable[[], nn.Module], Callable[[Written, Array], Array]]] = [
    (lambda: resnet.BasicBlock(2, 4, 2, resnet.padded(2, 4, 2)),             basic),
    (lambda: resnet.BasicBlock(2, 3, 1, None),                               plain),
    (lambda: resnet.Bottleneck(3, 2, 2, resnet.projected(3, 8, 2)),          bottleneck),
    (lambda: densenet.DenseBlock(2, 3, 2),                                   dense),
    (lambda: mobilenet.InvertedResidual(3, 3, 1, 2),                         inverted),
]  # fmt: skip


@pytest.mark.parametrize(("build", "written"), BLOCKS, ids=[f.__name__ for _, f in BLOCKS])
def test_a_block_is_what_the_paper_draws(build: Callable[[], nn.Module], written: Callable[[Written, Array], Array]) -> None:
    block = build().eval()
    numbers = Written(block)
    channels = next(iter(block.parameters())).shape[1 if written is not dense else 0]
    image = np.random.default_rng(3).integers(-3, 4, (channels, 5, 6)).astype(float)
    x = ft.input("x", (None, channels, 5, 6), "float32")
    expected = written(numbers, image)
    got: Any = evaluate(block(x), {x: image[None]})[0]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("build", [zoo.resnet18, zoo.resnet50, zoo.resnet20], ids=lambda f: f.__name__)
def test_a_plain_network_has_the_same_layers_and_no_shortcuts(build: Callable[..., nn.Module]) -> None:
    kept = [key for key, _ in build().named_parameters() if "downsample" not in key]
    assert [key for key, _ in build(residual=False).named_parameters()] == kept
    blocks = [m for m in build(residual=False).modules() if isinstance(m, (resnet.BasicBlock, resnet.Bottleneck))]
    assert blocks and all(block.downsample is None for block in blocks)


# ---- training ----


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet20"])
def test_small_networks_learn_a_batch(name: str) -> None:
    ft.manual_seed(1)
    net, shape = zoo.build(name), zoo.TABLE[name].input
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((8, *shape), np.float32), generator.integers(0, 10, 8)
    x, t = ft.input("x", (None, *shape)), ft.input("t", (None,), dtype="int64")
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(lr=0.05, momentum=0.9))
    losses = [step(images, labels) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_names_of_imagenets_classes():
    names = zoo.imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert all(name and name == name.strip() for name in names)
    assert (names[0], names[285], names[665], names[967], names[999]) == ("tench", "Egyptian cat", "moped", "espresso", "toilet tissue")
