"""Convolution and its relatives. Convolution is cross-correlation; s stride, d dilation, P padding."""

from faltung.graph.ops.table import row

ROWS = (
    row("conv", "X K", "Y[n,f,i...] = sum(c,p...: X[n,c,s*i+d*p-P...] * K[f,c,p...])", optional=("B", " + B[f]")),
    row("linear", "X W", "Y[n,o] = sum(k: X[n,k] * W[o,k])", optional=("B", " + B[o]")),
    row("matmul", "A B", "Y[i,j] = sum(k: A[i,k] * B[k,j])"),
)
