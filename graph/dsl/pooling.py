"""Pooling over windows: maxima, means, sums and power means; windows of one size, or as many as positions are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import Ints, letters_of, per_axis
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.dsl.pointwise import MOST_FACTORS
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.index import Batch, Extent
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import FAMILIES, Attribute
from faltung.graph.tensor import Tensor

MOST_ELEMENTS = 2**24  # of a plane whose elements are numbered: float32 holds all whole numbers so far

# ---- geometry ----


@dataclass(frozen=True)
class _Windows:
    """Windows over the spatial axes of an input: sizes, steps, padding, dilations, and how many there are."""

    name: str
    w: tuple[int, ...]
    s: tuple[int, ...]
    P: tuple[int, ...]
    d: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]
    ceil: bool

    @property
    def reach_beyond(self) -> bool:
        """Whether a last window ends behind the padding: in ceil mode it may."""
        ends = zip(self.output, self.s, self.w, self.input, self.P, strict=True)
        return any((o - 1) * s + w > e + 2 * p for o, s, w, e, p in ends)

    def apply(self, op: str, x: Tensor, dtype: str | None = None, **more: Attribute) -> Tensor:
        """The row on this input; in ceil mode the number of windows is given, else the shape rule finds it."""
        attributes: dict[str, Attribute] = {"w": self.w, "s": self.s, "P": self.P, "d": self.d, **more}
        extents: dict[str, Extent] = dict(zip(FAMILIES["i"], self.output, strict=False)) if self.ceil else {}
        return apply(REGISTRY[op], [x], attributes=attributes, rank=len(self.w), extents=extents, dtype=dtype)

    def mean_inside(self, x: Tensor, with_padding: bool) -> Tensor:
        """Window sums divided by the number of positions in the input, or in the input and its padding."""
        start = tuple(0 if with_padding else p for p in self.P)
        extent = tuple(e + (2 * p if with_padding else 0) for e, p in zip(self.input, self.P, strict=True))
        return self.apply("avg_pool_inside", x, A=start, E=extent, I=self.output)


def _windows(name: str, x: Tensor, kernel: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool, dilation: Ints = 1) -> _Windows:
    rank = len(_spatial(name, x))
    w = per_axis(kernel, rank, "kernel_size", 1)
    s = w if stride is None else per_axis(stride, rank, "stride", 1)
    pad, d = per_axis(padding, rank, "padding", 0), per_axis(dilation, rank, "dilation", 1)
    if any(2 * p > f * (e - 1) + 1 for p, e, f in zip(pad, w, d, strict=True)):
        raise ShapeError(f"{name}: padding {pad} must be at most half the kernel {w}, or a window would lie outside")
    extents, count = _spatial(name, x), []
    for axis, (e, k, step, p, f) in enumerate(zip(extents, w, s, pad, d, strict=True), 2):
        room = e + 2 * p - f * (k - 1) - 1
        n = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (n - 1) * step >= e + p:  # a window must begin inside, or in the padding before
            n -= 1
        if n < 1:
            raise ShapeError(
                f"{name}: axis {axis} of {list(x.shape)}: the window spans {f * (k - 1) + 1} elements, but there are only {e}"
                + (f" + 2·{p} padding" if p else "") + "; make the input larger or the window smaller"
            )  # fmt: skip
        count.append(n)
    return _Windows(name, w, s, pad, d, extents, tuple(count), ceil_mode)


def _spatial(name: str, x: Tensor) -> tuple[int, ...]:
    """Extents behind (N, C). Raises ShapeError for a tensor of another number of axes than the name says."""
    rank = int(name[-2])
    if x.rank != rank + 2:
        raise ShapeError(f"{name}: the input must be (N, C, …) with {rank + 2} axes, got {list(x.shape)}")
    return tuple(e for e in x.shape[2:] if not isinstance(e, Batch))


# ---- maxima ----


def _max(
    name: str, input: Any, kernel: Ints, stride: Ints | None, padding: Ints, dilation: Ints, ceil_mode: bool, return_indices: bool
) -> Any:
    x = as_tensor(input)
    windows = _windows(name, x, kernel, stride, padding, ceil_mode, dilation)
    y = windows.apply("max_pool", x)
    if not return_indices:
        return y
    _countable(name, windows.input)
    rank = len(windows.w)
    axes = zip(windows.s, FAMILIES["i"], windows.d, FAMILIES["p"], windows.P, strict=False)
    # a window of -∞ alone has its first position, which may be padding: the nearest element stands for it
    inside = [f"max(0, {s}*{i}+{d}*{p}-{P})" if P else f"({s}*{i}+{d}*{p})" for s, i, d, p, P in axes]
    words = {"position": _number(windows.w, FAMILIES["p"]), "element": _number(windows.input, inside)}
    chosen = windows.apply("max_position", x, "int32")
    return y, apply(REGISTRY["element"], [chosen], attributes={"w": windows.w}, words=words, rank=rank, dtype="int64")


def _number(extents: Sequence[int], at: Sequence[str]) -> str:
    """The row-major number of an element, as equation text."""
    return "+".join(f"{prod(extents[a + 1 :])}*{place}" for a, place in enumerate(at[: len(extents)]))


def _countable(name: str, extents: Sequence[int]) -> None:
    if prod(extents) > MOST_ELEMENTS:
        raise UnsupportedOp(f"{name}: a plane of {list(extents)} has {prod(extents)} elements; indices are exact up to {MOST_ELEMENTS}")


def max_pool1d(
    input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Maximum over windows of (N, C, L); the stride defaults to the kernel. In ceil mode windows may end outside.

    With return_indices also the number of each maximum in its plane (int64, row-major): of the first where several are
    maximal. Raises ShapeError, and UnsupportedOp for indices in planes of more than 2²⁴ elements.
    """
    return _max("max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Maximum over windows of (N, C, H, W); the stride defaults to the kernel. In ceil mode windows may end outside.

    Indices as in max_pool1d. Raises ShapeError.
    """
    return _max("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """Maximum over windows of (N, C, D, H, W); the stride defaults to the kernel. In ceil mode windows may end outside.

    Indices as in max_pool1d. Raises ShapeError.
    """
    return _max("max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _unpool(name: str, input: Any, indices: Any, kernel: Ints, stride: Ints | None, padding: Ints, output_size: Sequence[int] | None) -> Tensor:
    x, chosen = as_tensor(input), as_tensor(indices)
    extents = _spatial(name, x)
    rank = len(extents)
    w, pad = per_axis(kernel, rank, "kernel_size", 1), per_axis(padding, rank, "padding", 0)
    s = w if stride is None else per_axis(stride, rank, "stride", 1)
    if chosen.shape != x.shape or chosen.dtype not in ("int32", "int64"):
        raise ShapeError(f"{name}: indices are integers of the input's shape {list(x.shape)}, got {chosen.dtype}{list(chosen.shape)}")
    usual = tuple((e - 1) * t - 2 * p + k for e, t, p, k in zip(extents, s, pad, w, strict=True))
    size = usual if output_size is None else tuple(output_size)[-rank:]
    fits = [isinstance(o, (int, np.integer)) and max(0, u - t) < o < u + t for o, u, t in zip(size, usual, s, strict=False)]
    if len(fits) != rank or not all(fits):
        raise ShapeError(f"{name}: an output of {list(size)}: each extent must be positive and less than a stride {s} from {usual}")
    _countable(name, size)
    letters = FAMILIES["x"][:rank]
    attributes: dict[str, Attribute] = {"w": w, "s": s, "P": pad, "E": extents, "K": prod(w)}
    given: dict[str, Extent] = {c: int(o) for c, o in zip(letters, size, strict=True)}
    words = {"element": _number(size, letters), "position": _number(w, FAMILIES["p"])}
    op = REGISTRY["max_unpool_last" if any(k > t for k, t in zip(w, s, strict=True)) else "max_unpool"]
    return apply(op, [x, chosen], attributes=attributes, words=words, rank=rank, extents=given, dtype=x.dtype)


def max_unpool1d(
    input: Any, indices: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, output_size: Sequence[int] | None = None
) -> Tensor:
    """Each element of (N, C, L) where max_pool1d with these arguments took it from, 0 elsewhere.

    `indices` are those that max_pool1d gives with return_indices; one outside its window has no place. Where windows
    overlap and name one element, the last of them has it. `output_size` says which of the extents that pool to
    this one is meant. Raises ShapeError, and UnsupportedOp for planes of more than 2²⁴ elements.
    """
    return _unpool("max_unpool1d", input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Any, indices: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, output_size: Sequence[int] | None = None
) -> Tensor:
    """Each element of (N, C, H, W) where max_pool2d took it from, 0 elsewhere; see max_unpool1d."""
    return _unpool("max_unpool2d", input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Any, indices: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, output_size: Sequence[int] | None = None
) -> Tensor:
    """Each element of (N, C, D, H, W) where max_pool3d took it from, 0 elsewhere; see max_unpool1d."""
    return _unpool("max_unpool3d", input, indices, kernel_size, stride, padding, output_size)


# ---- means ----


def _avg(
    name: str, input: Any, kernel: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    x = as_tensor(input)
    windows = _windows(name, x, kernel, stride, padding, ceil_mode)
    if divisor_override is not None:
        if not isinstance(divisor_override, (int, np.integer)) or not divisor_override:
            raise ShapeError(f"{name}: divisor_override={divisor_override!r}: give an integer other than 0, or None")
        return windows.apply("sum_pool", x) / int(divisor_override)
    if not windows.reach_beyond and (count_include_pad or not any(windows.P)):
        return windows.apply("avg_pool", x)
    return windows.mean_inside(x, with_padding=count_include_pad)


def avg_pool1d(
    input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Tensor:
    """Mean over windows of (N, C, L); the stride defaults to the kernel. Raises ShapeError.

    Padding counts as zeros, or not at all with count_include_pad=False; what lies behind it (ceil mode) never counts.
    """
    return _avg("avg_pool1d", input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean over windows of (N, C, H, W), counted as in avg_pool1d; or their sum / divisor_override. Raises ShapeError."""
    return _avg("avg_pool2d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean over windows of (N, C, D, H, W), counted as in avg_pool1d; or their sum / divisor_override. Raises ShapeError."""
    return _avg("avg_pool3d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _lp(name: str, input: Any, norm_type: float, kernel: Ints, stride: Ints | None, ceil_mode: bool) -> Tensor:
    x = as_tensor(input)
    if not isinstance(norm_type, (int, float, np.number)) or not isfinite(norm_type) or norm_type <= 0:
        raise ShapeError(f"{name}: norm_type={norm_type!r}: give a positive number")
    windows, a = _windows(name, x, kernel, stride, 0, ceil_mode), norm_type
    powers = x
    if a == int(a) <= MOST_FACTORS:
        for _ in range(int(a) - 1):
            powers = powers * x
    else:
        powers = apply(REGISTRY["power"], [x], attributes={"a": float(a)})
    if windows.reach_beyond:  # a window that is cut off counts as one that goes on with its mean
        total = windows.mean_inside(powers, with_padding=False) * prod(windows.w)
    else:
        total = windows.apply("sum_pool", powers)
    if a == 1:
        return total
    return apply(REGISTRY["root"], [total]) if a == 2 else apply(REGISTRY["power"], [total], attributes={"a": 1 / a})


def lp_pool1d(input: Any, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> Tensor:
    """(Σ xᵖ)^(1/p) over windows of (N, C, L), p = norm_type; derivative 0 where the sum is 0.

    In ceil mode a window that ends outside counts as one that goes on with its mean. Raises ShapeError.
    """
    return _lp("lp_pool1d", input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input: Any, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> Tensor:
    """(Σ xᵖ)^(1/p) over windows of (N, C, H, W); see lp_pool1d. Raises ShapeError."""
    return _lp("lp_pool2d", input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input: Any, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False) -> Tensor:
    """(Σ xᵖ)^(1/p) over windows of (N, C, D, H, W); see lp_pool1d. Raises ShapeError."""
    return _lp("lp_pool3d", input, norm_type, kernel_size, stride, ceil_mode)


# ---- as many positions as are wanted ----


def _adaptive(op: str, name: str, input: Any, output_size: int | None | Sequence[int | None]) -> Tensor:
    """One pooling for the axes that divide evenly, then one for each other axis: the windows are boxes, so axes separate."""
    x = as_tensor(input)
    extents = _spatial(name, x)
    entries = (output_size,) * len(extents) if output_size is None or isinstance(output_size, (int, np.integer)) else output_size
    given = tuple(entries) if isinstance(entries, Sequence) and not isinstance(entries, str) else ()
    wanted = [e if o is None else o for e, o in zip(extents, given, strict=False)]
    if len(given) != len(extents) or any(not isinstance(o, (int, np.integer)) or o < 1 for o in wanted):
        raise ShapeError(f"{name}: output_size={output_size!r}: give a positive integer, or {len(extents)} of them; None keeps an axis")
    if 0 in extents:
        raise ShapeError(f"{name}: an axis of {list(x.shape)} has no elements")
    even = tuple(1 if e % o else e // o for e, o in zip(extents, wanted, strict=True))
    if any(k > 1 for k in even):
        x = _windows(name, x, even, None, 0, False).apply(f"{op}_pool", x)
    letters = letters_of(x, name)
    for axis, (e, o) in enumerate(zip(extents, wanted, strict=True), 2):
        if e % o:
            words = {"all": ",".join(letters), "over": letters[axis], "to": ",".join("o<O" if a == axis else c for a, c in enumerate(letters))}
            x = apply(REGISTRY[f"adaptive_{op}_pool"], [x], attributes={"L": e, "O": int(o)}, words=words)
    return x


def adaptive_avg_pool1d(input: Any, output_size: Ints) -> Tensor:
    """Mean over `output_size` windows of (N, C, L): from ⌊o·L/O⌋ up to ⌈(o+1)·L/O⌉. Raises ShapeError."""
    return _adaptive("avg", "adaptive_avg_pool1d", input, output_size)


def adaptive_avg_pool2d(input: Any, output_size: int | None | Sequence[int | None]) -> Tensor:
    """Mean over windows of (N, C, H, W), as many as wanted for each axis; None keeps an axis. Raises ShapeError."""
    return _adaptive("avg", "adaptive_avg_pool2d", input, output_size)


def adaptive_avg_pool3d(input: Any, output_size: int | None | Sequence[int | None]) -> Tensor:
    """Mean over windows of (N, C, D, H, W), as many as wanted for each axis; None keeps an axis. Raises ShapeError."""
    return _adaptive("avg", "adaptive_avg_pool3d", input, output_size)


def adaptive_max_pool1d(input: Any, output_size: Ints) -> Tensor:
    """Maximum over `output_size` windows of (N, C, L): from ⌊o·L/O⌋ up to ⌈(o+1)·L/O⌉. Raises ShapeError."""
    return _adaptive("max", "adaptive_max_pool1d", input, output_size)


def adaptive_max_pool2d(input: Any, output_size: int | None | Sequence[int | None]) -> Tensor:
    """Maximum over windows of (N, C, H, W), as many as wanted for each axis; None keeps an axis. Raises ShapeError."""
    return _adaptive("max", "adaptive_max_pool2d", input, output_size)


def adaptive_max_pool3d(input: Any, output_size: int | None | Sequence[int | None]) -> Tensor:
    """Maximum over windows of (N, C, D, H, W), as many as wanted for each axis; None keeps an axis. Raises ShapeError."""
    return _adaptive("max", "adaptive_max_pool3d", input, output_size)
