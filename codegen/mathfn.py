"""exp, expm1, log, softplus, tanh, sigmoid and erf written out in the Loop IR, for f32 and f64, on scalars and vectors.

Error over the whole range, in units of the last place, with a fused multiply-add (measured against
mpmath in tests/codegen/test_mathfn.py): f32 and f64 at most 2. NaN gives NaN, exp overflows to inf and
underflows through the subnormals to 0, log(0) = -inf, log of a negative number is NaN.

Nothing here is a fitted number. Ranges are reduced until the Taylor series is short, and its
coefficients are the exact fractions rounded once:

    exp       x = k*ln 2 + r, |r| <= ln 2 / 2:      e^r = sum r^i / i!           first term left out: 0.1 ulp
    log       x = 2^k * (1+f), 1+f in [√½, √2):     log(1+f) = 2 artanh(s), s = f/(2+f), |s| <= 0.172
    softplus  log(1 + e^x) = max(x, 0) + log(1+f), f = e^-|x|: the same s, |s| <= 1/3
    tanh      e^y - 1 from the same r, y = 2|x|:    tanh |x| = (e^y - 1) / (e^y + 1), exact near 0
    erf       |x| < 5/4: the series of ∫ e^-t²; above: 1 - erfc |x|, erfc by its series about the middle of the
              range, telescoped to fewer terms by Chebyshev polynomials
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from faltung.codegen.element import InvalidKernel
from faltung.codegen.loops import Expr, binary, bitcast, call, const, convert, fma, select


@dataclass(frozen=True)
class Format:
    """What the functions need to know of a floating-point format."""

    bits: str  # the integer type of the same width
    mantissa: int  # stored bits of the significand
    bias: int
    exponent: int  # bits of the exponent
    exp_terms: int  # highest power of r in e^r
    log_terms: int  # highest power of s^2 in artanh(s)/s
    exp_range: tuple[float, float]  # outside, e^x rounds to 0 and to inf
    tanh_limit: float  # above, tanh x rounds to 1
    artanh_terms: int  # as log_terms, for |s| <= 1/3
    erf_terms: int  # highest power of x^2 in erf(x)/x, |x| <= 5/4
    erfc_terms: int  # highest power in erfc between 5/4 and erf_limit
    erf_limit: int  # above, erf x rounds to 1

    def pattern(self, value: float) -> int:
        """The bits of a number in this format."""
        code, whole = ("f", "i") if self.bits == "i32" else ("d", "q")
        return int(struct.unpack(whole, struct.pack(code, value))[0])


FORMATS = {
    #            bits mantissa bias exponent exp log   exp_range        tanh_limit artanh erf erfc limit
    "f32": Format("i32", 23, 127, 8, 7, 4, (-104.0, 89.0), 10.0, 7, 12, 15, 4),
    "f64": Format("i64", 52, 1023, 11, 13, 10, (-746.0, 710.0), 20.0, 16, 21, 35, 6),
}

PRECISION = 160
LN2 = Fraction(sum((1 << PRECISION) // (n << n) for n in range(1, PRECISION)), 1 << PRECISION)  # Σ 1/(n·2ⁿ)
PI = sum((Fraction(4, 8 * n + 1) - Fraction(2, 8 * n + 4) - Fraction(1, 8 * n + 5) - Fraction(1, 8 * n + 6)) / 16**n for n in range(PRECISION // 4))
TWO_OVER_ROOT_PI = Fraction(math.isqrt(int(4 * (1 << 2 * PRECISION) / PI)), 1 << PRECISION)


def expand(fn: str, x: Expr) -> Expr:
    """The function of x as Loop IR arithmetic. Raises InvalidKernel for what is not written here."""
    form = FORMATS.get(x.type.elem)
    if form is None or fn not in EXPANSIONS:
        raise InvalidKernel(f"{fn} of {x.type} is not one of {', '.join(EXPANSIONS)} of f32 or f64")
    return EXPANSIONS[fn](x, form)


def series(x: Expr, coefficients: list[Fraction]) -> Expr:
    """c0 + c1*x + c2*x^2 + .. by Horner's rule."""
    total = const(coefficients[-1], x.type)
    for c in reversed(coefficients[:-1]):
        total = fma(total, x, const(c, x.type))
    return total


def halves_of_ln2(form: Format) -> tuple[Fraction, Fraction]:
    """ln 2 as a part whose product with any exponent is exact, and the rest."""
    scale = 1 << (form.mantissa - form.exponent - 1)
    high = Fraction(round(LN2 * scale), scale)
    return high, LN2 - high


def reduced(x: Expr, form: Format) -> tuple[Expr, Expr]:
    """x = k*ln 2 + r with |r| <= ln 2 / 2 -> (k as an integer, r)."""
    magic = 1.5 * 2.0**form.mantissa  # adding it leaves the nearest integer in the low bits
    shifted = fma(x, 1 / LN2, const(magic, x.type))
    k = shifted - magic
    high, low = halves_of_ln2(form)
    r = fma(k, -low, fma(k, -high, x))
    return binary("-", bitcast(shifted, form.bits), form.pattern(magic)), r


def power_of_two(k: Expr, form: Format, elem: str) -> Expr:
    """2^k for an exponent in the normal range."""
    return bitcast(binary("shl", k + form.bias, form.mantissa), elem)


def expm1_series(r: Expr, form: Format) -> Expr:
    """e^r - 1 for |r| <= ln 2 / 2, accurate relative to r: r + r^2 * (1/2 + r/6 + ..)."""
    tail = series(r, [Fraction(1, math.factorial(i)) for i in range(2, form.exp_terms + 1)])
    return fma(r * r, tail, r)


def exp(x: Expr, form: Format) -> Expr:
    """e^x; 2^k is applied in two steps, so that results reach into the subnormals and round once."""
    low, high = form.exp_range
    k, r = reduced(binary("max", low, binary("min", high, x)), form)
    first = binary("ashr", k, 1)
    scaled = (expm1_series(r, form) + 1.0) * power_of_two(first, form, x.type.elem)
    return scaled * power_of_two(k - first, form, x.type.elem)


def expm1(x: Expr, form: Format) -> Expr:
    """e^x - 1, accurate near 0: 2^k·(e^r - 1) + (2^k - 1); above 1 the plain difference loses nothing."""
    k, r = reduced(binary("max", -2 * form.tanh_limit, binary("min", 1.0, x)), form)
    power = power_of_two(k, form, x.type.elem)
    near = fma(power, expm1_series(r, form), power - 1.0)
    return select(x > 1.0, exp(x, form) - 1.0, select(x.equals(0.0), x, near))


def log_of_sum(f: Expr, terms: int, rest: Expr | None = None) -> Expr:
    """log(1+f): f - (f²/2 - s·(f²/2 + R)) with R = s²·(2/3 + 2/5·s² + ..), plus a small `rest`."""
    s = f / (f + 2.0)
    z = s * s
    R = z * series(z, [Fraction(2, 2 * n + 1) for n in range(1, terms + 1)])
    square = f * f * 0.5
    return f - (square - (s * (square + R) if rest is None else fma(s, square + R, rest)))


def log(x: Expr, form: Format) -> Expr:
    """The natural logarithm: log(1+f) plus k·ln 2."""
    smallest, shift = 2.0 ** (1 - form.bias), form.mantissa + 2
    tiny = x < smallest
    bits = bitcast(select(tiny, x * 2.0**shift, x), form.bits)
    half = form.pattern(math.sqrt(0.5))
    offset = bits - half
    k = convert(binary("ashr", offset, form.mantissa), x.type.elem)
    k = k - select(tiny, const(shift, x.type), 0.0)
    f = bitcast(binary("&", offset, (1 << form.mantissa) - 1) + half, x.type.elem) - 1.0
    high, low = halves_of_ln2(form)
    value = fma(k, high, log_of_sum(f, form.log_terms, k * const(low, x.type)))
    value = select(x.equals(0.0), -math.inf, value)
    value = select(x < 0.0, math.nan, value)
    return select(x < math.inf, value, x + x)  # inf and NaN stay what they are; x < inf is false for both


def tanh(x: Expr, form: Format) -> Expr:
    """The sign of x on (e^y - 1)/(e^y + 1), y = 2|x|, where e^y - 1 = 2^k·(e^r - 1) + (2^k - 1)."""
    y = binary("min", form.tanh_limit, call("abs", x)) * 2.0
    k, r = reduced(y, form)
    power = power_of_two(k, form, x.type.elem)
    e = fma(power, expm1_series(r, form), power - 1.0)
    d = e + 2.0
    lost = e - (d - 2.0)  # what rounding took from d: it would cost tanh half a unit
    inverse = 1.0 / d
    t = e * inverse
    t = fma(fma(-t, d, e) - t * lost, inverse, t)
    sign = binary("&", bitcast(x, form.bits), form.pattern(-0.0))
    return bitcast(binary("|", bitcast(t, form.bits), sign), x.type.elem)


def sigmoid(x: Expr, form: Format) -> Expr:
    """1/(1 + e^-x), by way of e^-|x|, which never overflows."""
    e = exp(-call("abs", x), form)
    return select(x >= 0.0, const(1, x.type), e) / (e + 1.0)


def softplus(x: Expr, form: Format) -> Expr:
    """log(1 + e^x), which neither overflows nor loses its small values."""
    return binary("max", 0.0, x) + log_of_sum(exp(-call("abs", x), form), form.artanh_terms)


def erf(x: Expr, form: Format) -> Expr:
    """The error function: x + x·(erf(x)/x - 1) below 5/4, else the sign of x on 1 - erfc |x|."""
    y = binary("min", float(form.erf_limit), call("abs", x))
    powers = [TWO_OVER_ROOT_PI * Fraction((-1) ** n, math.factorial(n) * (2 * n + 1)) for n in range(form.erf_terms + 1)]
    near = fma(x, series(x * x, [powers[0] - 1, *powers[1:]]), x)
    middle, half = (form.erf_limit + ERF_SERIES) / 2, (form.erf_limit - ERF_SERIES) / 2
    u = (y - float(middle)) * float(1 / half)
    far = 1.0 - series(u, erfc_about(middle, half, form.erfc_terms))
    sign = binary("&", bitcast(x, form.bits), form.pattern(-0.0))
    return select(y < ERF_SERIES, near, bitcast(binary("|", bitcast(far, form.bits), sign), x.type.elem))


ERF_SERIES = Fraction(5, 4)  # below, the series in x²; above, erfc: there both lose a unit
LONG = 80  # terms of erfc's series before it is telescoped: the next one is below 2⁻⁶⁰ on the widest range


@cache
def erfc_about(middle: Fraction, half: Fraction, degree: int) -> list[Fraction]:
    """Coefficients of erfc(middle + half·u) in powers of u, |u| <= 1.

    g = erfc' satisfies g' = -2x·g, which gives each coefficient of g about the middle from the two before it.
    """
    g = [-TWO_OVER_ROOT_PI * Fraction(math.exp(-(middle**2)))]
    for n in range(LONG - 1):
        g.append(Fraction(-2, n + 1) * (middle * g[n] + (g[n - 1] if n else 0)))
    powers = [c * half ** (n + 1) / (n + 1) for n, c in enumerate(g)]
    return telescoped([Fraction(math.erfc(middle)), *powers], degree)


def telescoped(coefficients: list[Fraction], degree: int) -> list[Fraction]:
    """A polynomial of lower degree that is as close as may be on [-1, 1].

    uⁿ gives way to uⁿ - Tₙ(u)/2ⁿ⁻¹, which has no power n and differs by at most 2¹⁻ⁿ.
    """
    found = list(coefficients)
    chebyshev = [[1], [0, 1]]
    while len(chebyshev) < len(found):
        last, before = chebyshev[-1], [*chebyshev[-2], 0, 0]
        chebyshev.append([2 * a - b for a, b in zip([0, *last], before, strict=True)])
    while len(found) > degree + 1:
        top, leading = chebyshev[len(found) - 1], found[-1]
        found = [c - leading * Fraction(t, top[-1]) for c, t in zip(found, top, strict=True)][:-1]
    return found


EXPANSIONS = {"exp": exp, "expm1": expm1, "log": log, "softplus": softplus, "tanh": tanh, "sigmoid": sigmoid, "erf": erf}
