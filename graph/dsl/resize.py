"""Images at another resolution: nearest and linear interpolation, and windows as columns.

Positions are exact fractions: output o lies at (o + ½)·ratio - ½ of the input, or at o·(L-1)/(O-1) where corners are
aligned. Whole factors read a few neighbours; other ratios are a sum over the axis with constant weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import Ints, letters_of, per_axis
from faltung.graph.dsl.leaves import as_tensor, constant, table
from faltung.graph.dsl.pointwise import number
from faltung.graph.dsl.views import getitem, pad
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.index import Batch
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import Attribute
from faltung.graph.room import granted
from faltung.graph.tensor import FLOATS, Tensor, leaf

#  mode              spatial axes    offset of a position (None: linear)
MODES: dict[str, tuple[tuple[int, ...], Fraction | None]] = {
    "nearest":       ((1, 2, 3),     Fraction(0)),
    "nearest-exact": ((1, 2, 3),     Fraction(1, 2)),
    "linear":        ((1,),          None),
    "bilinear":      ((2,),          None),
    "trilinear":     ((3,),          None),
}  # fmt: skip
HALF = Fraction(1, 2)
LONGEST = 1 << 24  # elements of an axis that are worked out one by one


def interpolate(
    input: Any,
    size: Ints | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """(N, C, …) at another resolution: of the given size, or ⌊extent·scale_factor⌋.

    Modes are nearest, nearest-exact, linear, bilinear and trilinear (1, 2, 3 spatial axes). Raises ShapeError for sizes
    below 1 and a mode for another number of axes, UnsupportedOp for another mode, DTypeError for means of integers.
    """
    x = as_tensor(input)
    if not isinstance(mode, str) or mode not in MODES:
        raise UnsupportedOp(f"interpolate: mode={mode!r}: expected {', '.join(MODES)}")
    ranks, offset = MODES[mode]
    rank = x.rank - 2
    if rank not in ranks:
        raise ShapeError(f"interpolate: {mode} is for {' or '.join(map(str, ranks))} spatial axes (N, C, …), the input is {list(x.shape)}")
    if align_corners is not None and offset is not None:
        raise UnsupportedOp(f"interpolate: align_corners is for linear modes, {mode} has no corners to align")
    targets = _targets(x, size, scale_factor)
    if offset is not None:
        return _nearest(x, targets, offset)
    if x.dtype not in FLOATS:
        raise DTypeError(f"interpolate: {mode} makes means of elements, which are {x.dtype}; use nearest")
    for axis, (extent, ratio) in enumerate(targets, 2):
        x = _linear(x, axis, extent, ratio, bool(align_corners))
    return x


def _targets(x: Tensor, size: Any, scale_factor: Any) -> list[tuple[int, Fraction]]:
    """For each spatial axis the extent of the result, and how far an output moves in the input."""
    old = [_extent(x, a) for a in range(2, x.rank)]
    if (size is None) == (scale_factor is None):
        raise ShapeError("interpolate: give either size or scale_factor")
    if size is not None:
        new = per_axis(size, len(old), "size", 1)
        return [(_worked_out(n), Fraction(e, n)) for n, e in zip(new, old, strict=True)]
    given = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,) * len(old)
    factors = [Fraction(number("interpolate", "scale_factor", f)) for f in given]
    sizes = [floor(min(e * float(f), LONGEST + 1)) for e, f in zip(old, factors, strict=False)]  # rounded first: 6 · 0.333… is 2
    if len(factors) != len(old) or any(e < 1 for e in sizes):
        raise ShapeError(f"interpolate: scale_factor={scale_factor!r} leaves nothing of {old} or is not one for each axis")
    return [(_worked_out(n), 1 / f) for n, f in zip(sizes, factors, strict=True)]


def _worked_out(extent: int) -> int:
    if extent > LONGEST:
        raise ShapeError(f"interpolate: {extent} elements along an axis; each is worked out when the graph is built, at most {LONGEST}: interpolate parts of it, and ft.cat them")
    return extent


def _extent(x: Tensor, axis: int) -> int:
    e = x.shape[axis]
    if isinstance(e, Batch) or e == 0:
        raise ShapeError(f"axis {axis} of {list(x.shape)} is no spatial axis: it has {e} elements")
    return e


def _nearest(x: Tensor, targets: Sequence[tuple[int, Fraction]], offset: Fraction) -> Tensor:
    repeats: list[int] = []
    for axis, (extent, ratio) in enumerate(targets, 2):
        old = _extent(x, axis)
        places = [min(floor((o + offset) * ratio), old - 1) for o in range(extent)]
        factor = extent // old
        repeats.append(factor if places == [o // max(factor, 1) for o in range(old * factor)] else 1)
        if repeats[-1] == 1 and places != list(range(old)):
            x = _taken(x, axis, places)
    if any(r > 1 for r in repeats):
        x = apply(REGISTRY["nearest"], [x], rank=len(repeats), attributes={"r": repeats}, extents=dict(zip("xyz", repeats, strict=False)), dtype=x.dtype)
    return x


def _taken(x: Tensor, axis: int, places: list[int]) -> Tensor:
    """Elements of one axis: a slice where they are evenly spaced, else chosen by brackets, which no NaN gets through."""
    step = places[1] - places[0] if len(places) > 1 else 1
    if step > 0 and places == [places[0] + step * o for o in range(len(places))]:
        return getitem(x, (*[slice(None)] * axis, slice(places[0], places[-1] + 1, step)))
    words = _along(x, axis, "o")
    return apply(REGISTRY["take"], [x, constant(np.array(places, np.int32))], words=words, dtype=x.dtype)


def _along(x: Tensor, axis: int, form: str) -> dict[str, str]:
    letters = letters_of(x, "interpolate")
    return {"all": ",".join(letters), "over": letters[axis], "to": ",".join(form if a == axis else c for a, c in enumerate(letters))}


def _linear(x: Tensor, axis: int, extent: int, ratio: Fraction, align_corners: bool) -> Tensor:
    old = _extent(x, axis)
    if extent == old and (ratio == 1 or align_corners):
        return x
    if not align_corners and ratio.numerator == 1 and extent == old * ratio.denominator:
        return _upsampled(x, axis, ratio.denominator)
    last = Fraction(old - 1)
    step = last / (extent - 1) if extent > 1 else Fraction(0)
    with granted(f"interpolate: weights for {old} elements to become {extent}", "interpolate parts of the axis, and ft.cat them", extent * old * 8):
        at = [o * step if align_corners else min(max((o + HALF) * ratio - HALF, Fraction(0)), last) for o in range(extent)]
        weights = np.zeros((extent, old))
        for o, p in enumerate(at):
            for h in range(floor(p), min(floor(p) + 2, old)):
                weights[o, h] = float(1 - abs(p - h))
        return apply(REGISTRY["interpolate"], [x, table(weights, x.dtype)], words=_along(x, axis, "o"))


def _upsampled(x: Tensor, axis: int, factor: int) -> Tensor:
    """A whole factor: output factor·i + q is a mean of neighbours i-1, i, i+1 with weights that depend on q only."""
    weights = [[max(Fraction(0), 1 - abs((q + HALF) / factor - HALF - tap)) for tap in (-1, 0, 1)] for q in range(factor)]
    padded = pad(x, [0, 0] * (x.rank - 1 - axis) + [1, 1], mode="replicate")
    letters = letters_of(x, "interpolate")
    read = ",".join(f"{c}+p" if a == axis else c for a, c in enumerate(letters))
    write = ",".join(f"{factor}*{c}+q" if a == axis else c for a, c in enumerate(letters))
    words = {"all": read, "over": "p", "to": write}
    return apply(REGISTRY["upsample"], [padded, table(_floats(weights), x.dtype)], words=words)


def _floats(weights: Sequence[Sequence[Fraction]]) -> np.ndarray[Any, Any]:
    return np.array([[float(w) for w in row] for row in weights])


# ---- windows as columns ----


def unfold(input: Any, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1) -> Tensor:
    """The windows of (N, C, H, W) as columns of (N, C·kh·kw, L), zeros outside. Raises ShapeError where none fits."""
    x = as_tensor(input)
    if x.rank != 4:
        raise ShapeError(f"unfold: the input must be (N, C, H, W), got {list(x.shape)}")
    attributes, (g, h), _, width = _windows("unfold", (_extent(x, 2), _extent(x, 3)), kernel_size, dilation, padding, stride)
    extents = {"p": g, "q": h}
    return apply(REGISTRY["unfold"], [x], attributes=attributes | {"w": width}, extents=extents, dtype=x.dtype)


def fold(
    input: Any, output_size: Ints, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """The columns (N, C·kh·kw, L) of windows added up where they lie in (N, C, H, W): the transpose of `unfold`.

    It is derived as such, as unfold's gradient. Raises ShapeError for columns that are no windows of that size.
    """
    from faltung.graph.grad import grad

    x = as_tensor(input)
    size = per_axis(output_size, 2, "output_size", 1)
    _, (g, h), rows, width = _windows("fold", size, kernel_size, dilation, padding, stride)
    if x.rank != 3 or x.shape[2] != rows * width or _extent(x, 1) % (g * h):
        raise ShapeError(
            f"fold: the input must be (N, C·{g}·{h}, {rows}·{width} = {rows * width}), whose windows of {g}×{h} make"
            f" {size[0]}×{size[1]}; got {list(x.shape)}"
        )
    image = leaf("input", (x.shape[0], _extent(x, 1) // (g * h), *size), x.dtype, "image")  # never read: unfold is linear
    return grad(unfold(image, kernel_size, dilation, padding, stride), image, x)


def _windows(
    op: str, size: Sequence[int], kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> tuple[dict[str, Attribute], tuple[int, int], int, int]:
    """Attributes of unfold's row, the kernel, and how many windows lie below and beside each other."""
    kernel, apart = per_axis(kernel_size, 2, "kernel_size", 1), per_axis(dilation, 2, "dilation", 1)
    zeros, step = per_axis(padding, 2, "padding", 0), per_axis(stride, 2, "stride", 1)
    counts = [(e + 2 * p - d * (k - 1) - 1) // s + 1 for e, p, d, k, s in zip(size, zeros, apart, kernel, step, strict=True)]
    if min(counts) < 1:
        raise ShapeError(f"{op}: windows of {kernel} with dilation {apart} do not fit into {size} with padding {zeros}")
    names = {"g": kernel[0], "h": kernel[1], "d": apart[0], "e": apart[1], "P": zeros[0], "Q": zeros[1], "s": step[0], "t": step[1]}
    return dict(names), (kernel[0], kernel[1]), counts[0], counts[1]
