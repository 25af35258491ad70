"""What a network, an equation or a saved file is, as lines for a person and values for a program.

    network     every tensor of the forward graph as its equation, then the derived gradient of every parameter
    equation    its free and bound indices and shape, then the derived gradient of every operand
    file        names, shapes and types; of a checkpoint, how far the run was
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faltung.graph.errors import EquationError, ShapeError

Shape = tuple[int | None, ...]
Found = tuple[list[str], dict[str, Any]]


@dataclass(frozen=True)
class Style:
    """How equations are written, and whether derivations are."""

    latex: bool = False
    steps: bool = False


@dataclass
class _Report:
    style: Style
    lines: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, role: str, name: str, tensor: Any) -> None:
        """One tensor: its name, shape and what it is recognised as on a line, its equations below."""
        from faltung.graph import naming

        shape = _shape(tensor.shape)
        kinds = [naming.name(eq, [t.shape for t in tensor.operands]) for eq in tensor.equations]
        texts = [eq.latex() if self.style.latex else str(eq) for eq in tensor.equations]
        self.lines.append(f"{name}  {shape}  {tensor.dtype}  {kinds[0] if kinds else tensor.kind}")
        self.lines += [f"    {text}" for text in texts]
        if self.style.steps:
            self.lines += [f"      {step.title}: {step.text}" for step in tensor.steps()]
        row = {"role": role, "name": name, "shape": [None if _open(e) else e for e in tensor.shape]}
        row |= {"dtype": tensor.dtype, "kinds": kinds, "equations": texts}
        if self.style.steps:
            row["steps"] = [[step.title, step.text] for step in tensor.steps()]
        self.rows.append(row)

    def title(self, text: str) -> None:
        self.lines += ["", text] if self.lines else [text]


def inspect(what: str, shapes: Mapping[str, Shape] | None = None, latex: bool = False, steps: bool = False) -> Found:
    """Tell what `what` is: a file if there is one or the name ends as weights do, text with `=` an equation, else a network.

    `shapes` gives the shape of each operand of an equation, None for an open batch size. Raises EquationError,
    ShapeError, CheckpointError or UnsupportedOp.
    """
    from faltung import weights

    style = Style(latex, steps)
    is_file = os.path.isfile(what) or Path(what).suffix in weights.ENDINGS
    if not is_file and "=" in what:
        return equation(what, shapes or {}, style)
    if shapes:
        raise ShapeError(f"--shape is for the operands of an equation, and {what!r} is none: it has no =")
    return file(what) if is_file or os.path.isdir(what) else network(what, style)


def network(name: str, style: Style = Style()) -> Found:
    """The equations of a network of the zoo, for pictures of its size, and the gradients of its parameters."""
    import faltung as ft
    from faltung import zoo
    from faltung.demo import graph_of
    from faltung.graph.tensor import topological

    net = zoo.build(name)
    x, y, loss = graph_of(net, zoo.TABLE[name].input)
    parameters = dict(net.named_parameters())
    report = _Report(style)
    report.title(f"{name}: {_shape(x.shape)} → {_shape(y.shape)}")
    for number, tensor in enumerate(t for t in topological([loss]) if not t.is_leaf):
        report.add("forward", tensor.name or f"{number}", tensor)
    report.title("derived gradients of the loss")
    for key, gradient in ft.grad(loss, parameters).items():
        report.add("gradient", key, gradient)
    return report.lines, {"network": name, "tensors": report.rows}


def equation(text: str, shapes: Mapping[str, Shape], style: Style = Style()) -> Found:
    """One equation in index notation over operands of the given shapes, and its derivative by each of them."""
    from faltung.graph.dsl import input as leaf
    from faltung.graph.grad import grad
    from faltung.graph.parse import operand_names, parse
    from faltung.graph.show import bar
    from faltung.graph.tensor import computed

    names = operand_names(text)
    if strange := [name for name in shapes if name not in names]:
        raise ShapeError(f"{', '.join(strange)}: no operand of the equation, whose operands are {', '.join(names) or 'none'}")
    missing = [name for name in names if name not in shapes]
    if missing:
        wanted = " ".join(f"--shape {name}=…" for name in missing)
        raise ShapeError(f"the shape rule solves the indices' ranges from the operands' extents: add {wanted}, such as X=N,3,8,8")
    operands = [leaf(name, shapes[name]) for name in names]
    eq = parse(text, [operand.shape for operand in operands], operands=names)
    output = computed(eq, operands)
    report = _Report(style)
    report.add("equation", eq.target, output)
    report.lines.append("    " + "; ".join([f"free {', '.join(eq.free)}"] + [f"bound {', '.join(eq.bound)}"] * bool(eq.bound)))
    report.title("derived gradients")
    cotangent = leaf(bar(eq.target), tuple(None if _open(e) else e for e in output.shape))
    for name, gradient in grad(output, dict(zip(names, operands, strict=True)), cotangent).items():
        report.add("gradient", name, gradient)
    return report.lines, {"equation": text, "tensors": report.rows}


def file(path: str | Path) -> Found:
    """What a file of weights or a checkpoint holds, told by its content. Raises CheckpointError."""
    from faltung import weights

    tensors, progress = weights.contents(path)
    rows = [{"name": name, "shape": list(a.shape), "dtype": str(a.dtype)} for name, a in sorted(tensors.items())]
    total = sum(a.size for a in tensors.values())
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [f"{row['name']:{width}}  {row['dtype']:8} {_shape(row['shape'])}" for row in rows]
    lines.append(f"{len(rows)} arrays, {total:,} numbers, {sum(a.nbytes for a in tensors.values()) / 2**20:.2f} MiB")
    values: dict[str, Any] = {"file": str(path), "arrays": rows, "numbers": total}
    if progress is not None:
        values["run"] = progress.get("run")
        lines.append(f"checkpoint of the run {progress.get('run')}")
    return lines, values


def shape_argument(text: str) -> tuple[str, Shape]:
    """`X=N,3,8,8` as a name and a shape; N is the open batch size. Raises EquationError otherwise."""
    name, mark, extents = text.partition("=")
    try:
        shape = tuple(None if part.strip() == "N" else int(part) for part in extents.split(",")) if extents else ()
    except ValueError:
        mark = ""
    if not mark or not name.strip():
        raise EquationError(f"{text!r} is no shape: write NAME=extents, such as X=N,3,8,8")
    return name.strip(), shape


def _open(extent: Any) -> bool:
    return not isinstance(extent, int)


def _shape(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"
