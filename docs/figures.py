"""Draws docs/overview.png: an equation, its derived gradients, the loops they become, and what was learned with them.

    python docs/figures.py [FOLDER]

Everything on the picture is what the program itself prints or computes; nothing is typed in here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

import faltung as ft
from faltung import zoo
from faltung.codegen import show
from faltung.datasets import mnist
from faltung.demo import train
from faltung.runtime.train import History

INK, QUIET, RULE, BLUE, RED = "#1f2430", "#6b7280", "#d5d9e0", "#2f6db5", "#d9622b"
EPOCHS, LINES, WIDTH = 6, 33, 66
ELIDED = re.compile(r"( [+-] )?[._]?\d+( [+-] )?")


def convolution() -> tuple[ft.Tensor, dict[str, ft.Tensor]]:
    """A padded 3×3 convolution of 32 channels with 32, and its derived gradients."""
    x = ft.input("x", (None, 32, 14, 14))
    k, b = ft.parameter(np.zeros((32, 32, 3, 3)), "k"), ft.parameter(np.zeros(32), "b")
    y = ft.conv2d(x, k, b, padding=1)
    return y, ft.grad((y * y).sum(), {"x": x, "k": k, "b": b})


def elided(text: str) -> list[str]:
    """The lines of a kernel, with what is merely written out again replaced by one line of dots."""
    lines = text.splitlines()
    shapes = [ELIDED.sub("", line) for line in lines]
    found: list[str] = []
    at = 0
    while at < len(lines):
        period = next((p for p in (1, 2, 3, 4) if shapes[at : at + p] == shapes[at + p : at + 2 * p]), None)
        if period is None:
            found.append(lines[at])
            at += 1
            continue
        group, end = shapes[at : at + period], at
        while shapes[end : end + period] == group:
            end += period
        indent = " " * (len(lines[at]) - len(lines[at].lstrip()))
        found += [*lines[at : at + period], f"{indent}… {(end - at) // period} times in all"]
        at = end
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in found]


def digits() -> tuple[np.ndarray, History]:
    """The filters of the demo's first layer after a few epochs, and how the epochs went."""
    ft.manual_seed(0)
    net = zoo.digits()
    history = train(net, mnist(), epochs=EPOCHS, progress=False)
    return net.state_dict()["0.weight"][:, 0], history


def draw(path: Path) -> None:
    """The picture, written to `path`."""
    from matplotlib.figure import Figure

    y, gradients = convolution()
    (step,) = ft.compile(y).program.steps
    weights, history = digits()
    figure = Figure(figsize=(13.2, 8.0), facecolor="white")

    def write(x: float, y: float, text: str, size: float, color: str = INK, **how: Any) -> None:
        figure.text(x, y, text, fontsize=size, color=color, va="top", **how)

    def head(x: float, y: float, title: str, about: str) -> None:
        write(x, y, title, 14, weight="bold")
        write(x, y - 0.036, about, 10.5, QUIET)

    head(0.03, 0.97, "1  You write an equation", "a convolution is this line and nothing else")
    write(0.03, 0.895, f"${y.equation.latex()}$", 14)
    head(0.03, 0.78, "2  Its gradients are derived", "equations again: shown, differentiated, compiled like any other")
    at = 0.705
    for tensor in gradients.values():
        write(0.03, at, f"${tensor.equation.latex()}$", 14)
        write(0.03, at - 0.075, tensor.steps()[-1].text, 10.5, QUIET)
        at -= 0.122

    head(0.50, 0.97, "3  A schedule writes loops", f"{step.schedule}, for 16 lanes; LLVM makes machine code of them")
    lines = elided(show.text(step.kernel))
    shown = [line.removeprefix("  ") for line in lines[1:LINES]] + ["    …"] * (len(lines) > LINES)
    write(0.50, 0.89, "\n".join(shown), 9.6, family="monospace", linespacing=1.32)

    head(0.03, 0.325, "4  Networks learn with them", f"the {len(weights)} filters of the demo's first layer: red adds, blue takes away")
    reach = float(np.abs(weights).max())
    for n, kernel in enumerate(weights):
        axes = figure.add_axes((0.03 + 0.0262 * (n % 16), 0.190 - 0.056 * (n // 16), 0.0235, 0.05))
        axes.imshow(kernel, cmap="RdBu_r", vmin=-reach, vmax=reach)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(RULE)

    axes = figure.add_axes((0.545, 0.085, 0.42, 0.165))
    epochs = history.column("epoch")
    axes.plot(epochs, [100 * v for v in history.column("accuracy")], color=BLUE, linewidth=2, label="trained on, shifted")
    axes.plot(epochs, [100 * v for v in history.column("val_accuracy")], color=RED, linewidth=2, label="held out")
    axes.set_xlabel("epoch", color=QUIET)
    axes.set_ylabel("accuracy, %", color=QUIET)
    axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=QUIET)
    write(0.50, 0.325 - 0.036, f"{100 * history[-1].val_accuracy:.1f} % of 1,000 held-out digits after {EPOCHS} passes over 4,000", 10.5, QUIET)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Draw into the folder that is named, or beside this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "overview.png")


if __name__ == "__main__":
    main()
