"""Pictures: each is written, for ordinary results and for the odd ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from faltung import pictures
from faltung.graph.errors import DataError, ShapeError
from faltung.runtime.train import History, Record


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def history(*held_out: float | None) -> History:
    return History([Record(n + 1, 1 / (n + 1), 0.9, value, 0.1, 1.0, 1.0) for n, value in enumerate(held_out)])


def test_training_curves(tmp_path: Path) -> None:
    for number, run in enumerate([history(0.5, 0.9), history(0.5), history(None, None)]):
        width, height = size(pictures.training_curve(run, tmp_path / f"{number}.png"))
        assert width > 2 * height > 800
    with pytest.raises(DataError, match="at least 1 epoch"):
        pictures.training_curve(history(), tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be written"):
        pictures.training_curve(history(0.5), tmp_path / "missing" / "x.png")


@pytest.mark.parametrize("count", [1, 5, 32])
def test_filters_and_maps(tmp_path: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    size(pictures.filters(generator.normal(size=(count, 2, 3, 3)), tmp_path / "filters.png"))
    size(pictures.filters(np.zeros((count, 1, 5, 5)), tmp_path / "zeros.png"))
    picture = generator.random((28, 28))
    size(pictures.feature_maps(picture, generator.random((count, 14, 14)), tmp_path / "maps.png"))
    size(pictures.feature_maps(picture, np.zeros((count, 14, 14)), tmp_path / "dark.png"))


@pytest.mark.parametrize("wrong", [0, 1, 9, 40])
def test_mistakes(tmp_path: Path, wrong: int) -> None:
    images, labels = np.random.default_rng(0).random((50, 1, 28, 28)), np.arange(50) % 10
    scores = 5 * np.eye(10)[(labels + (np.arange(50) < wrong)) % 10]
    size(pictures.mistakes(images, labels, scores, tmp_path / "mistakes.png"))


def test_heat_over_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    seen, heat = generator.random((2, 12, 16, 3)), generator.random((2, 12, 16))
    mixed = pictures.overlay(seen[0], heat[0])
    assert mixed.dtype == np.uint8 and mixed.shape == (12, 16, 3)
    assert (pictures.overlay(seen[0], heat[0], share=0) == (255 * seen[0]).round()).all()
    with pytest.raises(ShapeError, match=r"goes over a picture \[12, 15, 3\]"):
        pictures.overlay(seen[0], heat[0, :, 1:])
    places = tmp_path / "one line.png", tmp_path / "two lines.png"
    flat = size(pictures.overlays(seen, ["a", "b"], {"map": heat, "other": 0 * heat}, {}, places[0], "heat"))
    high = size(pictures.overlays(seen, ["a", "b"], {"map": heat}, {"p": heat, "q": heat, "r": 0 * heat}, places[1], "heat"))
    assert flat[0] == high[0] and flat[1] < high[1] < 2 * flat[1]  # three columns each, a second line for points
    with pytest.raises(DataError, match="at least 1 picture"):
        pictures.overlays(seen[:0], [], {}, {}, tmp_path / "none.png", "heat")
