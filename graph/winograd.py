"""Winograd's minimal filtering, derived: F(m, r) computes m outputs of a correlation with r taps by m + r - 1 products.

    y = A · ((G · g) ∘ (B · d))        y[j] = Σ_l d[j + l] · g[l],   0 ≤ j < m,   0 ≤ l < r

Two polynomials are multiplied by their values at n = m + r - 1 points, the last of which is infinity (Toom 1963, Cook
1966); transposing the multiplication by one of them gives the correlation (Winograd 1980). With a₀ … the finite points
and Fᵢ = Π_{k≠i} (aᵢ - aₖ):

    A[j,i] = aᵢʲ      G[i,l] = aᵢˡ / Fᵢ      B[i,·] = coefficients of Π_{k≠i} (x - aₖ)      B[n-1,·] = those of Π_k (x - aₖ)

All of it over rational numbers, so that the identity is proved and not measured. In several dimensions every axis has
an algorithm of its own, applied one axis after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from math import prod

from faltung.graph.errors import UnsupportedOp

Matrix = tuple[tuple[Fraction, ...], ...]
Sum = tuple[tuple[int, Fraction], ...]  # Σ coefficient · value number


def _symmetric(*points: Fraction | int) -> tuple[Fraction, ...]:
    return tuple(Fraction(p) * sign for p in points for sign in ((1, -1) if p else (1,)))


E, Q, H = Fraction(1, 8), Fraction(1, 4), Fraction(1, 2)

# Finite points by their number. Each row is the least `amplification` among all sets symmetric about 0 (or so but for one
# point) of multiples of 1/8 up to 3, from eight points on of 1/4; the best set depends on the number of points only, not on
# how it is shared out between m and r. As dyadic numbers they make A and B exact in floats.
POINTS = {
    1: _symmetric(0),
    2: _symmetric(5 * E),
    3: _symmetric(0, 1),
    4: _symmetric(3 * E, 5 * Q),
    5: _symmetric(0, 5 * E, 3 * H),
    6: _symmetric(Q, 7 * E, 7 * Q),
    7: _symmetric(0, H, 1, 2),
    8: _symmetric(Q, 3 * Q, 5 * Q, 9 * Q),
    9: _symmetric(0, H, 3 * Q, 5 * Q, 5 * H),
}


MOST_POINTS = max(POINTS) + 1


@dataclass(frozen=True)
class Filtering:
    """F(m, r): the matrices A (m × n), G (n × r) and B (n × n), n = m + r - 1. Prints with its proof."""

    m: int
    r: int
    a: Matrix
    g: Matrix
    b: Matrix

    @property
    def n(self) -> int:
        """Products, and the inputs that are read."""
        return self.m + self.r - 1

    def fault(self) -> str | None:
        """Where Σᵢ A[j,i] · B[i,k] · G[i,l] is not [k = j + l], or None: then y is the correlation, whatever d and g are."""
        for j in range(self.m):
            for k in range(self.n):
                for l in range(self.r):
                    got = sum(self.a[j][i] * self.b[i][k] * self.g[i][l] for i in range(self.n))
                    if got != (k == j + l):
                        return f"y[{j}] has d[{k}]·g[{l}] {got} times, and not {int(k == j + l)} times"
        return None

    @cached_property
    def shorter(self) -> Filtering:
        """F(m-1, r) without the point at infinity, which is in the last output alone and alone reads the last input.

        The other rows of G stay as they are: weights that are transformed for m outputs serve m - 1.
        """
        found = Filtering(self.m - 1, self.r, tuple(row[:-1] for row in self.a[:-1]), self.g[:-1], tuple(row[:-1] for row in self.b[:-1]))
        fault = found.fault()
        assert fault is None, fault
        return found

    @cached_property
    def amplification(self) -> float:
        """Growth of rounding errors against a direct sum: Σᵢ |Aᵢ|²|Bᵢ|²|Gᵢ|² / (m·r), for independent data of one size."""
        square = [sum(c * c for c in column) for column in zip(*self.a, strict=True)]
        terms = (s * sum(c * c for c in b) * sum(c * c for c in g) for s, b, g in zip(square, self.b, self.g, strict=True))
        return float(sum(terms, Fraction(0)) / (self.m * self.r))

    @cached_property
    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Columns, rows and terms of each of the matrices a, g and b."""
        found = {}
        for name, matrix in (("a", self.a), ("g", self.g), ("b", self.b)):
            shared = sums(matrix)
            found[name] = len(matrix[0]), len(matrix), sum(len(s) for s in (*shared.steps, *shared.rows))
        return found

    def __str__(self) -> str:
        fault = self.fault()
        return "\n".join(
            [
                f"F({self.m},{self.r}): {self.m} outputs of {self.r} taps by {self.n} products instead of {self.m * self.r}",
                "y = A · ((G · g) ∘ (B · d))",
                *(f"{name} = {_text(matrix)}" for name, matrix in (("A", self.a), ("G", self.g), ("B", self.b))),
                "Σ_i A[j,i]·B[i,k]·G[i,l] = [k = j + l]   " + ("proved" if fault is None else f"WRONG: {fault}"),
                f"rounding errors grow by {self.amplification:.2f}",
            ]
        )


def _text(matrix: Matrix) -> str:
    width = max(len(str(c)) for row in matrix for c in row)
    return "\n    ".join("  ".join(str(c).rjust(width) for c in row) for row in matrix)


@cache
def winograd(m: int, r: int) -> Filtering:
    """F(m, r), for m outputs and r taps, proved. Raises UnsupportedOp for sizes below 1 or more points than POINTS has."""
    if not all(isinstance(size, int) for size in (m, r)):
        raise UnsupportedOp(f"F({m!r},{r!r}): the numbers of outputs and taps are integers")
    if m < 1 or r < 1 or not 2 <= m + r - 1 <= MOST_POINTS:
        raise UnsupportedOp(f"F({m},{r}) has {m}+{r}-1 = {m + r - 1} points; write sizes of at least 1 with 2 to {MOST_POINTS} points")
    points = POINTS[m + r - 2]
    found = from_points(m, r, points)
    fault = found.fault()
    assert fault is None, fault
    return found


def from_points(m: int, r: int, points: tuple[Fraction, ...]) -> Filtering:
    """F(m, r) from m + r - 2 different finite points, and infinity."""
    others = [tuple(p for p in points if p != a) for a in points]
    scale = [prod((a - b for b in rest), start=Fraction(1)) for a, rest in zip(points, others, strict=True)]
    sign = [1 if s > 0 else -1 for s in scale]
    last = Fraction(1)
    zero = Fraction(0)
    a = [tuple(p**j for p in points) + (last if j == m - 1 else zero,) for j in range(m)]
    g = [tuple(s * p**l / f for l in range(r)) for p, f, s in zip(points, scale, sign, strict=True)]
    g.append(tuple(last if l == r - 1 else zero for l in range(r)))
    b = [tuple(s * c for c in _coefficients(rest)) + (zero,) for rest, s in zip(others, sign, strict=True)]
    b.append(_coefficients(points))
    return Filtering(m, r, tuple(a), tuple(g), tuple(b))


def _coefficients(roots: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Of Π (x - root), the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return tuple(found)


# ---- applying a matrix with few operations ----


@dataclass(frozen=True)
class Sums:
    """A matrix times a vector as sums: values 0 … columns-1 are given, then comes one for each of `steps`.

    `rows` are the results, in `groups` that share no step with each other: each can be computed by itself.
    """

    columns: int
    steps: tuple[Sum, ...]
    rows: tuple[Sum, ...]
    groups: tuple[tuple[int, ...], ...]

    def __call__(self, vector: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
        """The product, for checking."""
        values = list(vector)
        for s in self.steps:
            values.append(_value(s, values))
        return tuple(_value(row, values) for row in self.rows)


def _value(s: Sum, values: list[Fraction]) -> Fraction:
    return sum((c * values[n] for n, c in s), Fraction(0))


@cache
def sums(matrix: Matrix) -> Sums:
    """The product with a matrix as sums that share what they have in common.

    Points a and -a make pairs. Two columns alike but for signs give sum and difference of two values, each for the rows
    that use it; two rows alike but for signs are the sum and the difference of their even and their odd part.
    """
    columns = len(matrix[0])
    steps: list[Sum] = []

    def step(s: Sum) -> int:
        if len(s) == 1 and s[0][1] == 1:
            return s[0][0]
        steps.append(s)
        return columns + len(steps) - 1

    one = Fraction(1)
    rows: list[dict[int, Fraction]] = [{} for _ in matrix]
    for i, j in _pairs([tuple(row[k] for row in matrix) for k in range(columns)]):
        if j is None:
            for row, found in zip(matrix, rows, strict=True):
                found[i] = row[i]
            continue
        both = {sign: step(((i, one), (j, Fraction(sign)))) for sign in (1, -1)}
        for row, found in zip(matrix, rows, strict=True):
            found[both[1 if row[i] == row[j] else -1]] = row[i]
    kept = [tuple((n, c) for n, c in sorted(row.items()) if c) for row in rows]
    results: list[Sum] = list(kept)
    names = sorted({n for s in kept for n, _ in s})
    for i, j in _pairs([tuple(dict(s).get(n, Fraction(0)) for n in names) for s in kept]):
        if j is not None:
            other = dict(kept[j])
            even = step(tuple((n, c) for n, c in kept[i] if other[n] == c))
            odd = step(tuple((n, c) for n, c in kept[i] if other[n] == -c))
            results[i], results[j] = ((even, one), (odd, one)), ((even, one), (odd, -one))
    return Sums(columns, tuple(steps), tuple(results), _groups(columns, results))


def _groups(columns: int, rows: list[Sum]) -> tuple[tuple[int, ...], ...]:
    """Rows by the steps that they share."""
    groups: list[tuple[set[int], list[int]]] = []
    for i, row in enumerate(rows):
        used, together = {n for n, _ in row if n >= columns}, [i]
        for group in [g for g in groups if g[0] & used]:
            groups.remove(group)
            used, together = used | group[0], [*group[1], *together]
        groups.append((used, together))
    return tuple(tuple(together) for _, together in groups)


def _pairs(vectors: list[tuple[Fraction, ...]]) -> list[tuple[int, int | None]]:
    """Numbers of vectors that are alike but for some signs, in pairs as they come; the others alone."""
    found: list[tuple[int, int | None]] = []
    taken: set[int] = set()
    for i, v in enumerate(vectors):
        if i in taken:
            continue
        partner = next((j for j in range(i + 1, len(vectors)) if j not in taken and _alike(v, vectors[j])), None)
        found.append((i, partner))
        taken |= {i} if partner is None else {i, partner}
    return found


def _alike(v: tuple[Fraction, ...], w: tuple[Fraction, ...]) -> bool:
    """Whether two vectors differ by signs only, and do so in some elements of at least two and not in all others."""
    same = sum(a == b != 0 for a, b in zip(v, w, strict=True))
    opposite = sum(a == -b != 0 for a, b in zip(v, w, strict=True))
    present = sum(a != 0 for a in v)
    return present == sum(b != 0 for b in w) == same + opposite and same > 0 and opposite > 0
