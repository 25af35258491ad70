"""Writing LLVM IR text in SSA form: the spelling of types and constants, and where an instruction goes.

Instructions are numbered by their text: what has been computed in an open block is not computed again.
Index arithmetic, addresses and splats of what was computed outside are `hoisted`: they go before the
outermost block in which they do not change. That is all the common-subexpression elimination and code
motion that kernels need, and the reason why no LLVM pass does either.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from faltung.codegen.element import ELEMS, Type

Lines: TypeAlias = list["str | Lines"]


def llvm(type: Type) -> str:
    """The LLVM type of a value."""
    name = ELEMS[type.elem].llvm
    return name if type.lanes == 1 else f"<{type.lanes} x {name}>"


def memory(type: Type) -> str:
    """The LLVM type of a value in memory, where a bool is a byte."""
    name = ELEMS[type.elem].memory
    return name if type.lanes == 1 else f"<{type.lanes} x {name}>"


def mangled(type: Type) -> str:
    """The type as it appears in the name of an intrinsic."""
    short = {"float": "f32", "double": "f64"}.get(ELEMS[type.elem].memory, ELEMS[type.elem].memory)
    return short if type.lanes == 1 else f"v{type.lanes}{short}"


def literal(value: float | int | bool, type: Type) -> str:
    """A constant, the same in every lane."""
    if type.kind == "float":
        if type.elem == "f32":
            value = float(np.float32(value))  # LLVM writes a float as the double that equals it
        one = f"0x{struct.unpack('Q', struct.pack('d', value))[0]:016X}"
    else:
        one = str(value).lower() if type.kind == "bool" else str(int(value))
    if type.lanes == 1:
        return one
    return f"splat ({ELEMS[type.elem].llvm} {one})"


@dataclass
class Block:
    """An open block: where code that does not change inside it goes, and what has been computed in it."""

    before: Lines
    numbered: dict[str, str] = field(default_factory=dict)


class Writer:
    """The text of one function so far, and what is known of its values."""

    def __init__(self, declarations: set[str]) -> None:
        self.declarations = declarations  # of the intrinsics that the module calls
        self.lines: Lines = []
        self.blocks = [Block(self.lines)]  # the open ones, outermost first
        self.depth: dict[str, int] = {}  # of a value: the innermost block that it depends on
        self.count = 0

    def fresh(self, stem: str = "%v") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def compute(self, instruction: str, *operands: str) -> str:
        """An instruction where it stands, or its earlier result if it was computed before."""
        for block in reversed(self.blocks):
            if instruction in block.numbered:
                return block.numbered[instruction]
        return self.define(instruction, len(self.blocks) - 1, operands)

    def define(self, instruction: str, depth: int, operands: Sequence[str]) -> str:
        name = self.fresh()
        inner = len(self.blocks) - 1
        lines = self.lines if depth == inner else self.blocks[depth + 1].before
        lines.append(f"  {name} = {instruction}")
        self.depth[name] = depth
        self.blocks[min(depth + 1, inner)].numbered[instruction] = name
        return name

    def hoisted(self, instruction: str, *operands: str) -> str:
        """An instruction that cannot trap, placed before the outermost loop in which it does not change."""
        for block in reversed(self.blocks):
            if instruction in block.numbered:
                return block.numbered[instruction]
        return self.define(instruction, max((self.depth.get(x, 0) for x in operands), default=0), operands)

    def here(self, instruction: str) -> str:
        """An instruction that reads memory or must not move: never shared."""
        name = self.fresh()
        self.lines.append(f"  {name} = {instruction}")
        self.depth[name] = len(self.blocks) - 1
        return name

    def intrinsic(self, result: str, name: str, arguments: Sequence[tuple[str, str]]) -> str:
        """The call of an LLVM intrinsic; (type, value) an argument."""
        self.declarations.add(f"declare {result} @{name}({', '.join(t for t, _ in arguments)})")
        return f"call {result} @{name}({', '.join(f'{t} {v}' for t, v in arguments)})"


def flat(lines: Lines) -> list[str]:
    """Nested lines in order."""
    out: list[str] = []
    for line in lines:
        out.extend([line] if isinstance(line, str) else flat(line))
    return out
