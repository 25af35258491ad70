"""Where a network looks: seven methods of saliency on photos, and why CAM and Grad-CAM are one map.

    python examples/cam.py                               the cat, the cup and the motorcycle of scikit-image
    python examples/cam.py a.jpg --weights mobilenet_v2.pth --out cam.png
    python examples/cam.py --short                       a small network without training, no files needed

Weights and photos are found by material.py, which says how they are installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from drawing import arguments
from material import PHOTOS, WEIGHTS, shipped, weights

import faltung as ft
from faltung import nn, photos, pictures, saliency, zoo
from faltung.graph.evaluate import SYMBOLIC, evaluate
from faltung.graph.tensor import topological

SAMPLES = 20  # of SmoothGrad, and parts of the way of integrated gradients


def derive(k: int = 1) -> None:
    """The derivative of a score by an activation in front of a global mean: line by line, then in SymPy's symbols."""
    import sympy

    a, t, v = ft.input("A", (1, 2, 7, 7)), ft.input("T", (1,), "int64"), np.array(sympy.symbols("V(:3)(:2)")).reshape(3, 2)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    score = ft.define("S[] = sum(n,k: [T[n] = k] * Y[n,k])")
    derivative = ft.grad(score(t, head(a)), a)
    print("S      ", score)
    for step in topological([derivative]):
        if step.op == "gradient":
            print("    ", step.equation)
    found = evaluate(derivative, {head[2].weight: v, t: [k]}, SYMBOLIC)[0]
    print(f"of class {k}, by all positions of channel 0: {set(found[0].flat)}, of channel 1: {set(found[1].flat)}")
    assert all(sympy.simplify(entry - v[k, f] / 49) == 0 for f in (0, 1) for entry in found[f].flat)
    print("Grad-CAM's weight, the mean over the positions, is V[k,f]/(H·W); CAM's is V[k,f].\n")


def small() -> nn.Sequential:
    """A network without training, for trying out."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())
    return nn.Sequential({"features": features, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(8, 5)})


def look(net: nn.Module, layer: str, seen: np.ndarray, images: np.ndarray, out: Path) -> None:
    """Every method's heat for the best class of each image, in one picture."""
    cam, grad_cam = saliency.CAM(net, layer), saliency.GradCAM(net, layer)
    ours, theirs = cam.maps(images)[0], grad_cam.maps(images)[0]
    area = ours[0].size
    print(f"CAM and {area} x Grad-CAM differ by at most {np.abs(ours - area * theirs).max():.1e}; CAM reaches {np.abs(ours).max():.1f}")
    assert np.allclose(ours, area * theirs, atol=1e-4 * np.abs(ours).max())

    maps = {"CAM": cam, "Grad-CAM": grad_cam, "Grad-CAM++": saliency.GradCAMPlusPlus(net, layer)}
    points = {
        "gradient": saliency.Gradients(net),
        "guided backprop": saliency.GuidedBackprop(net),
        "SmoothGrad": saliency.SmoothGrad(net, samples=SAMPLES),
        "integrated": saliency.IntegratedGradients(net, steps=SAMPLES),
    }
    best = cam.scores(images).argmax(axis=1)
    titles = [zoo.imagenet_classes()[k] for k in best]
    heats = [{name: method(images) for name, method in some.items()} for some in (maps, points)]
    print("wrote", pictures.overlays(seen, titles, *heats, out, "Where the network looks for its best class"))


def main() -> None:
    """The derivation, then the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--weights", type=Path)
    given = arguments(__doc__, "cam.png", parser)
    derive()
    if given.short:
        seen = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)
        return look(small(), "features", seen, seen.transpose(0, 3, 1, 2) - 0.5, given.out)
    saved, paths = given.weights or weights(), given.photos or shipped()
    if saved is None or not paths:
        parser.error(f"no weights: {WEIGHTS}, or give --weights FILE; --short needs none" if paths else f"no photos: {PHOTOS}, or name some")
    net = zoo.mobilenet_v2()
    net.load(saved)
    read = [photos.read(path) for path in paths]
    seen = np.stack([photos.crop(photos.resize(picture, 256), 224) for picture in read])
    look(net, "features", seen.clip(0, 1), np.concatenate([photos.prepare(picture) for picture in read]), given.out)


if __name__ == "__main__":
    main()
