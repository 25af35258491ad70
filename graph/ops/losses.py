"""Softmax and losses. The maximum M only keeps exp from overflowing: the value does not depend on it, hence stop(M)."""

from faltung.graph.ops.table import row

_SHIFT = "M[{kept}] = max({over}: X[{all}])"
_SCALE = "S[{kept}] = sum({over}: exp(X[{all}] - stop(M[{kept}])))"

ROWS = (
    row("softmax", "X", _SHIFT, _SCALE, "Y[{all}] = exp(X[{all}] - stop(M[{kept}])) / S[{kept}]"),
    row("log_softmax", "X", _SHIFT, _SCALE, "Y[{all}] = X[{all}] - stop(M[{kept}]) - log(S[{kept}])"),
    row("nll", "X T", "L[] = sum(n,k: -[T[n] = k] * X[n,k]) / extent(n)"),
)
