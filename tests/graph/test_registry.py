"""An op is its equation: the tables hold text, and nothing else in the graph layer knows an op by name."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import sympy

from faltung.graph import derive, dsl, evaluate, grad, ops, parse
from faltung.graph.evaluate import EXACT, SYMBOLIC
from faltung.graph.functions import TABLE
from faltung.graph.ops import REGISTRY, Op
from faltung.graph.ops.table import apply, row
from faltung.graph.parse import operand_names
from tests.check import integers, leaves

FOLDER = Path(inspect.getfile(ops)).parent
TABLES = sorted(p for p in FOLDER.glob("*.py") if p.name not in ("__init__.py", "table.py"))


@pytest.mark.parametrize("op", list(REGISTRY.values()), ids=list(REGISTRY))
def test_a_row_is_text(op: Op) -> None:
    assert [f.name for f in fields(op)] == ["name", "operands", "equations", "optional"]
    assert isinstance(op.name, str)
    assert all(isinstance(text, str) for text in (*op.operands, *op.equations, *(op.optional or ())))
    assert op.optional is None or len(op.optional) == 2
    assert REGISTRY[op.name] is op


@pytest.mark.parametrize("op", list(REGISTRY.values()), ids=list(REGISTRY))
def test_a_row_reads_its_operands_and_what_it_defines(op: Op) -> None:
    known = set(op.operands)
    words = {"all": "i,j", "kept": "i", "over": "j", "to": "j,i", "pre": "", "post": "", "position": "j", "element": "j"}
    for text in op.equations:
        read = operand_names(text.format(**words) if "{" in text else text)
        assert set(read) <= known
        known.add(text.split("[")[0])
    assert known >= set(op.operands)


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_table_holds_rows_only(path: Path) -> None:
    """Docstring, imports, and assignments of strings and of tuples of row(…) calls on constants."""
    body = ast.parse(path.read_text("utf-8")).body
    assert ast.get_docstring(ast.Module(body, [])), "the first line says what the table is"

    def text(node: ast.expr) -> bool:
        """A string, a name of one, or constants in a tuple."""
        if isinstance(node, ast.Tuple):
            return all(map(text, node.elts))
        return isinstance(node, (ast.Constant, ast.Name))

    def a_row(node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "row"
            and all(map(text, (*node.args, *(k.value for k in node.keywords))))
        )

    for statement in body[1:]:
        if isinstance(statement, ast.ImportFrom):
            assert statement.module in ("__future__", "faltung.graph.ops.table")
            continue
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        value = statement.value
        assert text(value) or (isinstance(value, ast.Tuple) and all(map(a_row, value.elts))), ast.unparse(statement)
    assert len(TABLES) >= 5


@pytest.mark.parametrize("module", (derive, grad, evaluate, parse), ids=lambda m: m.__name__)
def test_no_stage_knows_an_op(module: object) -> None:
    """Derivation, evaluation and parsing neither define something named after an op nor ask for its name."""
    scalar = set(TABLE) | {"sum", "max", "min", "argmax", "argmin"}  # reductions and functions of the grammar, not ops
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    named = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    suspects = {f"{op}{suffix}" for op in REGISTRY for suffix in ("", "_backward", "_grad", "_vjp", "_shape", "_numpy", "_value")}
    assert not {n.lstrip("_") for n in named} & (suspects - {"sum"})
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not strings & (set(REGISTRY) - scalar)


def test_an_op_of_the_interface_is_a_row_and_no_arithmetic() -> None:
    """The interface checks arguments and applies rows; NumPy serves there for types and constants only."""
    path = Path(inspect.getfile(dsl))
    used: set[str] = set()
    for file in path.parent.glob("*.py") if path.stem == "__init__" else [path]:
        tree = ast.parse(file.read_text("utf-8"))
        used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "np"}
    assert used
    assert used <= {"array", "ascontiguousarray", "asarray", "bool_", "dtype", "generic", "integer", "int32", "ndarray", "number", "transpose", "zeros"}


def test_a_new_row_has_everything_at_once() -> None:
    """Shape, value in three arithmetics, derivative, print and LaTeX of an op that nobody has seen before."""
    op = row("correlated_squares", "X G", "Y[n,i] = sum(p: X[n,s*i+p-1] * X[n,s*i+p-1] * G[p])")
    x, g = leaves([integers((2, 5)), integers((3,), 1)])
    y = apply(op, [x, g], attributes={"s": 2})
    assert y.shape == (2, 3)
    assert str(y.equation) == "Y[n,i] = Σ_{p} X[n,2·i+p-1]·X[n,2·i+p-1]·G[p]"
    assert y.latex() == r"Y_{n, i} = \sum_{p} X_{n, 2 i+p-1} \, X_{n, 2 i+p-1} \, G_{p}"
    at = {x: integers((2, 5)), g: integers((3,), 1)}
    assert (evaluate.evaluate(y, at, EXACT) == evaluate.evaluate(y, at)).all()
    weights = sympy.symbols("g:3")
    symbolic = evaluate.evaluate(y, {x: at[x].astype(int), g: weights}, SYMBOLIC)
    derived = evaluate.evaluate(grad.grad(y.sum(), g), at, EXACT)
    assert [sympy.diff(sum(symbolic.ravel()), w) for w in weights] == derived.tolist()
