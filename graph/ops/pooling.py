"""Pooling: w window, s stride, d dilation, P padding. Padding of a maximum is never chosen; of a mean it counts.

Where windows reach beyond what counts, `avg_pool_inside` divides by D, the number of their positions in [0, E) from A on.

Adaptive pooling from L to O positions has the windows ⌊o·L/O⌋ ≤ u < ⌈(o+1)·L/O⌉ along an axis, which is
0 ≤ O·u - L·o + O - 1 < L + O - 1. The maximum adds Z at that number: 0 inside, and outside the read gives -∞.
"""

from faltung.graph.ops.table import row

ROWS = (
    row("max_pool", "X", "Y[n,c,i...] = max(p<w...: X[n,c,s*i+d*p-P...])"),
    # the position in the window that a maximum comes from, the number of that element in its plane, and the way back:
    # where windows overlap, the last of those that name an element has it, the one that reads it at its first position
    row("max_position", "X", "A[n,c,i...] = argmax(p<w...: X[n,c,s*i+d*p-P...])"),
    row("element", "A", "I[n,c,i...] = sum(p<w...: [A[n,c,i...] = {position}] * ({element}))"),
    row("max_unpool", "X I", "Y[n,c,x...] = sum(p<w...: X[n,c,(x+P-p)/s...] * [I[n,c,(x+P-p)/s...] = {element}])"),
    row("max_unpool_last", "X I",
        "B[n,c,x...] = max(p<w...: [I[n,c,(x+P-p)/s...] = {element}] * [0 ≤ (x+P-p)/s < E]... * (K-({position})))",
        "Y[n,c,x...] = sum(p<w...: X[n,c,(x+P-p)/s...] * [I[n,c,(x+P-p)/s...] = {element}] * [B[n,c,x...] = K-({position})])"),
    row("sum_pool", "X", "Y[n,c,i...] = sum(p<w...: X[n,c,s*i+p-P...])"),
    row("avg_pool", "X", "Y[n,c,i...] = sum(p<w...: X[n,c,s*i+p-P...]) / extent(p...)"),
    row("avg_pool_inside", "X",
        "D[i<I...] = sum(p<w...: [0 ≤ s*i+p-A < E]...)",
        "Y[n,c,i...] = sum(p<w...: X[n,c,s*i+p-P...]) / D[i...]"),
    row("adaptive_avg_pool", "X",
        "D[o<O] = sum(u<L: [0 ≤ O*u-L*o+O-1 < L+O-1])",
        "Y[{to}] = sum({over}: X[{all}] * [0 ≤ O*{over}-L*o+O-1 < L+O-1]) / D[o]"),
    row("adaptive_max_pool", "X",
        "Z[o<L+O-1] = 0",
        "Y[{to}] = max({over}: X[{all}] * [0 ≤ O*{over}-L*o+O-1 < L+O-1] + Z[O*{over}-L*o+O-1])"),
    row("root", "X", "Y[...] = [X[...] ≠ 0] * sqrt(X[...])"),  # derivative 0 at 0, as the next
    row("power", "X", "Y[...] = [X[...] ≠ 0] * exp(a * log(X[...]))"),
)  # fmt: skip
