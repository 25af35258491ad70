"""Why shortcuts help: the loss around a trained ResNet-56, with its shortcuts and without them, drawn and measured.

    python examples/landscape.py [--keep FOLDER] [--out FILE]      half an hour on two cores
    python examples/landscape.py --short                           ResNet-20, hardly trained, on few points

Both networks learn Fashion-MNIST in the same way. Then the loss is drawn on the plane of two random directions, filter by
filter as long as the weights (Li et al. 2018), and the largest and smallest eigenvalues of the Hessian are found.
With --keep a run that was stopped goes on from what lies in the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from drawing import arguments

import faltung as ft
from faltung import landscape, pictures, zoo
from faltung.runtime.files import replacing
from faltung.runtime.train import accuracy, one_cycle


class Size(NamedTuple):
    """How much is done: a network's name, images to train on, epochs, points along an axis, images for points, products."""

    network: str = "resnet56"
    images: int = 20_000
    epochs: int = 3
    points: int = 31
    seen: int = 128
    products: int = 40


SHORT = Size("resnet20", images=256, epochs=1, points=5, seen=16, products=3)
RATE, BATCH = 0.05, 64  # learning rate at its highest, images in a step
REACH, HIGHEST = 1.0, 10.0  # half the plane's width, in lengths of filters; the loss from which on nothing is drawn, as by Li et al.


def pictures_of(part: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images with a border of zeros, 32×32, mean 0 and deviation 1 over the whole of Fashion-MNIST."""
    images, labels = part
    padded = np.pad(images[:count], [(0, 0), (0, 0), (2, 2), (2, 2)])
    return (padded - np.float32(0.286)) / np.float32(0.353), labels[:count]


def study(residual: bool, size: Size, data: ft.datasets.Dataset, keep: Path) -> tuple[str, landscape.Surface, float]:
    """One network: trained; a title, its surface, and the Hessian's largest eigenvalue in lengths of filters."""
    ft.manual_seed(1)
    name = f"{size.network}{'' if residual else ' without shortcuts'}"
    net = zoo.build(size.network, in_channels=1, residual=residual)
    x, t = ft.input("x", (None, 1, 32, 32)), ft.input("t", (None,), "int64")
    scores = net(x)
    step = ft.compile_step(ft.cross_entropy(scores, t), net, ft.optim.SGD(lr=RATE, momentum=0.9, weight_decay=5e-4), [scores])
    train, held_out = pictures_of(data.train, size.images), pictures_of(data.test, max(size.seen, size.images // 10))
    where = keep / name.replace(" ", "-")
    ft.fit(step, train, size.epochs, BATCH, net=net, schedule=one_cycle(RATE, size.epochs), checkpoint=where.with_suffix(".safetensors"))

    scores = net.eval()(x)  # from here on by the running statistics, as the network is used
    loss, examples = ft.cross_entropy(scores, t), pictures_of(data.train, size.seen)
    axis, drawn = np.linspace(-REACH, REACH, size.points), where.with_suffix(".npz")
    if not drawn.exists():
        plane = landscape.Landscape(loss, net, landscape.directions(net, 2, seed=1), accuracy="balanced")
        with replacing(drawn) as file:  # whole or not at all, for a run that goes on
            np.savez(file, a=axis, b=axis, loss=plane.surface(axis, axis, *examples).loss)
    surface = landscape.Surface(**np.load(drawn))
    hessian = landscape.Hessian(loss, landscape.weights(net))
    raw = hessian.ends(*examples, most=size.products, tolerance=0.01)
    scaled = hessian.ends(*examples, scales=landscape.scales(net), most=size.products, tolerance=0.01)
    minima, middle = f"minima: {len(surface.minima())}", size.points // 2
    bends, low = surface.curvatures(), surface.loss[1:-1, 1:-1] < HIGHEST  # there are no bends on the border
    print(f"{name}: {100 * accuracy(ft.compile(scores), held_out):.1f} % held out\n    surface: centre {surface.loss[middle, middle]:.3f},"
          f" from {surface.loss.min():.3f} to {surface.loss.max():.3g}; {minima}, not convex at {100 * (bends[low, 0] < 0).mean():.0f} % of the points below {HIGHEST:g}")  # fmt: skip
    print("    principal curvatures of this plane at the centre: {:.3g} and {:.3g}".format(*bends[middle - 1, middle - 1]))
    for what, found in (("of the weights", raw), ("in lengths of filters", scaled)):
        errors = " and ".join(f"{error:.1g}" for error in found.error)
        print(f"    Hessian {what}: from {found.smallest:.4g} to {found.largest:.4g}, errors {errors}, {found.products} products")
    return f"{name}\n{minima}, largest eigenvalue {scaled.largest:.0f}", surface, scaled.largest


def main() -> None:
    """Both networks, how far their eigenvalues reach, the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="where weights and surfaces are kept, and found again")
    given = arguments(__doc__, "landscape.png", parser)
    data = ft.datasets.fashion_mnist()
    with TemporaryDirectory() as passing:
        (keep := given.keep or Path(passing)).mkdir(parents=True, exist_ok=True)
        size = SHORT if given.short else Size()
        (name, bowl, smooth), (other, rough, plain) = (study(residual, size, data, keep) for residual in (True, False))
    print(f"without shortcuts the largest eigenvalue is {plain / smooth:.2g} times as large, in lengths of filters")
    print("wrote", pictures.landscapes({name: bowl, other: rough}, given.out, highest=HIGHEST))


if __name__ == "__main__":
    main()
