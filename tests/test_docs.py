"""What the documents say is true: their Python runs and prints what they show, and what they name exists.

A ```python block that is followed by a ```text block must print that text; `pytest --update-golden` writes what it
prints. The blocks of a document share one namespace and one process.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.__main__ import TABLE as BENCHES
from faltung import cli
from faltung.codegen import config

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]

RUNNER = """
import contextlib, io, json, sys
names, printed = {"__name__": "document"}, []
for name, line, code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\\n" * line + code, name, "exec"), names)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line on which the fence opens, counted from 1."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[str, int] | None = None
    held: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.startswith("```"):
            held.append(line)
        elif opened is None:
            opened, held = (line[3:].strip(), number), []
        else:
            found.append(Block(opened[0], "".join(f"{line}\n" for line in held), opened[1]))
            opened = None
    assert opened is None, f"{path.name}: the block of line {opened and opened[1]} is not closed"
    return found


def shown_output(found: list[Block], at: int) -> Block | None:
    """The text block right after block `at`, one empty line between."""
    after = found[at + 1] if at + 1 < len(found) else None
    end = found[at].line + found[at].text.count("\n") + 1
    return after if after is not None and after.language == "text" and after.line - end == 2 else None


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_python_runs_as_written(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = blocks(path)
    places = [at for at, block in enumerate(found) if block.language == "python"]
    if not places:
        return
    jobs = [(name(path), found[at].line, found[at].text) for at in places]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(jobs), capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert not done.returncode, done.stderr[-4000:]
    printed = json.loads(done.stdout)
    if request.config.getoption("--update-golden"):
        text = path.read_text("utf-8")
        for at, out in zip(places, printed, strict=True):
            if (shown := shown_output(found, at)) is not None:
                before = f"```python\n{found[at].text}```\n\n```text\n"
                text = text.replace(f"{before}{shown.text}```", f"{before}{_trimmed(out)}```")
        path.write_text(text, encoding="utf-8")
        return
    for at, out in zip(places, printed, strict=True):
        shown = shown_output(found, at)
        assert _trimmed(out) == _trimmed(shown.text if shown is not None else ""), f"{name(path)}, line {found[at].line}"


def _trimmed(text: str) -> str:
    """The lines without trailing blanks, which editors remove, and with letter and macron as one character where there is one."""
    return unicodedata.normalize("NFC", "".join(line.rstrip() + "\n" for line in text.rstrip().splitlines()))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_print_what_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(path):
        if block.language != "console":
            continue
        command, _, shown = block.text.partition("\n")
        program, *arguments = shlex.split(command.removeprefix("$ "))
        assert program == "faltung", f"{name(path)}, line {block.line}: only faltung is run here"
        assert cli.main(arguments) == 0
        assert _trimmed(capsys.readouterr().out) == _trimmed(shown)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_what_is_named_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)", re.sub(r"(?ms)^```.*?^```", "", text))
    missing = [link for link in links if ":" not in link and not (path.parent / link).exists()]
    files = re.findall(r"`((?:graph|codegen|runtime|faltung|tests|examples|bench|docs)/[\w/.*]*)`", text)
    missing += [file for file in files if not list(ROOT.glob(file))]
    assert not missing
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in re.findall(r"(?:`|^    )make (\w+)", text, re.M))
    assert set(re.findall(r"python -m bench (\w+)", text)) <= set(BENCHES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_verbs_take_the_options_shown(path: Path) -> None:
    for text in re.findall(r"`(faltung \w+ -[^`]*)`", path.read_text("utf-8")):
        cli._parser().parse_args(shlex.split(text)[1:])


def test_the_readme_lists_every_switch_and_verb() -> None:
    text = README.read_text("utf-8")
    rows = [(row.name, f"`{row.default}`" if row.default != "" else "", row.meaning) for row in config.TABLE]
    found = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line.startswith("| `FALTUNG_")]
    assert found == [(f"`{switch}`", default, meaning) for switch, default, meaning in rows]
    verbs = re.findall(r"^    (\w+) {2,}", cli.__doc__ or "", re.M)
    assert re.findall(r"^\| `faltung (\w+)`", text, re.M) == verbs


def test_the_package_shows_the_readme() -> None:
    assert 'readme = "README.md"' in (ROOT / "pyproject.toml").read_text("utf-8")
