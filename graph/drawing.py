"""A matrix for readers: a table with lines between its blocks, LaTeX, or a line that sums it up.

Blocks are lines of an image: where the last axis of x begins anew there is a vertical line, for y a horizontal one.
"""

from __future__ import annotations

import re
from typing import Any

from faltung.graph.errors import UnsupportedOp
from faltung.graph.matrix import Matrix
from faltung.graph.show import latex_name

MOST_ROWS, WIDEST = 64, 200  # lines and characters of a table
LATEX_SIDE = 64  # rows or columns in LaTeX

# as SymPy writes                          as we write
WRITTEN = (
    (r"Piecewise\(\(1, (.+?)\), \(0, True\)\)", r"[\1]"),
    (r"Eq\((.+?), (.+?)\)",                    r"\1 = \2"),
    (r"Ne\((.+?), (.+?)\)",                    r"\1 ≠ \2"),
    (r"sqrt\(",                               "√("),
    (r"\*\*2\b",                              "²"),
    (r"\*\*(\d+)",                            r"^\1"),
    (r"\*",                                   "·"),
)  # fmt: skip


def summary(matrix: Matrix) -> str:
    """`matrix 4×16 of (2, 2) from (4, 4): 36 entries, 43.8 % zeros, …`"""
    m, n = matrix.shape
    text = f"matrix {m}×{n} of {matrix.rows} from {matrix.columns}: {matrix.nnz:,} entries"
    if m and n:
        text += f", {100 - 100 * matrix.nnz / (m * n):.{1 if m * n < 10**6 else 4}f} % zeros"
    high, wide = block(matrix.rows), block(matrix.columns)
    return text + (f", in blocks of {high}×{wide}" if high < m or wide < n else "")


def block(shape: tuple[int, ...]) -> int:
    """How many rows or columns make a block: a line of the image."""
    return shape[-1] if shape else 1


def table(matrix: Matrix) -> str:
    """The entries in rows and columns, what is added behind `+`; nothing where that is too large to be read."""
    m, n = matrix.shape
    if not 0 < m <= MOST_ROWS or not 0 < 2 * n <= WIDEST:
        return ""
    try:
        symbols = matrix.symbols
    except UnsupportedOp:
        return ""
    cells = [[text(e) for e in row] for row in symbols.toarray()]
    offsets = [text(e) for e in symbols.offset.reshape(-1)]
    tails = [f"  +  {o}" if any(e != "0" for e in offsets) else "" for o in offsets]
    widths = [max(len(row[c]) for row in cells) for c in range(n)]
    high, wide = block(matrix.rows), block(matrix.columns)
    groups = [range(c, c + wide) for c in range(0, n, wide)] if wide > 1 else [range(n)]
    lines = [" │ ".join(" ".join(row[c].ljust(widths[c]) for c in g) for g in groups) + tail for row, tail in zip(cells, tails, strict=True)]
    if len(lines[0]) > WIDEST:
        return ""
    rule = "─┼─".join("─" * (sum(widths[c] + 1 for c in g) - 1) for g in groups)
    drawn = [part for r, line in enumerate(lines) for part in ([rule] if r and high > 1 and r % high == 0 else []) + [line.rstrip()]]
    return "\n".join(drawn)


def text(e: Any) -> str:
    """An entry as equations are written."""
    from sympy import sstr

    written = sstr(e, full_prec=False)
    for pattern, instead in WRITTEN:
        written = re.sub(pattern, instead, written)
    return written


def latex(matrix: Matrix) -> str:
    """See Matrix.latex."""
    import sympy

    m, n = matrix.shape
    if max(m, n) > LATEX_SIDE:
        raise UnsupportedOp(f"latex: A has {m} rows and {n} columns; at most {LATEX_SIDE} of each can be read; a smaller image has the same pattern")
    array = matrix.symbols.toarray()
    names = {s: _latex_name(s.name) for e in array.reshape(-1) for s in sympy.sympify(e).free_symbols}
    high, wide = block(matrix.rows), block(matrix.columns)
    columns = "|".join(["c" * wide] * (n // wide)) if wide > 1 else "c" * n
    rows = [" & ".join(sympy.latex(e, symbol_names=names) for e in row) for row in array]
    body = " \\\\\n".join(("\\hline\n" if r and high > 1 and r % high == 0 else "") + row for r, row in enumerate(rows))
    return f"\\left(\\begin{{array}}{{{columns}}}\n{body}\n\\end{{array}}\\right)"


def _latex_name(element: str) -> str:
    """`K2[0,1]` as `K^{(2)}_{0,1}`."""
    name, _, index = element.rstrip("]").partition("[")
    return latex_name(name) + (f"_{{{index}}}" if index else "")
