"""Loop IR expressions without memory -> LLVM instructions, through tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache

from faltung.codegen import mathfn
from faltung.codegen.element import ELEMS, HALF, INDEX, PRIME, Type, type_of
from faltung.codegen.loops import (
    ACROSS,
    COMPARISONS,
    NATIVE,
    ORDERED,
    Across,
    Batch,
    Binary,
    Bitcast,
    Call,
    Const,
    Convert,
    Expr,
    Fma,
    Int,
    LaneIndex,
    Reg,
    Select,
    Shuffle,
    Splat,
    Temp,
    Var,
    key,
)
from faltung.codegen.ssa import Writer, flat, literal, llvm, mangled
from faltung.codegen.target import Target

INSTRUCTIONS = {
    # op      float         int            exact (operands are residues)
    "+": ("fadd", "add", "add"),
    "-": ("fsub", "sub", "sub"),
    "*": ("fmul", "mul", "mul"),
    "/": ("fdiv", None, None),
    "//": (None, "udiv", None),
    "%": (None, "urem", None),
    "&": (None, "and", None),
    "|": (None, "or", None),
    "^": (None, "xor", None),
    "shl": (None, "shl", None),
    "lshr": (None, "lshr", None),
    "ashr": (None, "ashr", None),
    "min": ("fcmp olt", "icmp slt", "icmp slt"),
    "max": ("fcmp ogt", "icmp sgt", "icmp sgt"),
    "<": ("fcmp olt", "icmp slt", "icmp slt"),
    "<=": ("fcmp ole", "icmp sle", "icmp sle"),
    ">": ("fcmp ogt", "icmp sgt", "icmp sgt"),
    ">=": ("fcmp oge", "icmp sge", "icmp sge"),
    "==": ("fcmp oeq", "icmp eq", "icmp eq"),
    "!=": ("fcmp une", "icmp ne", "icmp ne"),
}

INTRINSICS = {
    # fn      float               int
    "sqrt": ("sqrt", None),
    "floor": ("floor", None),
    "ceil": ("ceil", None),
    "rint": ("nearbyint", None),
    "abs": ("fabs", "abs"),
}

CONVERSIONS = {
    # (from, to)         instruction when widening, when narrowing
    ("float", "float"): ("fpext", "fptrunc"),
    ("int", "int"): ("sext", "trunc"),
    ("int", "float"): ("sitofp", "sitofp"),
    ("bool", "float"): ("uitofp", "uitofp"),
    ("bool", "int"): ("zext", "zext"),
    ("bool", "exact"): ("zext", "zext"),
}


class Arithmetic(Writer):
    """Emits values. The names of registers, temps and loop variables are kept by who emits statements."""

    def __init__(self, target: Target, declarations: set[str]) -> None:
        super().__init__(declarations)
        self.target = target
        self.names: dict[str, str] = {}  # registers, temps and loop variables -> the LLVM value now
        self.memo: dict[int, tuple[Expr, str]] = {}  # one evaluation of a shared node in a statement

    def value(self, x: Expr) -> str:
        """The LLVM value of an expression, emitted at this place."""
        known = self.memo.get(id(x))
        if known is not None:
            return known[1]
        made = self.emit(x)
        self.memo[id(x)] = (x, made)
        return made

    def emit(self, x: Expr) -> str:
        match x:
            case Int():
                return str(x.value)
            case Const():
                return literal(x.value, x.type)
            case Var() | Reg() | Temp():
                return self.names[key(x)]
            case Batch():
                return "%n"
            case Binary():
                return self.binary(x.op, x.type, x.a, x.b)
            case Fma():
                return self.fma(x)
            case Splat():
                return self.splat(self.value(x.value), x.type)
            case LaneIndex():
                elem = ELEMS[x.type.elem].llvm
                lanes = (literal(i, type_of(x.type.elem)) for i in range(x.type.lanes))
                return f"<{', '.join(f'{elem} {i}' for i in lanes)}>" if x.type.lanes > 1 else literal(0, x.type)
            case Shuffle():
                return self.shuffle(x)
            case Select():
                c, a, b = self.value(x.condition), self.value(x.a), self.value(x.b)
                t = llvm(x.type)
                return self.compute(f"select {llvm(x.condition.type)} {c}, {t} {a}, {t} {b}", c, a, b)
            case Call():
                return self.call(x)
            case Convert():
                return self.convert(x)
            case Bitcast():
                v = self.value(x.value)
                return self.compute(f"bitcast {llvm(x.value.type)} {v} to {llvm(x.type)}", v)
            case Across():
                return self.across(x)
        return self.read(x)

    @abstractmethod
    def read(self, x: Expr) -> str:
        """The value of an expression that reads memory."""

    def binary(self, op: str, result: Type, a: Expr, b: Expr) -> str:
        left, right = self.value(a), self.value(b)
        return self.combine(op, a.type, left, right, constant=isinstance(a, Const) and a.value == a.value)

    def combine(self, op: str, type: Type, a: str, b: str, constant: bool = False) -> str:
        """`a op b` on values of the type; `constant` tells that a is a constant other than NaN."""
        t = llvm(type)
        place = self.hoisted if type == INDEX else self.compute
        if op in ("and", "or"):
            return place(f"{op} {t} {a}, {b}", a, b)
        if op in ("fdiv", "cdiv"):
            return self.division(op, t, a, b)
        if type.kind == "bool":
            return place(f"icmp {'eq' if op == '==' else 'ne'} {t} {a}, {b}", a, b)
        instruction = INSTRUCTIONS[op][("float", "int", "exact").index(type.kind)]
        if type.kind == "exact" and op in ORDERED:
            ranks = [residue(self, self.compute(f"add {t} {v}, {literal(HALF, type)}", v), type) for v in (a, b)]
            better = self.compute(f"{instruction} {t} {ranks[0]}, {ranks[1]}", *ranks)
            test = llvm(type_of("bool", type.lanes))
            return better if op in COMPARISONS else self.compute(f"select {test} {better}, {t} {a}, {t} {b}", better, a, b)
        if op in ("min", "max"):
            better = place(f"{instruction} {t} {a}, {b}", a, b)
            test = llvm(type_of("bool", type.lanes))
            best = place(f"select {test} {better}, {t} {a}, {t} {b}", better, a, b)
            if type.kind == "int" or constant:
                return best  # a NaN in b fails the comparison, so b is the result
            unordered = self.compute(f"fcmp uno {t} {a}, {a}", a)
            return self.compute(f"select {test} {unordered}, {t} {a}, {t} {best}", unordered, a, best)
        if type.kind == "exact" and op not in COMPARISONS:
            if op == "-":  # never negative, as residue wants it
                a = self.compute(f"add {t} {a}, {literal(PRIME, type)}", a)
            return residue(self, self.compute(f"{instruction} {t} {a}, {b}", a, b), type)
        if op in ("//", "%") and not b.isdigit():
            place = self.compute  # might divide by zero in an iteration that is never run
        wrap = " nsw" if type == INDEX and op in ("+", "-", "*") else ""
        return place(f"{instruction}{wrap} {t} {a}, {b}", a, b)

    def division(self, op: str, t: str, a: str, b: str) -> str:
        """Floor or ceiling from the division that truncates: one off where the remainder has a sign."""
        place = self.hoisted if b.isdigit() else self.compute
        quotient = place(f"sdiv {t} {a}, {b}", a, b)
        remainder = place(f"srem {t} {a}, {b}", a, b)
        test = t.replace("i64", "i1").replace("i32", "i1")
        zero = "0" if t[0] == "i" else "zeroinitializer"
        off = place(f"icmp {'slt' if op == 'fdiv' else 'sgt'} {t} {remainder}, {zero}", remainder)
        wide = place(f"zext {test} {off} to {t}", off)
        return place(f"{'sub' if op == 'fdiv' else 'add'} {t} {quotient}, {wide}", quotient, wide)

    def fma(self, x: Fma) -> str:
        a, b, c = self.value(x.a), self.value(x.b), self.value(x.c)
        t = llvm(x.type)
        if x.type.kind == "exact":
            self.declarations.add(product_of_residues(x.type))
            return self.compute(f"call {t} @residue.fma.{x.type.lanes}({t} {a}, {t} {b}, {t} {c})", a, b, c)
        if not self.target.fma:
            product = self.compute(f"fmul {t} {a}, {b}", a, b)
            return self.compute(f"fadd {t} {product}, {c}", product, c)
        return self.compute(self.intrinsic(t, f"llvm.fma.{mangled(x.type)}", [(t, a), (t, b), (t, c)]), a, b, c)

    def splat(self, scalar: str, type: Type) -> str:
        t = llvm(type)
        first = self.hoisted(f"insertelement {t} poison, {ELEMS[type.elem].llvm} {scalar}, i64 0", scalar)
        return self.hoisted(f"shufflevector {t} {first}, {t} poison, <{type.lanes} x i32> zeroinitializer", first)

    def shuffle(self, x: Shuffle) -> str:
        """Vectors are laid side by side two by two, and the lanes taken out of the last two."""
        values, wide = [self.value(v) for v in x.values], x.values[0].type

        def pair(a: str, b: str, picks: Sequence[int]) -> str:
            t, mask = llvm(wide), ", ".join(f"i32 {p}" for p in picks)
            return self.compute(f"shufflevector {t} {a}, {t} {b}, <{len(picks)} x i32> <{mask}>", a, b)

        while len(values) > 2:
            values += values[-1:] * (len(values) % 2)
            values = [pair(a, b, range(2 * wide.lanes)) for a, b in zip(values[::2], values[1::2], strict=True)]
            wide = type_of(wide.elem, 2 * wide.lanes)
        taken = pair(values[0], values[1] if len(values) > 1 else "poison", x.lanes)
        return taken if len(x.lanes) > 1 else self.compute(f"extractelement <1 x {ELEMS[wide.elem].llvm}> {taken}, i64 0", taken)

    def call(self, x: Call) -> str:
        if x.fn not in NATIVE:
            return self.value(mathfn.expand(x.fn, x.args[0]))
        v, t = self.value(x.args[0]), llvm(x.type)
        if x.fn == "neg":
            if x.type.kind == "exact":
                return residue(self, self.compute(f"sub {t} {literal(PRIME, x.type)}, {v}", v), x.type)
            return self.compute(f"fneg {t} {v}" if x.type.kind == "float" else f"sub {t} {literal(0, x.type)}, {v}", v)
        name = INTRINSICS[x.fn][0 if x.type.kind == "float" else 1]
        extra = [("i1", "false")] if name == "abs" else []
        return self.compute(self.intrinsic(t, f"llvm.{name}.{mangled(x.type)}", [(t, v), *extra]), v)

    def convert(self, x: Convert) -> str:
        old, new, v = x.value.type, x.type, self.value(x.value)
        t, u = llvm(old), llvm(new)
        kinds = (old.kind, new.kind)
        if new.kind == "bool":
            return self.combine("!=", old, v, literal(0, old))
        if kinds == ("float", "int"):
            return self.compute(self.intrinsic(u, f"llvm.fptosi.sat.{mangled(new)}.{mangled(old)}", [(t, v)]), v)
        if kinds == ("int", "exact"):  # the residue of a negative number too
            wide = v if old.elem == "i64" else self.compute(f"sext {t} {v} to {u}", v)
            small = self.compute(f"srem {u} {wide}, {literal(PRIME, new)}", wide)
            return residue(self, self.compute(f"add {u} {small}, {literal(PRIME, new)}", small), new)
        if old.kind == "exact":
            return v if new.elem == "i64" else self.compute(f"trunc {t} {v} to {u}", v)
        narrowing = ELEMS[old.elem].bytes > ELEMS[new.elem].bytes
        return self.compute(f"{CONVERSIONS[kinds][narrowing]} {t} {v} to {u}", v)

    def across(self, x: Across) -> str:
        v, lanes, elem = self.value(x.value), x.value.type.lanes, x.value.type.elem
        while lanes > 1:
            half = type_of(elem, lanes // 2)
            t, parts = llvm(type_of(elem, lanes)), []
            for start in (0, lanes // 2):
                picks = ", ".join(f"i32 {start + i}" for i in range(lanes // 2))
                parts.append(self.compute(f"shufflevector {t} {v}, {t} poison, <{lanes // 2} x i32> <{picks}>", v))
            if half.lanes == 1:  # <1 x T> -> T
                one = f"<1 x {ELEMS[elem].llvm}>"
                parts = [self.compute(f"extractelement {one} {p}, i64 0", p) for p in parts]
            v = self.combine(ACROSS[x.kind], half, parts[0], parts[1])
            lanes //= 2
        return v


def residue(w: Writer, value: str, type: Type) -> str:
    """The residue of a number that is not negative. 2**31 is 1 modulo the prime, so the high bits add to the low ones."""
    t, test = llvm(type), llvm(type_of("bool", type.lanes))
    for _ in range(2):  # below 2**63, then below 3 * 2**31, then at most PRIME + 2
        low = w.compute(f"and {t} {value}, {literal(PRIME, type)}", value)
        high = w.compute(f"lshr {t} {value}, {literal(31, type)}", value)
        value = w.compute(f"add {t} {low}, {high}", low, high)
    less = w.compute(f"sub {t} {value}, {literal(PRIME, type)}", value)
    above = w.compute(f"icmp uge {t} {value}, {literal(PRIME, type)}", value)
    return w.compute(f"select {test} {above}, {t} {less}, {t} {value}", above, less, value)


@cache
def product_of_residues(type: Type) -> str:
    """A function for c + a*b of residues: twenty instructions that a tile of residues would have a hundred times."""
    w, t = Writer(set()), llvm(type)
    product = w.compute(f"mul {t} %a, %b", "%a", "%b")
    result = residue(w, w.compute(f"add {t} {product}, %c", product, "%c"), type)
    lines = [f"define internal {t} @residue.fma.{type.lanes}({t} %a, {t} %b, {t} %c) noinline #0 {{", *flat(w.lines), f"  ret {t} {result}", "}"]
    return "\n".join(lines)
