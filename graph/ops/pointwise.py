"""Elementwise ops, broadcasting as NumPy does."""

from faltung.graph.ops.table import row

ROWS = (
    row("add", "X Z", "Y[...] = X[...] + Z[...]"),
    row("sub", "X Z", "Y[...] = X[...] - Z[...]"),
    row("mul", "X Z", "Y[...] = X[...] * Z[...]"),
    row("div", "X Z", "Y[...] = X[...] / Z[...]"),
    row("maximum", "X Z", "Y[...] = max(X[...], Z[...])"),
    row("minimum", "X Z", "Y[...] = min(X[...], Z[...])"),
    row("neg", "X", "Y[...] = -X[...]"),
    row("abs", "X", "Y[...] = |X[...]|"),
    row("relu", "X", "Y[...] = relu(X[...])"),
    row("exp", "X", "Y[...] = exp(X[...])"),
    row("log", "X", "Y[...] = log(X[...])"),
    row("sqrt", "X", "Y[...] = sqrt(X[...])"),
    row("tanh", "X", "Y[...] = tanh(X[...])"),
    row("sigmoid", "X", "Y[...] = sigmoid(X[...])"),
)
