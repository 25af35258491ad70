"""Elementwise ops, broadcasting as NumPy does. A number may stand in the place of an operand.

Where a bend has two one-sided derivatives, the order of the arguments of max and min says which one holds there.
"""

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
    row("exp", "X", "Y[...] = exp(X[...])"),
    row("log", "X", "Y[...] = log(X[...])"),
    row("sqrt", "X", "Y[...] = sqrt(X[...])"),
    row("erf", "X", "Y[...] = erf(X[...])"),
    row("tanh", "X", "Y[...] = tanh(X[...])"),
    row("sigmoid", "X", "Y[...] = sigmoid(X[...])"),
    # activations: α, β, γ and t are numbers
    row("relu", "X", "Y[...] = relu(X[...])"),
    row("leaky_relu", "X", "Y[...] = relu(X[...]) + α*min(X[...], 0)"),
    row("prelu", "X W", "Y[{all}] = relu(X[{all}]) + W[{over}]*min(X[{all}], 0)"),
    row("hardtanh", "X", "Y[...] = min(β, max(α, X[...]))"),
    row("elu", "X", "Y[...] = γ*(relu(X[...]) + α*expm1(min(X[...], 0)/β))"),
    row("gelu", "X", "Y[...] = X[...]*(1 + erf(X[...]/√(2)))/2"),
    row("gelu_tanh", "X", "Y[...] = X[...]*(1 + tanh(√(2/π)*(X[...] + 0.044715*X[...]*X[...]*X[...])))/2"),
    row("silu", "X", "Y[...] = X[...]*sigmoid(X[...])"),
    row("hardsigmoid", "X", "Y[...] = min(6, max(0, X[...] + 3))/6"),
    row("hardswish", "X", "Y[...] = X[...]*min(6, max(0, X[...] + 3))/6"),
    # [[…] = 0] rather than the opposite comparison, which NaN would fail as well
    row("softplus", "X", "Y[...] = [β*X[...] > t]*X[...] + [[β*X[...] > t] = 0]*softplus(β*X[...])/β"),
    row("logsigmoid", "X", "Y[...] = -softplus(-X[...])"),
    row("softsign", "X", "Y[...] = X[...]/(1 + |X[...]|)"),
    row("mish", "X", "Y[...] = X[...]*tanh(softplus(X[...]))"),
    # the element's position, the step T and the key κ decide whether it stays
    row("dropout", "X T", "Y[{all}] = X[{all}]*γ*[random({over}, T[], κ) ≥ t]"),
)
