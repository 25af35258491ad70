"""An interpreter for the part of pickle's language that files of weights use, which calls nothing by itself.

A pickle is a program for a machine with a stack, a memo and marks (`pickletools` describes it). Two of its
instructions reach outside: GLOBAL names a Python object, REDUCE calls one. Here a name is looked up in the caller's
table and nowhere else, and what is called are the functions of that table. The rest builds numbers, text, tuples,
lists and dicts. Names of entries are text or numbers, so that no hash runs through nested structures.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from faltung.graph.errors import CheckpointError

PUSHED = {
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True, eq=False)
class Name:
    """A name that the program gave and the table knows; called, it is the table's function."""

    text: str
    function: Callable[..., Any] | None


def run(file: IO[bytes], names: Mapping[str, Callable[..., Any] | None], persistent: Callable[[Any], Any]) -> Any:
    """The value of the one pickle that begins where the file stands; the file then stands behind it.

    `names` are those that may be named, with what a call of each does, or None for one that cannot be called.
    `persistent` gives the object for what the pickle stores outside. Raises CheckpointError for any other name,
    for an instruction that is not known, and for a program that is damaged.
    """
    machine = _Machine(names, persistent)
    try:
        for instruction, argument, _ in pickletools.genops(file):
            machine.step(instruction.name, argument)
        return machine.pop()
    except CheckpointError:  # which is a ValueError, but says more than that there is damage
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as reason:
        raise CheckpointError(f"its pickle is damaged: {type(reason).__name__}: {reason}") from reason


class _Machine:
    def __init__(self, names: Mapping[str, Callable[..., Any] | None], persistent: Callable[[Any], Any]) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def above_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def step(self, op: str, argument: Any) -> None:
        """One instruction. Raises what Python raises where the stack, the memo or a kind is not as it should be."""
        match op:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case _:
                self.stack.append(self.made(op, argument))

    def made(self, op: str, argument: Any) -> Any:
        """What an instruction puts in the place of what it takes off the stack."""
        if op in PUSHED:
            return argument
        if op in CONSTANTS:
            return CONSTANTS[op]
        match op:
            case "EMPTY_LIST":
                return []
            case "EMPTY_DICT":
                return {}
            case "GET" | "BINGET" | "LONG_BINGET":
                return self.memo[argument]
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple([self.pop() for _ in range(int(op[-1]))][::-1])
            case "TUPLE":
                return tuple(self.above_mark())
            case "LIST":
                return self.above_mark()
            case "DICT":
                return _with({}, self.above_mark())
            case "APPEND":
                item = self.pop()
                return _longer(self.pop(), [item])
            case "APPENDS":
                items = self.above_mark()
                return _longer(self.pop(), items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                return _with(self.pop(), [key, value])
            case "SETITEMS":
                items = self.above_mark()
                return _with(self.pop(), items)
            case "BUILD":
                self.pop()  # attributes of a dict: versions of modules, which are not needed
                return _is(self.pop(), dict)
            case "GLOBAL":
                return self.name(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                last, first = self.pop(), self.pop()
                return self.name(f"{_is(first, str)}.{_is(last, str)}")
            case "REDUCE":
                arguments, called = _is(self.pop(), tuple), _is(self.pop(), Name)
                if called.function is None:
                    raise CheckpointError(f"it calls {called.text}, which is not a function here")
                return called.function(*arguments)
            case "BINPERSID":
                return self.persistent(self.pop())
        raise CheckpointError(f"its pickle has the instruction {op}, which no file of weights needs")

    def name(self, text: str) -> Name:
        if text not in self.names:
            raise CheckpointError(
                f"it names {text!r}, which could run code when the file is read: refused. What a file of weights, "
                f"such as torch.save(net.state_dict(), path) writes, may name: {', '.join(self.names)}"
            )
        return Name(text, self.names[text])


def _longer(target: Any, items: list[Any]) -> Any:
    """The list itself, longer."""
    _is(target, list).extend(items)
    return target


def _with(target: Any, items: list[Any]) -> Any:
    """The dict itself, with key, value, key, value, …"""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, int)):
            raise TypeError(f"a key of a dict is a {type(key).__name__}, expected text or a number")
        _is(target, dict)[key] = value
    return target


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} is needed")
    return value
