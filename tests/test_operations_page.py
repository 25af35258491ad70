"""docs/operations.md says what the program prints, has every row of the registry, and its ticks can be earned again.

`pytest --update-golden` rewrites names, equations, schedules and gradients; ticks are earned by `make operations`.
"""

from __future__ import annotations

import re

import pytest

from docs import operations
from faltung.graph.ops import REGISTRY
from faltung.graph.tensor import topological
from tests.sweep import check
from tests.sweep.rows import FAMILIES, ROWS, seeds

CELLS = re.compile(r"(?<!\\) \| ")
TICK = re.compile(r"✓ \d+( without [^|]+)?|– \([\w ]+\)|– without .+")
SAMPLE = [*ROWS][::15]


def lines() -> dict[str, list[str]]:
    """The cells of every operation on the page, by name."""
    found = {}
    for text in operations.PAGE.read_text("utf-8").splitlines():
        if text.startswith("| ") and not text.startswith(("| ---", "| operation |")):
            cells = [cell.replace("\\|", "|") for cell in CELLS.split(text.removeprefix("| ").removesuffix(" |"))]
            assert cells[0] not in found, f"{cells[0]} stands there twice"
            found[cells[0]] = cells
    return found


def test_texts_are_what_the_program_prints(request: pytest.FixtureRequest) -> None:
    now = {name: list(operations.texts(row)) for name, row in ROWS.items()}
    held = lines()
    if request.config.getoption("--update-golden"):
        text = operations.PAGE.read_text("utf-8")
        for name in held.keys() & now.keys():
            text = text.replace(operations.line(held[name]), operations.line([*now[name], *held[name][operations.TEXTS :]]))
        operations.PAGE.write_text(text, encoding="utf-8")
        held = lines()
    assert list(held) == list(now), "rows have come or gone: make operations"
    different = [f"{name}\n  page {held[name][:4]}\n  now  {now[name]}" for name in now if held[name][: operations.TEXTS] != now[name]]
    assert not different, "\n".join([*different, "pytest tests/test_operations_page.py --update-golden writes what is printed now"])


def test_no_cell_is_empty_and_nothing_has_failed() -> None:
    text = operations.PAGE.read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.M) == list(FAMILIES)
    assert "✗" not in text
    for name, cells in lines().items():
        assert len(cells) == len(operations.COLUMNS) and all(cell.strip() for cell in cells), name
        assert all(TICK.fullmatch(cell) for cell in cells[operations.TEXTS :]), cells


def test_every_row_of_the_registry_is_on_the_page() -> None:
    shown = set()
    for row in ROWS.values():
        y = row.build(*(operations.leaf(name, shape) for name, shape in row.operands.items()))
        shown |= {t.op for t in topological([y])}
    assert set(REGISTRY) - shown == set()


@pytest.mark.parametrize("name", SAMPLE)
def test_ticks_are_earned_again(name: str) -> None:
    """A configuration of every fifteenth row, with the checks that the page has ticked."""
    found = check.outcome(seeds(name, 1)[0])
    assert not found.failed, found
    now, held = operations.ticks([found]), lines()[name][operations.TEXTS :]
    assert [cell[0] for cell in now] == [cell[0] for cell in held]
