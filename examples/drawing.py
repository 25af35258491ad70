"""What the examples share: a command line, photos to work on, and how their pictures look.

Photos are those that the package scikit-image ships; they come with: pip install "faltung[examples]"
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from faltung import photos
from faltung.graph.errors import DataError
from faltung.pictures import HELD_OUT as RED, INK, QUIET, RULE, SIGNED, TRAINED as BLUE

GALLERY = Path(__file__).parent.parent / "docs" / "gallery"
__all__ = ["BLUE", "INK", "QUIET", "RED", "SIGNED", "arguments", "canvas", "cells", "figure", "frame", "photo", "save", "show"]


def arguments(about: str | None, name: str) -> argparse.Namespace:
    """`short`, and `out`, the file of the picture: `name` in the gallery unless a file or a folder is given."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=GALLERY / name, help="the picture, or the folder it goes to")
    parser.add_argument("--short", action="store_true", help="as little work as shows that everything runs")
    given = parser.parse_args()
    given.out = given.out if given.out.suffix else given.out / name
    given.out.parent.mkdir(parents=True, exist_ok=True)
    return given


def photo(name: str, side: int) -> np.ndarray:
    """The square in the middle of a photo: (3, side, side), whole numbers from 0 to 255 as float32. Raises DataError."""
    spec = find_spec("skimage")
    places = spec.submodule_search_locations if spec is not None else None
    found = [path for place in places or () for path in Path(place, "data").glob(f"{name}.*")]
    if not found:
        raise DataError(f'no photo {name}: photos are those of scikit-image: pip install "faltung[examples]"')
    picture = photos.crop(photos.resize(photos.read(found[0]), side), side)
    return (255 * picture.clip(0, 1)).round().transpose(2, 0, 1)


def canvas(width: float, height: float) -> Any:
    """An empty figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **how: Any) -> tuple[Any, Any]:
    """A figure of that many inches, and its axes as an array (rows, columns)."""
    drawn = canvas(width, height)
    return drawn, drawn.subplots(rows, columns, squeeze=False, **how)


def show(axes: Any, picture: np.ndarray, title: str = "", signed: bool = False, **how: Any) -> None:
    """A picture (height, width) or (3, height, width): from 0 to 255, or signed from blue through white to red."""
    reach = float(np.abs(picture).max()) or 1.0
    limits = {"cmap": SIGNED, "vmin": -reach, "vmax": reach} if signed else {"cmap": "gray", "vmin": 0, "vmax": 255}
    axes.imshow((picture.transpose(1, 2, 0) / 255).clip(0, 1) if picture.ndim == 3 else picture, **limits | how)
    _bare(axes, title)


def cells(axes: Any, matrix: np.ndarray, title: str = "", marked: np.ndarray | None = None, reach: float | None = None) -> None:
    """A matrix as numbers in cells, coloured by sign and size; the marked ones in bold type."""
    reach = reach or float(np.abs(matrix).max()) or 1.0
    axes.imshow(matrix, cmap=SIGNED, vmin=-2 * reach, vmax=2 * reach)  # half of the colours: numbers stay readable
    for (i, j), value in np.ndenumerate(matrix):
        bold = marked is not None and bool(marked[i, j])
        axes.text(j, i, f"{value:g}", ha="center", va="center", color=INK, fontsize=11, weight="bold" if bold else "normal")
    for line, count in zip((axes.axhline, axes.axvline), matrix.shape, strict=True):
        for edge in range(1, count):
            line(edge - 0.5, color="white", linewidth=1.5)
    _bare(axes, title)


def frame(axes: Any, title: str, across: str) -> None:
    """The frame of a diagram, quiet, with a title and what counts across."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(across, color=QUIET)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.spines[:].set_visible(False)


def save(drawn: Any, path: Path) -> None:
    """Write the picture and say so."""
    drawn.savefig(path)
    print(f"wrote {path}")


def _bare(axes: Any, title: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9, color=INK, pad=4)
    axes.spines[:].set_visible(False)
