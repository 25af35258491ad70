"""Pooling: w window, s stride, d dilation, P padding. Padding of a maximum is never chosen; of a mean it counts."""

from faltung.graph.ops.table import row

ROWS = (
    row("max_pool", "X", "Y[n,c,i...] = max(p<w...: X[n,c,s*i+d*p-P...])"),
    row("avg_pool", "X", "Y[n,c,i...] = sum(p<w...: X[n,c,s*i+p-P...]) / extent(p...)"),
)
