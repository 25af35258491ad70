"""The arrow faltung → runtime → codegen → graph, and what an import may load, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("graph", "codegen", "runtime")

# folder      may import from
MAY_IMPORT = {
    "graph": {"graph"},
    "codegen": {"graph", "codegen"},
    "runtime": {"graph", "codegen", "runtime"},
    "faltung": {"graph", "codegen", "runtime", "faltung"},
}

HEAVY = {"sympy", "networkx", "matplotlib", "scipy", "tqdm", "torch", "onnx", "onnxruntime", "mlxtend", "pandas"}
LIGHT_IMPORT = {*HEAVY, "llvmlite", "safetensors"}
ENVIRONMENT = "codegen/config.py"

FILES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> list[str]:
    """The dotted name of a file once installed: graph/index.py is faltung.graph.index."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts if parts[0] == "faltung" else ["faltung", *parts]


def stage(target: str) -> str | None:
    """The folder that a dotted name lives in, None where it is not ours."""
    parts = target.split(".")
    if parts[0] != "faltung":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in STAGES else "faltung"


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that is imported; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module(path)[: -1 if path.stem != "__init__" else None]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base]).rstrip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The tree without function bodies and without what stands under TYPE_CHECKING."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            test = node.test
            guarded = isinstance(test, ast.Name | ast.Attribute) and ast.unparse(test).endswith("TYPE_CHECKING")
            return None if guarded else self.generic_visit(node)

    return Prune().visit(tree)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    wrong = [
        f"line {line}: {target}"
        for line, target in imports(ast.parse(path.read_text("utf-8")), path)
        if stage(target) not in {None, *MAY_IMPORT[folder]} or target.split(".")[0] in STAGES
    ]
    assert not wrong, f"{name(path)} may import from {sorted(MAY_IMPORT[folder])} only: {wrong}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_heavy_modules_are_imported_inside_functions(path: Path) -> None:
    tree = at_import_time(ast.parse(path.read_text("utf-8")))
    wrong = [f"line {line}: {target}" for line, target in imports(tree, path) if target.split(".")[0] in HEAVY]
    assert not wrong, wrong


@pytest.mark.parametrize("path", [path for path in FILES if name(path) != ENVIRONMENT], ids=name)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    wrong = [
        f"line {node.lineno}"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"})
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and {"environ", "getenv"} & {a.name for a in node.names})
    ]
    assert not wrong, f"{name(path)} reads the environment, {ENVIRONMENT} is the place: {wrong}"


def test_importing_the_face_is_light() -> None:
    code = f"import faltung, sys; heavy = {LIGHT_IMPORT!r} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    present = {".".join(module(path)[:-1]) for path in FILES if path.name == "__init__.py"}
    assert set(listed) == present
