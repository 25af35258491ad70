"""Softmax and losses. The maximum M only keeps exp from overflowing: the value does not depend on it, hence stop(M).

A loss is an equation of one element, `{all}`, of the input X and the target T; reductions.py adds them up. Labels g are
ignored (`nll_mean` takes for granted that g is no class), W weighs classes, ε is the share of the other classes in a
smoothed label, δ and β say where a loss turns from a square into a line.
"""

from faltung.graph.ops.table import row

_SHIFT = "M[{kept}] = max({over}: X[{all}])"
_SCALE = "S[{kept}] = sum({over}: exp(X[{all}] - stop(M[{kept}])))"

ROWS = (
    row("softmax", "X", _SHIFT, _SCALE, "Y[{all}] = exp(X[{all}] - stop(M[{kept}])) / S[{kept}]"),
    row("log_softmax", "X", _SHIFT, _SCALE, "Y[{all}] = X[{all}] - stop(M[{kept}]) - log(S[{kept}])"),
    # X are logarithms of probabilities; weighed by their class
    row("weigh", "X W", "Y[{all}] = W[{over}] * X[{all}]"),
    row("nll", "X T", "L[{kept}] = sum({over}: -[T[{kept}] = {over}] * X[{all}]) * [T[{kept}] ≠ g]"),
    row("nll_mean", "X T", "C[] = sum({kept}: [T[{kept}] ≠ g])", "L[] = sum({all}: -[T[{kept}] = {over}] * X[{all}]) / C[]"),
    row("smooth", "X T", "L[{kept}] = sum({over}: -((1 - ε)*[T[{kept}] = {over}] + ε/extent({over})) * X[{all}]) * [T[{kept}] ≠ g]"),
    row("soft_labels", "X T", "L[{kept}] = sum({over}: -((1 - ε)*T[{all}] + ε/extent({over})) * X[{all}])"),
    row("labels", "T", "C[] = sum({kept}: [T[{kept}] ≠ g])"),
    row("labels_weighted", "T W", "C[] = sum({kept},{over}: [T[{kept}] = {over}] * W[{over}] * [T[{kept}] ≠ g])"),
    row("mse", "X T", "L[...] = (X[...] - T[...])*(X[...] - T[...])"),
    row("l1", "X T", "L[...] = |X[...] - T[...]|"),
    row("huber", "X T", "D[...] = |X[...] - T[...]|", "L[...] = min(D[...], δ)*min(D[...], δ)/2 + δ*(D[...] - min(D[...], δ))"),
    row("smooth_l1", "X T", "D[...] = |X[...] - T[...]|", "L[...] = min(D[...], β)*min(D[...], β)/(2*β) + D[...] - min(D[...], β)"),
    row("binary_cross_entropy", "X T", "L[...] = -(T[...]*max(-100, log(X[...])) + (1 - T[...])*max(-100, log(1 - X[...])))"),
    row("logits", "X T", "L[...] = softplus(X[...]) - T[...]*X[...]"),
    row("logits_weighted", "X T W", "L[...] = (1 - T[...])*X[...] + (1 + (W[...] - 1)*T[...])*softplus(-X[...])"),
)
