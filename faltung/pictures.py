"""Pictures of a trained network: the training curve, the filters, what they respond to, what was misread.

Each function takes arrays and a path, writes one PNG and returns the path. Figures are made without pyplot, so
that no window system and no global state is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faltung.graph.errors import DataError, FaltungError, ShapeError
from faltung.runtime.train import History

if TYPE_CHECKING:
    from faltung.landscape import Surface

Array = np.ndarray

INK, QUIET, RULE = "#1f2430", "#6b7280", "#e3e5ea"
TRAINED, HELD_OUT = "#2f6db5", "#d9622b"
SIGNED, STRENGTH, PAPER, HEAT = "RdBu_r", "magma", "gray_r", "turbo"
DOTS_PER_INCH = 150


def training_curve(history: History, path: str | Path) -> Path:
    """Loss and accuracy over the epochs, trained on and held out."""
    figure = _figure(9.0, 3.6)
    _curves(figure, history)
    return _save(figure, path)


def classified(
    history: History, images: Array, labels: Array, scores: Array, classes: Sequence[str], path: str | Path, each: int = 10
) -> Path:  # fmt: skip
    """The training curve, below it the first pictures and what they were read as, and the surest mistakes among all.

    `images` (n, 1, height, width), `labels` (n,) numbers of names in `classes`, `scores` (n, classes) before softmax.
    """
    shares, read, wrong = _readings(labels, scores)
    figure = _figure(9.0, 7.2)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1])
    _curves(above, history)
    lines = below.subfigures(2, 1)
    titles = (f"The first of {len(labels):,} held-out pictures", f"{len(wrong):,} are misread; the surest mistakes")
    for line, title, rows in zip(lines, titles, (np.arange(len(labels))[:each], wrong[:each]), strict=True):
        _heading(line, title, "as which class, and how surely" if len(rows) else "nothing to show")
        for place, axes in enumerate(line.subplots(1, each)):
            if place >= len(rows):
                axes.axis("off")
                continue
            row = int(rows[place])
            axes.imshow(images[row, 0], cmap=PAPER, vmin=0, vmax=1)
            name = classes[read[row]]
            _bare(axes, name if read[row] == labels[row] else f"is {classes[labels[row]]},\nread {name}")
            axes.set_xlabel(f"{100 * shares[row, read[row]]:.0f} %", fontsize=7, color=QUIET, labelpad=3)
    return _save(figure, path)


def _curves(figure: Any, history: History) -> None:
    if not len(history):
        raise DataError("a training curve needs at least 1 epoch, this history has 0")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = history.column("epoch")
    mark = "o" if len(epochs) == 1 else None  # a line needs two points
    loss_axes.plot(epochs, history.column("loss"), color=TRAINED, linewidth=2, marker=mark)
    loss_axes.set_yscale("log")
    _frame(loss_axes, "Loss", f"training, cross entropy; ends at {history[-1].loss:.3g}")

    title = []
    for name, label, color in [("accuracy", "trained on", TRAINED), ("val_accuracy", "held out", HELD_OUT)]:
        values = [np.nan if value is None else 100 * value for value in history.column(name)]
        if np.isfinite(values).any():
            accuracy_axes.plot(epochs, values, color=color, linewidth=2, marker=mark, label=label)
            title.append(f"{values[-1]:.1f} % {label}")
    if title:
        accuracy_axes.legend(frameon=False, loc="lower right", labelcolor=INK, fontsize=8)
    _frame(accuracy_axes, "Accuracy, %", "; ".join(title))
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch", color=QUIET, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)


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
    shares, read, wrong = _readings(labels, scores)
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


def _readings(labels: Array, scores: Array) -> tuple[Array, Array, Array]:
    """Shares of the classes, the likeliest class, and which samples were misread, the surest first."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    read = shares.argmax(axis=1)
    wrong = np.flatnonzero(read != labels)
    return shares, read, wrong[np.argsort(-shares[wrong, read[wrong]], kind="stable")]


def overlay(picture: Array, heat: Array, share: float = 0.55) -> Array:
    """A picture (height, width, 3) from 0 to 1 with heat (height, width) from 0 to 1 laid over it, as 8-bit colours.

    `share` is how much of the result the heat's colours make up. Raises ShapeError for a heat of another size.
    """
    from matplotlib import colormaps

    if picture.shape != (*heat.shape, 3):
        raise ShapeError(f"overlay: heat {list(heat.shape)} goes over a picture {[*heat.shape, 3]}, got {list(picture.shape)}")
    colours = colormaps[HEAT](np.clip(heat, 0, 1))[..., :3]
    mixed = (1 - share) * np.clip(picture, 0, 1) + share * colours
    return (255 * mixed).round().astype(np.uint8)


def overlays(
    pictures: Array, titles: Sequence[str], maps: Mapping[str, Array], points: Mapping[str, Array], path: str | Path, heading: str
) -> Path:  # fmt: skip
    """Pictures (n, height, width, 3) below one another, each with its heat (n, height, width) by every method.

    `maps` are laid over the picture, beside it; `points`, heat of single pixels, stand alone in a line below, where the
    hottest hundredth is white. Raises DataError for no pictures.
    """
    if not len(pictures):
        raise DataError("heat over pictures needs at least 1 picture, got 0")
    columns, lines = max(1 + len(maps), len(points)), 2 if points else 1
    figure = _figure(1.5 * columns, 1.66 * lines * len(pictures) + 0.4)
    figure.suptitle(heading, fontsize=10, color=INK)
    grid = figure.subplots(lines * len(pictures), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")  # until something is drawn there
    for row, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        for axes, (name, heat) in zip(grid[lines * row], ((title, None), *maps.items()), strict=False):
            axes.imshow(picture if heat is None else overlay(picture, heat[row]))
            axes.set_title(name, fontsize=8, color=INK, pad=3)
        for axes, (name, heat) in zip(grid[lines * row + lines - 1], points.items(), strict=False):
            axes.imshow(heat[row], cmap=STRENGTH, vmin=0, vmax=float(np.percentile(heat[row], 99)) or 1.0)
            axes.set_title(name, fontsize=8, color=INK, pad=3)
    return _save(figure, path)


def landscapes(
    surfaces: Mapping[str, Surface], path: str | Path, heading: str = "The loss around a trained network", highest: float | None = None
) -> Path:
    """Losses on planes through parameters, side by side: contours above, surfaces below, one scale for all.

    Losses above `highest` are cut off there, and those that are not finite; None shows all that are. Raises DataError
    where no loss lies below.
    """
    from matplotlib.ticker import MaxNLocator

    every = np.concatenate([s.loss.ravel() for s in surfaces.values()])
    usable = every[np.isfinite(every)]
    most = highest if highest is not None else float(usable.max(initial=-np.inf))
    least = float(usable.min(initial=np.inf))
    if least > most:
        raise DataError(f"no loss to draw below {most:g}: " + (f"the least is {least:g}" if len(usable) else "none is finite"))
    figure = _figure(3.8 * len(surfaces), 6.8)
    figure.suptitle(heading, fontsize=10, color=INK)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    flat = above.subplots(1, len(surfaces), squeeze=False)[0]
    top = most if most > least else least + 1  # one height still needs a scale
    levels, image = np.linspace(least, top, 25), None
    for number, (name, surface) in enumerate(surfaces.items()):
        loss = np.clip(np.nan_to_num(surface.loss, nan=most, posinf=most), least, most)
        image = flat[number].contourf(surface.a, surface.b, loss.T, levels, cmap=STRENGTH)
        flat[number].contour(surface.a, surface.b, loss.T, levels, colors="white", linewidths=0.3)
        flat[number].set_aspect("equal")
        _frame(flat[number], name, "")
        raised = below.add_subplot(1, len(surfaces), number + 1, projection="3d")
        a, b = np.meshgrid(surface.a, surface.b, indexing="ij")
        raised.plot_surface(a, b, loss, cmap=STRENGTH, vmin=least, vmax=top, rcount=200, ccount=200, linewidth=0.1, edgecolors=INK)
        raised.set_zlim(least, top)
        raised.tick_params(labelsize=6, colors=QUIET)
        raised.view_init(elev=42, azim=-55)
    bar = above.colorbar(image, ax=list(flat), fraction=0.04, pad=0.02, ticks=MaxNLocator(6), format="%g")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7, colors=QUIET)
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

