"""How schedules write loops: a Builder whose `with` blocks are the blocks of the Loop IR.

    k = Builder("scale", lanes=16)
    x, y = k.buffer("x", size=(0, 64)), k.buffer("y", size=(0, 64), written=True)
    with k.parallel(k.N) as n:
        with k.loop("i", 0, 64, 16) as i:
            k.store(y, n * 64 + i, k.load(x, n * 64 + i) * 2.0)
    kernel = k.finish()

Every value is an expression of codegen/loops.py; names are kept, and numbered when they repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from faltung.codegen import loops
from faltung.codegen.check import reason_invalid
from faltung.codegen.loops import (
    Batch,
    Buffer,
    Expr,
    For,
    Gather,
    If,
    InvalidKernel,
    Kernel,
    LaneIndex,
    Let,
    Load,
    Number,
    Operand,
    Prefetch,
    Reg,
    Set,
    Stmt,
    Store,
    Temp,
    Type,
    Var,
    type_of,
)


class Builder:
    """Writes one kernel. `elem` and `lanes` are what load, const and register use when not told."""

    N: Expr

    def __init__(self, name: str, lanes: int = 1, elem: str = "f32") -> None:
        self.name, self.lanes, self.elem = name, lanes, elem
        self.N = Batch()
        self.buffers: list[Buffer] = []
        self.owned: list[Buffer] = []  # private buffers
        self.block: list[Stmt] | None = None  # the innermost open block
        self.partition: tuple[Var, Expr, tuple[Stmt, ...]] | None = None
        self.swept: tuple[Var, Expr] | None = None
        self.uses: Counter[str] = Counter()

    # ---- names, buffers, blocks ----

    def fresh(self, name: str) -> str:
        """The name, numbered when it has been used before in this kernel."""
        number = self.uses[name]
        self.uses[name] += 1
        return f"{name}.{number}" if number else name

    def buffer(
        self, name: str, elem: str | None = None, size: tuple[int, int] = (0, 0), written: bool = False
    ) -> Buffer:
        """Declare flat memory of size[0] + size[1]*N elements. Buffers are passed in order of declaration."""
        made = Buffer(self.fresh(name), elem or self.elem, size, written)
        self.buffers.append(made)
        return made

    def private(self, name: str, size: int, elem: str | None = None) -> Buffer:
        """Memory that each call of the kernel has to itself: what units of one call leave there, no other call sees."""
        made = Buffer(self.fresh(name), elem or self.elem, (size, 0), written=True)
        self.owned.append(made)
        return made

    @contextmanager
    def nested(self) -> Iterator[list[Stmt]]:
        """A new innermost block."""
        outer, self.block = self.block, []
        try:
            yield self.block
        finally:
            self.block = outer

    def append(self, stmt: Stmt) -> None:
        """Add a statement to the innermost block."""
        if self.block is None:
            raise InvalidKernel(f"{self.name}: statements belong inside parallel(..)")
        self.block.append(stmt)

    @contextmanager
    def parallel(self, total: Operand, name: str = "t") -> Iterator[Var]:
        """The outermost loop, once: iterations 0..total are independent and split among threads."""
        if self.partition is not None or self.block is not None:
            raise InvalidKernel(f"{self.name}: parallel(..) must be the outermost block, once")
        variable = Var(self.fresh(name))
        with self.nested() as body:
            yield variable
        self.partition = (variable, loops.lift(total, loops.INDEX), tuple(body))

    def sweep(self, name: str, count: Operand) -> Var:
        """The index of a loop around the parallel one: each thread goes through its own iterations `count` times.

        No thread waits for another in between. To be declared before `parallel`.
        """
        if self.partition is not None or self.block is not None or self.swept is not None:
            raise InvalidKernel(f"{self.name}: sweep(..) must come before parallel(..), once")
        variable = Var(self.fresh(name))
        self.swept = variable, loops.lift(count, loops.INDEX)
        return variable

    @contextmanager
    def loop(self, name: str, lo: Operand, hi: Operand, step: int = 1) -> Iterator[Var]:
        """`for name in lo, lo+step, ... while below hi`."""
        variable = Var(self.fresh(name))
        with self.nested() as body:
            yield variable
        self.append(For(variable, loops.lift(lo, loops.INDEX), loops.lift(hi, loops.INDEX), step, tuple(body)))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements run only where the scalar condition holds."""
        with self.nested() as body:
            yield
        self.append(If(condition, tuple(body), ()))

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """The other branch of the `when` just closed."""
        last = self.block[-1] if self.block else None
        if self.block is None or not isinstance(last, If) or last.orelse:
            raise InvalidKernel(f"{self.name}: otherwise() must follow when(..)")
        with self.nested() as body:
            yield
        self.block[-1] = If(last.condition, last.body, tuple(body))

    # ---- statements ----

    def register(self, name: str, init: Operand, lanes: int | None = None) -> Reg:
        """A mutable scalar or vector, set to `init`; the register is readable as an expression."""
        value = init if isinstance(init, Expr) and lanes is None else loops.lift(init, self.type(lanes))
        made = Reg(self.fresh(name), value.type)
        self.append(Set(made, value))
        return made

    def set(self, register: Reg, value: Operand) -> None:
        """Give the register a new value."""
        self.append(Set(register, loops.lift(value, register.type)))

    def let(self, value: Expr, name: str = "v", pinned: bool = False) -> Temp:
        """Evaluate once, here; the result is readable in the rest of the block.

        A pinned address stays what it is in machine code, too: what is read some constants from it is read so.
        """
        temp = Temp(self.fresh(name), value.type)
        self.append(Let(temp, value, pinned))
        return temp

    def load(
        self,
        buffer: Buffer,
        address: Operand,
        lanes: int | None = None,
        mask: Expr | None = None,
        name: str | None = None,
    ) -> Temp:
        """Read `lanes` consecutive elements now. Masked-off lanes are not read and give 0."""
        return self.let(self.peek(buffer, address, lanes, mask), name or buffer.name.lower())

    def peek(self, buffer: Buffer, address: Operand, lanes: int | None = None, mask: Expr | None = None) -> Load:
        """The read as an expression, made wherever the expression is evaluated."""
        return Load(buffer, loops.lift(address, loops.INDEX), self.type(lanes, buffer.elem), mask)

    def gather(
        self, buffer: Buffer, address: Operand, stride: Operand, lanes: int | None = None, mask: Expr | None = None,
        name: str | None = None,
    ) -> Temp:  # fmt: skip
        """Read address, address+stride, .. now, one element a lane; masked-off lanes are not read and give 0."""
        base, step = loops.lift(address, loops.INDEX), loops.lift(stride, loops.INDEX)
        return self.let(Gather(buffer, base, step, self.type(lanes, buffer.elem), mask), name or buffer.name.lower())

    def store(self, buffer: Buffer, address: Operand, value: Operand, mask: Expr | None = None) -> None:
        """Write the lanes of `value` to consecutive elements, the masked-off ones excepted."""
        value = value if isinstance(value, Expr) else loops.const(value, type_of(buffer.elem))
        self.append(Store(buffer, loops.lift(address, loops.INDEX), value, mask))

    def prefetch(self, buffer: Buffer, address: Operand, write: bool = False) -> None:
        """Hint that the cache line at the address will be read, or written, soon; the address may be outside the buffer."""
        self.append(Prefetch(buffer, loops.lift(address, loops.INDEX), write))

    # ---- expressions ----

    def type(self, lanes: int | None = None, elem: str | None = None) -> Type:
        """The kernel's type, or the one asked for."""
        return type_of(elem or self.elem, self.lanes if lanes is None else lanes)

    def const(self, value: Number, lanes: int | None = None, elem: str | None = None) -> Expr:
        """The number in every lane."""
        return loops.const(value, self.type(lanes, elem))

    def splat(self, value: Operand, lanes: int | None = None) -> Expr:
        """The scalar in every lane."""
        scalar = value if isinstance(value, Expr) else loops.const(value, type_of(self.elem))
        return loops.splat(scalar, self.lanes if lanes is None else lanes)

    def fma(self, a: Operand, b: Operand, c: Expr) -> Expr:
        """c + a*b."""
        return loops.fma(a, b, c)

    def select(self, condition: Expr, a: Operand, b: Operand) -> Expr:
        """`a` where the condition holds, else `b`."""
        return loops.select(condition, a, b)

    def shuffle(self, values: Sequence[Expr], lanes: Sequence[int]) -> Expr:
        """The lanes with these numbers out of vectors laid side by side."""
        return loops.shuffle(values, lanes)

    def max(self, a: Operand, b: Operand) -> Expr:
        """The larger; NaN if either is NaN."""
        return loops.binary("max", a, b)

    def min(self, a: Operand, b: Operand) -> Expr:
        """The smaller; NaN if either is NaN."""
        return loops.binary("min", a, b)

    def fdiv(self, a: Operand, b: Operand) -> Expr:
        """Floor of a/b for a numerator of any sign and a positive divisor."""
        return loops.binary("fdiv", a, b)

    def cdiv(self, a: Operand, b: Operand) -> Expr:
        """Ceiling of a/b for a numerator of any sign and a positive divisor."""
        return loops.binary("cdiv", a, b)

    def call(self, fn: str, *args: Expr) -> Expr:
        """A function of loops.FUNCTIONS, lane by lane."""
        return loops.call(fn, *args)

    def convert(self, value: Expr, elem: str) -> Expr:
        """The number as another element type."""
        return loops.convert(value, elem)

    def lane_index(self, lanes: int | None = None, elem: str = "i32") -> Expr:
        """0, 1, .., lanes-1."""
        return LaneIndex(self.type(lanes, elem))

    def below(self, count: Operand, lanes: int | None = None) -> Expr:
        """The mask of the first `count` lanes: the tail of a row."""
        wide = self.type(lanes, "i64")
        return loops.binary("<", LaneIndex(wide), loops.lift(count, wide))

    def across(self, kind: str, value: Expr) -> Expr:
        """sum, max or min of the lanes, a scalar."""
        return loops.across(kind, value)

    def finish(self) -> Kernel:
        """The kernel. Raises InvalidKernel with the reason if it breaks the grammar."""
        if self.partition is None:
            raise InvalidKernel(f"{self.name}: no parallel(..) block was written")
        variable, total, body = self.partition
        kernel = Kernel(self.name, tuple(self.buffers), variable, total, body, self.swept, tuple(self.owned))
        reason = reason_invalid(kernel)
        if reason is not None:
            raise InvalidKernel(f"{self.name}: {reason}")
        return kernel
