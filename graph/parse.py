"""Equation text → equation.

    equation = NAME "[" slots "]" "=" expr
    expr     = term (("+" | "-") term)*            term = factor (("*" | "·" | "/") factor)*
    factor   = NUMBER | inf | NAME | "-" factor | "(" expr ")" | "|" expr "|"
             | NAME "[" slots "]"                   an operand read at affine indices
             | REDUCE "(" indices ":" expr ")"      REDUCE = sum max min argmax argmin
             | "Σ_{" indices "}" term               what the printer writes; also max_{…}, min_{…}
             | FUNCTION "(" expr, … ")" | "extent(" indices ")"
             | "[" expr COMPARE expr "]"            Iverson bracket; COMPARE = = ≠ < > ≤ ≥
    slots    = affine, …     indices = NAME ("<" extent)?, …

Attributes (`s`, `P`, …) are numbers given with the text. Three shorthands make one row serve every rank:
`s*i+d*p-P...` repeats a slot for each spatial axis (i → i, j, k; p → p, q, r; attributes by axis), `[0 ≤ s*i+p < E]...`
is the product of the bracket over the spatial axes, and `X[...]` reads a whole operand, broadcasting axes of extent 1
and missing leading axes as NumPy does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import inf, prod
from typing import cast

from faltung.graph.equation import Equation, check, make
from faltung.graph.errors import EquationError, ShapeError
from faltung.graph.expr import Access, Expr, Inside, Reduce, Size, Value, apply, const, rewrite
from faltung.graph.extents import solve
from faltung.graph.index import BATCH, Affine, Batch, Extent, Shape
from faltung.graph.syntax import REDUCTIONS, Tree, read

FAMILIES = {"i": "ijk", "p": "pqr", "u": "uvw", "x": "xyz"}
LETTERS = {0: "", 1: "i", 2: "nk", 3: "nci", 4: "ncij", 5: "ncijk"}

LARGEST = 2**31  # numbers of an index form; times an extent they are still integers of the machine

_SPATIAL = re.compile(r"((?:[^\[\],:()]|\([^\[\],:.()]*\))*)\.\.\.")  # a slot may hold brackets: (i+P-d*p)/s...
_BRACKET = re.compile(r"(\[[^\[\]]*[=≠<>≤≥][^\[\]]*\])\.\.\.")
_NAME = re.compile(r"[^\W\d_]\w*")

Attribute = int | float | Fraction | Sequence[int]


def spatial(text: str, rank: int, attributes: Mapping[str, Attribute]) -> str:
    """Every `slot...` and `[bracket]...` repeated for `rank` spatial axes, attributes replaced by their axis' number."""

    def axis(part: str, t: int) -> str:
        def name(m: re.Match[str]) -> str:
            value = attributes.get(m[0])
            if isinstance(value, Sequence):
                if t >= len(value):
                    raise EquationError(f"{text}: attribute {m[0]} has {len(value)} values for {rank} spatial axes")
                return str(value[t])
            return FAMILIES[m[0]][t] if m[0] in FAMILIES and m[0] not in attributes else m[0]

        return _NAME.sub(name, part)

    def slots(match: re.Match[str]) -> str:
        return ",".join(axis(match[1], t) for t in range(rank)) if match[1].strip() else match[0]

    def brackets(match: re.Match[str]) -> str:
        return "*".join(axis(match[1], t) for t in range(rank)) or "1"

    return _SPATIAL.sub(slots, _BRACKET.sub(brackets, text)).replace("[,", "[").replace(",]", "]")


def parse(
    text: str,
    shapes: Sequence[Shape] | None = None,
    *,
    operands: Sequence[str] | None = None,
    attributes: Mapping[str, Attribute] | None = None,
    extents: Mapping[str, Extent] | None = None,
    rank: int | None = None,
) -> Equation:
    """The equation that `text` writes, over operands of the given shapes.

    `operands` fixes the order of the operands (default: order of appearance); `rank` is the number of
    spatial axes for `...` (default: axes of the first operand less two). Raises EquationError for text
    that breaks the grammar, names an unknown index or is not affine, ShapeError for extents that clash.
    """
    attributes = dict(attributes or {})
    shapes = tuple(shapes or ())
    spatial_rank = rank if rank is not None else max(0, len(shapes[0]) - 2) if shapes else 0
    if spatial_rank > 3 and any(m[1].strip() for m in _SPATIAL.finditer(text)):
        raise EquationError(f"{text}: {spatial_rank} spatial axes; slots with ... take at most 3")
    text = spatial(text, spatial_rank, attributes)
    if "=" not in text:
        raise EquationError(f"{text}: an equation has a left and a right side: Y[i] = …")
    read_whole = dict.fromkeys(re.findall(r"(\w+)\[", text.partition("=")[2]))
    if operands is None and len(shapes) != len(read_whole) and "[...]" in text:
        raise EquationError(f"{text}: reads {len(read_whole)} operands ({', '.join(read_whole)}), {len(shapes)} shapes given")
    text = _whole(text, shapes, tuple(operands or ()))
    tree = read(text)
    names = tuple(operands) if operands is not None else tree.operands
    extra = [o for o in tree.operands if o not in names]
    if extra:
        raise EquationError(f"{text}: operand {extra[0]} is read but only {', '.join(names)} are given")
    if len(shapes) != len(names):
        raise EquationError(f"{text}: reads {len(names)} operands ({', '.join(names)}), {len(shapes)} shapes given")
    return _build(text, tree, names, shapes, attributes, dict(extents or {}))


def operand_names(text: str) -> tuple[str, ...]:
    """Names of the operands that equation text reads, in order of appearance."""
    return read(spatial(text, 0, {}).replace("[...]", "[]")).operands


def _whole(text: str, shapes: tuple[Shape, ...], names: tuple[str, ...]) -> str:
    """`X[...]` written out, with NumPy's broadcasting between the operands that are read so."""
    if "[...]" not in text:
        return text
    right = text.partition("=")[2]
    whole_reads = list(dict.fromkeys(m[1] for m in re.finditer(r"(\w+)\[\.\.\.\]", right)))
    order = names or tuple(dict.fromkeys(m[1] for m in re.finditer(r"(\w+)\[", right)))
    unknown = [name for name in whole_reads if name not in order[: len(shapes)]]
    if not whole_reads or unknown:
        raise EquationError(f"{text}: [...] on the left needs an operand read with [...] on the right" if not unknown else f"{text}: no shape is given for operand {unknown[0]}")
    whole = {name: shapes[order.index(name)] for name in whole_reads}
    out = broadcast(*whole.values())
    if len(out) not in LETTERS:
        raise ShapeError(f"{text}: tensors of {len(out)} axes; at most {max(LETTERS)} are supported")
    letters = LETTERS[len(out)]

    def slots(name: str) -> str:
        shape = whole.get(name, out)
        lead = len(out) - len(shape)
        return ",".join("0" if e == 1 and out[lead + a] != 1 else letters[lead + a] for a, e in enumerate(shape))

    return re.sub(r"(\w+)\[\.\.\.\]", lambda m: f"{m[1]}[{slots(m[1])}]", text)


def broadcast(*shapes: Shape) -> Shape:
    """The common shape under NumPy's rules. Raises ShapeError naming the axis that clashes."""
    rank = max(map(len, shapes))
    out: list[Extent] = []
    for axis in range(rank):
        present = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        wide = list(dict.fromkeys(e for e in present if e != 1))
        if len(wide) > 1:
            raise ShapeError(f"shapes {' and '.join(map(str, shapes))} do not broadcast: axis {axis} is {wide[0]} and {wide[1]}")
        out.append(wide[0] if wide else 1)
    return tuple(out)


def _build(
    text: str,
    tree: Tree,
    names: tuple[str, ...],
    shapes: tuple[Shape, ...],
    attributes: dict[str, Attribute],
    given: dict[str, Extent],
) -> Equation:
    indices: dict[str, None] = {}
    reads: list[Access] = []  # all that the text reads, also what the algebra then drops

    def number(node: object) -> Fraction | float:
        match node:
            case ("number", str(digits)):
                rounded = "e" in digits.lower() or ("." in digits and len(digits) > 12)  # as expr.const has it
                return float(digits) if rounded else Fraction(digits)
            case ("name", str(name)):
                value = attributes.get(name, inf if name == "inf" and name not in indices else None)
                if isinstance(value, (int, float, Fraction)):
                    return value if isinstance(value, float) else Fraction(value)
                raise EquationError(f"{text}: {name} is not a number that was given")
            case (("add" | "sub" | "mul") as op, a, b):
                x, y = number(a), number(b)
                return x + y if op == "add" else x - y if op == "sub" else x * y
            case ("neg", a):
                return -number(a)
        raise EquationError(f"{text}: expected a number")

    def constant(node: object) -> Fraction | float | None:
        try:
            return number(node)
        except EquationError:
            return None

    def affine(node: object) -> Affine:
        value = constant(node)
        if value is not None:
            if isinstance(value, float) or value.denominator != 1:
                raise EquationError(f"{text}: index arithmetic takes integers, found {value}")
            return Affine.of(int(value))
        match node:
            case ("name", str(name)):
                if name not in indices:
                    known = ", ".join(indices) or "none"
                    raise EquationError(f"{text}: unknown index {name}; the indices here are {known}, attributes {', '.join(attributes) or 'none'}")
                return Affine.of(name)
            case ("add", a, b):
                return affine(a) + affine(b)
            case ("sub", a, b):
                return affine(a) - affine(b)
            case ("neg", a):
                return -affine(a)
            case ("mul", a, b):
                left, right = affine(a), affine(b)
                if left.constant is not None:
                    return right * left.constant
                if right.constant is not None:
                    return left * right.constant
            case ("div", a, b):
                divisor = affine(b).constant
                if divisor:
                    return affine(a).over(divisor)
        raise EquationError(f"{text}: an index must be affine (integers times indices plus a constant)")

    def index(node: object) -> Affine:
        form = affine(node)
        if (most := max(abs(n) for n in (form.const, form.den, *(c for _, c in form.terms)))) >= LARGEST:
            raise EquationError(f"{text}: index arithmetic takes numbers below {LARGEST}, found {most}")
        return form

    def expression(node: object) -> Expr:
        match node:
            case ("number", _):
                return const(number(node))
            case ("name", str(name)):
                if name in indices:
                    return Value(Affine.of(name))
                if name in attributes or name == "inf":
                    return const(number(node))
                if name == "N":
                    return Size(BATCH)
                raise EquationError(
                    f"{text}: unknown name {name}; indices are {', '.join(indices) or 'none'}, attributes {', '.join(attributes) or 'none'}; an operand is read with [ ]"
                )
            case ("access", str(name), list(slots)):
                slot = names.index(name)
                if len(slots) != len(shapes[slot]):
                    raise ShapeError(f"{text}: {name} is read with {len(slots)} indices but has shape {shapes[slot]} of {len(shapes[slot])} axes")
                reads.append(Access(slot, tuple(index(s) for s in slots)))
                return reads[-1]
            case ("reduce", str(kind), tuple(over), body):
                inner = expression(body)
                return Reduce(kind, over, inner) if over else inner
            case ("inside", form, extent):
                try:
                    return Inside(index(form), BATCH if extent == ("name", "N") else int(number(extent)))
                except EquationError:  # no index form but a value that is compared
                    return apply("mul", apply("le", const(0), expression(form)), apply("lt", expression(form), expression(extent)))
            case ("extent", tuple(over)):
                strange = [i for i in over if i not in indices]
                if strange or not over:
                    raise EquationError(f"{text}: unknown index {strange[0] if strange else '(none)'} in extent(…); the indices here are {', '.join(indices) or 'none'}")
                return Size(cast(Extent, over))  # replaced once extents are known
        assert isinstance(node, tuple)
        return apply(node[0], *(expression(a) for a in node[1:]))

    def declare(node: object) -> None:
        match node:
            case ("reduce", kind, tuple(over), body):
                if kind not in REDUCTIONS:
                    raise EquationError(f"{text}: unknown reduction {kind}; known: {', '.join(REDUCTIONS)}")
                for i in over:
                    if i in indices:
                        raise EquationError(f"{text}: index {i} is bound twice")
                    indices[i] = None
                declare(body)
            case (str(), *rest):
                for r in rest:
                    declare(r)
            case list(items):
                for item in items:
                    declare(item)

    free = _left_names(tree.slots, attributes)
    for i in free:
        if i in indices:
            raise EquationError(f"{text}: index {i} stands twice on the left")
        indices[i] = None
    declare(tree.body)
    clash = [i for i in indices if i in attributes]
    if clash:
        raise EquationError(f"{text}: {clash[0]} is both an index and an attribute")
    lhs = tuple(index(s) for s in tree.slots)
    expr = expression(tree.body)
    given |= {i: _extent(text, i, number(node)) if node != ("name", "N") else BATCH for i, node in tree.given.items()}
    extents = solve(indices, reads, shapes, names, given)
    expr = _sizes(expr, extents)
    shape = tuple(_reach(form, extents) for form in lhs)
    eq = make(free, expr, extents, lhs=lhs, shape=shape, target=tree.target, operands=names)
    return check(eq, shapes)


def _extent(text: str, index: str, value: Fraction | float) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise EquationError(f"{text}: the extent of {index} must be a non-negative integer, not {value}")
    return int(value)


def _left_names(slots: list[object], attributes: Mapping[str, Attribute]) -> tuple[str, ...]:
    found: list[str] = []

    def visit(node: object) -> None:
        match node:
            case ("name", str(name)):
                if name not in attributes:
                    found.append(name)
            case (str(), *rest):
                for r in rest:
                    visit(r)

    for s in slots:
        visit(s)
    return tuple(found)


def _sizes(expr: Expr, extents: Mapping[str, Extent]) -> Expr:
    def change(e: Expr) -> Expr | None:
        if isinstance(e, Size) and isinstance(e.extent, tuple):
            known = [extents[i] for i in e.extent]
            fixed = const(prod(x for x in known if not isinstance(x, Batch)))
            return apply("mul", fixed, Size(BATCH)) if BATCH in known else fixed
        return None

    return rewrite(expr, change)


def _reach(form: Affine, extents: Mapping[str, Extent]) -> Extent:
    if form.name is not None:
        return extents[form.name]
    high = form.range(extents)[1]
    if high == float("inf"):
        raise ShapeError(f"the left side {form} mixes the open batch size with another index; fix the batch size")
    return int(high) + 1
