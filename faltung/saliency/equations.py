"""TABLE of the methods' equations, over spatial indices i… of any number.

    X[n,c,i…]  input                      A[n,f,i…]  what a layer gives               S[]   score, summed over the batch
    Y[n,k]     scores of the classes      G          derivative of S by A or by X     T[n]  class asked for, -1 for the best
    V[k,f]     weights of the last layer

Grad-CAM++ weights the derivatives g of exp(S) by g² / (2g² + Σ A·g³). The exponential scales every weight alike and
the powers cancel: what is left is 1 / (2 + Σ A·g), counted where g > 0.
"""

from __future__ import annotations

from typing import Any

from faltung.graph.ops.table import apply, row
from faltung.graph.tensor import Tensor

UNIFORMS = 12  # their sum has variance 1, and is normal but for its tails, which end at ±6

_WEIGHTED = "C[n,i...] = sum(f: W[n,f] * A[n,f,i...])"

ROWS = {
    entry.name: entry
    for entry in (
        row("best", "Y", "T[n] = argmax(k: Y[n,k])"),
        row("class", "T M", "K[n] = T[n]*[T[n] ≥ 0] + M[n]*[T[n] < 0]"),
        row("score", "Y K", "S[] = sum(n,k: [K[n] = k] * Y[n,k])"),
        # weights of the channels of A, and the map they give
        row("CAM", "A V K", "W[n,f] = sum(k: [K[n] = k] * V[k,f])", _WEIGHTED),
        row("GradCAM", "A G", "W[n,f] = sum(i...: G[n,f,i...]) / extent(i...)", _WEIGHTED),
        row("GradCAM++", "A G",
            "Z[n,f] = sum(i...: A[n,f,i...])",
            "W[n,f] = sum(i...: relu(G[n,f,i...]) / (2 + Z[n,f]*relu(G[n,f,i...])))", _WEIGHTED),
        # SmoothGrad's input: σ of the image's range, normal numbers from the position, the sample's number R and the key κ
        row("noisy", "X R",
            "H[n] = max(c,i...: X[n,c,i...])",
            "L[n] = min(c,i...: X[n,c,i...])",
            "Y[n,c,i...] = X[n,c,i...] + σ*(H[n] - L[n])*((sum(q<υ: random({at}, R[], κ+q)) + υ/2)/β - υ/2)"),
        # IntegratedGradients: the way from B to X, R of it
        row("between", "X B R", "P[n,c,i...] = B[n,c,i...] + R[]*(X[n,c,i...] - B[n,c,i...])"),
        row("along", "X B G", "Y[n,c,i...] = (X[n,c,i...] - B[n,c,i...])*G[n,c,i...]"),
        # from maps to heat
        row("strength", "G", "H[n,i...] = max(c: |G[n,c,i...]|)"),
        row("positive", "C", "H[n,i...] = relu(C[n,i...])"),
        row("scaled", "H",
            "U[n] = max(i...: H[n,i...])",
            "L[n] = min(i...: H[n,i...])",
            "Y[n,i...] = (H[n,i...] - L[n]) / (U[n] - L[n] + [U[n] = L[n]])"),
    )
}  # fmt: skip


def write(name: str, rank: int, *tensors: Tensor, **further: Any) -> Tensor:
    """The result of a row on tensors with `rank` spatial axes."""
    return apply(ROWS[name], tensors, rank=rank, **further)
