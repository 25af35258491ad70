"""Which equations have a value over the integers modulo a prime, and why the others have none.

A residue stands for the integer of least magnitude that it contains. So residues have the ring's operations, inverses
of constants, and an order: what a maximum, a ReLU or a comparison needs. Roots, exponentials and quotients of what is
read have no residue that a schedule could be held to.
"""

from __future__ import annotations

from fractions import Fraction

from faltung.codegen.element import PRIME
from faltung.graph.equation import Equation
from faltung.graph.expr import Apply, Const, Expr, Size, walk
from faltung.graph.index import Batch

RING = frozenset({"add", "sub", "mul", "neg", "div", "stop"})
ORDER = frozenset({"relu", "max", "min", "lt", "le", "gt", "ge", "eq", "ne"})


def inexact(eq: Equation) -> str | None:
    """Why the equation has no value over the residues, or None."""
    for e in walk(eq.expr):
        if not isinstance(e, Apply):
            continue
        if e.fn not in RING | ORDER:
            return f"{e.fn} has no value modulo a prime"
        if e.fn == "div":
            divisor = constant(e.args[1])
            if divisor is None:
                return "it divides by what is known at run time only"
            if divisor.numerator % PRIME == 0:
                return f"it divides by {divisor}"
    return None


def constant(e: Expr) -> Fraction | None:
    """The value of an expression of constants and fixed extents; None when it is not known before the run."""
    match e:
        case Const():
            return None if e.value in (float("inf"), float("-inf")) or e.value != e.value else Fraction(e.value)
        case Size():
            return None if isinstance(e.extent, Batch) else Fraction(e.extent)
        case Apply(fn="add" | "sub" | "mul" | "div" | "neg"):
            values = [constant(a) for a in e.args]
            known = [v for v in values if v is not None]
            if len(known) < len(values):
                return None
            if e.fn == "neg":
                return -known[0]
            a, b = known
            if e.fn == "div":
                return a / b if b else None
            return a + b if e.fn == "add" else a - b if e.fn == "sub" else a * b
    return None
