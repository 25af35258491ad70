"""Convolution and its relatives. Convolution is cross-correlation; s stride, d dilation, P padding.

With groups, channels are two digits: C·g + c of the input, F·g + f of the output, C and F of each a group; `depthwise`
is C = F = 1 written plainly. A transposed convolution is the gather that the input gradient of a convolution is.

A border of A elements before an axis of L repeats the input: `{pre}` and `{post}` are the indices around that axis. The
three reads are never inside at once, and a read outside gives 0.
"""

from faltung.graph.ops.table import row

ROWS = (
    row("conv", "X K", "Y[n,f,i...] = sum(c,p...: X[n,c,s*i+d*p-P...] * K[f,c,p...])", optional=("B", " + B[f]")),
    row("conv_groups", "X K", "Y[n,F*g+f,i...] = sum(c,p...: X[n,C*g+c,s*i+d*p-P...] * K[F*g+f,c,p...])", optional=("B", " + B[F*g+f]")),
    row("conv_depthwise", "X K", "Y[n,c,i...] = sum(p...: X[n,c,s*i+d*p-P...] * K[c,0,p...])", optional=("B", " + B[c]")),
    row("transposed", "X K", "Y[n,f,i...] = sum(c,p...: X[n,c,(i+P-d*p)/s...] * K[c,f,p...])", optional=("B", " + B[f]")),
    row("transposed_groups", "X K", "Y[n,F*g+f,i...] = sum(c,p...: X[n,C*g+c,(i+P-d*p)/s...] * K[C*g+c,f,p...])", optional=("B", " + B[F*g+f]")),
    row("transposed_depthwise", "X K", "Y[n,c,i...] = sum(p...: X[n,c,(i+P-d*p)/s...] * K[c,0,p...])", optional=("B", " + B[c]")),
    row("border_circular", "X", "Y[{pre}u<U{post}] = X[{pre}u-A{post}] + X[{pre}u-A+L{post}] + X[{pre}u-A-L{post}]"),
    row("border_reflect", "X", "Y[{pre}u<U{post}] = X[{pre}u-A{post}] + X[{pre}A-u{post}] * [u < A] + X[{pre}2*L-2+A-u{post}] * [u ≥ L+A]"),
    row("border_replicate", "X", "Y[{pre}u<U{post}] = X[{pre}u-A{post}] + X[{pre}0{post}] * [u < A] + X[{pre}L-1{post}] * [u ≥ L+A]"),
    row("linear", "X W", "Y[{over},o] = sum(k: X[{over},k] * W[o,k])", optional=("B", " + B[o]")),
    row("matmul", "A B", "Y[i,j] = sum(k: A[i,k] * B[k,j])"),
)
