"""What users call to build graphs: functions over tensors, each of which applies a row of the op tables.

Names, argument names and their order follow PyTorch's functional interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.index import Batch, Extent
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.ops.table import row
from faltung.graph.parse import LETTERS, Attribute
from faltung.graph.tensor import DTYPES, FLOATS, Tensor, leaf

Ints = int | Sequence[int]
Axes = int | Sequence[int] | None


# ---- leaves ----


def input(name: str, shape: Sequence[Extent | None], dtype: str = "float32") -> Tensor:
    """An input of the network. None as the first extent leaves the batch size open.

    Raises ShapeError for a bad extent, DTypeError for an unknown dtype.
    """
    return leaf("input", shape, dtype, name)


def constant(value: Any, name: str = "", dtype: str | None = None) -> Tensor:
    """An array whose values are known when the graph is built; Python and float64 arrays become float32 unless `dtype` says otherwise."""
    array = _array(value, dtype, name or "constant")
    return leaf("constant", array.shape, str(array.dtype), name, array)


def parameter(value: Any, name: str = "", dtype: str | None = None) -> Tensor:
    """A trainable array with its initial value."""
    array = _array(value, dtype, name or "parameter")
    return leaf("parameter", array.shape, str(array.dtype), name, array)


def _array(value: Any, dtype: str | None, name: str) -> np.ndarray[Any, Any]:
    array = np.array(value)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{name}: {array.dtype} is not a numeric dtype; use one of {', '.join(DTYPES)}")
    if dtype is None:
        dtype = "float32" if array.dtype.kind in "f" else {"i": "int64", "u": "int64", "b": "bool"}.get(array.dtype.kind)
        if array.dtype == np.int32:
            dtype = "int32"
    if dtype not in DTYPES:
        raise DTypeError(f"{name}: dtype {array.dtype} is not supported; use one of {', '.join(DTYPES)}")
    return np.array(array, dtype=dtype, order="C")


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """A tensor as it is; anything else as a constant (in the dtype of `like` when that is a float)."""
    if isinstance(value, Tensor):
        return value
    return constant(value, dtype=like.dtype if like is not None and like.dtype in FLOATS else None)


# ---- elementwise ----


def pointwise(op: str, *args: Any) -> Tensor:
    """An elementwise op on tensors, arrays and numbers; numbers become constants of the equation."""
    like = next((a for a in args if isinstance(a, Tensor)), None)
    numbers = [isinstance(a, (int, float, Fraction, np.number)) and not isinstance(a, np.ndarray) for a in args]
    if like is None:
        args, numbers = (as_tensor(args[0]), *args[1:]), [False, *numbers[1:]]
    if not any(numbers):
        return apply(REGISTRY[op], [as_tensor(a, like) for a in args])
    # X[...] + a: the same row with the number in place of the operand
    text, tensors, attributes = REGISTRY[op].equations[0], [], {}
    names = []
    for name, value, is_number in zip(REGISTRY[op].operands, args, numbers, strict=True):
        if is_number:
            text = text.replace(f"{name}[...]", "a")
            attributes["a"] = value.item() if isinstance(value, np.generic) else value
        else:
            tensors.append(as_tensor(value, like))
            names.append(name)
    return apply(row(op, " ".join(names), text), tensors, attributes=attributes)


def relu(x: Any) -> Tensor:
    """max(x, 0); the derivative at 0 is 0, NaN stays NaN."""
    return pointwise("relu", x)


def exp(x: Any) -> Tensor:
    """Elementwise exponential."""
    return pointwise("exp", x)


def log(x: Any) -> Tensor:
    """Elementwise natural logarithm."""
    return pointwise("log", x)


def sqrt(x: Any) -> Tensor:
    """Elementwise square root."""
    return pointwise("sqrt", x)


def tanh(x: Any) -> Tensor:
    """Elementwise hyperbolic tangent."""
    return pointwise("tanh", x)


def sigmoid(x: Any) -> Tensor:
    """Elementwise 1 / (1 + exp(-x))."""
    return pointwise("sigmoid", x)


def abs(x: Any) -> Tensor:
    """Elementwise absolute value; the derivative at 0 is 0."""
    return pointwise("abs", x)


def maximum(x: Any, z: Any) -> Tensor:
    """Elementwise maximum; where equal the derivative goes to the first argument."""
    return pointwise("maximum", x, z)


def minimum(x: Any, z: Any) -> Tensor:
    """Elementwise minimum; where equal the derivative goes to the first argument."""
    return pointwise("minimum", x, z)


# ---- convolution, linear, pooling ----


def _per_axis(value: Ints, rank: int, what: str, least: int) -> tuple[int, ...]:
    numbers = (value,) * rank if isinstance(value, (int, np.integer)) else tuple(value) if isinstance(value, Iterable) else None
    if numbers is None or len(numbers) != rank or any(not isinstance(v, (int, np.integer)) or v < least for v in numbers):
        raise ShapeError(f"{what}={value!r}: give an integer of at least {least}, or {rank} of them")
    return tuple(int(v) for v in numbers)


def _conv(rank: int, x: Any, weight: Any, bias: Any, stride: Ints, padding: Ints, dilation: Ints) -> Tensor:
    x, name = as_tensor(x), f"conv{rank}d"
    weight = as_tensor(weight, x)
    operands = [x, weight, *([as_tensor(bias, x)] if bias is not None else [])]
    for t, what in ((x, "input (N, C, …)"), (weight, "weight (out, in, …)")):
        if t.rank != rank + 2:
            raise ShapeError(f"{name}: the {what} must have {rank + 2} axes, got {t.rank}: {list(t.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ShapeError(f"{name}: the input has {x.shape[1]} channels (axis 1 of {list(x.shape)}), the weight expects {weight.shape[1]} (axis 1 of {list(weight.shape)})")
    attributes: dict[str, Attribute] = {
        "s": _per_axis(stride, rank, "stride", 1),
        "P": _per_axis(padding, rank, "padding", 0),
        "d": _per_axis(dilation, rank, "dilation", 1),
    }
    return apply(REGISTRY["conv"], operands, attributes=attributes, rank=rank)


def conv1d(input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """1-D convolution (cross-correlation): input (N, C, L), weight (F, C, R), bias (F). Raises ShapeError."""
    return _conv(1, input, weight, bias, stride, padding, dilation)


def conv2d(input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """2-D convolution (cross-correlation): input (N, C, H, W), weight (F, C, R, S), bias (F). Raises ShapeError."""
    return _conv(2, input, weight, bias, stride, padding, dilation)


def conv3d(input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """3-D convolution (cross-correlation): input (N, C, D, H, W), weight (F, C, Q, R, S), bias (F). Raises ShapeError."""
    return _conv(3, input, weight, bias, stride, padding, dilation)


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """input (N, K) times weight (O, K) transposed, plus bias (O). Raises ShapeError."""
    x = as_tensor(input)
    w = as_tensor(weight, x)
    if x.rank != 2 or w.rank != 2 or x.shape[1] != w.shape[1]:
        raise ShapeError(
            f"linear: input {list(x.shape)} and weight {list(w.shape)} must be (N, K) and (O, K)"
            + (f"; flatten the input first: {x.rank} axes" if x.rank != 2 else "")
        )
    return apply(REGISTRY["linear"], [x, w, *([as_tensor(bias, x)] if bias is not None else [])])


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product of (I, K) and (K, J). Raises ShapeError."""
    x = as_tensor(a)
    y = as_tensor(b, x)
    if x.rank != 2 or y.rank != 2:
        raise ShapeError(f"matmul takes two matrices, got {list(x.shape)} and {list(y.shape)}")
    return apply(REGISTRY["matmul"], [x, y])


def _pool(op: str, rank: int, x: Any, kernel: Ints, stride: Ints | None, padding: Ints, dilation: Ints = 1) -> Tensor:
    x, name = as_tensor(x), f"{op}{rank}d"
    if x.rank != rank + 2:
        raise ShapeError(f"{name}: the input must be (N, C, …) with {rank + 2} axes, got {list(x.shape)}")
    k = _per_axis(kernel, rank, "kernel_size", 1)
    pad = _per_axis(padding, rank, "padding", 0)
    if any(2 * p > e for p, e in zip(pad, k, strict=True)):
        raise ShapeError(f"{name}: padding {pad} must be at most half the kernel {k}, or a window would lie outside")
    attributes: dict[str, Attribute] = {
        "w": k,
        "s": k if stride is None else _per_axis(stride, rank, "stride", 1),
        "P": pad,
        "d": _per_axis(dilation, rank, "dilation", 1),
    }
    return apply(REGISTRY[op], [x], attributes=attributes, rank=rank)


def max_pool1d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """Maximum over windows of (N, C, L); the stride defaults to the kernel. Raises ShapeError."""
    return _pool("max_pool", 1, input, kernel_size, stride, padding, dilation)


def max_pool2d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """Maximum over windows of (N, C, H, W); the stride defaults to the kernel. Raises ShapeError."""
    return _pool("max_pool", 2, input, kernel_size, stride, padding, dilation)


def max_pool3d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """Maximum over windows of (N, C, D, H, W); the stride defaults to the kernel. Raises ShapeError."""
    return _pool("max_pool", 3, input, kernel_size, stride, padding, dilation)


def avg_pool1d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> Tensor:
    """Mean over windows of (N, C, L), padding counted; the stride defaults to the kernel. Raises ShapeError."""
    return _pool("avg_pool", 1, input, kernel_size, stride, padding)


def avg_pool2d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> Tensor:
    """Mean over windows of (N, C, H, W), padding counted; the stride defaults to the kernel. Raises ShapeError."""
    return _pool("avg_pool", 2, input, kernel_size, stride, padding)


def avg_pool3d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> Tensor:
    """Mean over windows of (N, C, D, H, W), padding counted; the stride defaults to the kernel. Raises ShapeError."""
    return _pool("avg_pool", 3, input, kernel_size, stride, padding)


# ---- reductions over axes ----


def _axes(x: Tensor, axis: Axes, what: str) -> tuple[int, ...]:
    if axis is not None and not isinstance(axis, (int, np.integer)) and not isinstance(axis, Iterable):
        raise ShapeError(f"{what}: axis {axis!r} must be an integer or several")
    chosen = range(x.rank) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    for a in chosen:
        if not isinstance(a, (int, np.integer)):
            raise ShapeError(f"{what}: axis {a!r} must be an integer")
        if not -x.rank <= a < x.rank:
            raise ShapeError(f"{what}: axis {a} of a tensor with {x.rank} axes {list(x.shape)}")
    return tuple(sorted({int(a) % x.rank for a in chosen}))


def _letters(x: Tensor, what: str) -> str:
    if x.rank not in LETTERS:
        raise ShapeError(f"{what}: a tensor of {x.rank} axes {list(x.shape)}; at most {len(LETTERS) - 1} are supported")
    return LETTERS[x.rank]


def _over(op: str, x: Any, axis: Axes, dtype: str | None = None) -> Tensor:
    x = as_tensor(x)
    axes = _axes(x, axis, op)
    if not axes:
        return x
    letters = _letters(x, op)
    words = {
        "all": ",".join(letters),
        "over": ",".join(letters[a] for a in axes),
        "kept": ",".join(c for a, c in enumerate(letters) if a not in axes),
    }
    return apply(REGISTRY[op], [x], words=words, dtype=dtype)


def sum(x: Any, axis: Axes = None) -> Tensor:
    """Sum over axes (default: all); the axes disappear."""
    return _over("sum", x, axis)


def mean(x: Any, axis: Axes = None) -> Tensor:
    """Mean over axes (default: all); the axes disappear."""
    return _over("mean", x, axis)


def max(x: Any, axis: Axes = None) -> Tensor:
    """Maximum over axes (default: all); the gradient goes to the first maximal position."""
    return _over("max", x, axis)


def min(x: Any, axis: Axes = None) -> Tensor:
    """Minimum over axes (default: all); the gradient goes to the first minimal position."""
    return _over("min", x, axis)


def argmax(x: Any, axis: Axes = None) -> Tensor:
    """Row-major position (int32) of the first maximum over axes."""
    return _over("argmax", x, axis, "int32")


def softmax(x: Any, dim: int = -1) -> Tensor:
    """exp(x) normalised to sum 1 along `dim`."""
    return _over("softmax", x, dim)


def log_softmax(x: Any, dim: int = -1) -> Tensor:
    """Logarithm of the softmax along `dim`."""
    return _over("log_softmax", x, dim)


def cross_entropy(input: Any, target: Tensor) -> Tensor:
    """Mean over the batch of -log softmax(input)[n, target[n]]: input (N, K), target (N) of integers.

    Raises ShapeError when the batch sizes or ranks do not fit, DTypeError for labels that are not integers.
    """
    x = as_tensor(input)
    target = as_tensor(target)
    if x.rank != 2 or target.rank != 1:
        raise ShapeError(f"cross_entropy: input must be (N, K) and target (N), got {list(x.shape)} and {list(target.shape)}")
    if target.dtype not in ("int32", "int64"):
        raise DTypeError(f"cross_entropy: labels are integers (int64), got {target.dtype}")
    return apply(REGISTRY["nll"], [log_softmax(x, 1), target])


# ---- views ----


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """Axes permuted as in np.transpose (default: reversed). Raises ShapeError for a list that is no permutation."""
    x = as_tensor(x)
    given = tuple(reversed(range(x.rank))) if axes is None else tuple(axes)
    order = tuple(a % x.rank for a in given if -x.rank <= a < x.rank)
    if sorted(order) != list(range(x.rank)) or len(given) != x.rank:
        raise ShapeError(f"transpose: {list(given)} is not a permutation of {list(range(x.rank))}")
    letters = _letters(x, "transpose")
    return apply(REGISTRY["transpose"], [x], words={"all": ",".join(letters), "to": ",".join(letters[a] for a in order)})


def flatten(x: Any, start_dim: int = 1, end_dim: int = -1) -> Tensor:
    """Axes start_dim … end_dim merged into one, in row-major order."""
    x = as_tensor(x)
    for d in (start_dim, end_dim):
        if not -(x.rank or 1) <= d < (x.rank or 1):
            raise ShapeError(f"flatten: dimension {d} of a tensor with {x.rank} axes {list(x.shape)}")
    first, last = start_dim % (x.rank or 1), end_dim % (x.rank or 1)
    if first > last:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    merged = 1
    for e in x.shape[first : last + 1]:
        if isinstance(e, Batch):
            raise ShapeError(f"flatten: axis 0 of {list(x.shape)} is the open batch size; start at dimension 1")
        merged *= e
    return reshape(x, (*x.shape[:first], merged, *x.shape[last + 1 :]))


def reshape(x: Any, shape: Sequence[Extent | None]) -> Tensor:
    """The same elements in row-major order under another shape; one extent may be -1, None is the open batch.

    Raises ShapeError when the numbers of elements differ.
    """
    from faltung.graph.reshape import index_lists

    x = as_tensor(x)
    for old, new, lists in index_lists(x.shape, tuple(shape)):
        del old
        x = apply(REGISTRY["reshape"], [x], words=lists)
        assert x.shape == new
    return x


