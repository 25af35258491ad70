"""Views: the same elements at other indices, and tensors put together from several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import Axes, axes_of, axis_of, letters_of
from faltung.graph.dsl.border import MODES, border
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.index import BATCH, Batch, Extent, Shape
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import LETTERS
from faltung.graph.pieces import Piece, together
from faltung.graph.tensor import Tensor


def _view(op: str, x: Tensor, read: Sequence[str], write: Sequence[str], extents: dict[str, Extent] | None = None) -> Tensor:
    """The row with slots `read` of x and `write` of the result."""
    return apply(REGISTRY[op], [x], words={"all": ",".join(read), "to": ",".join(write)}, extents=extents, dtype=x.dtype)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """Axes permuted as in np.transpose (default: reversed). Raises ShapeError for a list that is no permutation."""
    x = as_tensor(x)
    given = tuple(reversed(range(x.rank))) if axes is None else tuple(axes) if isinstance(axes, Sequence) else (axes,)
    order = tuple(int(a) % x.rank for a in given if isinstance(a, (int, np.integer)) and -x.rank <= a < x.rank)
    if sorted(order) != list(range(x.rank)) or len(given) != x.rank:
        whole = list(range(x.rank))
        hint = ""
        if len(order) == len(given) == 2 < x.rank:
            whole[order[0]], whole[order[1]] = order[1], order[0]
            hint = f"; to exchange two axes name all of them: {', '.join(map(str, whole))}"
        raise ShapeError(f"transpose: {list(given)} is not a permutation of {list(range(x.rank))}{hint}")
    letters = letters_of(x, "transpose")
    return _view("transpose", x, letters, [letters[a] for a in order])


def flatten(x: Any, start_dim: int = 1, end_dim: int = -1) -> Tensor:
    """Axes start_dim … end_dim merged into one, in row-major order."""
    x = as_tensor(x)
    for d in (start_dim, end_dim):
        if not isinstance(d, (int, np.integer)) or not -(x.rank or 1) <= d < (x.rank or 1):
            raise ShapeError(f"flatten: dimension {d!r} of a tensor with {x.rank} axes {list(x.shape)}")
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
    if not isinstance(shape, Sequence):
        raise ShapeError(f"reshape: {shape!r} is no shape: give the extents in a tuple")
    for old, new, lists in index_lists(x.shape, tuple(shape)):
        del old
        x = apply(REGISTRY["reshape"], [x], words=lists, dtype=x.dtype)
        assert x.shape == new
    return x


def unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Tensor:
    """Axis `dim` split into several, one of which may be -1. Raises ShapeError where the numbers do not fit."""
    x = as_tensor(x)
    at = axis_of(x, dim, "unflatten")
    if not isinstance(sizes, Sequence):
        raise ShapeError(f"unflatten: sizes={sizes!r}: expected several integers")
    return reshape(x, (*x.shape[:at], *sizes, *x.shape[at + 1 :]))


def squeeze(x: Any, dim: Axes = None) -> Tensor:
    """Axes of extent 1 taken out: all of them, or those of `dim` that have extent 1."""
    x = as_tensor(x)
    chosen = axes_of(x, dim, "squeeze")
    return reshape(x, tuple(e for a, e in enumerate(x.shape) if a not in chosen or e != 1))


def unsqueeze(x: Any, dim: int) -> Tensor:
    """A new axis of extent 1 at `dim`. Raises ShapeError in front of the open batch size."""
    x = as_tensor(x)
    at = _new_axis("unsqueeze", x.shape, dim)
    return reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def _new_axis(op: str, shape: Shape, dim: int) -> int:
    rank = len(shape) + 1
    if not isinstance(dim, (int, np.integer)) or not -rank <= dim < rank:
        raise ShapeError(f"{op}: dimension {dim!r} of a result with {rank} axes")
    if rank not in LETTERS:
        raise ShapeError(f"{op}: a tensor of {rank} axes; at most {max(LETTERS)} are supported")
    if dim % rank == 0 and BATCH in shape:
        raise ShapeError(f"{op}: the open batch size of {list(shape)} must stay axis 0")
    return int(dim) % rank


# ---- parts ----


def getitem(x: Any, key: Any) -> Tensor:
    """x[key] for integers, slices of any step, `...` and None, as NumPy has it.

    Raises ShapeError for a position outside or an empty slice, UnsupportedOp for other kinds of index.
    """
    x = as_tensor(x)
    items = list(key) if isinstance(key, tuple) else [key]
    places = [n for n, item in enumerate(items) if item is Ellipsis]
    named = sum(item is not None and item is not Ellipsis for item in items)
    if len(places) > 1 or named > x.rank:
        raise ShapeError(f"index of a tensor {list(x.shape)}: {named} positions and {len(places)} times `...` for {x.rank} axes")
    at = places[0] if places else len(items)
    items[at : at + 1] = [slice(None)] * (x.rank - named)
    letters = iter(letters_of(x, "index"))
    read: list[str] = []
    write: list[str] = []
    extents: dict[str, Extent] = {}
    for item in items:
        if item is None:
            write.append("0")
            continue
        axis, letter = len(read), next(letters)
        extent = x.shape[axis]
        if isinstance(item, slice):
            form, count = _slice(x, axis, letter, item)
            read.append(form)
            write.append(letter)
            extents[letter] = count
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            limit = float("inf") if isinstance(extent, Batch) else extent
            if not (0 if isinstance(extent, Batch) else -limit) <= item < limit:
                raise ShapeError(f"index {item} of axis {axis}, whose extent is {extent}, in a tensor {list(x.shape)}")
            read.append(str(item % extent if isinstance(extent, int) else item))
        else:
            raise UnsupportedOp(f"index by {type(item).__name__}: an equation reads at integers, slices, None and ...")
    if len(write) not in LETTERS:
        raise ShapeError(f"index: the result would have {len(write)} axes; at most {max(LETTERS)} are supported")
    if write[:1] == ["0"] and BATCH in x.shape:
        raise ShapeError(f"index: the open batch size of {list(x.shape)} must stay axis 0")
    return x if read == write and tuple(extents.values()) == x.shape else _view("slice", x, read, write, extents)


def _slice(x: Tensor, axis: int, letter: str, item: slice) -> tuple[str, Extent]:
    """The form that reads the slice, and how many elements it has."""
    extent = x.shape[axis]
    if isinstance(extent, Batch):
        if item not in (slice(None), slice(None, None, 1), slice(0, None), slice(0, None, 1)):
            raise ShapeError(f"slice of axis {axis} of {list(x.shape)}: the open batch size cannot be cut; fix the batch size")
        return letter, extent
    try:
        places = range(extent)[item]
    except (TypeError, ValueError) as reason:
        raise ShapeError(f"slice of axis {axis}: {reason}") from None
    if not places:
        raise ShapeError(f"slice {item.start}:{item.stop}:{item.step} of axis {axis}, whose extent is {extent}, has no elements")
    return f"{places.start}+{places.step}*{letter}".replace("+-", "-") if places != range(extent) else letter, len(places)


def flip(x: Any, dims: Axes = None) -> Tensor:
    """The order of elements turned round along axes (default: all). Raises ShapeError for the open batch size."""
    x = as_tensor(x)
    chosen = axes_of(x, dims, "flip")
    letters = letters_of(x, "flip")
    fixed = {letters[a]: _fixed("flip", x, a) for a in chosen}
    read = [f"{fixed[c] - 1}-{c}" if c in fixed else c for c in letters]
    return _view("flip", x, read, letters, dict(fixed))


def _fixed(op: str, x: Tensor, axis: int) -> int:
    e = x.shape[axis]
    if isinstance(e, Batch):
        raise ShapeError(f"{op}: axis {axis} of {list(x.shape)} is the open batch size; fix it")
    return e


# ---- several tensors ----


def cat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Tensors one behind the other along an axis. Raises ShapeError where other axes differ, DTypeError for mixed types."""
    xs = _alike("cat", tensors)
    axis = axis_of(xs[0], dim, "cat")
    letters = letters_of(xs[0], "cat")
    for x in xs:
        if x.rank != xs[0].rank or any(e != f for a, (e, f) in enumerate(zip(x.shape, xs[0].shape, strict=True)) if a != axis):
            shapes = ", ".join(str(list(x.shape)) for x in xs)
            raise ShapeError(f"cat along axis {axis}: all other axes must agree in {shapes}")
    pieces: list[Piece] = []
    total = 0
    for x in xs:
        pieces.append(Piece(x, list(letters), [f"{c}+{total}" if a == axis and total else c for a, c in enumerate(letters)]))
        total += _fixed("cat", x, axis)
    return together(REGISTRY["concatenate"], pieces, (*xs[0].shape[:axis], total, *xs[0].shape[axis + 1 :]))


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis. Raises ShapeError where shapes differ, DTypeError for mixed types."""
    xs = _alike("stack", tensors)
    if any(x.shape != xs[0].shape for x in xs):
        raise ShapeError(f"stack: all shapes must agree in {', '.join(str(list(x.shape)) for x in xs)}")
    at, letters = _new_axis("stack", xs[0].shape, dim), list(letters_of(xs[0], "stack"))
    pieces = [Piece(x, letters, [*letters[:at], str(n), *letters[at:]]) for n, x in enumerate(xs)]
    return together(REGISTRY["concatenate"], pieces, (*xs[0].shape[:at], len(xs), *xs[0].shape[at:]))


def _alike(op: str, tensors: Sequence[Any]) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence) or not tensors:
        raise ShapeError(f"{op} takes a list of at least one tensor")
    like = next((t for t in tensors if isinstance(t, Tensor)), None)
    xs = [as_tensor(t, like) for t in tensors]
    if len({x.dtype for x in xs}) > 1:
        raise DTypeError(f"{op}: all tensors must have one type, got {', '.join(x.dtype for x in xs)}")
    return xs


# ---- padding ----


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Elements added around (or, negative, cut off): `pad` is (before, after) of the last axis, of the one before it, …

    Modes are constant, reflect, replicate and circular. Raises ShapeError for a padding that does not fit,
    UnsupportedOp for another mode.
    """
    x = as_tensor(input)
    if mode not in ("constant", *MODES):
        raise UnsupportedOp(f"pad: mode={mode!r}: expected constant, {', '.join(MODES)}")
    sides = list(pad) if isinstance(pad, Sequence) else []
    if not sides or len(sides) % 2 or len(sides) > 2 * x.rank or any(not isinstance(p, (int, np.integer)) for p in sides):
        raise ShapeError(f"pad={pad!r}: expected pairs of integers, last axis first, for at most {x.rank} axes of {list(x.shape)}")
    around = {x.rank - 1 - n: (int(sides[2 * n]), int(sides[2 * n + 1])) for n in range(len(sides) // 2)}
    around = {a: sizes for a, sizes in around.items() if sizes != (0, 0)}
    for axis, (before, after) in around.items():
        if _fixed("pad", x, axis) + before + after < 1:
            raise ShapeError(f"pad: axis {axis} of {list(x.shape)} has {x.shape[axis]} elements, {before} + {after} more leave none")
    if mode == "constant":
        return _pad_constant(x, around, value) if around else x
    if min(around, default=2) < 2:
        raise ShapeError(f"pad={pad!r}: {mode} repeats elements of spatial axes, those behind (N, C) in {list(x.shape)}")
    cut = {a: slice(max(0, -before), _fixed("pad", x, a) - max(0, -after)) for a, (before, after) in around.items()}
    x = getitem(x, tuple(cut.get(a, slice(None)) for a in range(x.rank)))
    pairs = [around.get(a, (0, 0)) for a in range(2, x.rank)]
    return border(x, [(max(0, before), max(0, after)) for before, after in pairs], mode)


def _pad_constant(x: Tensor, around: dict[int, tuple[int, int]], value: float) -> Tensor:
    letters = letters_of(x, "pad")
    read, inside, extents = list(letters), [], {}
    for axis, (before, after) in around.items():
        c, e = letters[axis], _fixed("pad", x, axis)
        read[axis] = f"{c}-{before}" if before >= 0 else f"{c}+{-before}"
        extents[c] = e + before + after
        if before > 0 or after > 0:
            inside.append(f"[0 ≤ {read[axis]} < {e}]")
    if not value or not inside:
        return _view("pad", x, read, letters, dict(extents))
    words = {"all": ",".join(read), "to": ",".join(letters), "over": "*".join(inside)}
    return apply(REGISTRY["pad_value"], [x], words=words, extents=extents, attributes={"v": value}, dtype=x.dtype)


# ---- channels and space ----


def _image(op: str, x: Tensor) -> tuple[int, int, int]:
    """Channels, height and width. Raises ShapeError for what is no (N, C, H, W)."""
    if x.rank != 4:
        raise ShapeError(f"{op}: the input must be (N, C, H, W), got {list(x.shape)}")
    return _fixed(op, x, 1), _fixed(op, x, 2), _fixed(op, x, 3)


def _factor(op: str, name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ShapeError(f"{op}: {name}={value!r}: expected a positive integer")
    return int(value)


def pixel_shuffle(input: Any, upscale_factor: int) -> Tensor:
    """(N, C·r², H, W) to (N, C, H·r, W·r). Raises ShapeError for channels that r² does not divide."""
    x, r = as_tensor(input), _factor("pixel_shuffle", "upscale_factor", upscale_factor)
    channels, _, _ = _image("pixel_shuffle", x)
    if channels % (r * r):
        raise ShapeError(f"pixel_shuffle: {channels} channels do not divide by {r}·{r} = {r * r}")
    extents = {"c": channels // (r * r), "x": r, "y": r}
    return apply(REGISTRY["pixel_shuffle"], [x], attributes={"r": r}, extents=extents, dtype=x.dtype)


def pixel_unshuffle(input: Any, downscale_factor: int) -> Tensor:
    """(N, C, H·r, W·r) to (N, C·r², H, W). Raises ShapeError for an image that r does not divide."""
    x, r = as_tensor(input), _factor("pixel_unshuffle", "downscale_factor", downscale_factor)
    _, height, width = _image("pixel_unshuffle", x)
    if height % r or width % r:
        raise ShapeError(f"pixel_unshuffle: {height}×{width} does not divide by {r}")
    return apply(REGISTRY["pixel_unshuffle"], [x], attributes={"r": r}, extents={"x": r, "y": r}, dtype=x.dtype)


def channel_shuffle(input: Any, groups: int) -> Tensor:
    """The channels of (N, C, …), in groups, dealt out in turn. Raises ShapeError for groups that do not divide them."""
    x, g = as_tensor(input), _factor("channel_shuffle", "groups", groups)
    if x.rank < 2 or _fixed("channel_shuffle", x, 1) % g:
        raise ShapeError(f"channel_shuffle: groups={g} must divide the channels, axis 1 of {list(x.shape)}")
    each = _fixed("channel_shuffle", x, 1) // g
    return apply(REGISTRY["channel_shuffle"], [x], rank=x.rank - 2, attributes={"s": g, "e": each}, extents={"g": g, "c": each}, dtype=x.dtype)
