"""A convolution by hand: three channels, exact fractions step by step, symbolic weights, and the same compiled.

    Y = ReLU(Σ_c X_c ∗ W_c + 2)      zero padding 1, stride 1; then 2×2 pooling

The graph is built once. Evaluated over fractions it is the exercise as one does it on paper; over SymPy symbols it is
the formula in the weights; compiled it is native code. All three must agree, to the last digit.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import sympy

import faltung as ft
from faltung.graph.evaluate import EXACT, SYMBOLIC, evaluate

Matrix = np.ndarray[Any, Any]

X = np.array(
    [
        [[2, 1, 0, 0], [0, 0, 2, 1], [0, 2, 0, 1], [2, 1, 0, 1]],
        [[2, 2, 0, 0], [0, 0, 2, 1], [0, 0, 2, 0], [0, 1, 0, 1]],
        [[2, 1, 0, 0], [0, 0, 2, 1], [2, 0, 0, 0], [0, 1, 0, 1]],
    ]
)
W = np.array(
    [
        [[1, 0, 0], [0, -2, 0], [0, 0, -1]],
        [[1, 2, 0], [2, 0, -1], [0, -1, 1]],
        [[0, 0, -2], [0, 1, 2], [-2, 2, 0]],
    ]
)
BIAS = 2

x, w = ft.input("x", (1, 3, 4, 4)), ft.input("w", (1, 3, 3, 3))
channels = [ft.input(f"x{c}", (1, 1, 4, 4)) for c in range(3)]
kernels = [ft.input(f"w{c}", (1, 1, 3, 3)) for c in range(3)]
products = [ft.conv2d(a, b, padding=1) for a, b in zip(channels, kernels, strict=True)]  # X_c ∗ W_c, each by itself

total = ft.conv2d(x, w, padding=1)
y = ft.relu(total + BIAS)
results = {"Y = ReLU(… + 2)": y, "2×2 maximum": ft.max_pool2d(y, 2), "2×2 mean": ft.avg_pool2d(y, 2)}


def exact() -> dict[str, Matrix]:
    """Every step over fractions, by its name on paper."""
    parts = {**dict(zip(channels, X[:, None, None], strict=True)), **dict(zip(kernels, W[:, None, None], strict=True))}
    whole = {x: X[None], w: W[None]}
    steps = {f"X{c} ∗ W{c}": evaluate(product, parts, EXACT)[0, 0] for c, product in enumerate(products)}
    for name, tensor in {"Σ_c X_c ∗ W_c": total, **results}.items():
        steps[name] = evaluate(tensor, whole, EXACT)[0, 0]
    return steps


def symbols() -> Matrix:
    """A symbol w_cpq for every weight."""
    return np.array([[[sympy.Symbol(f"w_{c}{p}{q}") for q in range(3)] for p in range(3)] for c in range(3)])


def symbolic() -> Matrix:
    """Y as formulas in the weights, the picture being given."""
    found: Matrix = evaluate(y, {x: X[None], w: symbols()[None]}, SYMBOLIC)[0, 0]
    return found


def compiled() -> dict[str, Matrix]:
    """Y and both poolings by native code in float32."""
    found = ft.compile(list(results.values()))(X[None].astype(np.float32), W[None].astype(np.float32))
    return dict(zip(results, (m[0, 0] for m in found), strict=True))


def table(matrix: Matrix) -> str:
    """A matrix in columns; fractions as fractions."""
    cells = [[str(Fraction(v).limit_denominator(1000)) for v in row] for row in matrix.tolist()]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join("    " + "  ".join(cell.rjust(width) for cell in row) for row in cells)


def main() -> None:
    """Print all three."""
    print(f"the equation      {total.equation}\n")
    for name, matrix in exact().items():
        print(f"{name}\n{table(matrix)}\n")
    formulas = symbolic()
    print(f"with symbols for the weights, the first element of Y is\n    {formulas[0, 0]}")
    values = dict(zip(symbols().ravel(), W.ravel().tolist(), strict=True))
    print(f"and with the numbers inserted {formulas[0, 0].subs(values)}\n")
    gradient = ft.grad(y.sum(), w)
    print(f"its gradient by the weights, derived:\n    {gradient.equation}\n")
    print("compiled:")
    for name, matrix in compiled().items():
        print(f"{name}\n{table(matrix)}\n")


if __name__ == "__main__":
    main()
