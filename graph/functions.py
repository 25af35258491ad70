"""TABLE of scalar functions: one row a function, and everything that is known about it.

Columns: name | NumPy value | exact value | SymPy | derivative by each argument | Unicode | LaTeX. The derivative column gets the
arguments and y = f(arguments), already computed, so that exp' = y costs nothing and relu' needs no stored input.
Comparisons are Iverson brackets: 1 where they hold, 0 elsewhere, derivative 0. `random(i, t, k)` is no generator but a
function: BITS well mixed bits of position i, step t and key k, a whole number; whoever computes it gets the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from faltung.graph.expr import ONE, ZERO, Expr, apply, const

Derivative = Callable[..., tuple[Expr, ...]]


@dataclass(frozen=True)
class Function:
    """A row: see the module docstring. `binding` is the precedence of infix forms (0 for calls)."""

    name: str
    numpy: Callable[..., Any]
    exact: Callable[..., Any] | None  # on Fractions; None where the value is irrational
    symbolic: Callable[..., Any]  # (sympy, arguments) → expression
    derivative: Derivative
    unicode: str
    latex: str
    binding: int = 0

    @property
    def arity(self) -> int:
        return self.unicode.count("{")


def _relu(x: Any) -> Any:
    return np.where(x <= 0, np.zeros_like(x), x)  # NaN is not <= 0, so it passes


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _max(a: Any, b: Any) -> Any:
    return np.maximum(a, b)


def _bool(test: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: np.where(test(a, b), 1.0, 0.0)


def _iverson(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], int]:
    return lambda a, b: int(test(a, b))


def _bracket(relation: str) -> Callable[..., Any]:
    return lambda sp, a, b: sp.Piecewise((1, getattr(sp, relation)(a, b)), (0, True))


def _both(a: Expr, b: Expr, y: Expr) -> tuple[Expr, ...]:
    return ZERO, ZERO


def _log(x: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(x)


def _exact_div(a: Any, b: Any) -> Any:
    return a / b if b else math.nan


def _mul(a: Any, b: Any) -> Any:
    with np.errstate(invalid="ignore"):  # ∞·[false] is 0 in the end
        return np.multiply(a, b)


def _div(a: Any, b: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(a, b)


_erf = np.vectorize(math.erf, otypes=[float])


def _softplus(x: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return np.logaddexp(0, x)


def _expm1(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.expm1(x)


# a bijection of 32-bit words in which every bit of the input reaches every bit of the output (C. Wellons, lowbias32)
#          shift  factor, modulo 2³²
MIX = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1))  # fmt: skip
BITS = 24  # of the 32, the upper ones: as many as a float32 holds exactly


def _mixed(h: Any) -> Any:
    return reduce(lambda h, row: ((h ^ (h >> row[0])) * row[1]) & 0xFFFFFFFF, MIX, h)


def mixed(i: Any, t: Any, k: Any) -> Any:
    """`random` on whole numbers, Python's or NumPy's uint64: mix(mix(i) ⊕ mix(mix(k) ⊕ t)), its upper BITS."""
    return _mixed(_mixed(i & 0xFFFFFFFF) ^ _mixed(_mixed(k & 0xFFFFFFFF) ^ (t & 0xFFFFFFFF))) >> (32 - BITS)


def _random(i: Any, t: Any, k: Any) -> Any:
    words = (np.asarray(v).astype(np.int64).astype(np.uint64) for v in (i, t, k))
    return mixed(*words).astype(np.float64)


def _random_exactly(i: Any, t: Any, k: Any) -> int:
    return int(mixed(int(i), int(t), int(k)))


def _nowhere(i: Expr, t: Expr, k: Expr, y: Expr) -> tuple[Expr, ...]:
    return ZERO, ZERO, ZERO


_ROWS = [
    #        name       NumPy            exact                       derivative                                                   Unicode          LaTeX                            binding
    Function("add",     np.add,          lambda a, b: a + b,         lambda sp, a, b: a + b, lambda a, b, y: (ONE, ONE),                                  "{} + {}",       "{} + {}",                       1),
    Function("sub",     np.subtract,     lambda a, b: a - b,         lambda sp, a, b: a - b, lambda a, b, y: (ONE, const(-1)),                            "{} - {}",       "{} - {}",                       1),
    Function("mul",     _mul,            lambda a, b: a * b,         lambda sp, a, b: a * b, lambda a, b, y: (b, a),                                      "{}·{}",         r"{} \, {}",                     2),
    Function("div",     _div,            _exact_div,                 lambda sp, a, b: a / b, lambda a, b, y: (apply("div", ONE, b), apply("neg", apply("div", y, b))), "{}/{}", r"\frac{{{}}}{{{}}}",      2),
    Function("neg",     np.negative,     lambda a: -a,               lambda sp, a: -a, lambda a, y: (const(-1),),                                   "-{}",           "-{}",                           3),
    Function("exp",     np.exp,          None,                       lambda sp, a: sp.exp(a), lambda a, y: (y,),                                           "exp({})",       r"\exp({})"),
    Function("expm1",   _expm1,          None,                       lambda sp, a: sp.exp(a) - 1, lambda a, y: (apply("exp", a),),                         "expm1({})",     r"\mathrm{{expm1}}({})"),
    Function("log",     _log,            None,                       lambda sp, a: sp.log(a), lambda a, y: (apply("div", ONE, a),),                        "log({})",       r"\log({})"),
    Function("sqrt",    np.sqrt,         None,                       lambda sp, a: sp.sqrt(a), lambda a, y: (apply("div", const(0.5), y),),                 "√({})",         r"\sqrt{{{}}}"),
    Function("tanh",    np.tanh,         None,                       lambda sp, a: sp.tanh(a), lambda a, y: (apply("sub", ONE, apply("mul", y, y)),),       "tanh({})",      r"\tanh({})"),
    Function("sigmoid", _sigmoid,        None,                       lambda sp, a: 1 / (1 + sp.exp(-a)), lambda a, y: (apply("mul", y, apply("sub", ONE, y)),),       "σ({})",         r"\sigma({})"),
    Function("softplus", _softplus,      None,                       lambda sp, a: sp.log(1 + sp.exp(a)), lambda a, y: (apply("sigmoid", a),),             "softplus({})",  r"\mathrm{{softplus}}({})"),
    Function("erf",     _erf,            None,                       lambda sp, a: sp.erf(a), lambda a, y: (apply("mul", const(2 / math.sqrt(math.pi)), apply("exp", apply("neg", apply("mul", a, a)))),), "erf({})", r"\mathrm{{erf}}({})"),
    Function("relu",    _relu,           lambda a: max(a, 0),        lambda sp, a: sp.Max(a, 0), lambda a, y: (apply("gt", y, ZERO),),                        "relu({})",      r"\mathrm{{relu}}({})"),
    Function("abs",     np.abs,          abs,                        lambda sp, a: sp.Abs(a), lambda a, y: (apply("sub", apply("gt", a, ZERO), apply("lt", a, ZERO)),), "|{}|", r"\lvert {} \rvert"),
    Function("max",     _max,            max,                        lambda sp, a, b: sp.Max(a, b), lambda a, b, y: (apply("ge", a, b), apply("lt", a, b)),      "max({}, {})",   r"\max({}, {})"),
    Function("min",     np.minimum,      min,                        lambda sp, a, b: sp.Min(a, b), lambda a, b, y: (apply("le", a, b), apply("gt", a, b)),      "min({}, {})",   r"\min({}, {})"),
    Function("lt",      _bool(np.less),  _iverson(lambda a, b: a < b),   _bracket("Lt"), _both,                                                   "[{} < {}]",     r"[{} < {}]"),
    Function("le",      _bool(np.less_equal), _iverson(lambda a, b: a <= b), _bracket("Le"), _both,                                               "[{} ≤ {}]",     r"[{} \le {}]"),
    Function("gt",      _bool(np.greater), _iverson(lambda a, b: a > b), _bracket("Gt"), _both,                                                   "[{} > {}]",     r"[{} > {}]"),
    Function("ge",      _bool(np.greater_equal), _iverson(lambda a, b: a >= b), _bracket("Ge"), _both,                                            "[{} ≥ {}]",     r"[{} \ge {}]"),
    Function("eq",      _bool(np.equal), _iverson(lambda a, b: a == b),  _bracket("Eq"), _both,                                                   "[{} = {}]",     r"[{} = {}]"),
    Function("ne",      _bool(np.not_equal), _iverson(lambda a, b: a != b), _bracket("Ne"), _both,                                                "[{} ≠ {}]",     r"[{} \ne {}]"),
    Function("random",  _random,         _random_exactly,            lambda sp, i, t, k: _random_exactly(i, t, k), _nowhere,                           "random({}, {}, {})", r"\mathrm{{random}}({}, {}, {})"),
    Function("stop",    lambda a: a,     lambda a: a,                lambda sp, a: a, lambda a, y: (ZERO,),                                        "stop({})",      r"\mathrm{{stop}}({})"),
]  # fmt: skip

TABLE: dict[str, Function] = {row.name: row for row in _ROWS}

# how equation text writes the functions that are not infix
CALLS = {name for name, row in TABLE.items() if not row.binding}


def derivative(fn: str, args: tuple[Expr, ...], value: Expr) -> tuple[Expr, ...]:
    """Partial derivatives of fn by each argument, given the arguments and the value."""
    return TABLE[fn].derivative(*args, value)


def is_zero_at_zero(fn: str) -> bool:
    """Whether a one-argument function maps 0 to 0 (so that it may stand under a zero-padded read)."""
    if TABLE[fn].arity != 1:
        return False
    return bool(math.isclose(float(TABLE[fn].numpy(np.float64(0.0))), 0.0, abs_tol=0.0))
