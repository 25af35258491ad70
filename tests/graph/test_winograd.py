"""Winograd's algorithm derived: the identity over rational numbers, the points, and the sums that apply a matrix."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

import faltung as ft
from faltung.graph.winograd import MOST_POINTS, POINTS, Matrix, from_points, sums, winograd

SIZES = [(m, r) for m in range(1, 9) for r in range(1, 9) if 2 <= m + r - 1 <= MOST_POINTS]


def times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum((c * v for c, v in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


def rationals(count: int, seed: int) -> list[Fraction]:
    generator = random.Random(seed)
    return [Fraction(generator.randint(-99, 99), generator.randint(1, 9)) for _ in range(count)]


@pytest.mark.parametrize("m, r", SIZES)
def test_it_is_the_correlation(m: int, r: int) -> None:
    f = winograd(m, r)
    d, g = rationals(m + r - 1, 1), rationals(r, 2)
    products = [u * v for u, v in zip(times(f.g, g), times(f.b, d), strict=True)]
    assert len(products) == m + r - 1
    assert times(f.a, products) == [sum(d[j + l] * g[l] for l in range(r)) for j in range(m)]
    assert f.fault() is None


def test_in_two_dimensions_axis_by_axis() -> None:
    """Different sizes on the two axes; the definition is NumPy's windows."""
    rows, columns = winograd(2, 3), winograd(4, 2)
    d = np.array(rationals(rows.n * columns.n, 3), dtype=object).reshape(rows.n, columns.n)
    g = np.array(rationals(6, 4), dtype=object).reshape(3, 2)
    (a1, g1, b1), (a2, g2, b2) = ([np.array(m, dtype=object) for m in (f.a, f.g, f.b)] for f in (rows, columns))
    y = a1 @ ((g1 @ g @ g2.T) * (b1 @ d @ b2.T)) @ a2.T
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 2))
    assert np.array_equal(y, (windows * g).sum(axis=(2, 3)))


def test_a_wrong_number_is_found_and_named() -> None:
    f = winograd(4, 3)
    b = [list(row) for row in f.b]
    b[2][3] += Fraction(1, 8)
    fault = replace(f, b=tuple(tuple(row) for row in b)).fault()
    assert fault is not None and "d[3]" in fault and "WRONG" in str(replace(f, b=tuple(tuple(row) for row in b)))


@pytest.mark.parametrize("m, r", [(m, r) for m, r in SIZES if m > 1])
def test_one_output_less_without_infinity(m: int, r: int) -> None:
    """The weights are those of m outputs, as far as they go."""
    f = winograd(m, r).shorter
    d, g = rationals(m + r - 2, 1), rationals(r, 2)
    products = [u * v for u, v in zip(times(winograd(m, r).g, g)[:-1], times(f.b, d), strict=True)]
    assert (f.m, f.r, len(products)) == (m - 1, r, m + r - 2)
    assert times(f.a, products) == [sum(d[j + l] * g[l] for l in range(r)) for j in range(m - 1)]


def test_one_output_less_is_no_less_accurate() -> None:
    """For windows of three; other points of their own would be better still."""
    for m in range(2, 7):
        assert winograd(m - 1, 3).amplification < winograd(m, 3).shorter.amplification <= winograd(m, 3).amplification


def test_the_matrices_of_f_2_3() -> None:
    """As Lavin and Gray (2016) print them, but for signs."""
    f = winograd(2, 3)
    half = Fraction(1, 2)
    assert [tuple(abs(c) for c in row) for row in f.g] == [(1, 0, 0), (half, half, half), (half, half, half), (0, 0, 1)]
    assert sorted(tuple(sorted(map(abs, row))) for row in f.b) == [(0, 0, 1, 1)] * 4


def test_the_transforms_of_data_are_exact_in_floats() -> None:
    for points in POINTS.values():
        for m in range(2, len(points) + 1):
            f = from_points(m, len(points) + 2 - m, points)
            for row in (*f.a, *f.b):
                assert all(Fraction(float(np.float32(float(c)))) == c for c in row)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_no_set_of_its_kind_amplifies_less(count: int) -> None:
    """The smaller rows of POINTS, by going through all symmetric sets of multiples of 1/8 up to 2."""
    candidates = [Fraction(k, 8) for k in range(1, 17)]
    zero = (Fraction(0),) if count % 2 else ()
    m, r = (count - 1, 3) if count > 2 else (2, 2)
    best = min(
        from_points(m, r, zero + tuple(s * p for p in chosen for s in (1, -1))).amplification for chosen in combinations(candidates, count // 2)
    )
    assert winograd(m, r).amplification == pytest.approx(best, rel=1e-12)


def test_amplification_is_what_rounding_does() -> None:
    """The error of products rounded to single precision, measured, against that of a direct sum."""
    generator = np.random.default_rng(5)
    for m, r in ((2, 3), (4, 3), (6, 3)):
        f = winograd(m, r)
        a, g, b = (np.array(matrix, dtype=np.float64) for matrix in (f.a, f.g, f.b))
        d, taps = generator.normal(size=(f.n, 4000)), generator.normal(size=(r, 4000))
        noise = 2.0**-24 * generator.normal(size=(f.n, 4000))
        error = a @ ((g @ taps) * (b @ d) * noise)
        assert (error**2).mean() / (r * 2.0**-48) == pytest.approx(f.amplification, rel=0.15)


@pytest.mark.parametrize("m, r", SIZES)
def test_shared_sums_give_the_same(m: int, r: int) -> None:
    f = winograd(m, r)
    for matrix in (f.a, f.g, f.b):
        found, vector = sums(matrix), rationals(len(matrix[0]), 6)
        assert list(found(tuple(vector))) == times(matrix, vector)
        assert sorted(i for group in found.groups for i in group) == list(range(len(matrix)))
        used = [{n for i in group for n, _ in found.rows[i] if n >= found.columns} for group in found.groups]
        assert all(not a & b for a, b in combinations(used, 2))  # groups share no step


def test_sums_are_shared() -> None:
    """F(4,3): 22 and 18 terms, where the matrices have 26 and 18 with twice the multiplications."""
    f = winograd(4, 3)

    def factors(matrix: Matrix) -> int:
        found = sums(matrix)
        return sum(abs(c) != 1 for s in (*found.steps, *found.rows) for _, c in s)

    assert factors(f.b) < sum(abs(c) not in (0, 1) for row in f.b for c in row)
    assert factors(f.a) < sum(abs(c) not in (0, 1) for row in f.a for c in row)


def test_it_prints_with_its_proof() -> None:
    text = str(ft.winograd(4, 3))
    assert "F(4,3): 4 outputs of 3 taps by 6 products instead of 12" in text
    assert "proved" in text and "225/256" in text and "4.78" in text


@pytest.mark.parametrize("m, r", [(0, 3), (3, 0), (1, 1), (9, 3), (-2, 5)])
def test_what_there_is_not(m: int, r: int) -> None:
    with pytest.raises(ft.UnsupportedOp, match="points"):
        ft.winograd(m, r)
