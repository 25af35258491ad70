"""Reverse accumulation over the graph: the chain rule between equations. The calculus itself is derive.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, overload

from faltung.graph.derive import derive
from faltung.graph.equation import make
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.expr import ONE, ZERO, Expr
from faltung.graph.index import Affine, Shape
from faltung.graph.parse import LETTERS
from faltung.graph.tensor import FLOATS, Tensor, computed, topological

Key = TypeVar("Key")


@overload
def grad(loss: Tensor, wrt: Tensor, cotangent: Tensor | None = None) -> Tensor: ...
@overload
def grad(loss: Tensor, wrt: Mapping[Key, Tensor], cotangent: Tensor | None = None) -> dict[Key, Tensor]: ...
@overload
def grad(loss: Tensor, wrt: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]: ...


def grad(loss: Tensor, wrt: object, cotangent: Tensor | None = None) -> object:
    """Gradients of `loss` by each tensor of `wrt`: a tensor for a tensor, a list for a list, a dict for a dict.

    `loss` is a scalar, or `cotangent` has its shape and weights its elements. The gradients are tensors
    of the graph: they can be displayed, differentiated again and compiled. A tensor that the loss does not
    depend on has gradient 0. Raises ShapeError for a loss that is no scalar without a cotangent, DTypeError
    for a wrt that is not of a float type.
    """
    if isinstance(wrt, Tensor):
        return _gradients(loss, [wrt], cotangent)[0]
    if isinstance(wrt, Mapping):
        keys = list(wrt)
        return dict(zip(keys, _gradients(loss, [wrt[k] for k in keys], cotangent), strict=True))
    if isinstance(wrt, Sequence):
        return _gradients(loss, list(wrt), cotangent)
    raise DTypeError(f"grad: wrt must be a tensor, a list or a dict of tensors, got {type(wrt).__name__}")


def _gradients(loss: Tensor, wrt: list[Tensor], cotangent: Tensor | None) -> list[Tensor]:
    for t in wrt:
        if not isinstance(t, Tensor):
            raise DTypeError(f"grad: wrt must hold tensors, got {type(t).__name__}")
        if t.dtype not in FLOATS:
            raise DTypeError(f"grad: {t.name or 'a tensor'} is {t.dtype}; only float tensors have gradients")
    if cotangent is None:
        if loss.shape:
            raise ShapeError(f"grad: the loss has shape {list(loss.shape)}; reduce it to a scalar (loss.sum()) or give a cotangent")
        cotangent = fill(ONE, loss.shape, loss.dtype)
    elif cotangent.shape != loss.shape:
        raise ShapeError(f"grad: the cotangent has shape {list(cotangent.shape)}, the loss {list(loss.shape)}")
    order = topological([loss])
    wanted = set(wrt)
    leads: set[Tensor] = set()  # tensors through which some wrt reaches the loss
    for t in order:
        if t in wanted or any(o in leads for o in t.operands):
            leads.add(t)
    arriving: dict[Tensor, list[Tensor]] = {loss: [cotangent]}
    result: dict[Tensor, Tensor] = {}
    for t in reversed(order):
        parts = arriving.pop(t, [])
        if not parts or t not in leads:
            continue
        total = parts[0]
        for more in parts[1:]:
            total = total + more
        if t in wanted:
            result[t] = total
        for slot, operand in enumerate(t.operands):
            if operand in leads and operand.dtype in FLOATS:
                arriving.setdefault(operand, []).extend(derive(t, slot, total))
    return [result[t] if t in result else fill(ZERO, t.shape, t.dtype) for t in wrt]


def fill(value: Expr, shape: Shape, dtype: str) -> Tensor:
    """A tensor with the same number everywhere."""
    free = tuple(LETTERS[len(shape)])
    eq = make(free, value, dict(zip(free, shape, strict=True)), lhs=tuple(Affine.of(i) for i in free))
    return computed(eq, (), dtype=dtype, op="fill")
