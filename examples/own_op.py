"""An op of your own from one equation: morphological dilation, its gradients, its native code, a network that learns it.

    python examples/own_op.py [--short] [--out FILE]

A convolution multiplies and sums; a dilation adds and takes the maximum:

    Y[n,f,i,j] = max_{c,p,q} X[n,c,i+p-P,j+q-P] + K[f,c,p,q]

K is the structuring element of greyscale morphology: bright regions grow by its shape. PyTorch has no such layer.
Here the line above is all there is to write; reading outside the picture gives -∞, which never wins. The network is
shown noise before and after a dilation and has to find the element that was used; then it dilates a digit.
"""

from __future__ import annotations

import numpy as np
from drawing import arguments, cells, figure, save, show

import faltung as ft
from faltung import nn
from faltung.graph.evaluate import evaluate

dilation = ft.define("Y[n,f,i,j] = max(c,p,q: X[n,c,i+p-P,j+q-P] + K[f,c,p,q])")

SIZE, SIDE, BATCH, STEPS = 3, 16, 16, 200
# a pyramid: neighbours reach a pixel 0.2 darker, diagonal ones 0.4
HIDDEN = np.array([[-0.4, -0.2, -0.4], [-0.2, 0.0, -0.2], [-0.4, -0.2, -0.4]])


class Dilation2d(nn.Module):
    """A layer of the op: (N, C, H, W) to (N, F, H, W), with the structuring elements as parameter (F, C, size, size)."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        self.padding = size // 2
        self.element = ft.parameter(np.zeros((out_channels, in_channels, size, size)))

    def forward(self, x: ft.Tensor) -> ft.Tensor:
        return dilation(x, self.element, P=self.padding)


def dilate(pictures: np.ndarray, element: np.ndarray) -> np.ndarray:
    """The same by hand, for one channel: what the equation has to give."""
    reach = len(element) // 2
    padded = np.pad(pictures, ((0, 0), (0, 0), (reach, reach), (reach, reach)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, element.shape, axis=(2, 3))
    return (windows + element).max(axis=(4, 5))


def derive() -> None:
    """The equation, its derived gradients and how they came about, and its value on a small picture."""
    x, k = ft.input("x", (None, 1, SIDE, SIDE)), ft.parameter(HIDDEN[None, None], "k")
    y = dilation(x, k, P=1)
    print("the op       ", y.equation)
    gradients = ft.grad(y.sum(), {"k": k, "x": x})
    print("its gradients", *(g.equation for g in gradients.values()), sep="\n")
    for step in gradients["x"].steps():
        print(f"{step.title:>20}: {step.text}")
    pictures = np.random.default_rng(0).random((2, 1, SIDE, SIDE))
    assert (evaluate(y, {x: pictures}) == dilate(pictures, evaluate(k)[0, 0])).all()
    where = evaluate(gradients["k"], {x: pictures})[0, 0].astype(int)
    print(f"\nhow often each place of K gave the maximum, in {2 * SIDE * SIDE} pixels:\n{where}")
    assert where.sum() == 2 * SIDE * SIDE


def train(steps: int) -> Dilation2d:
    """A network that has learned the hidden element from pictures before and after."""
    net = Dilation2d(1, 1, SIZE)
    x, t = ft.input("x", (None, 1, SIDE, SIDE)), ft.input("t", (None, 1, SIDE, SIDE))
    step = ft.compile_step(ft.mse_loss(net(x), t), net, ft.optim.Adam(lr=0.02))
    generator = np.random.default_rng(1)
    for count in range(1, steps + 1):
        pictures = generator.random((BATCH, 1, SIDE, SIDE), dtype=np.float32)
        loss = step(pictures, dilate(pictures, HIDDEN))
        if count in (1, steps // 4, steps // 2, steps):
            print(f"step {count:3d}  mean squared error {loss:.2e}")
    return net


def main() -> None:
    """Everything above, in order."""
    given = arguments(__doc__, "own_op.png")
    derive()
    net = train(3 if given.short else STEPS)
    learned = net.state_dict()["element"][0, 0].round(3) + 0  # + 0: no -0
    print(f"hidden:\n{HIDDEN}\nlearned:\n{learned}")
    assert given.short or np.abs(learned - HIDDEN).max() < 0.01, "the element was not found"
    digit = ft.datasets.mnist().test_images[:1]
    once, thrice = ft.compile([net(x := ft.input("x", digit.shape)), net(net(net(x)))])(digit)
    print(f"on a digit the largest error is {np.abs(once - dilate(digit, HIDDEN)).max():.1e}")
    drawn, axes = figure(11, 2.5, 1, 5)
    for panel, seen, title in zip(axes[0], (digit, once, thrice), ("a digit", "dilated by the network", "three times"), strict=False):
        show(panel, 255 * seen[0, 0], title)
    cells(axes[0, 3], HIDDEN, "the hidden element")
    cells(axes[0, 4], learned.round(2), "the learned one")
    save(drawn, given.out)


if __name__ == "__main__":
    main()
