"""Reverse accumulation over the graph: the chain rule between equations. The calculus itself is derive.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from faltung.graph.derive import derive, zeros
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.equation import make
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.expr import ONE, ZERO, Access, Expr, apply
from faltung.graph.index import Affine, Shape
from faltung.graph.parse import LETTERS
from faltung.graph.scope import Scope
from faltung.graph.shift import unmoved
from faltung.graph.tensor import FLOATS, Step, Tensor, computed, topological

Key = TypeVar("Key")
Rule = Callable[..., "list[Tensor]"]  # of derive.derive's arguments
Tree = Any  # a tensor, a sequence or a mapping of tensors
Given = Any  # the same of tensors or arrays

WIDEST = 64  # terms of a sum in one equation: its right side is as deep


@overload
def grad(loss: Tensor, wrt: Tensor, cotangent: Tensor | None = None, rule: Rule = derive) -> Tensor: ...
@overload
def grad(loss: Tensor, wrt: Mapping[Key, Tensor], cotangent: Tensor | None = None, rule: Rule = derive) -> dict[Key, Tensor]: ...
@overload
def grad(loss: Tensor, wrt: Sequence[Tensor], cotangent: Tensor | None = None, rule: Rule = derive) -> list[Tensor]: ...


def grad(loss: Tensor, wrt: Tree, cotangent: Tensor | None = None, rule: Rule = derive) -> Tree:
    """Gradients of `loss` by each tensor of `wrt`: a tensor for a tensor, a list for a list, a dict for a dict.

    `loss` is a scalar, or `cotangent` has its shape and weights its elements. The gradients are tensors
    of the graph: they can be displayed, differentiated again and compiled. A tensor that the loss does not
    depend on has gradient 0. Another `rule` than derive.derive takes a cotangent to an operand in its own way; what
    results is then not a gradient. Raises ShapeError for a loss that is no scalar without a cotangent, DTypeError
    for a wrt that is not of a float type.
    """
    wanted, like = spread("grad", "wrt", wrt)
    return like(gradients("grad", [loss], wanted, None if cotangent is None else [cotangent], rule))


def vjp(outputs: Tree, inputs: Tree, cotangents: Given) -> Tree:
    """The cotangents of `inputs` when those of `outputs` are `cotangents`: a vector times the Jacobian, ȳ·J.

    `cotangents` are tensors or arrays in the form of `outputs` (a tensor, a list or a dict) and of their shapes; the
    result has the form of `inputs`. Raises ShapeError for a cotangent of another shape, DTypeError for an input that is not
    of a float type.
    """
    ys, _ = spread("vjp", "outputs", outputs)
    xs, like = spread("vjp", "inputs", inputs)
    return like(gradients("vjp", ys, xs, matched("vjp", "cotangent", outputs, cotangents)))


def spread(op: str, role: str, tree: Tree) -> tuple[list[Tensor], Callable[[list[Tensor]], Tree]]:
    """The tensors of a tree in order, and what puts as many others into its form.

    Raises DTypeError where something is no tensor.
    """
    if isinstance(tree, Tensor):
        return [tree], lambda found: found[0]
    if isinstance(tree, Mapping):
        keys = list(tree)
        values, like = [tree[k] for k in keys], lambda found: dict(zip(keys, found, strict=True))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        values, like = list(tree), lambda found: found
    else:
        raise DTypeError(f"{op}: {role} must be a tensor, a list or a dict of tensors, got {type(tree).__name__}")
    for t in values:
        if not isinstance(t, Tensor):
            raise DTypeError(f"{op}: {role} must hold tensors, got {type(t).__name__}")
    return values, like


def matched(op: str, role: str, tree: Tree, given: Given) -> list[Tensor]:
    """`given`, tensors or arrays, in the order of the tensors of `tree`. Raises ShapeError where one does not fit its tensor."""
    tensors, _ = spread(op, role, tree)
    if isinstance(tree, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(tree):
            got = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
            raise ShapeError(f"{op}: give a {role} for each of {sorted(map(str, tree))}, in a dict with these keys; got {got}")
        values, names = [given[k] for k in tree], [f"{role} {k!r}" for k in tree]
    elif isinstance(tree, Tensor):
        values, names = [given], [f"the {role}"]
    else:
        if not isinstance(given, Sequence) or len(given) != len(tensors):
            got = f"{len(given)}" if isinstance(given, Sequence) else type(given).__name__
            raise ShapeError(f"{op}: give {len(tensors)} {role}s in a list, one for each tensor; got {got}")
        values, names = list(given), [f"{role} {n}" for n in range(len(tensors))]
    found = []
    for t, value, name in zip(tensors, values, names, strict=True):
        v = as_tensor(value, t)
        if v.shape != t.shape:
            raise ShapeError(f"{op}: {name} has shape {list(v.shape)}, but {t.name or 'its tensor'} has shape {list(t.shape)}; they must be equal")
        if v.dtype != t.dtype:
            raise DTypeError(f"{op}: {name} is {v.dtype}, but {t.name or 'its tensor'} is {t.dtype}; they must be equal")
        found.append(v)
    return found


def check_floats(op: str, tensors: Sequence[Tensor]) -> None:
    """Raise DTypeError unless all tensors are of a float type."""
    for t in tensors:
        if t.dtype not in FLOATS:
            raise DTypeError(f"{op}: {t.name or 'a tensor'} is {t.dtype}; only float tensors have gradients")


def gradients(
    op: str, outputs: list[Tensor], wrt: list[Tensor], cotangents: list[Tensor] | None, rule: Rule = derive
) -> list[Tensor]:  # fmt: skip
    """Gradients of Σ ⟨output, cotangent⟩ by each tensor of `wrt`; without cotangents, of the only output, a scalar."""
    check_floats(op, wrt)
    if cotangents is None:
        (loss,) = outputs
        if not isinstance(loss, Tensor):
            raise DTypeError(f"{op}: the loss must be a tensor, got {type(loss).__name__}")
        if loss.shape:
            raise ShapeError(f"{op}: the loss has shape {list(loss.shape)}; reduce it to a scalar (loss.sum()) or give a cotangent")
        cotangents = [fill(ONE, loss.shape, loss.dtype)]
    for y, c in zip(outputs, cotangents, strict=True):
        if not isinstance(y, Tensor) or not isinstance(c, Tensor):
            raise DTypeError(f"{op}: the loss and its cotangent must be tensors, got {type(y).__name__} and {type(c).__name__}")
        if c.shape != y.shape:
            raise ShapeError(f"{op}: the cotangent has shape {list(c.shape)}, the loss {list(y.shape)}")
    order = topological(outputs)
    result: dict[Tensor, Tensor] = {}
    for t in wrt:
        if rule is derive and (proof := unmoved(order, outputs, t, wrt)) is not None:
            result[t] = zeros(proof[0], t.dtype, proof[1])
    wanted = {t for t in wrt if t not in result}
    leads: set[Tensor] = set()  # tensors through which some wrt reaches an output
    for t in order:
        if t in wanted or any(o in leads for o in t.operands):
            leads.add(t)
    arriving: dict[Tensor, list[Tensor]] = {}
    for y, c in zip(outputs, cotangents, strict=True):
        arriving.setdefault(y, []).append(c)
    for t in reversed(order):
        parts = arriving.pop(t, [])
        if not parts or t not in leads:
            continue
        total = _added(parts)
        if t in wanted:
            result[t] = total
        if _is_zero(total):
            continue
        for slot, operand in enumerate(t.operands):
            if operand in leads and operand.dtype in FLOATS:
                arriving.setdefault(operand, []).extend(rule(t, slot, total, wanted))
    return [result[t] if t in result else fill(ZERO, t.shape, t.dtype) for t in wrt]


def _is_zero(t: Tensor) -> bool:
    return not t.is_leaf and all(eq.expr is ZERO for eq in t.equations)


def _added(parts: list[Tensor]) -> Tensor:
    """The sum of contributions; where all are zero, the first with its reason."""
    live = [p for p in parts if not _is_zero(p)]
    return added(live, "gradient") if live else parts[0]


def added(parts: list[Tensor], op: str) -> Tensor:
    """The sum of tensors of one shape; its steps name them. What is wide is added up in parts, which are added up."""
    while len(parts) > WIDEST:
        parts = [added(parts[n : n + WIDEST], op) for n in range(0, len(parts), WIDEST)]
    if len(parts) == 1:
        return parts[0]
    shape, dtype = parts[0].shape, parts[0].dtype
    target = next((p.equation.target for p in parts if not p.is_leaf), "Y")
    free = _letters(len(shape))
    scope, expr = Scope(), ZERO
    for n, part in enumerate(parts, 1):
        expr = apply("add", expr, Access(scope.slot(part, f"{target}{n}"), tuple(Affine.of(i) for i in free)))
    eq = make(free, expr, dict(zip(free, shape, strict=True)), target=target, operands=tuple(scope.names))
    terms = [Step("contribution", f"{name} is {p.equation if not p.is_leaf else p.name}") for p, name in zip(scope.tensors, scope.names, strict=True)]
    return computed(eq, scope.tensors, dtype=dtype, op=op, derivation=(*terms, Step("added up", str(eq))))


def _letters(rank: int) -> tuple[str, ...]:
    return tuple(LETTERS.get(rank, "abcdefghijklmnopqrstuvwxyz"[:rank]))


def fill(value: Expr, shape: Shape, dtype: str) -> Tensor:
    """A tensor with the same number everywhere."""
    free = _letters(len(shape))
    eq = make(free, value, dict(zip(free, shape, strict=True)), lhs=tuple(Affine.of(i) for i in free))
    return computed(eq, (), dtype=dtype, op="fill")
