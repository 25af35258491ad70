"""Fixtures for every test: golden text, a kernel cache apart from the user's, and figures for the summary."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SAID = "said"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what the tests print to tests/golden/")


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache, unless FALTUNG_CACHE is set on purpose."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"  # shared by the workers of a run
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("FALTUNG_CACHE", str(folder))


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """`say(text)` prints a line when all tests have run, whichever process they ran in."""
    return lambda text: record_property(SAID, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == SAID:
                terminalreporter.write_line(str(text))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`golden(text, name="")` compares text with tests/golden/<test file>/<test name>[-name].txt."""

    def check(text: str, name: str = "") -> None:
        test = request.node.name.replace("/", "_") + (f"-{name}" if name else "")
        path = GOLDEN / Path(str(request.node.path)).stem / f"{test}.txt"
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden text {path.name}: run pytest --update-golden and read what it writes"
        assert text == path.read_text(encoding="utf-8")

    return check
