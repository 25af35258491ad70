"""exp, log, tanh, erf and their relatives: distance from the true value in units of the last place, and the special values."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from faltung.codegen import loops, target
from faltung.codegen.builder import Builder
from faltung.codegen.interpret import DTYPES, run
from faltung.codegen.loops import InvalidKernel, Kernel
from faltung.codegen.mathfn import EXPANSIONS, LN2, expand
from faltung.runtime import jit

RUNNABLE = [row for row in target.TABLE if target.runs_here(row)]

TRUE = {
    # fn        the value to many digits
    "exp": mpmath.exp,
    "log": mpmath.log,
    "tanh": mpmath.tanh,
    "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)),
    "expm1": mpmath.expm1,
    "softplus": lambda v: mpmath.log1p(mpmath.exp(v)),
    "erf": mpmath.erf,
}
inf, nan, big = np.inf, np.nan, "the largest number"
SPECIAL = {
    # fn        at       0    -0    inf  -inf  nan  huge   -huge
    "exp": (1, 1, inf, 0, nan, inf, 0),
    "log": (-inf, -inf, inf, nan, nan, None, nan),
    "tanh": (0, -0.0, 1, -1, nan, 1, -1),
    "sigmoid": (0.5, 0.5, 1, 0, nan, 1, 0),
    "expm1": (0, -0.0, inf, -1, nan, inf, -1),
    "softplus": (None, None, inf, 0, nan, big, 0),
    "erf": (0, -0.0, 1, -1, nan, 1, -1),
}


def pointwise(fn: str, elem: str, lanes: int) -> Kernel:
    """y = fn(x) over N vectors."""
    k = Builder(fn, lanes, elem)
    x, y = k.buffer("x", size=(0, lanes)), k.buffer("y", size=(0, lanes), written=True)
    with k.parallel(k.N) as t:
        k.store(y, t * lanes, k.call(fn, k.load(x, t * lanes)))
    return k.finish()


def evaluate(fn: str, points: np.ndarray, where: target.Target) -> np.ndarray:
    """The compiled function at the points, whose number is a multiple of 16."""
    elem = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}[points.dtype]
    lanes, out = where.lanes(elem), np.empty_like(points)
    jit.build([pointwise(fn, elem, lanes)], where).kernel(fn)(
        [points, out], points.size // lanes, 0, points.size // lanes
    )
    return out


def points(fn: str, dtype: type, count: int) -> np.ndarray:
    """Points of every magnitude, and many where the function bends, overflows or is close to 0."""
    rng = np.random.default_rng(len(fn))
    widest = 110 if dtype is np.float32 else 750
    parts = [rng.uniform(-1, 1, count), rng.uniform(-widest, widest, count), 1 + rng.uniform(-0.4, 0.4, count)]
    parts.append(np.exp2(rng.uniform(-149 if dtype is np.float32 else -1074, 127, count)))
    made = np.concatenate(parts).astype(dtype)
    return np.abs(made) if fn == "log" else made


def units(got: np.ndarray, true: list[mpmath.mpf]) -> float:
    """The largest distance in units of the last place of the true value."""
    tiny, top = np.finfo(got.dtype).smallest_subnormal, float(np.finfo(got.dtype).max)
    worst = 0.0
    for value, exact in zip(got.tolist(), true, strict=True):
        if abs(exact) > top or not np.isfinite(value):
            assert abs(exact) >= top * (1 - 2.0**-22) and value == np.copysign(inf, float(exact)), (value, exact)
            continue
        unit = max(float(np.spacing(got.dtype.type(abs(exact)))), float(tiny))
        worst = max(worst, float(abs(mpmath.mpf(value) - exact) / mpmath.mpf(unit)))
    return worst


@pytest.mark.parametrize("where", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("elem", ["f32", "f64"])
@pytest.mark.parametrize("fn", EXPANSIONS)
def test_functions_are_within_two_units_of_the_truth(fn, elem, where):
    x = points(fn, DTYPES[elem], 400)
    with mpmath.workdps(40):
        true = [TRUE[fn](mpmath.mpf(v)) if v else mpmath.mpf(0) for v in x.tolist()]
        keep = x != 0
        assert units(evaluate(fn, x, where)[keep], [t for t, k in zip(true, keep, strict=True) if k]) <= (
            2 if where.fma else 3
        )


@pytest.mark.parametrize("elem", ["f32", "f64"])
@pytest.mark.parametrize("fn", EXPANSIONS)
def test_special_values(fn, elem):
    dtype = DTYPES[elem]
    most = np.finfo(dtype).max
    x = np.array([0.0, -0.0, inf, -inf, nan, most, -most] + [1.0] * 9, dtype)
    for where in RUNNABLE:
        for got, want in zip(evaluate(fn, x, where), SPECIAL[fn], strict=False):
            want = most if want is big else want
            if want is not None:
                np.testing.assert_array_equal(got, dtype(want))
                assert np.signbit(got) == np.signbit(want) or want != want


def test_the_interpreter_computes_the_same_bits():
    where = next((t for t in RUNNABLE if t.fma), None)
    if where is None:
        pytest.skip("no target here fuses multiply and add")
    for fn in EXPANSIONS:
        for elem in ("f32", "f64"):
            x = points(fn, DTYPES[elem], 16)
            out = np.empty_like(x)
            lanes = where.lanes(elem)
            run(pointwise(fn, elem, lanes), {"x": x, "y": out}, x.size // lanes, 0, x.size // lanes)
            assert out.tobytes() == evaluate(fn, x, where).tobytes(), (fn, elem)


def test_constants_are_derived():
    with mpmath.workdps(50):
        assert abs(mpmath.mpf(LN2.numerator) / LN2.denominator - mpmath.log(2)) < mpmath.mpf(10) ** -45


def test_what_is_not_written_is_refused():
    for x in (loops.const(1, loops.type_of("i32")), loops.const(1, loops.type_of("exact"))):
        with pytest.raises(InvalidKernel, match="not one of exp, expm1, log"):
            expand("exp", x)
