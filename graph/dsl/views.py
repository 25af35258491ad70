"""Views: the same elements at other indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faltung.graph.dsl.arguments import letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import ShapeError
from faltung.graph.index import Batch, Extent
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import Tensor


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """Axes permuted as in np.transpose (default: reversed). Raises ShapeError for a list that is no permutation."""
    x = as_tensor(x)
    given = tuple(reversed(range(x.rank))) if axes is None else tuple(axes)
    order = tuple(a % x.rank for a in given if -x.rank <= a < x.rank)
    if sorted(order) != list(range(x.rank)) or len(given) != x.rank:
        raise ShapeError(f"transpose: {list(given)} is not a permutation of {list(range(x.rank))}")
    letters = letters_of(x, "transpose")
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
