"""Dense connections: every layer of a block reads the results of all layers before it, laid side by side.

    python examples/dense_connections.py [--short] [--out FILE]

Nothing is added up: the channels of a block's result are its input and what each layer gave, unchanged. So layers can be
narrow. After training, the weights tell how much each layer takes from which of those before it.
"""

from __future__ import annotations

import numpy as np
from drawing import BLUE, INK, QUIET, arguments, figure, save

import faltung as ft
from faltung import nn
from faltung.runtime.train import accuracy
from faltung.zoo.densenet import DenseBlock

WIDTH, GROWTH, LAYERS, BATCH = 16, 8, 6, 64
ENDS = np.cumsum([0, WIDTH, *[GROWTH] * LAYERS])  # the channels of source s are ENDS[s] up to ENDS[s + 1]


def check_the_channels(block: DenseBlock) -> None:
    """Hold each layer's channels of the result to that layer's own result, number by number."""
    x = ft.input("x", (2, WIDTH, 9, 9))
    own = [x]
    for layer in block:
        own.append(layer(ft.cat(own, 1)))
    whole, *parts = ft.compile([block(x), *own])(np.random.default_rng(0).normal(size=x.shape))
    assert whole.shape[1] == WIDTH + LAYERS * GROWTH == ENDS[-1]
    for source, part in enumerate(parts):
        assert (whole[:, ENDS[source] : ENDS[source + 1]] == part).all()
    print(f"{WIDTH} channels and {LAYERS} layers of {GROWTH} are {whole.shape[1]} channels, each as the layer gave it")


def taken(block: DenseBlock) -> np.ndarray:
    """The mean size of the weights with which each layer reads each source, on the scale of what it reads: (layer, source)."""
    found = np.full((LAYERS, LAYERS), np.nan)
    for number, layer in enumerate(block):
        state = layer.state_dict()
        weights = np.abs(state["conv1.weight"][:, :, 0, 0] * state["norm1.weight"])
        for source in range(number + 1):
            found[number, source] = weights[:, ENDS[source] : ENDS[source + 1]].mean()
    return found


def main() -> None:
    """The channels, a training, who reads whom."""
    given = arguments(__doc__, "dense_connections.png")
    ft.manual_seed(0)
    block = DenseBlock(LAYERS, WIDTH, GROWTH)
    check_the_channels(block)
    plain = nn.Sequential(*(nn.Conv2d(int(ENDS[-1]), int(ENDS[-1]), 3, padding=1, bias=False) for _ in range(LAYERS)))
    print(f"connections: {LAYERS * (LAYERS + 1) // 2}; parameters {block.num_parameters:,}, {LAYERS} plain layers of {ENDS[-1]} channels: {plain.num_parameters:,}")
    assert block.num_parameters < plain.num_parameters / 5

    digits, steps = ft.datasets.mnist(), 3 if given.short else 200
    stem = nn.Sequential(nn.Conv2d(1, WIDTH, 5, stride=2, padding=2), nn.ReLU())
    head = nn.Sequential(nn.BatchNorm2d(int(ENDS[-1])), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(int(ENDS[-1]), 10))
    net = nn.Sequential(stem, block, head)
    x, t = ft.input("x", (None, 1, 28, 28)), ft.input("t", (None,), "int64")
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(lr=0.1, momentum=0.9, weight_decay=1e-3))
    draw = np.random.default_rng(0)
    for count in range(steps):
        step.lr = 0.1 * (1 - count / steps)  # to rest, so that the running statistics can follow
        batch = draw.integers(len(digits.train_labels), size=BATCH)
        loss = step(digits.train_images[batch], digits.train_labels[batch])
        if count in (0, steps - 1):
            print(f"step {count:3}: loss {loss:.3f}")
    share = accuracy(ft.compile(net.eval()(x)), digits.test)
    print(f"{share:.1%} of held-out digits after {steps} steps of {BATCH}")
    assert given.short or share > 0.9

    drawn, axes = figure(10, 3.8, 1, 2, width_ratios=[1.5, 1])
    arcs, heat = axes[0]
    for layer in range(1, LAYERS + 1):
        for source in range(layer):
            middle, radius = (source + layer) / 2, (layer - source) / 2
            angle = np.linspace(0, np.pi, 60)
            arcs.plot(middle + radius * np.cos(angle), 0.75 * radius * np.sin(angle) ** 0.8, color=BLUE, alpha=0.75, linewidth=1.3)
    arcs.scatter(range(LAYERS + 1), [0] * (LAYERS + 1), s=520, color="white", edgecolor=INK, zorder=3)
    for place in range(LAYERS + 1):
        arcs.text(place, 0, "x" if not place else str(place), ha="center", va="center", color=INK, zorder=4)
        arcs.text(place, -0.4, f"{WIDTH if not place else GROWTH} channels", ha="center", color=QUIET, fontsize=8)
    arcs.set(ylim=(-0.6, 2.5), title=f"{LAYERS} layers, {LAYERS * (LAYERS + 1) // 2} connections")
    arcs.axis("off")
    image = heat.imshow(taken(block), cmap="Blues", vmin=0)
    heat.set_xticks(range(LAYERS), ["x", *map(str, range(1, LAYERS))])
    heat.set_yticks(range(LAYERS), map(str, range(1, LAYERS + 1)))
    heat.set(xlabel="what is read", ylabel="the layer that reads", title="mean size of the weights")
    heat.spines[:].set_visible(False)
    drawn.colorbar(image, ax=heat).outline.set_visible(False)
    save(drawn, given.out)


if __name__ == "__main__":
    main()
