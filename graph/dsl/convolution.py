"""Convolution, transposed convolution, linear maps and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import Ints, letters_of, per_axis
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import ShapeError
from faltung.graph.index import Batch, Extent
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import FAMILIES, Attribute
from faltung.graph.tensor import Tensor

Padding = int | str | Sequence[int | tuple[int, int]]
Sides = tuple[tuple[int, int], ...]

# ---- geometry ----


def sides(padding: Padding, extents: Sequence[Extent], kernel: Sequence[int], stride: Ints, dilation: Ints) -> Sides:
    """Zeros before and behind each spatial axis.

    `padding` is one number, one or a pair (before, behind) for each axis, "valid" (none), or "same": as many as make
    the output ⌈extent / stride⌉ long, half of them before; what is odd goes behind. Raises ShapeError.
    """
    rank = len(kernel)
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        found = []
        for e, k, s, d in zip(extents, kernel, per_axis(stride, rank, "stride", 1), per_axis(dilation, rank, "dilation", 1), strict=True):
            total = max((-(-_known(e) // s) - 1) * s + d * (k - 1) + 1 - _known(e), 0)
            found.append((total // 2, total - total // 2))
        return tuple(found)
    if isinstance(padding, str):
        raise ShapeError(f"padding={padding!r}: give integers, pairs of them, 'valid' or 'same'")
    entries = (padding,) * rank if isinstance(padding, (int, np.integer)) else tuple(padding) if isinstance(padding, Sequence) else ()
    pairs = [tuple(p) if isinstance(p, (tuple, list)) else (p, p) for p in entries]
    if len(pairs) != rank or any(len(p) != 2 or not all(isinstance(v, (int, np.integer)) and v >= 0 for v in p) for p in pairs):
        wanted = "an integer of at least 0" + (f", or {rank} of them" if rank > 1 else "")
        raise ShapeError(f"padding={padding!r}: give {wanted}, pairs (before, behind), 'valid' or 'same'")
    return tuple((int(lo), int(hi)) for lo, hi in pairs)


def _uneven(name: str, x: Tensor, k: Sequence[int], s: Sequence[int], d: Sequence[int], around: Sides) -> dict[str, Extent]:
    """Extents of the output where padding differs between the sides; elsewhere the shape rule finds them."""
    found: dict[str, Extent] = {}
    for t, (lo, hi) in enumerate(around):
        extent, reach = _known(x.shape[2 + t]), d[t] * (k[t] - 1) + 1
        if lo == hi:
            continue
        room = lo + extent + hi - reach
        if room < 0:
            raise ShapeError(f"{name}: axis {2 + t} has {lo} + {extent} + {hi} elements with its padding, the kernel spans {d[t]}·({k[t]} - 1) + 1 = {reach}")
        found[FAMILIES["i"][t]] = room // s[t] + 1
    return found


def _grouped(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, groups: Any, transposed: bool) -> tuple[str, dict[str, Attribute]]:
    """The row for these channels and its attributes F and C, channels of one group. Raises ShapeError where they do not fit."""
    if not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ShapeError(f"{name}: groups={groups!r}: give an integer of at least 1")
    first, second, channels = weight.shape[0], _known(weight.shape[1]), _known(x.shape[1])
    wanted, given = (first, "axis 0") if transposed else (second * groups, "axis 1")
    if channels != wanted:
        times = f" times {groups} groups" if groups > 1 and not transposed else ""
        raise ShapeError(f"{name}: the input has {channels} channels (axis 1 of {list(x.shape)}), the weight expects {wanted} ({given} of {list(weight.shape)}{times})")
    if groups > 1 and (isinstance(first, Batch) or first % groups):
        raise ShapeError(f"{name}: {first} channels (axis 0 of the weight {list(weight.shape)}) do not divide into {groups} groups")
    out = second * groups if transposed else first
    op = "transposed" if transposed else "conv"
    if groups == 1:
        return op, {}
    if bias is not None and bias.shape != (out,):
        raise ShapeError(f"{name}: the bias must have shape [{out}], one for each output channel, got {list(bias.shape)}")
    if channels == out == groups:
        return f"{op}_depthwise", {}
    return f"{op}_groups", {"C": int(channels // groups), "F": int(_known(out) // groups)}


def _known(extent: Extent) -> int:
    assert not isinstance(extent, Batch)  # only axis 0 of a tensor can be open
    return extent


def _operands(name: str, rank: int, x: Any, weight: Any, bias: Any, layout: str) -> tuple[Tensor, Tensor, Tensor | None]:
    x = as_tensor(x)
    weight = as_tensor(weight, x)
    for t, what in ((x, "input (N, C, …)"), (weight, f"weight ({layout}, …)")):
        if t.rank != rank + 2:
            raise ShapeError(f"{name}: the {what} must have {rank + 2} axes, got {t.rank}: {list(t.shape)}")
    return x, weight, as_tensor(bias, x) if bias is not None else None


# ---- convolution ----


def _conv(
    rank: int, x: Any, weight: Any, bias: Any, stride: Ints, padding: Padding, dilation: Ints, groups: int
) -> Tensor:  # fmt: skip
    name = f"conv{rank}d"
    x, weight, bias = _operands(name, rank, x, weight, bias, "out, in")
    op, attributes = _grouped(name, x, weight, bias, groups, transposed=False)
    s, d = per_axis(stride, rank, "stride", 1), per_axis(dilation, rank, "dilation", 1)
    kernel = [_known(e) for e in weight.shape[2:]]
    around = sides(padding, x.shape[2:], kernel, s, d)
    attributes |= {"s": s, "P": tuple(lo for lo, _ in around), "d": d}
    operands = [x, weight, *([bias] if bias is not None else [])]
    return apply(REGISTRY[op], operands, attributes=attributes, rank=rank, extents=_uneven(name, x, kernel, s, d, around))


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1, groups: int = 1
) -> Tensor:
    """1-D convolution (cross-correlation): input (N, C, L), weight (F, C / groups, R), bias (F).

    `padding` is as `sides` describes; "same" is allowed with any stride. Raises ShapeError.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1, groups: int = 1
) -> Tensor:
    """2-D convolution (cross-correlation): input (N, C, H, W), weight (F, C / groups, R, S), bias (F).

    `padding` is as `sides` describes; "same" is allowed with any stride. Raises ShapeError.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1, groups: int = 1
) -> Tensor:
    """3-D convolution (cross-correlation): input (N, C, D, H, W), weight (F, C / groups, Q, R, S), bias (F).

    `padding` is as `sides` describes; "same" is allowed with any stride. Raises ShapeError.
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


# ---- transposed convolution ----


def _transposed(
    rank: int, x: Any, weight: Any, bias: Any, stride: Ints, padding: Ints, output_padding: Ints, groups: int, dilation: Ints
) -> Tensor:  # fmt: skip
    name = f"conv_transpose{rank}d"
    x, weight, bias = _operands(name, rank, x, weight, bias, "in, out")
    op, attributes = _grouped(name, x, weight, bias, groups, transposed=True)
    s, d = per_axis(stride, rank, "stride", 1), per_axis(dilation, rank, "dilation", 1)
    around, more = per_axis(padding, rank, "padding", 0), per_axis(output_padding, rank, "output_padding", 0)
    extents: dict[str, Extent] = {"g": groups}
    for t, (e, k) in enumerate(zip(map(_known, x.shape[2:]), map(_known, weight.shape[2:]), strict=True)):
        if more[t] >= max(s[t], d[t]):
            raise ShapeError(f"{name}: output_padding {more[t]} on axis {2 + t} must be smaller than the stride {s[t]} or the dilation {d[t]}")
        out = (e - 1) * s[t] - 2 * around[t] + d[t] * (k - 1) + more[t] + 1
        if out < 1:
            raise ShapeError(
                f"{name}: axis {2 + t} would have ({e} - 1)·{s[t]} - 2·{around[t]} + {d[t]}·({k} - 1) + {more[t]} + 1 = {out} elements; "
                "make the padding smaller or the input larger"
            )
        extents[FAMILIES["i"][t]] = out
    attributes |= {"s": s, "P": around, "d": d}
    operands = [x, weight, *([bias] if bias is not None else [])]
    return apply(REGISTRY[op], operands, attributes=attributes, rank=rank, extents=extents)


def conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1
) -> Tensor:
    """1-D transposed convolution: input (N, C, L), weight (C, F / groups, R), bias (F); the map of which conv1d's input gradient is one.

    The output has (L - 1)·stride - 2·padding + dilation·(R - 1) + output_padding + 1 elements. Raises ShapeError.
    """
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1
) -> Tensor:
    """2-D transposed convolution: input (N, C, H, W), weight (C, F / groups, R, S), bias (F); see conv_transpose1d. Raises ShapeError."""
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1
) -> Tensor:
    """3-D transposed convolution: input (N, C, D, H, W), weight (C, F / groups, Q, R, S), bias (F); see conv_transpose1d. Raises ShapeError."""
    return _transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


# ---- matrices ----


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """input (N, …, K) times weight (O, K) transposed, plus bias (O): a map of the last axis. Raises ShapeError."""
    x = as_tensor(input)
    w = as_tensor(weight, x)
    if x.rank < 2 or w.rank != 2 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"linear: input {list(x.shape)} and weight {list(w.shape)} must be (N, …, K) and (O, K)"
            + (f"; flatten the input first: {x.rank} axes" if x.rank > 2 else "")
        )
    words = {"over": ",".join(letters_of(x, "linear")[:-1])}
    return apply(REGISTRY["linear"], [x, w, *([as_tensor(bias, x)] if bias is not None else [])], words=words)


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product of (I, K) and (K, J). Raises ShapeError."""
    x = as_tensor(a)
    y = as_tensor(b, x)
    if x.rank != 2 or y.rank != 2:
        raise ShapeError(f"matmul takes two matrices, got {list(x.shape)} and {list(y.shape)}")
    return apply(REGISTRY["matmul"], [x, y])
