"""Equation text: what is printed reads back as the same equation, and what is wrong is said helpfully."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from faltung.graph.equation import Equation
from faltung.graph.errors import EquationError, FaltungError, ShapeError
from faltung.graph.evaluate import EXACT, evaluate, run
from faltung.graph.index import BATCH, Shape
from faltung.graph.ops.table import define
from faltung.graph.parse import parse
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, computed, leaf, topological
from tests.check import integers, positive, sized
from tests.graph.cases import FEW, Case, tensors

# ---- printing and reading back ----


def read_back(eq: Equation, shapes: tuple[Shape, ...]) -> Equation:
    """The equation that `eq`'s own text writes; extents that no operand determines are given with it."""
    again = parse(str(eq), shapes, operands=eq.operands, extents=eq.extent)
    return replace(again, shape=eq.shape)  # a piece of a tensor does not know how far the other pieces reach


def value(eq: Equation, arrays: list[np.ndarray]) -> np.ndarray:
    out = np.zeros(sized(eq.shape, 2))
    with np.errstate(all="ignore"):
        run(eq, arrays, out, 2)
    return out


def assert_round_trip(t: Tensor) -> None:
    """The text of each equation is a fixed point, and what it reads back as has the same value.

    Not the same tree: a·(b/c) is printed without brackets and reads back as (a·b)/c.
    """
    arrays = [
        positive(sized(o.shape, 2), n) if o.dtype == "float64" else integers(sized(o.shape, 2), n, 0, 2)
        for n, o in enumerate(t.operands)
    ]
    for eq in t.equations:
        assert len(set(eq.operands)) == len(eq.operands), f"two operands of one name in {eq}"
        again = read_back(eq, tuple(o.shape for o in t.operands))
        assert str(again) == str(eq)
        assert set(again.extents) == set(eq.extents)
        np.testing.assert_allclose(value(again, arrays), value(eq, arrays), rtol=1e-12)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_what_is_printed_reads_back(case: Case) -> None:
    for t in tensors(case, order=2):
        assert_round_trip(t)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_what_is_printed_after_optimisation_reads_back(case: Case) -> None:
    for t in topological(optimise(tensors(case, order=1)[-1:])):
        if not t.is_leaf:
            assert_round_trip(t)


@pytest.mark.parametrize(
    "text",
    [
        "Y[i] = X[i]",
        "Y[] = Σ_{i} X[i]",
        "Y[i] = 0.5",
        "Y[i] = 1/3",
        "Y[i] = 0.5·X[i]",
        "Y[i] = (1/3)·X[i]",
        "Y[i] = X[i] - (X[i] - 1)",
        "Y[i] = X[i]/(X[i]/2)",
        "Y[i] = X[i]/2/X[i]",
        "Y[i] = -(X[i] + 1)",
        "Y[i] = -(X[i]·X[i])",
        "Y[i] = |X[i]| + √(X[i])",
        "Y[i] = max(X[i], min(X[i], 2))",
        "Y[i] = [X[i] ≤ i]·[X[i] ≠ 2·i+1]",
        "Y[i] = X[i]·[0 ≤ i-1 < 3]",
        "Y[i] = X[i]·[0 ≤ (i-1)/2 < 2]",
        "Y[i] = max_{p} X[i+p-1]",
        "Y[i] = argmin_{p} X[i+p-1]·p",
        "Y[i] = (Σ_{p} X[i+p])·(X[i] + 1)",
        "Y[i] = Σ_{p} (X[i+p] + 1)",
        "Y[i] = Σ_{p} X[i+p] + 1",
        "Y[i] = X[i]/3 + stop(X[i])",
        "Y[i] = σ(X[i])·tanh(X[i])",
        "Y[i,j] = i·j·X[i]",
        "Y[2·i+j] = X[i]",
    ],
)
def test_text_is_its_own_print(text: str) -> None:
    extents = {"i": 5, "j": 2, "p": 2} if "j" in text else {"i": 5, "p": 2}
    eq = parse(text, [(5,)] if "X" in text else [], extents=extents)
    assert str(eq) == text
    assert read_back(eq, ((5,),) if "X" in text else ()) == eq


@given(st.fractions(max_denominator=50) | st.integers() | st.floats(-1e300, 1e300))
@example(2**53 + 1)
@settings(max_examples=150, deadline=None)
def test_numbers_keep_their_value(value: Fraction | int | float) -> None:
    """A number given as an attribute is the number that is printed: exact ones exactly, floats as Python writes them."""
    eq = parse("Y[i] = a*X[i]", [(2,)], attributes={"a": value})
    again = read_back(eq, ((2,),))
    x = leaf("input", (2,), "float64", "x")
    for e in (eq, again):
        found = evaluate(computed(e, [x]), {x: [1, 3]}, EXACT)
        if isinstance(value, float):
            assert float(found[0]) == value
            np.testing.assert_allclose(float(found[1]), 3 * value, rtol=1e-15)
        else:
            assert found.tolist() == [value, 3 * value]


def test_words_and_symbols_mean_the_same() -> None:
    words = parse("Y[n,f,i] = sum(c,p: X[n,c,2*i+p-1] * K[f,c,p]) + B[f]", [(BATCH, 2, 7), (3, 2, 3), (3,)])
    signs = parse("Y[n,f,i] = Σ_{c,p} X[n,c,2·i+p−1]·K[f,c,p] + B[f]", [(BATCH, 2, 7), (3, 2, 3), (3,)])
    assert words == signs
    assert parse("Y[i] = [X[i] <= 2] * [X[i] != 1]", [(3,)]) == parse("Y[i] = [X[i] ≤ 2]·[X[i] ≠ 1]", [(3,)])


def test_the_open_batch_size_is_a_number_called_n() -> None:
    text = "Y[n] = X[n]/N"
    eq = parse(text, [(BATCH,)])
    assert str(eq) == text
    assert eq == parse("Y[n] = X[n]/extent(n)", [(BATCH,)])


# ---- errors: text | shapes | further arguments | error | what the message says ----

N3, N33 = [(3,)], [(3, 3)]
ERRORS: list[tuple[str, Any, dict[str, Any], type[FaltungError], str]] = [
    ("", [], {}, EquationError, "left and a right side|starts with its target"),
    ("= X[i]", N3, {}, EquationError, "starts with its target"),
    ("Y = X[i]", N3, {}, EquationError, r"expected \["),
    ("Y[i] X[i]", N3, {}, EquationError, "right side|expected ="),
    ("Y[i]", N3, {}, EquationError, "right side|expected ="),
    ("Y[i] =", N3, {}, EquationError, "expected a number, a name or a bracket"),
    ("X[...]", N3, {}, EquationError, "left|="),
    ("Y[...] = 1", [], {}, EquationError, r"\.\.\."),
    ("Y[...] = X[...] + Z[...]", N3, {}, EquationError, "2 operands.*1 shapes|no shape is given for operand Z"),
    ("Y[...] = X[...] + Z[...]", [(2,), (3,)], {}, ShapeError, "axis 0 is 2 and 3"),
    ("Y[...] = X[...]", [(1,) * 6], {}, ShapeError, "6 axes"),
    ("Y[i] = X[j]", N3, {}, EquationError, "unknown index j; the indices here are i"),
    ("Y[i] = X[i] + j", N3, {}, EquationError, "unknown name j"),
    ("Y[i,j] = X[i*j]", N3, {}, EquationError, "affine"),
    ("Y[i] = X[X[i]]", N3, {}, EquationError, "affine"),
    ("Y[i] = X[i/0]", N3, {}, EquationError, "affine|divi"),
    ("Y[i] = X[0.5*i]", N3, {}, EquationError, "integers, found 1/2"),
    ("Y[i] = X[i+a]", N3, {"attributes": {"a": 0.5}}, EquationError, "integers, found 0.5"),
    ("Y[i] = cosh(X[i])", N3, {}, EquationError, "unknown function cosh; known: abs, "),
    ("Y[i] = prod_{p} X[p]", N3, {}, EquationError, "unknown reduction prod; known: sum, max"),
    ("Y[i] = exp(X[i], 2)", N3, {}, EquationError, r"exp takes 1 argument\(s\), 2 given"),
    ("Y[i] = max(X[i])", N3, {}, EquationError, r"max takes 2 argument\(s\), 1 given"),
    ("Y[i] = sum(X[i])", N3, {}, EquationError, "expected"),
    ("Y[i] = sum(2: X[i])", N3, {}, EquationError, "'2' is not an index name"),
    ("Y[i,i] = X[i]", N3, {}, EquationError, "index i stands twice on the left"),
    ("Y[i] = sum(i: X[i])", N3, {}, EquationError, "index i is bound twice"),
    ("Y[] = sum(i,i: X[i])", N3, {}, EquationError, "index i is bound twice"),
    ("Y[] = sum(p: X[p])", N3, {"attributes": {"p": 2}}, EquationError, "p is both an index and an attribute"),
    ("Y[] = sum(i: sum(j: X[i,j]))", N33, {}, EquationError, "more than one reduction"),
    ("Y[i] = max(j: X[i,j]) + sum(k: X[i,k])", N33, {}, EquationError, "more than one reduction"),
    ("Y[i] = X[i,0]", N3, {}, ShapeError, r"X is read with 2 indices but has shape \(3,\) of 1 axes"),
    ("Y[i] = X[i] + Z[i]", [(3,), (4,)], {}, ShapeError, r"index i is 3 by axis 0 of X \(3,\), but 4 by axis 0 of Z \(4,\)"),
    ("Y[i] = X[i] + Z[i]", N3, {}, EquationError, r"reads 2 operands \(X, Z\), 1 shapes given"),
    ("Y[i] = X[i] + Z[i]", N3, {"operands": ["X"]}, EquationError, "operand Z is read but only X are given"),
    ("Y[i,j] = X[i]", N3, {}, EquationError, "nothing determines the extent of index j: give it, as in j<10"),
    ("Y[i] = sum(p: X[i+p])", N3, {}, EquationError, "nothing determines the extent of index i|extent of index p"),
    ("Y[i] = sum(p<4: X[i+p])", N3, {}, ShapeError, "spans 4 elements, but there are only 3"),
    ("Y[i] = sum(p<4: X[2*i+3*p-2])", N3, {}, ShapeError, r"spans 10 elements, but there are only 3 \+ 2·2 padding; make the input at least 6"),
    ("Y[i] = X[3-i]", N3, {}, EquationError, "give the extent of i, whose coefficient in 3-i|-i[+]3 is negative"),
    ("Y[i] = sum(p<2: X[i+p])", [(BATCH,)], {}, ShapeError, "open batch axis"),
    ("Y[n,i] = X[n]*Z[n+i]", [(BATCH,), (5,)], {}, ShapeError, "open batch axis"),
    ("Y[3*n+i] = X[n,i]", [(BATCH, 3)], {}, ShapeError, "open batch size"),
    ("Y[i-1] = X[i]", N3, {}, EquationError, "outside extent"),
    ("Y[2*i+j] = X[i]*X[j]", N3, {}, EquationError, "write an element twice"),
    ("Y[i/2] = X[i]", [(6,)], {}, EquationError, "left side"),
    ("Y[i+1<3] = X[i]", N3, {}, EquationError, "only a lone index"),
    ("Y[i<p] = 1", [], {}, EquationError, "p is not a number that was given"),
    ("Y[i<1.5] = 1", [], {}, EquationError, "integer"),
    ("Y[i<1e999] = 1", [], {}, EquationError, "integer"),
    ("Y[i<-3] = 1", [], {}, EquationError, "-3"),
    ("Y[i] = extent(z)*X[i]", N3, {}, EquationError, "unknown index z"),
    ("Y[i] = X[i", N3, {}, EquationError, r"expected"),
    ("Y[i] = (X[i]", N3, {}, EquationError, r"expected \), found"),
    ("Y[i] = X[i])", N3, {}, EquationError, r"unexpected '\)' after the expression"),
    ("Y[i] = |X[i]", N3, {}, EquationError, r"expected \|, found"),
    ("Y[i] = √X[i]", N3, {}, EquationError, r"expected \(, found"),
    ("Y[i] = [X[i]]", N3, {}, EquationError, "comparison"),
    ("Y[i] = [X[i] = 1", N3, {}, EquationError, r"expected \], found"),
    ("Y[i] = X[i] X[i]", N3, {}, EquationError, "unexpected 'X' after the expression"),
    ("Y[i] = X[i]^2", N3, {}, EquationError, r"cannot read '\^2'"),
    ("Y[i] = " + "(" * 5000 + "X[i]" + ")" * 5000, N3, {}, EquationError, "deep"),
    ("Y[i] = " + "-" * 5000 + "X[i]", N3, {}, EquationError, "deep"),
    ("Y[i] = " + " + ".join(["X[i]"] * 300), N3, {}, EquationError, "302 operations inside one another, and at most 150 are possible"),
    ("Y[i] = " + "(X[i] + " * 50 + "X[i]" + " + X[i] + X[i] + X[i])" * 50, N3, {}, EquationError, "operations inside one another"),
    ("Y[i] = X[i" + " + 0" * 1000 + "]", N3, {}, EquationError, "sum over an index"),
    ("Y[i] = X[99999999999999999999*i]", N3, {}, EquationError, "numbers below 2147483648, found 99999999999999999999"),
    ("Y[99999*99999*i] = X[i]", N3, {}, EquationError, "found 9999800001"),
    ("Y[i...] = X[i...]", [(2,) * 6], {}, FaltungError, "4"),
    ("Y[i...] = X[s*i...]", [(5, 5)], {"attributes": {"s": (1,)}, "rank": 2}, FaltungError, "s"),
    ("Y[i] = X[i]", N3, {"attributes": {"i": (1, 2)}}, EquationError, "unknown index i"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shapes", "more", "error", "message"), ERRORS, ids=[e[0][:40] or "empty" for e in ERRORS])
def test_an_error_says_what_is_wrong(
    text: str, shapes: list[Shape], more: dict[str, Any], error: type[FaltungError], message: str
) -> None:
    with pytest.raises(error, match=message):
        parse(text, shapes, **more)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Y[2*i] = X[i]", "3 of 5"),
        ("Y[1] = sum(i: X[i])", "1 of 2"),
        ("Y[2*i+1] = X[i]", "3 of 6"),
        ("Y[i,3] = X[i]", "3 of 12"),
    ],
)
def test_a_tensor_is_written_completely(text: str, written: str) -> None:
    """A piece may write every other element; a whole tensor may not, for nobody would write the rest."""
    with pytest.raises(EquationError, match=f"writes {written} elements"):
        define(text)(leaf("input", (3,), "float32", "x"))


def test_a_definition_is_checked_when_it_is_made() -> None:
    for text, message in (("", "at least one equation"), ("Y[i] = X[i", "expected"), ("Y[i] = cosh(X[i])", "unknown function")):
        with pytest.raises(EquationError, match=message):
            define(text)
    twice = define("Z[i] = 2*X[i]\nY[i] = Z[i] + X[i] + B[i]")
    assert twice.op.operands == ("X", "B")
    with pytest.raises(EquationError, match=r"Y takes 2 operands \(X, B\), 1 given"):
        twice(leaf("input", (3,), "float32", "x"))


# ---- any text at all ----

PIECES = [
    *"ijpqXYZN0123 ()[]{}:,=<>|+-*/.·−≤≥≠√Σσ_^", "sum(", "max(", "argmax(", "extent(", "exp(", "Σ_{", "max_{", "...", "[...]",
    "Y[i] = ", "Y[...] = ", "X[i]", "Z[i,j]", "p<3:", "0.5", "1e9", "1e999", "X̄", "<=", "!=", "==", "[i = ", "N",
]  # fmt: skip
SHAPES: st.SearchStrategy[Shape] = st.lists(st.sampled_from([0, 1, 2, 5]), max_size=6).map(tuple)


def attempt(text: str, shapes: list[Shape], attributes: dict[str, Any]) -> None:
    """Parse; if that works, print and parse again. Only errors of ours may come out."""
    try:
        eq = parse(text, shapes, attributes=attributes)
    except FaltungError as error:
        assert str(error)
        return
    assert str(eq)
    assert eq.latex()


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.lists(SHAPES, max_size=2))
@settings(max_examples=600, deadline=None)
@example("Y[i] = extent(q)", [])
@example("Y[...] = ...", [])
@example("Y[i<5] = X[i...]", [(2,) * 6])
@example("Y[] = X[]<1>", [()])
@example("Y[] = X[...][...]", [()])
def test_pieces_of_equations_raise_nothing_else(text: str, shapes: list[Shape]) -> None:
    attempt(text, shapes, {"s": (1, 2), "k": 3, "a": 0.5})
    attempt("Y[i] = " + text, shapes, {"s": (1, 2), "k": 3, "a": 0.5})


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_raises_nothing_else(text: str) -> None:
    attempt(text, [(3,)], {})
    attempt("Y[i] = X[i] + " + text, [(3,)], {})
