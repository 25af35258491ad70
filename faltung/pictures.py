"""Pictures of a trained network: the training curve, the filters, what they respond to, what was misread.

Each function takes arrays and a path, writes one PNG and returns the path. Figures are made without pyplot, so
that no window system and no global state is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faltung.graph.errors import DataError, FaltungError
from faltung.runtime.train import History

Array = np.ndarray

INK, QUIET, RULE = "#1f2430", "#6b7280", "#e3e5ea"
TRAINED, HELD_OUT = "#2f6db5", "#d9622b"
SIGNED, STRENGTH, PAPER = "RdBu_r", "magma", "gray_r"
DOTS_PER_INCH = 150


def training_curve(history: History, path: str | Path) -> Path:
    """Loss and accuracy over the epochs, trained on and held out."""
    if not len(history):
        raise DataError("a training curve needs at least 1 epoch, this history has 0")
    figure = _figure(9.0, 3.6)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = history.column("epoch")
    loss_axes.plot(epochs, history.column("loss"), color=TRAINED, linewidth=2)
    loss_axes.set_yscale("log")
    _frame(loss_axes, "Loss", f"training, cross entropy; ends at {history[-1].loss:.3g}")

    title = []
    for name, label, color in [("accuracy", "trained on", TRAINED), ("val_accuracy", "held out", HELD_OUT)]:
        values = [np.nan if value is None else 100 * value for value in history.column(name)]
        if np.isfinite(values).any():
            accuracy_axes.plot(epochs, values, color=color, linewidth=2, label=label)
            title.append(f"{values[-1]:.1f} % {label}")
    if title:
        accuracy_axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    _frame(accuracy_axes, "Accuracy, %", "; ".join(title))
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch", color=QUIET)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _save(figure, path)


def filters(weights: Array, path: str | Path) -> Path:
    """The kernels of a convolution (out, in, height, width), averaged over the input channels, on one scale."""
    kernels = np.asarray(weights, np.float64).mean(axis=1)
    reach = float(np.abs(kernels).max()) or 1.0
    rows, columns = _grid_shape(len(kernels), 8)
    figure = _figure(max(0.95 * columns + 1.0, 5.0), 0.95 * rows + 0.9)
    _heading(figure, f"{len(kernels)} learned filters", "red adds to the response, blue takes away")
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for number, axes in enumerate(grid.flat):
        if number >= len(kernels):
            axes.axis("off")
            continue
        image = axes.imshow(kernels[number], cmap=SIGNED, vmin=-reach, vmax=reach)
        _bare(axes, str(number))
    bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7, colors=QUIET)
    return _save(figure, path)


def feature_maps(picture: Array, maps: Array, path: str | Path, layer: str = "first convolution") -> Path:
    """One picture (height, width) beside the responses (channels, height, width) of a layer to it, on one scale."""
    rows, columns = _grid_shape(len(maps), 8)
    figure = _figure(0.95 * columns + 3.4, 0.95 * rows + 0.8)
    _heading(figure, f"What the {layer} sees", "bright where a filter responds; numbers are those of the filters")
    left, right = figure.subfigures(1, 2, width_ratios=[2.6, 0.95 * columns])
    _bare(axes := left.subplots(), "the digit")
    axes.imshow(picture, cmap=PAPER, vmin=0, vmax=1)
    strongest = float(maps.max()) or 1.0
    for number, axes in enumerate(right.subplots(rows, columns, squeeze=False).flat):
        if number >= len(maps):
            axes.axis("off")
            continue
        axes.imshow(maps[number], cmap=STRENGTH, vmin=0, vmax=strongest)
        _bare(axes, str(number))
    return _save(figure, path)


def mistakes(images: Array, labels: Array, scores: Array, path: str | Path, most: int = 24) -> Path:
    """The misread digits, the surest mistakes first: what it is, what it was taken for, and how surely.

    `images` (n, 1, height, width), `labels` (n,), `scores` (n, classes) before softmax.
    """
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    read = shares.argmax(axis=1)
    wrong = np.flatnonzero(read != labels)
    wrong = wrong[np.argsort(-shares[wrong, read[wrong]], kind="stable")]
    shown = wrong[:most]
    rows, columns = _grid_shape(max(len(shown), 1), 8)
    figure = _figure(max(1.15 * columns + 0.3, 5.0), 1.42 * rows + 0.7)
    subtitle = "the surest first" if len(shown) == len(wrong) else f"the {len(shown)} surest"
    _heading(figure, f"{len(wrong)} of {len(labels)} held-out digits misread", subtitle if len(wrong) else "nothing to show")
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if place >= len(shown):
            axes.axis("off")
            continue
        row = int(shown[place])
        axes.imshow(images[row, 0], cmap=PAPER, vmin=0, vmax=1)
        _bare(axes, f"{labels[row]} read as {read[row]}")
        axes.set_xlabel(f"{100 * shares[row, read[row]]:.0f} % sure", fontsize=7, color=QUIET, labelpad=3)
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as reason:
        raise FaltungError('pictures need matplotlib: pip install "faltung[demo]"') from reason
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    try:
        figure.savefig(path)
    except OSError as reason:
        raise DataError(f"{path}: cannot be written: {reason}") from reason
    return path


def _heading(figure: Any, title: str, subtitle: str) -> None:
    figure.suptitle(f"{title}  ·  {subtitle}", fontsize=9, color=INK)


def _frame(axes: Any, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}  ·  {subtitle}" if subtitle else title, fontsize=9, color=INK, loc="left")
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=8, length=0, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def _bare(axes: Any, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7, color=INK, pad=3)
    for spine in axes.spines.values():
        spine.set_color(RULE)


def _grid_shape(count: int, widest: int) -> tuple[int, int]:
    """Rows and columns for that many cells, evenly filled."""
    rows = -(-count // widest)
    return rows, -(-count // rows)

