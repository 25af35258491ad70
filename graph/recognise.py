"""Names for equations, by the roles of their indices and never by the op that made them.

An index of a product of two reads plays one role:

    batch     in both reads and in the result            rows     in the first read and the result only
    reduced   in both reads, summed                      columns  in the second read and the result only
    window    summed or free, together with another index in one slot of the first read

The name is what the derivation shows and what the scheduler acts on.
"""

from __future__ import annotations

from dataclasses import dataclass

from faltung.graph.equation import Equation
from faltung.graph.expr import Access, Apply, Expr, Reduce
from faltung.graph.index import Affine


@dataclass(frozen=True)
class Contraction:
    """A sum of products of two reads, with every index in its role.

    `a` is the read that may have windows, `b` the one whose slots are plain indices; `scale` is a factor
    of the product that contains no index.
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
    found = [roles(eq, a, b) for a, b in (pair, pair[::-1]) if all(_single(f) for f in b.index)]
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


def _plain(form: Affine) -> bool:
    return form.name is not None or form.constant is not None


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


def name(eq: Equation) -> str:
    """What the equation is called, in words."""
    reduce = eq.reduce
    if reduce is None:
        return _pointwise(eq)
    if reduce.kind != "sum":
        words = {"max": "maximum", "min": "minimum", "argmax": "position of the maximum", "argmin": "position of the minimum"}
        window = any(not _plain(f) for a in eq.accesses for f in a.index)
        return f"{'max pooling' if window and reduce.kind == 'max' else words[reduce.kind]}{_strides(eq) if window else ''}"
    product = [x for x in _factors(reduce.body) if isinstance(x, Access)]
    if len(product) == 1 and len(_factors(reduce.body)) == 1:
        window = any(not _plain(f) for f in product[0].index)
        return f"window sum (average pooling){_strides(eq)}" if window else f"sum over {', '.join(reduce.indices)}"
    if len(product) != 2 or len(_factors(reduce.body)) != 2:
        masked = any(isinstance(x, Apply) and x.fn == "eq" for x in _factors(reduce.body))
        return "unpooling" if masked else f"sum of products over {', '.join(reduce.indices)}"
    digits = {n for n in eq.free if all(any(n in f.names and not _plain(f) for f in x.index) for x in product)}  # of groups
    a, b = sorted(product, key=lambda x: not _windows(x, digits))
    slots = _windows(a, digits)
    if not slots:
        return "matrix product" if set(eq.free) - set(_names(a)) and set(eq.free) - set(_names(b)) else "contraction"
    alone = {f.name for f in a.index} & {f.name for f in b.index} & set(eq.free)
    rank = f"{len(slots)}-D {'grouped ' if digits else 'depthwise ' if alone else ''}"
    bound_step = [f.coefficient(n) for f in slots for n in f.names if n in eq.bound and n in _names(b)]
    if a.index[0].name in eq.bound and a.index[0].name == b.index[0].name:  # summed over the batch: a weight gradient
        dilated = "" if all(s == 1 for s in bound_step) else f"{_list(bound_step)}-dilated "
        return f"{rank}correlation of {_operand(eq, a)} with {dilated}{_operand(eq, b)} over the batch"
    if any(f.den != 1 for f in slots):
        return f"{rank}transposed convolution, stride {_list(f.den for f in slots)}"
    if bound_step and all(c < 0 for c in bound_step):
        return f"{rank}convolution with the flipped kernel{_strides(eq, slots)}"
    if any(n in eq.bound for f in slots for n in f.names):
        return f"{rank}convolution{_strides(eq, slots)}"
    return "contraction"


def _windows(a: Access, digits: set[str]) -> list[Affine]:
    """Slots of several indices or an offset; a channel counted as a group and a place in it is none."""
    return [f for f in a.index if not _plain(f) and not digits & set(f.names)]


def _strides(eq: Equation, windows: list[Affine] | None = None) -> str:
    slots = [f for a in eq.accesses for f in a.index if not _plain(f)] if windows is None else windows
    strides = [f.coefficient(n) for f in slots for n in f.names if n in eq.free]
    dilations = [abs(f.coefficient(n)) for f in slots for n in f.names if n in eq.bound]
    text = f", stride {_list(strides)}" if any(s != 1 for s in strides) else ""
    return text + (f", dilation {_list(dilations)}" if any(d != 1 for d in dilations) else "")


def _list(values: object) -> str:
    numbers = [int(v) for v in values]  # type: ignore[attr-defined]
    return str(numbers[0]) if len(set(numbers)) == 1 else "×".join(map(str, numbers))


def _pointwise(eq: Equation) -> str:
    if len(eq.accesses) == 1 and eq.expr is eq.accesses[0]:
        return "copy" if all(_plain(f) for f in (*eq.lhs, *eq.accesses[0].index)) else "view"
    if any(len(f.names) > 1 for f in eq.lhs):
        return "unpooling" if any(isinstance(x, Apply) and x.fn == "eq" for x in _factors(eq.expr)) else "upsampling"
    return "constant" if not eq.accesses else "elementwise"


def _factors(e: Expr) -> list[Expr]:
    if isinstance(e, Apply) and e.fn == "mul":
        return [x for a in e.args for x in _factors(a)]
    if isinstance(e, Apply) and e.fn == "neg":
        return _factors(e.args[0])
    return [e]


def _names(a: Access) -> list[str]:
    return [n for f in a.index for n in f.names]


def _operand(eq: Equation, a: Access) -> str:
    return eq.operands[a.slot] if a.slot < len(eq.operands) else f"operand {a.slot}"
