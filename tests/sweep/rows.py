"""THE TABLE of what the sweep draws: rows by family, and the order in which seeds go through them."""

from __future__ import annotations

import random

from tests.sweep import chains, convolution, losses, normalisation, pointwise, pooling, reductions, views
from tests.sweep.draw import Row

FAMILIES: dict[str, tuple[Row, ...]] = {
    "Convolution and matrix products": convolution.ROWS,
    "Pooling": pooling.ROWS,
    "Elementwise functions": pointwise.ROWS,
    "Normalisation": normalisation.ROWS,
    "Reductions": reductions.ROWS,
    "Losses and tables": losses.ROWS,
    "Views, padding and resampling": views.ROWS,
    "Several operations at once": chains.ROWS,
}
ROWS: dict[str, Row] = {row.name: row for rows in FAMILIES.values() for row in rows}


def _order() -> tuple[Row, ...]:
    """Every row as often as its share says, well mixed: any stretch of seeds has something of everything."""
    found = [row for row in ROWS.values() for _ in range(row.share)]
    random.Random(0).shuffle(found)
    return tuple(found)


ORDER = _order()


def seeds(name: str, count: int, start: int = 0) -> list[int]:
    """The first seeds from `start` on whose configurations are of this row."""
    places = [n for n, row in enumerate(ORDER) if row.name == name]
    first = start - start % len(ORDER)
    found = [base + n for base in range(first, first + (count + 2) * len(ORDER), len(ORDER)) for n in places if base + n >= start]
    return found[:count]
