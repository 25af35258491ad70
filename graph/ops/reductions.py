"""Reductions. `{all}`, `{kept}` and `{over}` are lists of indices."""

from faltung.graph.ops.table import row

ROWS = (
    row("sum", "X", "Y[{kept}] = sum({over}: X[{all}])"),
    row("mean", "X", "Y[{kept}] = sum({over}: X[{all}]) / extent({over})"),
    row("max", "X", "Y[{kept}] = max({over}: X[{all}])"),
    row("min", "X", "Y[{kept}] = min({over}: X[{all}])"),
    row("argmax", "X", "Y[{kept}] = argmax({over}: X[{all}])"),
    row("argmin", "X", "Y[{kept}] = argmin({over}: X[{all}])"),
)
