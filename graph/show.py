"""Equations for readers: Unicode and LaTeX. What `unicode` writes, `parse` reads back."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from faltung.graph.expr import Access, Apply, Const, Expr, Inside, Reduce, Size, Value
from faltung.graph.functions import TABLE
from faltung.graph.index import Affine

if TYPE_CHECKING:
    from faltung.graph.equation import Equation

MACRON, DOT = "\u0304", "\u0307"
REDUCE_NAMES = {"sum": "Σ"}
REDUCE_LATEX = {"sum": r"\sum", "max": r"\max", "min": r"\min", "argmax": r"\operatorname{argmax}", "argmin": r"\operatorname{argmin}"}


def bar(name: str) -> str:
    """The name of a cotangent: X → X̄."""
    return name[:1] + MACRON + name[1:]


def dot(name: str) -> str:
    """The name of a tangent: X → Ẋ."""
    return name[:1] + DOT + name[1:]


def unicode(eq: Equation) -> str:
    """`Y[n,f,i,j] = Σ_{c,p,q} X[n,c,i+p-1,j+q-1]·K[f,c,p,q]`"""
    left = ",".join(str(a) for a in eq.lhs)
    return f"{eq.target}[{left}] = {expression(eq.expr, eq.operands)}"


def expression(expr: Expr, operands: tuple[str, ...]) -> str:
    """A scalar expression in Unicode, with brackets only where they are needed."""

    def name(slot: int) -> str:
        return operands[slot] if slot < len(operands) else f"X{slot}"

    def show(e: Expr, binding: int) -> str:
        match e:
            case Const():
                return _number(e.value, binding)
            case Access():
                return f"{name(e.slot)}[{','.join(str(a) for a in e.index)}]"
            case Value():
                text = str(e.form)
                return f"({text})" if binding > 1 and len(e.form.terms) + bool(e.form.const) > 1 else text
            case Inside():
                return f"[0 ≤ {e.form} < {e.extent}]"
            case Size():
                return str(e.extent)
            case Reduce():
                over = ",".join(e.indices)
                text = f"{REDUCE_NAMES.get(e.kind, e.kind)}_{{{over}}} {show(e.body, 2)}"
                return f"({text})" if binding > 1 else text
            case Apply():
                row = TABLE[e.fn]
                if not row.binding:
                    return row.unicode.format(*(show(a, 0) for a in e.args))
                # the right side of - and / binds tighter; a sum on the left would swallow what follows
                right = row.binding + (e.fn in ("sub", "div"))
                left = row.binding + (isinstance(e.args[0], Reduce) and row.binding > 1)
                parts = [show(a, left if n == 0 else right) for n, a in enumerate(e.args)]
                text = row.unicode.format(*parts)
                return f"({text})" if row.binding < binding else text
        raise TypeError(e)

    return show(expr, 0)


def _number(value: int | float | Fraction, binding: int) -> str:
    if isinstance(value, Fraction):  # decimals as decimals, other fractions as such
        decimal = len(repr(float(value))) <= 8 and Fraction(repr(float(value))) == value
        text = repr(float(value)) if decimal else f"{value.numerator}/{value.denominator}"
        bracket = binding > 1 and not decimal
    else:
        text, bracket = repr(value) if isinstance(value, float) else str(value), False
    return f"({text})" if bracket or (value < 0 and binding > 1) else text


def latex(eq: Equation) -> str:
    """The equation in LaTeX."""
    names = tuple(latex_name(n) for n in eq.operands)
    left = ", ".join(_latex_affine(a) for a in eq.lhs)
    return f"{latex_name(eq.target)}_{{{left}}} = {_latex_expr(eq.expr, names, 0)}"


def latex_name(name: str) -> str:
    """`K̄2` as `\\bar{K}^{(2)}`: numbers stand above, since indices stand below."""
    base = name.replace(MACRON, "").replace(DOT, "").replace("ʹ", "")
    letters = base.rstrip("0123456789")
    text = letters if len(letters) == 1 else rf"\mathrm{{{letters}}}"
    text = rf"\bar{{{text}}}" if MACRON in name else text
    text = rf"\dot{{{text}}}" if DOT in name else text
    text = f"{text}'" if "ʹ" in name else text
    return f"{text}^{{({base[len(letters):]})}}" if letters != base else text


def _latex_affine(form: Affine) -> str:
    if form.den != 1:
        return rf"\tfrac{{{_latex_affine(Affine(form.terms, form.const))}}}{{{form.den}}}"
    return str(form).replace("·", r" ")


def _latex_expr(e: Expr, names: tuple[str, ...], binding: int) -> str:
    show: Callable[[Expr, int], str] = lambda x, b: _latex_expr(x, names, b)  # noqa: E731
    match e:
        case Const():
            if isinstance(e.value, Fraction) and "/" in _number(e.value, 0):
                return rf"\tfrac{{{e.value.numerator}}}{{{e.value.denominator}}}"
            return _number(e.value, binding)
        case Access():
            return f"{names[e.slot]}_{{{', '.join(_latex_affine(a) for a in e.index)}}}"
        case Value():
            return _latex_affine(e.form)
        case Inside():
            return rf"[0 \le {_latex_affine(e.form)} < {e.extent}]"
        case Size():
            return str(e.extent)
        case Reduce():
            text = rf"{REDUCE_LATEX[e.kind]}_{{{', '.join(e.indices)}}} {show(e.body, 2)}"
            return rf"\left({text}\right)" if binding > 1 else text
        case Apply():
            row = TABLE[e.fn]
            if not row.binding or e.fn == "div":
                return row.latex.format(*(show(a, 0) for a in e.args))
            right = row.binding + (e.fn == "sub")
            left = row.binding + (isinstance(e.args[0], Reduce) and row.binding > 1)
            parts = [show(a, left if n == 0 else right) for n, a in enumerate(e.args)]
            text = row.latex.format(*parts)
            return rf"\left({text}\right)" if row.binding < binding else text
    raise TypeError(e)
