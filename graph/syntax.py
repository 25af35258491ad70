"""Equation text → syntax tree, without shapes: nested tuples ("op", …), so that a text is read once for all shapes.

The grammar is stated in parse.py, which gives the tree its meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from faltung.graph.errors import EquationError
from faltung.graph.expr import check_depth
from faltung.graph.functions import CALLS, TABLE

REDUCTIONS = ("sum", "max", "min", "argmax", "argmin")
COMPARE = {"=": "eq", "==": "eq", "≠": "ne", "!=": "ne", "<": "lt", ">": "gt", "≤": "le", "<=": "le", "≥": "ge", ">=": "ge"}
NESTED = 60  # brackets and signs inside one another

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d_](?:[^\W_]|[\u0300-\u036f]|_(?!\{))*)"
    r"|(?P<symbol>_\{|==|!=|<=|>=|[-+*/·−\[\](){},:=<>≤≥≠|√]))"
)


@dataclass
class Tree:
    """A text read: its target, the slots on the left, explicit extents, the right side, operands in order of appearance."""

    target: str
    slots: list[object]
    given: dict[str, object]
    body: object
    operands: tuple[str, ...]


@dataclass
class _Reader:
    text: str
    tokens: list[tuple[str, str]] = field(default_factory=list)
    at: int = 0
    operands: dict[str, None] = field(default_factory=dict)
    given: dict[str, object] = field(default_factory=dict)
    depth: int = 0

    def __post_init__(self) -> None:
        position = 0
        stripped = self.text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if not match:
                raise EquationError(f"{self.text}: cannot read {stripped[position:].strip()[:12]!r}")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)].replace("−", "-")))
            position = match.end()

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if wanted and token not in wanted:
            raise EquationError(f"{self.text}: expected {' or '.join(wanted)}, found {token or 'the end'!r}")
        self.at += 1
        return token

    def listed(self, end: str) -> list[object]:
        items: list[object] = []
        while self.peek() != end:
            items.append(self.sum())
            if self.peek() != end:
                self.take(",")
        self.take(end)
        return items

    def indices(self, end: str) -> tuple[str, ...]:
        names: list[str] = []
        while self.peek() != end:
            if self.kind() != "name":
                raise EquationError(f"{self.text}: {self.peek()!r} is not an index name")
            names.append(self.take())
            if self.peek() == "<":
                self.take()
                self.given[names[-1]] = self.sum()
            if self.peek() != end:
                self.take(",")
        self.take(end)
        return tuple(names)

    def sum(self) -> object:
        left = self.term()
        while self.peek() in ("+", "-"):
            op = self.take()
            left = ("add" if op == "+" else "sub", left, self.term())
        return left

    def term(self) -> object:
        left = self.factor()
        while self.peek() in ("*", "·", "/"):
            op = self.take()
            left = ("div" if op == "/" else "mul", left, self.factor())
        return left

    def factor(self) -> object:
        self.depth += 1
        if self.depth > NESTED:
            raise EquationError(f"{self.text[:60]}…: nested more than {NESTED} deep")
        try:
            return self._factor()
        finally:
            self.depth -= 1

    def _factor(self) -> object:
        kind, token = self.kind(), self.peek()
        if token == "-":
            self.take()
            return ("neg", self.factor())
        if token == "(":
            self.take()
            inner = self.sum()
            self.take(")")
            return inner
        if token == "|":
            self.take()
            inner = self.sum()
            self.take("|")
            return ("abs", inner)
        if token == "[":
            self.take()
            left = self.sum()
            pairs: list[object] = []
            while self.peek() in COMPARE:  # chains: [0 ≤ i < 3]
                op = COMPARE[self.take()]
                right = self.sum()
                pairs.append((op, left, right))
                left = right
            if not pairs:
                raise EquationError(f"{self.text}: expected a comparison inside [ ]")
            self.take("]")
            match pairs:
                case [("le", ("number", "0"), form), ("lt", _, extent)]:
                    return ("inside", form, extent)
            result = pairs[0]
            for pair in pairs[1:]:
                result = ("mul", result, pair)
            return result
        if token == "√":
            self.take()
            self.take("(")
            inner = self.sum()
            self.take(")")
            return ("sqrt", inner)
        if kind == "number":
            return ("number", self.take())
        if kind != "name":
            raise EquationError(f"{self.text}: expected a number, a name or a bracket, found {token or 'the end'!r}")
        return self.named(self.take())

    def named(self, name: str) -> object:
        following = self.peek()
        if following == "[":
            self.take()
            self.operands.setdefault(name)
            return ("access", name, self.listed("]"))
        if following == "_{":
            self.take()
            kind = "sum" if name == "Σ" else name
            return ("reduce", kind, self.indices("}"), self.term())
        if following != "(":
            return ("name", name)
        self.take()
        if name == "extent":
            return ("extent", self.indices(")"))
        start = self.at
        if name in REDUCTIONS:
            try:
                names = self.indices(":")
                body = self.sum()
                self.take(")")
                return ("reduce", name, names, body)
            except EquationError:
                if name not in CALLS:
                    raise
                self.at = start  # max(a, b) rather than max(p: …)
        name = {"σ": "sigmoid"}.get(name, name)
        if name not in CALLS:
            raise EquationError(f"{self.text}: unknown function {name}; known: {', '.join(sorted(CALLS))}")
        args = self.listed(")")
        if len(args) != TABLE[name].arity:
            raise EquationError(f"{self.text}: {name} takes {TABLE[name].arity} argument(s), {len(args)} given")
        return (name, *args)


@lru_cache(maxsize=4096)
def read(text: str) -> Tree:
    """The tree of an equation text. Raises EquationError for text that breaks the grammar."""
    reader = _Reader(text)
    if reader.kind() != "name":
        raise EquationError(f"{text}: an equation starts with its target, as in Y[i] = …")
    target = reader.take()
    reader.take("[")
    slots: list[object] = []
    while reader.peek() != "]":
        slots.append(reader.sum())
        if reader.peek() == "<":
            reader.take()
            slot = slots[-1]
            if not (isinstance(slot, tuple) and slot[0] == "name"):
                raise EquationError(f"{text}: only a lone index can be given an extent with <")
            reader.given[slot[1]] = reader.sum()
        if reader.peek() != "]":
            reader.take(",")
    reader.take("]")
    reader.take("=")
    body = reader.sum()
    if reader.at < len(reader.tokens):
        raise EquationError(f"{text}: unexpected {reader.peek()!r} after the expression")
    check_depth(f"{text[:60]}…", _depth(body, *slots, *reader.given.values()))
    return Tree(target, slots, reader.given, body, tuple(reader.operands))


def _depth(*trees: object) -> int:
    """How many operations stand one inside the other at most; a + b + c is (a + b) + c."""
    depth, level = 0, {id(t): t for t in trees}
    while level := {id(t): t for node in level.values() if isinstance(node, (tuple, list)) for t in node}:
        depth += 1
    return depth
