"""Contractions, recognised by the roles of their indices and never by the op that made them.

An index of a product of two reads plays one role:

    batch     in both reads and in the result            rows     in the first read and the result only
    reduced   in both reads, summed                      columns  in the second read and the result only
    window    summed or free, together with another index in one slot of the first read

The roles are what the scheduler acts on; naming.py has the words. Labels in brackets single out terms of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faltung.graph.equation import Equation
from faltung.graph.expr import Access, Apply, Reduce, Value
from faltung.graph.index import Affine, Batch


@dataclass(frozen=True)
class Contraction:
    """A sum of products of two reads, with every index in its role.

    `a` is the read that may have windows, `b` the one whose slots are plain indices, or digits F·g + f with the
    index g of a group, which is a batch index.
    """

    a: Access
    b: Access
    batch: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    reduced: tuple[str, ...]


def contraction(eq: Equation) -> Contraction | str:
    """The roles in a dense contraction, or the reason why the equation is none."""
    found = orientations(eq)
    if found:
        return found[0]
    reason = _product(eq)
    return reason if isinstance(reason, str) else "both reads have windows, or an index is in neither"


def orientations(eq: Equation) -> list[Contraction]:
    """Every way to see the equation as a contraction: which of the two reads has the windows, and roles to match."""
    pair = _product(eq)
    if isinstance(pair, str):
        return []
    groups = set(eq.free).intersection(*({n for f in a.index for n in f.names} for a in pair))
    found = [roles(eq, a, b) for a, b in (pair, pair[::-1]) if all(_single(f) or _digits(eq, f, groups) for f in b.index)]
    return [c for c in found if isinstance(c, Contraction)]


def _product(eq: Equation) -> tuple[Access, Access] | str:
    reduce = eq.reduce
    if reduce is None:
        return "it has no reduction"
    if reduce.kind != "sum":
        return f"it reduces by {reduce.kind}, not by a sum"
    body = reduce.body
    if not (isinstance(body, Apply) and body.fn == "mul" and all(isinstance(x, Access) for x in body.args)):
        return "what is summed is not a product of two reads"
    first, second = body.args
    assert isinstance(first, Access) and isinstance(second, Access)
    return "it squares one read" if first is second else (first, second)


def _single(form: Affine) -> bool:
    """Whether the slot has at most one index: no window."""
    return len(form.terms) <= 1 and form.den == 1


def _digits(eq: Equation, form: Affine, groups: set[str]) -> bool:
    """Whether the slot counts F·g + f, f below F, with g an index of groups."""
    return any(form == Affine.make({g: eq.extent[f], f: 1}) for g in groups for f in form.names if isinstance(eq.extent[f], int))  # type: ignore[dict-item]


def roles(eq: Equation, a: Access, b: Access) -> Contraction | str:
    """Indices by role when `a` is taken as the windowed read, or the reason why that does not work."""
    in_a = {n for f in a.index for n in f.names}
    in_b = {n for f in b.index for n in f.names}
    stray = [i for i in (*eq.free, *eq.bound) if i not in in_a | in_b]
    if stray:
        return f"index {stray[0]} is in neither read"
    if any(f.den != 1 for x in (a, b) for f in x.index):
        return "a read divides; split it by residue class first"
    return Contraction(
        a, b,
        batch=tuple(i for i in eq.free if i in in_a and i in in_b),
        rows=tuple(i for i in eq.free if i in in_a and i not in in_b),
        columns=tuple(i for i in eq.free if i in in_b and i not in in_a),
        reduced=tuple(eq.bound),
    )  # fmt: skip


def vanishing(reduce: Reduce) -> list[Access]:
    """Reads that make the whole term neutral when they are outside: factors of a sum, the body of a maximum."""
    if reduce.kind != "sum":
        return [reduce.body] if isinstance(reduce.body, Access) else []
    found: list[Access] = []
    stack = [reduce.body]
    while stack:
        e = stack.pop()
        if isinstance(e, Access):
            found.append(e)
        elif isinstance(e, Apply) and e.fn in ("mul", "neg"):
            stack += e.args
        elif isinstance(e, Apply) and e.fn == "div":
            stack.append(e.args[0])
    return found


def labels(eq: Equation, dtypes: Sequence[str]) -> dict[str, Access]:
    """Index v → the label that singles out one of its values: T[…] of a sum over [T[…] = v]·f(v), a whole number.

    If v is summed, the sum is f(T[…]), and 0 for a label outside; if v is free, each term belongs to one v.
    """
    stack = [eq.reduce.body] if eq.reduce is not None and eq.reduce.kind == "sum" else []
    found: dict[str, Access] = {}
    while stack:
        e = stack.pop()
        if isinstance(e, Apply) and e.fn in ("mul", "neg", "div"):
            stack += e.args[:1] if e.fn == "div" else e.args
        elif isinstance(e, Apply) and e.fn == "eq":
            for label, value in (e.args, e.args[::-1]):
                if isinstance(label, Access) and isinstance(value, Value) and dtypes[label.slot] in ("int32", "int64"):
                    found |= {v: label for v in (value.form.name,) if v is not None and v not in found}
    forms = [form for a in eq.accesses for form in a.index]
    plain = {v for v in found if not isinstance(eq.extent[v], Batch) and all(f.name == v for f in forms if f.coefficient(v))}
    return {v: label for v, label in found.items() if v in plain and not found.keys() & {n for f in label.index for n in f.names}}
