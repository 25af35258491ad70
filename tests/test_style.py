"""How the sources read: small files, a purpose said first, nothing unfinished, nothing of one machine."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("graph", "codegen", "runtime", "faltung", "bench", "examples", "tests")
LONGEST = 450
ITSELF = Path(__file__).resolve()

# what must not be in a source      why
FORBIDDEN = {
    r"\b(TODO|FIXME|XXX|HACK)\b": "unfinished work is finished or not begun",
    r"raise NotImplementedError": "no stubs; UnsupportedOp says what is not built",
    r"(?<![\w.])/(home|root|work|Users)/\w": "a path of one machine",
    r"https?://[^\s\"')]*(pypi|simple/|index-url)": "a registry's address",
    r"\bexcept\s*:": "catches what nobody foresaw",
    r"#\s*type:\s*ignore(?!\[)": "name the check that is ignored",
}
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)", re.IGNORECASE)

FILES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path.resolve() != ITSELF
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_source_file(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    faults = [
        f"line {number}: {why}: {line.strip()}"
        for number, line in enumerate(lines, 1)
        for pattern, why in FORBIDDEN.items()
        if re.search(pattern, line)
    ]
    if len(lines) > LONGEST and path.relative_to(ROOT).parts[0] != "tests":
        faults.append(f"{len(lines)} lines, at most {LONGEST}: split it by purpose")
    if lines and not (ast.get_docstring(tree) or "").split("\n")[0].strip():
        faults.append("the first line says no purpose")
    if VAGUE.search(path.stem):
        faults.append(f"{path.stem} names no purpose")
    names = (n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef))
    faults += [f"{vague} names no purpose" for vague in names if VAGUE.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", vague))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", [p for p in FILES if name(p).split("/")[0] in FOLDERS[:4]], ids=name)
def test_public_things_say_what_they_are(path: Path) -> None:
    """Each public function longer than three lines has a docstring, and so has each class that has methods.

    A class of fields alone is a production of its stage's grammar, which the module's docstring states.
    """
    tree = ast.parse(path.read_text("utf-8"))
    silent = [
        f"line {node.lineno}: {node.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and (isinstance(node, ast.FunctionDef) or any(isinstance(part, ast.FunctionDef) for part in node.body))
        and (node.end_lineno or node.lineno) - node.lineno > 3
    ]
    assert not silent, silent
