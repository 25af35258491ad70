"""Scalar expressions of equations → expressions of the Loop IR: what every schedule has in common.

A `Lowering` knows where the loops stand (`places`), which index counts lanes, and the memory of every operand.
Reads become vector loads, splats or gathers by how their address moves from lane to lane. A read that may be
outside its operand is guarded, unless the operand's halo holds the neutral element there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faltung.codegen import loops
from faltung.codegen.builder import Builder
from faltung.codegen.element import PRIME
from faltung.codegen.exact import STAND_IN, constant
from faltung.codegen.lanes import FARTHEST, load_apart
from faltung.codegen.layout import Layout, Place, Places, value_of
from faltung.codegen.loops import Buffer, Expr, Int
from faltung.graph import functions
from faltung.graph.expr import NEUTRAL, Access, Apply, Const, Expr as Scalar, Inside, Reduce, Size, Value
from faltung.graph.index import Affine, Batch, Extent

ELEMENTS = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64", "bool": "bool"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
WHOLE = {"i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1), "bool": (0, 1)}  # first and last
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/", "max": "max", "min": "min"}


@dataclass(frozen=True)
class Memory:
    """An operand or a result in memory."""

    buffer: Buffer
    layout: Layout


@dataclass
class Lowering:
    """Expressions at one place of the loops. `lane` is the index whose values are the lanes (None: scalars)."""

    k: Builder
    memory: Mapping[int, Memory]
    extents: Mapping[str, Extent]
    places: Places
    elem: str
    lanes: int = 1
    lane: str | None = None
    tail: Expr | None = None  # how many lanes exist, where not all do
    clipped: frozenset[Access] = frozenset()  # reads that the loop bounds keep inside
    given: Mapping[Scalar, Expr] = field(default_factory=dict)  # values known already (the reduction, an accumulator)
    done: dict[Scalar, Expr] = field(default_factory=dict)

    def number(self, e: Scalar, neutral: float = 0.0) -> Expr:
        """The value of `e` as floats of this kernel's element type."""
        return self._float(self.value(e, neutral))

    # ---- kinds of values ----

    def _float(self, v: Expr) -> Expr:
        if v.type.elem == self.elem:
            return v
        if v.type.kind == "bool":
            return self.k.select(v, loops.const(1, loops.type_of(self.elem, v.type.lanes)), 0)
        return self.k.convert(v, self.elem)

    def wide(self, v: Expr) -> Expr:
        """A scalar in all lanes; a vector as it is."""
        return loops.splat(v, self.lanes) if self.lanes > 1 and v.type.lanes == 1 else v

    def value(self, e: Scalar, neutral: float) -> Expr:
        """The value of `e` in its own type: brackets as masks, labels and positions as integers."""
        if e in self.given:
            return self.given[e]
        if e not in self.done or isinstance(e, Const):
            self.done[e] = self._lower(e, neutral)
        return self.done[e]

    def _lower(self, e: Scalar, neutral: float) -> Expr:
        match e:
            case Const():
                return self.k.const(e.value, lanes=self.lanes, elem=self.elem)
            case Access():
                return self.wide(self.read(e, neutral))
            case Value():
                return self.index(e.form)
            case Inside():
                return self._inside(e.form, e.extent)
            case Size():
                count = self.k.N if isinstance(e.extent, Batch) else Int(e.extent)
                return self.wide(self.k.let(self.k.convert(count, self.elem), "size"))
            case Apply():
                return self._apply(e, neutral)
            case Reduce():
                raise AssertionError("the schedule gives the value of the reduction")
        raise TypeError(e)

    def _apply(self, e: Apply, neutral: float) -> Expr:
        fn, k = e.fn, self.k
        if fn == "stop":
            return self.value(e.args[0], neutral)
        if fn == "random":
            return self._random(*(self._word(a, neutral) for a in e.args))
        if fn in ("add", "sub") and (count := self._count(e, neutral)) is not None:
            return count
        values = [self.value(a, neutral) for a in e.args]
        if fn in COMPARISONS:
            a, b = self._alike(e.args, values)
            return loops.binary(COMPARISONS[fn], a, b)
        if fn == "mul":  # a bracket selects
            a, b = values
            if a.type.kind == "bool" and b.type.kind == "bool":
                return a & b
            if a.type.kind == "bool" or b.type.kind == "bool":
                bracket, other = (a, b) if a.type.kind == "bool" else (b, a)
                return k.select(bracket, self._float(other), 0)
        floats = [self._float(v) for v in values]
        if fn == "add":
            for x, y in ((0, 1), (1, 0)):
                product = floats[x]
                if isinstance(product, loops.Binary) and product.op == "*":
                    return k.fma(product.a, product.b, floats[y])
        if self.elem == "exact" and (found := self._over_residues(e, floats)) is not None:
            return found
        if fn in ARITHMETIC:
            return loops.binary(ARITHMETIC[fn], *floats)
        if fn == "relu":  # one instruction, which lets NaN pass
            return k.let(k.max(0, floats[0]), "relu")
        return k.let(k.call(fn, *floats), fn)

    def _over_residues(self, e: Apply, values: Sequence[Expr]) -> Expr | None:
        """The functions that residues have in another way than floats; None for the others."""
        x = values[0]
        if e.fn == "div":
            divisor = constant(e.args[1])
            return x * (self._power(values[1], PRIME - 2) if divisor is None else self.k.const(1 / divisor, self.lanes))
        if e.fn == "abs":
            return self.k.select(x < 0, 0 - x, x)
        return self._power(x, 5) + STAND_IN[e.fn] if e.fn in STAND_IN else None

    def _power(self, x: Expr, exponent: int) -> Expr:
        """By squaring; x to the power PRIME - 2 is 1/x (Fermat), and 0 for 0."""
        power = x
        for bit in f"{exponent:b}"[1:]:
            power = self.k.let(power * power, "power")
            if bit == "1":
                power = self.k.let(power * x, "power")
        return power

    def _count(self, e: Apply, neutral: float) -> Expr | None:
        """A 64-bit integer and a constant: a whole number, also where a float would not hold it."""
        a, b = e.args
        if isinstance(a, Access) and isinstance(b, Const) and isinstance(b.value, int):
            count = self.value(a, neutral)
            if count.type.elem == "i64":
                return loops.binary(ARITHMETIC[e.fn], count, b.value)
        return None

    def _alike(self, args: Sequence[Scalar], values: Sequence[Expr]) -> list[Expr]:
        """The values in one type: whole numbers where all are, for a float would not hold every one of them."""
        whole = [isinstance(a, Const) and isinstance(a.value, int) and -(2**63) <= a.value < 2**63 for a in args]
        given = {v.type.elem for v, w in zip(values, whole, strict=True) if not w}
        if given and given <= {"i32", "i64"}:
            elem = "i32" if given == {"i32"} and not any(whole) else "i64"
            return [
                loops.const(a.value, loops.type_of(elem, v.type.lanes)) if isinstance(a, Const) else self.k.convert(v, elem)
                for a, v in zip(args, values, strict=True)
            ]
        return [self._float(v) for v in values]

    # ---- random bits: integers, as functions.mixed has them ----

    def _word(self, e: Scalar, neutral: float) -> Expr:
        """The lower 32 bits of a whole number."""
        if isinstance(e, Const):
            return loops.const(_signed(int(e.value)), loops.type_of("i32", self.lanes))
        v = self.value(e, neutral)
        return self.k.convert(self.k.convert(v, "i64"), "i32") if v.type.elem != "i32" else v

    def _mixed(self, h: Expr) -> Expr:
        for shift, factor in functions.MIX:
            h = self.k.let(loops.binary("^", h, loops.binary("lshr", h, shift)) * _signed(factor), "mixed")
        return h

    def _random(self, i: Expr, t: Expr, k: Expr) -> Expr:
        stream = self._mixed(loops.binary("^", self._mixed(k), t))
        return loops.binary("lshr", self._mixed(loops.binary("^", self._mixed(i), stream)), 32 - functions.BITS)

    # ---- indices as numbers ----

    def index(self, form: Affine) -> Expr:
        """The value of an index form as an integer, lane by lane."""
        c = form.coefficient(self.lane) if self.lane is not None else 0
        base = value_of(form, self.places)
        if self.lanes == 1:
            return self.k.convert(base, "i32")
        vector = loops.splat(self.k.convert(base, "i32"), self.lanes)
        if c:
            vector = vector + self.k.lane_index(self.lanes) * loops.const(c, loops.type_of("i32", self.lanes))
        return self.k.let(vector, "index")

    def _inside(self, form: Affine, extent: Extent) -> Expr:
        whole = Affine(form.terms, form.const)
        total, limit = self.index(whole), (self.k.N if isinstance(extent, Batch) else Int(extent)) * form.den
        bound = self.wide(self.k.convert(limit, "i32"))
        inside = (total >= 0) & (total < bound)
        if form.den != 1:
            inside = inside & self._divides(whole, form.den)
        return inside

    def _divides(self, form: Affine, by: int) -> Expr:
        """In which lanes the value, which may be negative, is a multiple of `by`."""
        first = value_of(form, self.places)
        if self.lane is None or not (step := form.coefficient(self.lane) % by):  # alike in all lanes
            return self.wide((self.k.fdiv(first, by) * by).equals(first))
        rest = loops.splat(first - self.k.fdiv(first, by) * by, self.lanes)
        lane = self.k.lane_index(self.lanes, "i64") * loops.const(step, loops.type_of("i64", self.lanes))
        return loops.binary("%", rest + lane, by).equals(0)

    # ---- reads ----

    def read(self, e: Access, neutral: float) -> Expr:
        """The operand's element, or the neutral element where the index is outside: a scalar when all lanes read the same."""
        m = self.memory[e.slot]
        step = m.layout.lane_stride(e.index, self.lane, self.places) if self.lane is not None else 0
        assert step is not None, "the schedule chose a lane index that this read cannot follow"
        checks, mask = self._checks(e, m.layout, neutral)
        if not checks:
            return self._fetch(m, e, step, mask, neutral)
        every = _all(checks)
        lanes = self.lanes if step or mask is not None else 1
        if isinstance(every, loops.Const) and not every.value:  # nowhere inside: there is no address
            return loops.const(_number(neutral, m.buffer.elem), loops.type_of(m.buffer.elem, lanes))
        ok = self.k.let(every, "inside")
        held = self.k.register("read", loops.const(_number(neutral, m.buffer.elem), loops.type_of(m.buffer.elem, lanes)))
        with self.k.when(ok):
            self.k.set(held, self._fetch(m, e, step, mask, neutral))
        return self.k.let(held, m.buffer.name.lower())

    def _fetch(self, m: Memory, e: Access, step: int, mask: Expr | None, neutral: float) -> Expr:
        k, address = self.k, m.layout.address(e.index, self.places)
        if step == 0 and mask is None:
            return k.load(m.buffer, address, 1)
        if self.tail is not None and not self._padded(e, m.layout):
            alive = k.below(self.tail, self.lanes)
            mask = alive if mask is None else mask & alive
        if 1 <= step <= FARTHEST:
            value = load_apart(k, m.buffer, address, step, self.lanes, mask)
        else:
            value = k.gather(m.buffer, address, step, self.lanes, mask)
        if mask is not None and neutral != 0:
            value = k.let(k.select(mask, value, _number(neutral, m.buffer.elem)), "kept")
        return value

    def _padded(self, e: Access, layout: Layout) -> bool:
        """Whether memory goes on to the end of the last vector."""
        return any(form.name == self.lane and layout.block[axis] == self.lanes for axis, form in enumerate(e.index))

    def _checks(self, e: Access, layout: Layout, neutral: float) -> tuple[list[Expr], Expr | None]:
        """Conditions under which the element exists: those alike in all lanes, and the mask of those that are not."""
        scalar: list[Expr] = []
        mask: Expr | None = None
        if e in self.clipped:
            return scalar, mask
        for axis, form in enumerate(e.index):
            extent = layout.shape[axis]
            whole = Affine(form.terms, form.const)
            low, high = form.range(self.extents)
            if isinstance(extent, Batch):
                if form.name is not None and isinstance(self.extents[form.name], Batch):
                    continue
                limit: Expr = self.k.N * form.den
            else:
                if form.den == 1 and low >= 0 and high <= extent - 1:
                    continue
                if form.den == 1 and neutral == 0 and layout.covers(axis, low, high):
                    continue
                limit = Int(extent * form.den)
            value = value_of(whole, self.places)
            if self.lane is not None and form.coefficient(self.lane):
                lane = self.k.lane_index(self.lanes, "i64") * loops.const(form.coefficient(self.lane), loops.type_of("i64", self.lanes))
                position = loops.splat(value, self.lanes) + lane
                ok = (position >= 0) & (position < loops.splat(limit, self.lanes))
                mask = ok if mask is None else mask & ok
                continue
            if low < 0:
                scalar.append(value >= 0)
            if isinstance(extent, Batch) or high > extent - 1:
                scalar.append(value < limit)
            if form.den != 1:
                scalar.append((self.k.fdiv(value, form.den) * form.den).equals(value))
        return scalar, mask


def _all(checks: Sequence[Expr]) -> Expr:
    total = checks[0]
    for c in checks[1:]:
        total = total & c
    return total


def _signed(word: int) -> int:
    """The 32-bit integer with these bits."""
    return (word + 2**31) % 2**32 - 2**31


def _number(value: float, elem: str) -> float | int:
    """A neutral element in a type: 0, an infinity, or what comes first or last of its whole numbers."""
    if value and elem in WHOLE:
        return WHOLE[elem][value > 0]
    return int(value) if value == 0 else value


def follows(reads: Sequence[Access], layouts: Sequence[Layout], lane: str, places: Places, lanes: int) -> str | None:
    """Why these reads cannot be made with index `lane` as the lanes, or None."""
    for a in reads:
        if any(f.den != 1 and f.coefficient(lane) for f in a.index):
            return f"operand {a.slot} divides the lane index {lane}"
        if layouts[a.slot].lane_stride(a.index, lane, places) is None:
            return f"operand {a.slot} is split so that lanes of {lane} do not move evenly"
    return None


def scalar_places(extents: Mapping[str, Extent]) -> dict[str, Place]:
    """Every index at 0: enough to ask layouts about strides."""
    return {i: Place(Int(0)) for i in extents}


def neutral_of(kind: str | None) -> float:
    """What a read outside gives under this reduction."""
    return NEUTRAL[kind] if kind is not None else 0.0
