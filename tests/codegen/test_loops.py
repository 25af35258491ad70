"""The Loop IR: folding, the grammar's predicate, pseudo-code, and interpreter == compiled code on random kernels."""

from __future__ import annotations

import re

import numpy as np
import pytest

from faltung.codegen import loops, target
from faltung.codegen.builder import Builder
from faltung.codegen.check import reason_invalid
from faltung.codegen.emit import module
from faltung.codegen.interpret import DTYPES, OutOfBounds, run
from faltung.codegen.loops import PRIME, Int, InvalidKernel, Kernel, Let, Reg, Set, Temp, Var, type_of
from faltung.codegen.show import expression, text
from faltung.graph.errors import CompileError, FaltungError
from faltung.runtime import image, jit

RUNNABLE = [row for row in target.TABLE if target.runs_here(row)]

# ---- index arithmetic ----


def test_index_arithmetic_folds_into_variable_plus_constant():
    i, j = Var("i"), Var("j")
    folds = [
        ((i + 3) * 4 + (j + 2) * 5, "i*4 + j*5 + 22"),
        (5 + i - 5, "i"),
        (i * 0 + 7, "7"),
        ((i * 12) // 4, "i*3"),
        ((i * 12) % 4, "0"),
        (i * 3 * 5, "i*15"),
        ((i - 1) + (j - 1), "i + j - 2"),
        (i - (j - 4), "i - j + 4"),
        ((i + 1) // 2, "(i + 1)//2"),
        (1 * i % 1, "0"),
    ]
    for built, shown in folds:
        assert expression(built) == shown


@pytest.mark.parametrize("a", [-7, -4, -1, 0, 1, 5, 8])
def test_floor_and_ceiling_division_fold_for_any_sign(a):
    for b in (1, 2, 3, 4):
        assert loops.binary("fdiv", Int(a), b).value == a // b
        assert loops.binary("cdiv", Int(a), b).value == -(-a // b)


def test_division_by_zero_and_of_negatives_is_refused():
    for op, a, b in (("//", 3, 0), ("//", -3, 2), ("%", -3, 2), ("fdiv", 3, 0)):
        with pytest.raises(InvalidKernel, match="divisor|numerator"):
            loops.binary(op, Int(a), b)


def test_constants_know_what_their_type_can_hold():
    assert loops.const(0.5, type_of("exact")).value == pow(2, -1, PRIME)
    for value, elem in ((0.5, "i64"), (2.5, "i32"), (1 / 3, "bool")):
        with pytest.raises(InvalidKernel):
            loops.const(value, type_of(elem))
    with pytest.raises(InvalidKernel):
        bool(Var("i") < 3)


# ---- the grammar ----


def finish_refused(write) -> str:
    """The reason why a kernel with what `write` adds is invalid."""
    k = Builder("k", lanes=4)
    x, y = k.buffer("x", size=(16, 0)), k.buffer("y", size=(16, 0), written=True)
    with pytest.raises(InvalidKernel) as caught:
        with k.parallel(4) as t:
            write(k, x, y, t)
        k.finish()
    return str(caught.value)


def leaks_register(k, x, y, t):
    with k.loop("i", 0, 4):
        a = k.register("a", 0.0)
    k.store(y, t, a)


def leaks_variable(k, x, y, t):
    with k.loop("i", 0, 4) as i:
        pass
    k.store(y, i, k.const(1))


WRONG = [
    (leaks_register, "reg a .* not visible"),
    (leaks_variable, "var i .* not visible"),
    (lambda k, x, y, t: k.store(x, t, k.const(0)), "x is written to but was not declared"),
    (lambda k, x, y, t: k.store(y, t, k.const(0, elem="f64")), "holds f32, the value is f64x4"),
    (lambda k, x, y, t: k.store(y, k.const(1, 1), k.const(0)), "address .* is f32, needs i64"),
    (lambda k, x, y, t: k.store(y, t, k.const(0), mask=k.below(2, lanes=8)), "mask .* is boolx8, needs boolx4"),
    (lambda k, x, y, t: k.store(y, t, k.load(x, t) // 2), "// does not combine f32x4"),
    (lambda k, x, y, t: k.let(k.const(1) + k.load(x, 0, lanes=8)), "f32x[48] does not fit [48] lanes"),
    (lambda k, x, y, t: k.set(Reg("a", type_of("f32", 4)), k.const(1, 8)), "f32x8 does not fit 4 lanes"),
    (lambda k, x, y, t: k.append(Let(Temp("v", type_of("f32")), k.const(1))), "value of v is f32x4"),
    (lambda k, x, y, t: k.let(k.shuffle([k.const(1)], [0, 4])), "shuffle of 4 lanes"),
    (lambda k, x, y, t: k.let(k.convert(k.const(1), "i32") & 1 | loops.bitcast(k.const(1), "f64")), "combine|bitcast"),
]


@pytest.mark.parametrize("write, reason", WRONG)
def test_reason_invalid_says_what_is_wrong(write, reason):
    message = finish_refused(write)
    assert re.search(reason, message), message


def test_builder_refuses_statements_in_the_wrong_place():
    k = Builder("k")
    with pytest.raises(InvalidKernel, match="inside parallel"):
        k.let(k.const(1))
    with pytest.raises(InvalidKernel, match="no parallel"):
        k.finish()
    with k.parallel(1), pytest.raises(InvalidKernel, match="must follow when"), k.otherwise():
        pass
    with pytest.raises(InvalidKernel, match="outermost"), k.parallel(1):
        pass
    with pytest.raises(InvalidKernel, match="power of two"):
        type_of("f32", 3)
    with pytest.raises(InvalidKernel, match="none of"):
        k.call("gamma", k.const(1))
    assert "letters" in str(reason_invalid(Kernel('a"b', (), Var("t"), Int(1), ())))


def test_pseudo_code_is_what_a_person_reads():
    k = Builder("dot", lanes=8)
    x, w, y = k.buffer("x", size=(0, 64)), k.buffer("w", size=(64, 0)), k.buffer("y", size=(0, 1), written=True)
    with k.parallel(k.N, "n") as n:
        acc = k.register("acc", 0.0)
        with k.loop("i", 0, 64, 8) as i:
            v = k.load(x, n * 64 + i)
            k.set(acc, k.fma(v, k.load(w, i), acc))
        with k.when(n.equals(0)):
            k.set(acc, acc * 2.0)
        k.store(y, n, k.max(k.across("sum", acc), 0.0))
    assert (
        text(k.finish())
        == """\
kernel dot(x: f32[64*N], w: f32[64], y: f32[1*N] out)
  parallel n in 0..N:
    acc: f32x8 = 0
    for i in 0..64 by 8:
      x.1 = x[n*64 + i :8]
      w.1 = w[i :8]
      acc += x.1 * w.1
    if n == 0:
      acc *= 2
    y[n] = max(0, sum(acc))
"""
    )


# ---- interpreter == compiled ----


def agree(kernel: Kernel, arrays: dict[str, np.ndarray], batch: int, total: int, where: target.Target) -> None:
    """The interpreter and the compiled kernel leave the same bits in every buffer."""
    expected = {name: array.copy() for name, array in arrays.items()}
    run(kernel, expected, batch, 0, total)
    compiled = {name: array.copy() for name, array in arrays.items()}
    call = jit.build([kernel], where).kernel(kernel.name)
    middle = total // 2  # two parts must do what one does
    for lo, hi in ((0, middle), (middle, total)):
        call([compiled[b.name] for b in kernel.buffers], batch, lo, hi)
    for name, array in expected.items():
        assert array.tobytes() == compiled[name].tobytes(), f"{name}\n{text(kernel)}"


class Random:
    """A random kernel over one element type: loops, branches, registers, masks, gathers, reductions."""

    def __init__(self, seed: int, elem: str, lanes: int) -> None:
        self.rng, self.elem, self.lanes = np.random.default_rng(seed), elem, lanes
        self.k = Builder(f"random{seed}", lanes, elem)
        self.x = self.k.buffer("x", size=(8 * lanes + 40, 16))
        self.y = self.k.buffer("y", size=(8 * lanes + 40, 16), written=True)
        self.indices: list[loops.Expr] = []
        self.registers: list[Reg] = []
        self.values: list[loops.Expr] = []

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def index(self) -> loops.Expr:
        """A non-negative index."""
        a, b, c = self.pick(self.indices), self.pick(self.indices), int(self.rng.integers(1, 5))
        return self.pick(
            [
                a + c,
                a * c + b,
                a // c + b,
                a % c,
                self.k.max(self.k.cdiv(a - 7, c), 0),
                self.k.fdiv(a - 5, c) + 5,
                self.k.max(a, b),
            ]
        )

    def address(self, reach: int) -> loops.Expr:
        return self.index() % (8 * self.lanes + 40 - reach) + self.pick([0, 1])

    def mask(self) -> loops.Expr:
        lane = self.k.lane_index(elem="i64")
        return self.pick([self.k.below(self.index() % (self.lanes + 1)), (lane % 2).equals(self.index() % 2)])

    def value(self, depth: int = 2) -> loops.Expr:
        k = self.k
        if depth == 0 or self.rng.random() < 0.2:
            leaves = [k.const(int(self.rng.integers(0, 5))), *self.values, *self.registers]
            leaves.append(k.splat(k.peek(self.x, self.address(1), lanes=1)))
            return self.pick(leaves)
        a, b, c = self.value(depth - 1), self.value(depth - 1), self.value(depth - 1)
        made = [a + b, a - b, a * b, -a, k.select(self.mask(), a, b), k.splat(k.across("sum", a))]
        if self.elem != "i32":
            made += [k.fma(a, b, c)]
        if self.elem != "exact":
            made += [k.shuffle([a, b], range(1, 2 * self.lanes, 2))] if self.lanes > 1 else []
            made += [k.max(a, b), k.min(a, 1), k.select(a <= b, a, c), k.call("abs", a), k.splat(k.across("max", a))]
        return self.pick(made)

    def block(self, depth: int) -> None:
        k, lanes = self.k, self.lanes
        scope = len(self.indices), len(self.registers), len(self.values)
        for _ in range(int(self.rng.integers(2, 5))):
            kind = self.rng.integers(8)
            if kind == 0 and depth:
                with k.loop("i", self.index() % 3, self.index() % 6, int(self.rng.integers(1, 4))) as i:
                    self.indices.append(i)
                    self.block(depth - 1)
                    self.indices.pop()
            elif kind == 1 and depth:
                with k.when(self.pick([(self.index() % 3).equals(1), self.index() < 4])):
                    self.block(depth - 1)
                if self.rng.random() < 0.5:
                    with k.otherwise():
                        self.block(depth - 1)
            elif kind == 2:
                self.registers.append(k.register("a", self.value()))
            elif kind == 3 and self.registers:
                k.set(self.pick(self.registers), self.value())
            elif kind == 4:
                self.values.append(
                    k.load(self.pick([self.x, self.y]), self.address(lanes), mask=self.pick([None, self.mask()]))
                )
            elif kind == 5:
                stride = int(self.rng.integers(1, 4))
                mask = self.pick([None, self.mask()])
                self.values.append(k.gather(self.x, self.address(3 * lanes), stride, mask=mask))
            else:
                k.store(self.y, self.address(lanes), self.value(), mask=self.pick([None, self.mask()]))
        del self.indices[scope[0] :], self.registers[scope[1] :], self.values[scope[2] :]

    def kernel(self) -> Kernel:
        with self.k.parallel(self.k.N + 3) as t:
            self.indices += [t, self.k.N, Int(5)]
            self.registers.append(self.k.register("r", 1))
            self.block(3)
            self.k.store(self.y, t * 1, self.registers[0])
        return self.k.finish()


@pytest.mark.parametrize("where", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("elem, lanes", [("f32", 16), ("f32", 4), ("f32", 1), ("f64", 8), ("i32", 8), ("exact", 4)])
def test_random_kernels_do_the_same_interpreted_and_compiled(elem, lanes, where):
    for seed in range(8):
        made = Random(seed * 100 + lanes, elem, lanes)
        kernel = made.kernel()
        rng = np.random.default_rng(seed)
        batch = seed % 4
        # small integers on targets that round a multiply-add twice, any number elsewhere
        for integers in (True, False) if elem in ("f32", "f64") and where.fma else (True,):
            arrays = {}
            for b in kernel.buffers:
                numbers = rng.integers(0, 3, b.extent(batch)) if integers else rng.standard_normal(b.extent(batch))
                arrays[b.name] = numbers.astype(DTYPES[elem])
            agree(kernel, arrays, batch, batch + 3, where)


@pytest.mark.parametrize("elem", ["f32", "f64", "exact"])
def test_a_shuffle_takes_lanes_from_vectors_side_by_side(elem):
    k = Builder("shuffle", lanes=4, elem=elem)
    x, y = k.buffer("x", size=(16, 0)), k.buffer("y", size=(40, 0), written=True)
    with k.parallel(1):
        v = [k.load(x, 4 * n) for n in range(4)]
        wanted = [(1, [3, 3, 0, 1]), (2, [7, 0, 4, 2]), (3, [11, 1, 6, 9]), (4, [15, 14, 2, 5]), (2, [0, 1, 2, 3, 4, 5, 6, 7]), (1, [2, 2, 3, 3, 0, 0, 1, 1])]
        for n, (count, lanes) in enumerate(wanted):
            k.store(y, 4 * n if n < 5 else 24, k.shuffle(v[:count], lanes))
        k.store(y, 32, k.shuffle(v[1:2], [2]))
        assert k.shuffle(v[:1], range(4)) is v[0]
    kernel = k.finish()
    arrays = {"x": np.arange(16).astype(DTYPES[elem]), "y": np.zeros(40, DTYPES[elem])}
    for where in RUNNABLE:
        agree(kernel, arrays, 1, 1, where)
    run(kernel, arrays, 1, 0, 1)
    assert arrays["y"][:33].tolist() == [3, 3, 0, 1, 7, 0, 4, 2, 11, 1, 6, 9, 15, 14, 2, 5, 0, 1, 2, 3, 4, 5, 6, 7, 2, 2, 3, 3, 0, 0, 1, 1, 6]
    assert "lanes 3 3 0 1 of (x.1)" in text(kernel)


def test_nan_goes_through_max_and_min_from_either_side():
    k = Builder("nan", lanes=4)
    a, b = k.buffer("a", size=(4, 0)), k.buffer("b", size=(4, 0))
    y = k.buffer("y", size=(20, 0), written=True)
    with k.parallel(1):
        p, q = k.load(a, 0), k.load(b, 0)
        for i, v in enumerate((k.max(p, q), k.min(p, q), k.max(p, 0.0), k.max(0.0, p), k.min(q, 6.0))):
            k.store(y, 4 * i, v)
    kernel = k.finish()
    nan = np.float32(np.nan)
    arrays = {"a": np.array([nan, 1, -2, nan], np.float32), "b": np.array([3, nan, 5, nan], np.float32)}
    arrays["y"] = np.zeros(20, np.float32)
    for where in RUNNABLE:
        agree(kernel, arrays, 1, 1, where)
    run(kernel, arrays, 1, 0, 1)
    np.testing.assert_array_equal(
        arrays["y"].reshape(5, 4),
        [[nan, nan, 5, nan], [nan, nan, -2, nan], [nan, 1, 0, nan], [nan, 1, 0, nan], [3, nan, 5, nan]],
    )


def test_conversions_saturate_and_nan_is_zero():
    k = Builder("convert", lanes=8)
    x, y = k.buffer("x", size=(8, 0)), k.buffer("y", "i32", size=(8, 0), written=True)
    b, w = k.buffer("b", "bool", size=(8, 0), written=True), k.buffer("w", "f64", size=(8, 0), written=True)
    with k.parallel(1):
        v = k.load(x, 0)
        k.store(y, 0, k.convert(v, "i32"))
        k.store(b, 0, v > 1.5)
        k.store(w, 0, k.convert(k.load(b, 0), "f64") + k.convert(v, "f64"))
    kernel = k.finish()
    numbers = np.array([np.nan, np.inf, -np.inf, 1e20, -1e20, 2.9, -2.9, 0], np.float32)
    arrays = {"x": numbers, "y": np.zeros(8, np.int32), "b": np.zeros(8, bool), "w": np.zeros(8)}
    for where in RUNNABLE:
        agree(kernel, arrays, 1, 1, where)
    run(kernel, arrays, 1, 0, 1)
    top = 2**31 - 1
    assert arrays["y"].tolist() == [0, top, -top - 1, top, -top - 1, 2, -2, 0]


def test_index_data_and_exact_residues():
    k = Builder("residues", lanes=4, elem="exact")
    x, t64 = k.buffer("x", size=(8, 0)), k.buffer("t", "i64", size=(4, 0))
    y = k.buffer("y", size=(12, 0), written=True)
    with k.parallel(1):
        half = k.load(x, 0) * 0.5
        k.store(y, 0, half + half - k.load(x, 4))
        k.store(y, 4, k.convert(k.load(t64, 0), "exact"))
        k.store(y, 8, k.load(x, k.load(t64, 0, lanes=1) + 5))
    kernel = k.finish()
    x0 = np.random.default_rng(0).integers(0, PRIME, 8)
    arrays = {"x": x0, "t": np.array([-1, PRIME, 2**62, -(2**62)]), "y": np.zeros(12, np.int64)}
    for where in RUNNABLE:
        agree(kernel, arrays, 1, 1, where)
    run(kernel, arrays, 1, 0, 1)
    assert arrays["y"][:4].tolist() == [(int(a) - int(b)) % PRIME for a, b in zip(x0[:4], x0[4:], strict=True)]
    assert arrays["y"][4:8].tolist() == [int(v) % PRIME for v in arrays["t"]]


# ---- bounds and errors ----


def test_every_access_outside_is_an_error_that_names_the_place():
    k = Builder("shift", lanes=4)
    x, y = k.buffer("x", size=(3, 8)), k.buffer("y", size=(0, 8), written=True)
    with k.parallel(k.N, "n") as n, k.loop("i", 0, 8, 4) as i:
        k.store(y, n * 8 + i, k.load(x, n * 8 + i + 4))
    kernel = k.finish()
    arrays = {"x": np.zeros(64, np.float32), "y": np.zeros(64, np.float32)}
    with pytest.raises(OutOfBounds, match=r"read x\[19\] is outside its 19 elements .*from 16, N=2, n=1, i=4"):
        run(kernel, arrays, 2, 0, 2)
    with pytest.raises(InvalidKernel, match=r"buffer y needs f32\[16\] for N=2, got float64\[64\]"):
        run(kernel, {**arrays, "y": np.zeros(64)}, 2, 0, 2)


def test_a_masked_lane_is_never_touched():
    k = Builder("tail", lanes=8)
    x, y = k.buffer("x", size=(5, 0)), k.buffer("y", size=(5, 0), written=True)
    with k.parallel(1):
        mask = k.below(5)
        v = k.load(x, 0, mask=mask)
        k.store(y, 0, v + k.gather(x, 0, 1, mask=mask), mask=mask)
    kernel = k.finish()
    arrays = {"x": np.arange(5, dtype=np.float32), "y": np.zeros(5, np.float32)}
    for where in RUNNABLE:
        agree(kernel, arrays, 1, 1, where)


def test_errors_of_targets_and_of_llvm_are_typed(monkeypatch):
    with pytest.raises(ValueError, match="'quantum' is none of avx512, avx2, baseline, neon"):
        target.named("quantum")
    monkeypatch.setenv("FALTUNG_TARGET", RUNNABLE[-1].name)
    assert target.host() is RUNNABLE[-1]
    monkeypatch.setenv("FALTUNG_TARGET", next(row.name for row in target.TABLE if row not in RUNNABLE))
    with pytest.raises(FaltungError, match="this processor runs"):
        target.host()
    monkeypatch.setenv("FALTUNG_TARGET", "abacus")
    with pytest.raises(FaltungError):
        target.host()
    with pytest.raises(CompileError, match="rejects"):
        jit.compile_module("define void @f( {", target.detected())
    with pytest.raises(CompileError):
        image.load([b"not an object"]).address("f")


# ---- facts about the machine code ----


def tile(rows: int, columns: int) -> Kernel:
    """A matrix product's register tile: y[rows, 16*columns] += x[rows, c] * w[c, 16*columns]."""
    k = Builder("tile", lanes=16)
    x, w = k.buffer("x", size=(64 * rows, 0)), k.buffer("w", size=(64 * 16 * columns, 0))
    y = k.buffer("y", size=(16 * rows * columns, 0), written=True)
    with k.parallel(1):
        acc = [[k.register(f"a{p}_{j}", 0.0) for j in range(columns)] for p in range(rows)]
        with k.loop("c", 0, 64) as c:
            weights = [k.load(w, (c * columns + j) * 16) for j in range(columns)]
            for p in range(rows):
                v = k.splat(k.load(x, p * 64 + c, lanes=1))
                for j in range(columns):
                    k.set(acc[p][j], k.fma(v, weights[j], acc[p][j]))
        for p in range(rows):
            for j in range(columns):
                k.store(y, (p * columns + j) * 16, acc[p][j])
    return k.finish()


@pytest.mark.skipif(target.detected().name == "neon", reason="reads x86 assembly")
@pytest.mark.parametrize("rows, columns", [(14, 2), (28, 1), (6, 4)])
def test_a_register_tile_stays_in_registers(rows, columns):
    where = target.named("avx512")
    lines = jit.assembly(module([tile(rows, columns)], where), where).splitlines()
    assert sum("vfmadd" in line and "zmm" in line for line in lines) == rows * columns
    assert not [line for line in lines if "zmm" in line and "rsp" in line], "a spilled accumulator"
    assert sum("call" in line for line in lines if not line.lstrip().startswith(".")) == 1  # the entry calls the body


def test_statements_are_frozen():
    stmt = Set(Reg("a", type_of("f32")), loops.const(1, type_of("f32")))
    with pytest.raises(AttributeError):
        stmt.value = None
