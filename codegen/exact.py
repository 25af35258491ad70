"""What an equation means over the integers modulo a prime: a field with an order, and with names for all else.

A residue stands for the integer of least magnitude that it contains. So residues have sums, products and quotients
(x/0 is 0), and an order: what a maximum, a ReLU or a comparison needs. Functions without a value there (exp, log, …)
stand for one of the field, `STAND_IN`: what is verified is which numbers a kernel combines, and for that any function
will do that tells arguments apart. How well the real ones are computed is for other tests to say.
"""

from __future__ import annotations

from fractions import Fraction

from faltung.codegen.element import PRIME
from faltung.graph.equation import Equation
from faltung.graph.expr import Apply, Const, Expr, Size, walk
from faltung.graph.index import Batch

# f(x) = x⁵ + number: 5 does not divide PRIME - 1, so different arguments have different values
STAND_IN = {"exp": 1, "expm1": 2, "log": 3, "softplus": 4, "tanh": 5, "sigmoid": 6, "erf": 7, "sqrt": 8}


def inexact(eq: Equation) -> str | None:
    """Why the equation has no value over the residues, or None."""
    for e in walk(eq.expr):
        divisor = constant(e.args[1]) if isinstance(e, Apply) and e.fn == "div" else None
        if divisor is not None and divisor.numerator % PRIME == 0:
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
