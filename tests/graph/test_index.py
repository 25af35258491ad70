"""Affine index forms: the arithmetic agrees with integers at every point, and the predicates with counting."""

from __future__ import annotations

import pickle
from itertools import product

from hypothesis import given, settings, strategies as st

from faltung.graph.index import BATCH, Affine, Batch, always_inside, mixed_radix

NAMES = ("i", "j", "p")
NUMBERS = st.integers(-4, 4)
POINTS = st.fixed_dictionaries({n: st.integers(-5, 5) for n in NAMES})
EXTENTS = st.fixed_dictionaries({n: st.integers(1, 4) for n in NAMES})


@st.composite
def affine(draw: st.DrawFn, dens: tuple[int, ...] = (1, 2, 3)) -> Affine:
    return Affine.make({n: draw(NUMBERS) for n in NAMES}, draw(NUMBERS), draw(st.sampled_from(dens)))


def numerator(form: Affine, at: dict[str, int]) -> int:
    return form.const + sum(c * at[n] for n, c in form.terms)


@given(affine(), affine(), POINTS, NUMBERS)
def test_arithmetic(a: Affine, b: Affine, at: dict[str, int], k: int) -> None:
    """As fractions: numerator over den, compared by cross multiplication."""
    x, y = numerator(a, at), numerator(b, at)
    for form, top, den in (
        (a + b, x * b.den + y * a.den, a.den * b.den),
        (a - b, x * b.den - y * a.den, a.den * b.den),
        (-a, -x, a.den),
        (a * k, k * x, a.den),
        (a.over(3), x, 3 * a.den),
        (a + 2, x + 2 * a.den, a.den),
        (a + "i", x + at["i"] * a.den, a.den),
    ):
        assert numerator(form, at) * den == top * form.den
        assert form.value(at) == (top // den if top % den == 0 else None)


@given(affine(), affine(), affine(), POINTS)
def test_substitution(form: Affine, a: Affine, b: Affine, at: dict[str, int]) -> None:
    """Both indices at once: i → j, j → i is a swap."""
    inner = {"i": a.value(at), "j": b.value(at)}
    moved = form.substitute({"i": a, "j": b})
    if None not in inner.values():
        point = {**at, **{n: v for n, v in inner.items() if v is not None}}
        assert moved.value(at) == form.value(point)
    swap = Affine.make({"i": 2, "j": 3}).substitute({"i": Affine.of("j"), "j": Affine.of("i")})
    assert swap == Affine.make({"j": 2, "i": 3})


@given(affine(), EXTENTS)
@settings(max_examples=60)
def test_range_and_inside(form: Affine, extents: dict[str, int]) -> None:
    points = [dict(zip(NAMES, p, strict=True)) for p in product(*(range(extents[n]) for n in NAMES))]
    exact = [numerator(form, at) / form.den for at in points]
    assert form.range(extents) == (min(exact), max(exact))
    for extent in (1, 3, 8):
        values = [form.value(at) for at in points]
        if always_inside(form, extent, extents):
            assert all(v is not None and 0 <= v < extent for v in values)
        elif form.den == 1:
            assert any(v is None or not 0 <= v < extent for v in values)


@given(affine((1,)), EXTENTS, st.integers(1, 12))
@settings(max_examples=300)
def test_mixed_radix_counts_every_element_once(form: Affine, extents: dict[str, int], extent: int) -> None:
    points = product(*(range(extents[n]) for n in form.names))
    hit = sorted(numerator(form, dict(zip(form.names, p, strict=True))) for p in points)
    if mixed_radix(form, extent, extents):
        assert hit == list(range(extent))


def test_digits_are_mixed_radix() -> None:
    for form, extents, extent in (
        (Affine.make({"i": 3, "j": 1}), {"i": 4, "j": 3}, 12),
        (Affine.make({"i": 6, "j": 1, "p": 2}), {"i": 2, "j": 2, "p": 3}, 12),
        (Affine.of("i"), {"i": 5}, 5),
    ):
        assert mixed_radix(form, extent, extents)
        assert not mixed_radix(form + 1, extent, extents)
        assert not mixed_radix(form, extent + 1, extents)
    assert mixed_radix(Affine.of("n"), BATCH, {"n": BATCH})
    assert not mixed_radix(Affine.make({"n": 3, "i": 1}), BATCH, {"n": BATCH, "i": 3})


def test_the_text_of_a_form() -> None:
    texts = {
        "i": Affine.of("i"), "0": Affine(), "-3": Affine.of(-3), "2·i+p-1": Affine.make({"i": 2, "p": 1}, -1),
        "i-p": Affine.make({"p": -1, "i": 1}), "-i": -Affine.of("i"), "(i-p+1)/2": Affine.make({"i": 1, "p": -1}, 1, 2), "i/3": Affine.of("i").over(3),
    }  # fmt: skip
    assert {str(form): form for form in texts.values()} == texts


def test_the_batch_is_one_object() -> None:
    assert Batch() is BATCH
    assert pickle.loads(pickle.dumps((BATCH, 3))) == (BATCH, 3)
    assert repr(BATCH) == "N"
