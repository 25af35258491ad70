"""Normalisation: `{over}` are the indices that are averaged over, `{kept}` the others, `{to}` those of weight and bias.

The variance is the mean square of what is left when the mean is taken off: no cancellation. μ is the momentum of running
statistics; in `unbiased`, `{over}` is how many elements the average takes, N the open batch size.
"""

from faltung.graph.ops.table import row

ROWS = (
    row("variance", "X M", "V[{kept}] = sum({over}: (X[{all}] - M[{kept}])*(X[{all}] - M[{kept}])) / extent({over})"),
    row("standardise", "X M V", "Y[{all}] = (X[{all}] - M[{kept}]) / √(V[{kept}] + ε)"),
    row("scale", "X W", "Y[{all}] = X[{all}]*W[{to}]", optional=("B", " + B[{to}]")),
    row("shift", "X B", "Y[{all}] = X[{all}] + B[{to}]"),
    row("running", "R S", "Rʹ[{to}] = (1 - μ)*R[{to}] + μ*S[{to}]"),
    row("running_average", "R S T", "Rʹ[{to}] = R[{to}] + (S[{to}] - R[{to}])/(T[] + 1)"),
    row("unbiased", "V", "U[{to}] = V[{to}]*({over})/max({over} - 1, 1)"),
    row("count", "T", "Tʹ[] = T[] + 1"),
    # groups of s channels: channel s·g+c is number c of group g
    row(
        "group_norm",
        "X",
        "M[n,g] = sum(c,i...: X[n,s*g+c,i...]) / extent(c,i...)",
        "V[n,g] = sum(c,i...: (X[n,s*g+c,i...] - M[n,g])*(X[n,s*g+c,i...] - M[n,g])) / extent(c,i...)",
        "Y[n,s*g+c,i...] = (X[n,s*g+c,i...] - M[n,g]) / √(V[n,g] + ε)",
    ),
    # w neighbouring channels, h of them before this one
    row(
        "local_response_norm",
        "X",
        "S[n,c,i...] = sum(r<w: X[n,c+r-h,i...]*X[n,c+r-h,i...])",
        "Y[n,c,i...] = X[n,c,i...]*exp(-β*log(κ + α*S[n,c,i...]))",
    ),
)
