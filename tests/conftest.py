"""Fixtures for every test: golden text, and a kernel cache of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what the tests print to tests/golden/")


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache, unless FALTUNG_CACHE is set on purpose."""
    os.environ.setdefault("FALTUNG_CACHE", str(tmp_path_factory.mktemp("kernels")))


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
