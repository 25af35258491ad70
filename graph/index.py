"""Indices, extents and affine index expressions: the arithmetic inside the square brackets.

    affine = (c1·i1 + c2·i2 + … + const) / den        integers; den > 1 means "where it divides"

Affine forms are our own and not SymPy's because deriving a convolution does hundreds of small
substitutions; coefficients do in a millisecond what a general solver does in 150.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd


class Batch:
    """The extent that is left open until run time; there is one, printed N."""

    _only: Batch | None = None

    def __new__(cls) -> Batch:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __repr__(self) -> str:
        return "N"

    def __reduce__(self) -> tuple[type[Batch], tuple[()]]:
        return (Batch, ())


BATCH = Batch()
Extent = int | Batch
Shape = tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Affine:
    """`(sum(coefficient * index) + const) / den`; terms are sorted by index name and never zero."""

    terms: tuple[tuple[str, int], ...] = ()
    const: int = 0
    den: int = 1

    @staticmethod
    def make(terms: Mapping[str, int], const: int = 0, den: int = 1) -> Affine:
        """Normalised: zero terms dropped, common factors of numerator and denominator cancelled."""
        kept = {name: c for name, c in terms.items() if c}
        if den < 0:
            kept, const, den = {n: -c for n, c in kept.items()}, -const, -den
        common = gcd(den, const, *kept.values())
        if common > 1:
            kept, const, den = {n: c // common for n, c in kept.items()}, const // common, den // common
        return Affine(tuple(sorted(kept.items())), const, den)

    @staticmethod
    def of(value: Affine | str | int) -> Affine:
        """An index name, an integer or an affine form as an affine form."""
        if isinstance(value, Affine):
            return value
        return Affine(((value, 1),)) if isinstance(value, str) else Affine((), value)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    @property
    def name(self) -> str | None:
        """The index this is, when it is nothing but one index; else None."""
        if self.den == 1 and self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0]
        return None

    @property
    def constant(self) -> int | None:
        return self.const if not self.terms and self.den == 1 else None

    def coefficient(self, name: str) -> int:
        """Numerator coefficient of one index (0 when absent)."""
        return next((c for n, c in self.terms if n == name), 0)

    def __add__(self, other: Affine | str | int) -> Affine:
        other = Affine.of(other)
        terms = {n: c * other.den for n, c in self.terms}
        for n, c in other.terms:
            terms[n] = terms.get(n, 0) + c * self.den
        return Affine.make(terms, self.const * other.den + other.const * self.den, self.den * other.den)

    def __mul__(self, factor: int) -> Affine:
        return Affine.make({n: c * factor for n, c in self.terms}, self.const * factor, self.den)

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | str | int) -> Affine:
        return self + -Affine.of(other)

    def over(self, divisor: int) -> Affine:
        """This divided by an integer; indices where it does not divide read nothing."""
        return Affine.make(dict(self.terms), self.const, self.den * divisor)

    def substitute(self, values: Mapping[str, Affine]) -> Affine:
        """Every index in `values` replaced at once."""
        if not any(n in values for n, _ in self.terms):
            return self
        total = Affine((), self.const)
        for n, c in self.terms:
            total = total + values.get(n, Affine(((n, 1),))) * c
        return total.over(self.den)

    def range(self, extents: Mapping[str, Extent]) -> tuple[float, float]:
        """Smallest and largest value over all index values; an open extent counts as unbounded."""
        low = high = float(self.const)
        for n, c in self.terms:
            e = extents[n]
            reach = c * (float("inf") if isinstance(e, Batch) else e - 1)
            low, high = low + min(0.0, reach), high + max(0.0, reach)
        return low / self.den, high / self.den

    def value(self, at: Mapping[str, int]) -> int | None:
        """The integer this is at a point, or None where it does not divide."""
        total = self.const + sum(c * at[n] for n, c in self.terms)
        return total // self.den if total % self.den == 0 else None

    def __str__(self) -> str:
        # positive terms first, so that u+1-p rather than -p+u+1
        parts = [(c, n) for n, c in sorted(self.terms, key=lambda t: (t[1] < 0, t[0]))]
        text = ""
        for c, n in parts:
            sign = "-" if c < 0 else "+" if text else ""
            text += sign + (n if abs(c) == 1 else f"{abs(c)}·{n}")
        if self.const or not text:
            text += f"{self.const:+d}" if text else str(self.const)
        if self.den == 1:
            return text
        return f"({text})/{self.den}" if len(parts) + bool(self.const) > 1 else f"{text}/{self.den}"


def always_inside(form: Affine, extent: Extent, extents: Mapping[str, Extent]) -> bool:
    """Whether the form stays within [0, extent) for all index values, and always divides."""
    if form.den != 1:
        return False
    if isinstance(extent, Batch):  # only the batch index itself is known to stay below N
        name = form.name
        return name is not None and isinstance(extents[name], Batch)
    low, high = form.range(extents)
    return low >= 0 and high <= extent - 1


def mixed_radix(form: Affine, extent: Extent, extents: Mapping[str, Extent]) -> bool:
    """Whether the form counts through [0, extent) exactly once, like digits of a number.

    `3·i + j` with j < 3 does: every value has one pair (i, j). So does a lone index.
    """
    if form.const or form.den != 1 or not form.terms:
        return False
    if form.name is not None:
        return extents[form.name] == extent
    weight = 1
    digits = [(c, extents[name]) for name, c in form.terms]
    if any(isinstance(e, Batch) for _, e in digits):
        return False
    for c, e in sorted(digits):  # type: ignore[type-var]
        if c != weight or isinstance(e, Batch):
            return False
        weight *= e
    return weight == extent
