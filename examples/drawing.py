"""What the examples share: a command line, and how their pictures look."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from faltung.pictures import HELD_OUT as RED, INK, QUIET, RULE, SIGNED, TRAINED as BLUE

CYAN = "#00e5ff"
FOLDER = Path("demo-output")
__all__ = ["BLUE", "CYAN", "INK", "QUIET", "RED", "SIGNED", "arguments", "canvas", "cells", "figure", "frame", "outline", "save", "show"]


def arguments(about: str | None, name: str, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """`short`, and `out`, the file of the picture: demo-output/`name` unless a file or a folder is given.

    Whatever else an example takes, it has added to the `parser`.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = (about or "").partition("\n")[0]
    parser.add_argument("--out", type=Path, default=FOLDER / name, help="the picture, or the folder it goes to")
    parser.add_argument("--short", action="store_true", help="as little work as shows that everything runs")
    given = parser.parse_args()
    given.out = given.out if given.out.suffix else given.out / name
    given.out.parent.mkdir(parents=True, exist_ok=True)
    return given


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


def outline(axes: Any, top: float, left: float, side: int, color: str) -> None:
    """A square around that many pixels of a picture."""
    y, x = np.array([0, 0, side, side, 0]) + top - 0.5, np.array([0, side, side, 0, 0]) + left - 0.5
    axes.plot(x, y, color=color, linewidth=1.5)


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
