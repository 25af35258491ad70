"""What the ops of the sweep mean, in NumPy alone: padded copies, windows as views, and sums over them.

Nothing is imported from the compiler. Arrays are float64 and laid out (N, C, spatial axes); kernels (F, C / groups, taps).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import floor, prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]
Ints = Sequence[int]
Pairs = Sequence[tuple[int, int]]


def windows(x: Array, kernel: Ints, stride: Ints, around: Pairs, dilation: Ints, fill: float = 0.0) -> Array:
    """All windows of the padded input, (N, C, positions, taps)."""
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *around], constant_values=fill)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if not padded.size:
        counts = [(e - span) // s + 1 for e, span, s in zip(padded.shape[2:], spans, stride, strict=True)]
        return np.zeros((*padded.shape[:2], *counts, *kernel))
    view = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, s) for s in stride]
    taps = [slice(None, None, d) for d in dilation]
    return view[(slice(None), slice(None), *steps, *taps)]


def convolution(x: Array, k: Array, bias: Array | None, stride: Ints, around: Pairs, dilation: Ints, groups: int = 1) -> Array:
    """Cross-correlation, group by group."""
    rank = k.ndim - 2
    seen = windows(x, k.shape[2:], stride, around, dilation)
    n, f, c = x.shape[0], k.shape[0] // groups, k.shape[1]
    parts = []
    for g in range(groups):
        mine = np.moveaxis(seen[:, g * c : (g + 1) * c], 1, 1 + rank)  # (N, positions, c, taps)
        rows = mine.reshape(prod((n, *mine.shape[1 : 1 + rank])), prod(mine.shape[1 + rank :]))
        flat = rows @ k[g * f : (g + 1) * f].reshape(f, -1).T
        parts.append(np.moveaxis(flat.reshape(n, *mine.shape[1 : 1 + rank], f), -1, 1))
    return biased(np.concatenate(parts, axis=1), bias)


def transposed(x: Array, k: Array, bias: Array | None, stride: Ints, padding: Ints, more: Ints, dilation: Ints, groups: int = 1) -> Array:
    """Every input element scatters its multiple of the kernel; then the padding is cut away. Kernels are (C, F / groups, taps)."""
    n, channels, *extents = x.shape
    c, f = channels // groups, k.shape[1]
    full = [(e - 1) * s + d * (t - 1) + 1 for e, s, d, t in zip(extents, stride, dilation, k.shape[2:], strict=True)]
    room = [max(a + m, p) for a, m, p in zip(full, more, padding, strict=True)]
    y = np.zeros((n, groups * f, *(r + p + m for r, p, m in zip(room, padding, more, strict=True))))
    for g in range(groups):
        xs, ks = x[:, g * c : (g + 1) * c], k[g * c : (g + 1) * c]
        for tap in product(*map(range, k.shape[2:])):
            at = tuple(slice(d * t, d * t + (e - 1) * s + 1, s) for d, t, e, s in zip(dilation, tap, extents, stride, strict=True))
            y[(slice(None), slice(g * f, (g + 1) * f), *at)] += np.einsum("nc...,cf->nf...", xs, ks[(slice(None), slice(None), *tap)])
    kept = tuple(slice(p, a + m - p) for a, m, p in zip(full, more, padding, strict=True))
    return biased(y[(slice(None), slice(None), *kept)], bias)


def biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2))


def same(extents: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> list[tuple[int, int]]:
    """Zeros before and behind that make the output as long as the strides alone would."""
    found = []
    for e, k, s, d in zip(extents, kernel, stride, dilation, strict=True):
        positions = (e + s - 1) // s
        total = max((positions - 1) * s + d * (k - 1) + 1 - e, 0)
        found.append((total // 2, total - total // 2))
    return found


def pooled(
    x: Array, kind: str, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool = False, count_padding: bool = True
) -> Array:
    """Maxima or means over windows, one position after the other. In ceil mode a last window may reach over the end."""
    extents = x.shape[2:]
    counts = []
    for e, k, s, p, d in zip(extents, kernel, stride, padding, dilation, strict=True):
        room = e + 2 * p - d * (k - 1) - 1
        n = (room + s - 1 if ceil else room) // s + 1
        counts.append(n - 1 if ceil and (n - 1) * s >= e + p else n)
    y = np.zeros((*x.shape[:2], *counts))
    for at in product(*map(range, counts)):
        starts = [i * s - p for i, s, p in zip(at, stride, padding, strict=True)]
        inside = [[v for t in range(k) if 0 <= (v := a + d * t) < e] for a, k, d, e in zip(starts, kernel, dilation, extents, strict=True)]
        values = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *inside)].reshape(*x.shape[:2], prod(map(len, inside)))
        if kind == "max":
            y[(slice(None), slice(None), *at)] = values.max(axis=-1) if values.shape[-1] else -np.inf
            continue
        within = [min(a + k, e + p) - a for a, k, e, p in zip(starts, kernel, extents, padding, strict=True)]
        count = prod(within) if count_padding else values.shape[-1]
        y[(slice(None), slice(None), *at)] = values.sum(axis=-1) / count
    return y


def adaptive(x: Array, kind: str, sizes: Ints) -> Array:
    """Maxima or means over windows from ⌊o·L/O⌋ up to ⌈(o+1)·L/O⌉."""
    y = np.zeros((*x.shape[:2], *sizes))
    for at in product(*map(range, sizes)):
        box = tuple(slice(o * e // s, -(-(o + 1) * e // s)) for o, e, s in zip(at, x.shape[2:], sizes, strict=True))
        values = x[(slice(None), slice(None), *box)].reshape(*x.shape[:2], prod(-(-(o + 1) * e // s) - o * e // s for o, e, s in zip(at, x.shape[2:], sizes, strict=True)))
        y[(slice(None), slice(None), *at)] = values.max(axis=-1) if kind == "max" else values.mean(axis=-1)
    return y


def route(x: Array, cotangent: Array, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Array:
    """Gradient of the maximum over windows: what arrives at a position goes to the first element that is maximal there."""
    grown = np.zeros([e + 2 * p for e, p in zip(x.shape, (0, 0, *padding), strict=True)])
    seen = windows(x, kernel, stride, [(p, p) for p in padding], dilation, -np.inf)
    for at in np.ndindex(*cotangent.shape):
        tap = np.unravel_index(np.argmax(seen[at]), tuple(kernel))
        place = [i * s + d * int(t) for i, s, d, t in zip(at[2:], stride, dilation, tap, strict=True)]
        grown[(*at[:2], *place)] += cotangent[at]
    return grown[(slice(None), slice(None), *(slice(p, p + e) for p, e in zip(padding, x.shape[2:], strict=True)))]


def positions(x: Array, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, counts: Ints) -> Array:
    """The row-major number, in its plane, of the first maximal element of each window."""
    extents, found = x.shape[2:], np.zeros((*x.shape[:2], *counts), np.int64)
    number = np.arange(prod(extents)).reshape(extents)
    for at in product(*map(range, counts)):
        starts = [i * s - p for i, s, p in zip(at, stride, padding, strict=True)]
        inside = [[v for t in range(k) if 0 <= (v := a + d * t) < e] for a, k, d, e in zip(starts, kernel, dilation, extents, strict=True)]
        values = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *inside)].reshape(*x.shape[:2], prod(map(len, inside)))
        found[(slice(None), slice(None), *at)] = number[np.ix_(*inside)].ravel()[values.argmax(-1)]
    return found


def unpooled(x: Array, places: Array, extents: Ints) -> Array:
    """Each element at its place in the plane, one after the other: the last that names a place has it."""
    y = np.zeros((*x.shape[:2], prod(extents)))
    for at in np.ndindex(*x.shape):
        y[at[0], at[1], places[at]] = x[at]
    return y.reshape(*x.shape[:2], *extents)


def softmax(x: Array, axis: int) -> Array:
    shifted = np.exp(x - x.max(axis=axis, keepdims=True)) if x.size else x
    return shifted / shifted.sum(axis=axis, keepdims=True)


# ---- borders and windows as columns ----


def bordered(x: Array, around: Pairs, mode: str) -> Array:
    """Spatial axes with a border, `mode` as NumPy calls it."""
    pairs = [(0, 0), (0, 0), *around]
    if not x.size:
        return np.zeros([e + sum(p) for e, p in zip(x.shape, pairs, strict=True)])
    how: Any = mode
    return np.pad(x, pairs, mode=how)


def unfolded(x: Array, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Array:
    """The windows of images, one behind the other, as columns."""
    seen = windows(x, kernel, stride, [(p, p) for p in padding], dilation)  # (N, C, rows, columns, taps)
    n, c, *places = seen.shape
    return seen.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * prod(places[2:]), prod(places[:2]))


def folded(y: Array, image: Ints, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Array:
    """Columns added up where their windows lie."""
    rows, columns = ((e + 2 * p - d * (k - 1) - 1) // s + 1 for e, p, d, k, s in zip(image, padding, dilation, kernel, stride, strict=True))
    n, c = y.shape[0], y.shape[1] // prod(kernel)
    parts = y.reshape(n, c, *kernel, rows, columns)
    grown = np.zeros((n, c, *(e + 2 * p for e, p in zip(image, padding, strict=True))))
    for p, q, i, j in product(range(kernel[0]), range(kernel[1]), range(rows), range(columns)):
        grown[:, :, stride[0] * i + dilation[0] * p, stride[1] * j + dilation[1] * q] += parts[:, :, p, q, i, j]
    return grown[:, :, padding[0] : padding[0] + image[0], padding[1] : padding[1] + image[1]]


# ---- resampling ----


def resampled(x: Array, axis: int, size: int, ratio: Fraction, mode: str, corners: bool) -> Array:
    """One axis at another resolution; output o lies at (o + ½)·ratio - ½, or at o·(L-1)/(O-1) where corners are aligned."""
    length, half = x.shape[axis], Fraction(1, 2)
    parts = []
    for o in range(size):
        if mode.startswith("nearest"):
            at = floor((o + half) * ratio if mode == "nearest-exact" else o * ratio)
            parts.append(x.take(min(at, length - 1), axis))
            continue
        place = (Fraction(o * (length - 1), size - 1) if size > 1 else Fraction(0)) if corners else (o + half) * ratio - half
        place = max(place, Fraction(0))
        low = min(floor(place), length - 1)
        high, share = min(low + 1, length - 1), float(place - low)
        parts.append(x.take(low, axis) * (1 - share) + x.take(high, axis) * share)
    return np.stack(parts, axis)


# ---- labels, and random bits ----


def labelled(x: Array, t: Array, weight: Array | None, ignored: int, reduction: str, smoothing: float) -> Array:
    """-log p of the label, one label after the other; a mean divides by the weights of the labels that are not ignored."""
    k = x.shape[1]
    w = np.ones(k) if weight is None else weight
    loss, used = np.zeros(t.shape), 0.0
    for at in np.ndindex(*t.shape):
        label = int(t[at])
        if label == ignored:
            continue
        row = x[(at[0], slice(None), *at[1:])]
        loss[at] = -(1 - smoothing) * w[label] * row[label] - smoothing / k * float((w * row).sum())
        used += w[label]
    return np.asarray(loss if reduction == "none" else loss.sum() / (used if reduction == "mean" else 1))


def counted(shape: Ints, step: int, key: int) -> Array:
    """24 bits for each position in row-major order: lowbias32 (C. Wellons) of position, step and key, its upper bits."""

    def mix(h: Array) -> Array:
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
        return np.asarray(h ^ (h >> np.uint32(16)))

    place = np.arange(prod(shape), dtype=np.uint32)
    salt = mix(mix(np.array([key], np.uint32)) ^ np.array([step], np.uint32))
    return (mix(mix(place) ^ salt) >> np.uint32(8)).reshape(tuple(shape)).astype(np.int64)
