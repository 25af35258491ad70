"""Backpropagation through pooling: where the gradient of a maximum goes, and that of a mean.

    python examples/backprop_pooling.py [--short] [--out FILE]

A maximum passes what arrives to the element that was the largest, the first one where several are; a mean gives every
element its share. Where windows overlap, what comes from several of them is added. Nothing of this is written down
anywhere as a rule: it is derived from the equation of the pooling, line by line.
"""

from __future__ import annotations

import numpy as np
from drawing import arguments, cells, figure, save

import faltung as ft

X = np.array([[4, 1, 3, 0], [2, 8, 5, 5], [9, 6, 1, 1], [2, 4, 3, 7]])

# name                    pooling, window, stride, what arrives at the results
CASES = {
    "maximum of 2×2":       (ft.max_pool2d, 2, 2, [[1, 2], [3, 4]]),
    "mean of 2×2":          (ft.avg_pool2d, 2, 2, [[1, 2], [3, 4]]),
    "overlapping, stride 1": (ft.max_pool2d, 2, 1, [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
}  # fmt: skip


def by_hand(arrives: np.ndarray, maximum: bool, size: int, stride: int) -> np.ndarray:
    """The same as loops over windows."""
    back = np.zeros(X.shape)
    for i, j in np.ndindex(arrives.shape):
        window = np.s_[stride * i : stride * i + size, stride * j : stride * j + size]
        if maximum:
            share = (np.arange(size * size) == X[window].argmax()).reshape(size, size)
        else:
            share = np.full((size, size), 1 / size**2)
        back[window] += arrives[i, j] * share
    return back


def main() -> None:
    """Three cases: derive, run, compare, draw."""
    given = arguments(__doc__, "backprop_pooling.png")
    drawn, axes = figure(10.5, 7.2, 3, 4)
    x = ft.input("x", (1, 1, 4, 4))
    for row, (name, (pool, size, stride, arriving)) in zip(axes, CASES.items(), strict=True):
        arrives = np.array(arriving)
        y = pool(x, size, stride)
        a = ft.input("a", y.shape)
        gradient = ft.grad((y * a).sum(), x)
        print(f"\n{name}")
        for step in gradient.steps():
            print(f"{step.title:>18}  {step.text}")
        found, back = (array[0, 0] for array in ft.compile([y, gradient])(X[None, None], arrives[None, None]))
        assert (back == by_hand(arrives, pool is ft.max_pool2d, size, stride)).all()
        assert back.sum() == arrives.sum()  # nothing is lost, nothing is added
        cells(row[0], X, f"{name}: X", back != 0 if pool is ft.max_pool2d else None, 9)
        cells(row[1], found, "Y", reach=9)
        cells(row[2], arrives, "Ȳ, what arrives", reach=4)
        cells(row[3], back, "X̄, what is passed on", back != 0, 4)
    print("\nall gradients equal those of loops over windows")
    save(drawn, given.out)


if __name__ == "__main__":
    main()
