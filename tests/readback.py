"""Reads printed formulas back: `Y[n,f,i] = Σ_{c,p} X[n,c,2·i+p-1]·K[f,c,p]` and arrays give the array that the text means.

It knows the notation and NumPy, and shares no line with the package:

    Σ max min argmax argmin _{…}    over indices, of the product that follows; positions count in row-major order
    X[…]                            an element; outside of X, or where a division does not come out even, what the
                                    reduction around it ignores (0 for none)
    [a < b]                         1 or 0; as a factor 0 silences all the others, whatever they are
    [0 ≤ i < n]                     and i a whole number
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Node = tuple[Any, ...]

TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?(?:e[-+]?\d+)?|[^\W\d_](?:[^\W_]|[\u0300-\u036f])*|_\{|.)")
NEUTRAL = {"Σ": 0.0, "max": -math.inf, "min": math.inf, "argmax": -math.inf, "argmin": math.inf}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal, "≠": np.not_equal, "<": np.less, "≤": np.less_equal, ">": np.greater, "≥": np.greater_equal,
}  # fmt: skip


def _random(i: Array, t: Array, k: Array) -> Array:
    def mix(h: Any) -> Any:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
        return h

    whole = [np.asarray(v).astype(np.int64).astype(object) & 0xFFFFFFFF for v in (i, t, k)]
    return np.asarray(mix(mix(whole[0]) ^ mix(mix(whole[2]) ^ whole[1])) >> 8, np.float64)


CALLS: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "√": np.sqrt, "tanh": np.tanh, "σ": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x), "erf": np.vectorize(math.erf, otypes=[float]), "relu": lambda x: np.maximum(x, 0),
    "max": np.maximum, "min": np.minimum, "random": _random, "stop": lambda x: x,
}  # fmt: skip


class _Text:
    """Recursive descent over the tokens of a formula."""

    def __init__(self, text: str) -> None:
        self.tokens, self.text = [t for t in TOKEN.findall(text) if t.strip()], text

    def take(self, wanted: str = "") -> str:
        assert self.tokens and (not wanted or self.tokens[0] == wanted), f"{self.text}: expected {wanted or 'more'} before {''.join(self.tokens)!r}"
        return self.tokens.pop(0)

    def sees(self, *tokens: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in tokens

    def listed(self, end: str) -> list[Node]:
        found: list[Node] = []
        while not self.sees(end):
            found.append(self.sum())
            if self.sees(","):
                self.take()
        self.take(end)
        return found

    def sum(self) -> Node:
        left = self.product()
        while self.sees("+", "-"):
            left = (self.take(), left, self.product())
        return left

    def product(self) -> Node:
        left = self.factor()
        while self.sees("·", "/"):
            left = (self.take(), left, self.factor())
        return left

    def factor(self) -> Node:
        token = self.take()
        if token == "-":
            return ("neg", self.factor())
        if token in ("(", "|"):
            inner = self.sum()
            self.take(")" if token == "(" else "|")
            return inner if token == "(" else ("abs", inner)
        if token == "[":
            parts: list[Any] = [self.sum()]
            while not self.sees("]"):
                parts += [self.take(), self.sum()]
            self.take("]")
            return ("bracket", *parts)
        if token[0].isdigit():
            return ("number", float(token))
        if self.sees("_{"):
            self.take()
            return ("reduce", token, [name for _, name in self.listed("}")], self.product())
        if self.sees("["):
            self.take()
            return ("read", token, self.listed("]"))
        if self.sees("("):
            self.take()
            return ("call", token, self.listed(")"))
        return ("name", token)


def evaluate(
    text: str, operands: Mapping[str, Array], extents: Mapping[str, int], out: Array | None = None, shape: Any = None
) -> Array:
    """The value of one printed equation. `extents` has that of every index, and N if it is written.

    Where the left side is not made of lone indices, give the `shape`, or the array `out` that it is a part of. Raises
    AssertionError for a text that is no formula.
    """
    source = _Text(text)
    _, _, left, _, right = source.take(), source.take("["), source.listed("]"), source.take("="), source.sum()
    assert not source.tokens, f"{text}: {source.tokens} left over"
    free = list(dict.fromkeys(n for slot in left for n in _names(slot)))
    if out is None:
        out = np.full([extents[n] for n in free] if shape is None else shape, np.nan)
    with np.errstate(all="ignore"):
        out[tuple(_form(slot, free, extents)[0] for slot in left)] = _value(right, free, operands, extents, 0.0)
    return out


def _names(node: Any) -> list[str]:
    if isinstance(node, tuple) and node[0] == "name":
        return [node[1]]
    return [n for part in node[1:] for n in _names(part)] if isinstance(node, tuple) else []


def _form(node: Node, axes: list[str], extents: Mapping[str, int]) -> tuple[Any, Any]:
    """Whole values of an index form over the grid of the axes, and where they are whole."""
    match node:
        case ("number", value):
            return np.int64(value), np.True_
        case ("name", "N"):
            return np.int64(extents["N"]), np.True_
        case ("name", name):
            return np.arange(extents[name]).reshape([-1 if a == name else 1 for a in axes]), np.True_
        case ("neg", a):
            return -_form(a, axes, extents)[0], _form(a, axes, extents)[1]
        case (operator, a, b):
            (x, even), (y, too) = _form(a, axes, extents), _form(b, axes, extents)
            if operator == "/":
                return x // y, even & too & (x % y == 0)
            return {"+": np.add, "-": np.subtract, "·": np.multiply}[operator](x, y), even & too
    raise AssertionError(node)


def _value(node: Node, axes: list[str], operands: Mapping[str, Array], extents: Mapping[str, int], outside: float) -> Array:
    value: Callable[[Node], Array] = lambda part: _value(part, axes, operands, extents, outside)  # noqa: E731
    match node:
        case ("number", number):
            return np.asarray(number)
        case ("name", name):
            return np.asarray(math.inf if name == "inf" else _form(node, axes, extents)[0], np.float64)
        case ("read", name, slots):
            source, there, at = operands[name], np.True_, []
            assert len(slots) == np.ndim(source), f"{name} has {np.ndim(source)} axes, read at {len(slots)}"
            for slot, extent in zip(slots, np.shape(source), strict=True):
                where, whole = _form(slot, axes, extents)
                there = there & whole & (where >= 0) & (where < extent)
                at.append(np.clip(where, 0, extent - 1))
            return np.where(there, source[tuple(at)], outside) if slots else np.asarray(source, np.float64)
        case ("reduce", kind, over, body):
            inner = [*axes, *over]
            found = _value(body, inner, operands, extents, NEUTRAL[kind])
            kept, sizes = np.broadcast_shapes(found.shape, (1,) * len(inner))[: len(axes)], [extents[n] for n in over]
            flat = np.broadcast_to(found, [*kept, *sizes]).reshape(*kept, math.prod(sizes))
            reduced = {"Σ": np.sum, "max": np.max, "min": np.min, "argmax": np.argmax, "argmin": np.argmin}[kind](flat, axis=-1)
            return np.asarray(reduced, np.float64)
        case ("bracket", a, "≤", form, "<", end) if a == ("number", 0.0):
            where, whole = _form(form, axes, extents)
            return np.asarray(whole & (where >= 0) & (where < _form(end, axes, extents)[0]), np.float64)
        case ("bracket", a, relation, b):
            return np.asarray(COMPARE[relation](value(a), value(b)), np.float64)
        case ("call", name, parts):
            return np.asarray(CALLS[name](*map(value, parts)))
        case ("neg" | "abs", a):
            return -value(a) if node[0] == "neg" else np.abs(value(a))
        case ("·" | "/", a, b):
            x, y = value(a), value(b)
            silent = [v == 0 for part, v in ((a, x), (b, y) if node[0] == "·" else (a, x)) if _silences(part)]
            result = x * y if node[0] == "·" else x / y
            return np.where(np.any(np.broadcast_arrays(*silent), axis=0), 0.0, result) if silent else np.asarray(result)
        case (operator, a, b):
            return np.asarray(value(a) + value(b) if operator == "+" else value(a) - value(b))
    raise AssertionError(node)


def _silences(node: Node) -> bool:
    """Whether this is a bracket or a product with one."""
    return node[0] == "bracket" or (node[0] == "·" and any(map(_silences, node[1:])))
