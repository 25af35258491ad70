"""Element types and the types of values: one element, or the lanes of a vector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from faltung.graph.errors import FaltungError

PRIME = 2**31 - 1  # a Mersenne prime: products of two residues fit an i64, and 2, 3, 5, .. have inverses
HALF = PRIME // 2  # residues are ordered as the integers -HALF .. HALF that they stand for


class InvalidKernel(FaltungError, ValueError):
    """A kernel breaks the grammar of the Loop IR; the message says where and how."""


@dataclass(frozen=True)
class Elem:
    """What one element is: bytes in memory, LLVM type, LLVM type in memory, kind of arithmetic."""

    bytes: int
    llvm: str
    memory: str
    kind: str  # float | int | bool | exact


ELEMS = {
    # name       bytes  llvm      memory    kind
    "f32": Elem(4, "float", "float", "float"),
    "f64": Elem(8, "double", "double", "float"),
    "i32": Elem(4, "i32", "i32", "int"),
    "i64": Elem(8, "i64", "i64", "int"),
    "bool": Elem(1, "i1", "i8", "bool"),
    "exact": Elem(8, "i64", "i64", "exact"),
}


@dataclass(frozen=True, slots=True)
class Type:
    """An element type and a number of lanes; one lane is a scalar."""

    elem: str
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.elem not in ELEMS:
            raise InvalidKernel(f"element type {self.elem!r} is none of {', '.join(ELEMS)}")
        if self.lanes < 1 or self.lanes & (self.lanes - 1):
            raise InvalidKernel(f"lanes must be a power of two, not {self.lanes}")

    @property
    def kind(self) -> str:
        """float, int, bool or exact."""
        return ELEMS[self.elem].kind

    def __str__(self) -> str:
        return self.elem if self.lanes == 1 else f"{self.elem}x{self.lanes}"


@cache
def type_of(elem: str, lanes: int = 1) -> Type:
    """The type, made once: kernels mention the same few types many thousand times."""
    return Type(elem, lanes)


INDEX = type_of("i64")
BOOL = type_of("bool")
