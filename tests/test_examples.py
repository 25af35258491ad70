"""Every example runs in its short form and draws its picture; the gallery shows all of them in the order of the course."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "gallery.md"
ON_PAPER = "worked_exercise"  # draws nothing, has a test of its own
NO_EXAMPLES = {"drawing", "material", "gallery"}  # what examples share, and what runs them
LINES = 100  # a page says that there are less
PRINTED = {
    # example     what the short form prints, besides other things
    "mlp_mnist": ("320 digits to train on", "on 1000 held-out digits, 1 epochs"),
    "cnn_mnist": ("320 digits to train on", "on 1000 held-out digits, 1 epochs"),
    "overfeat":  ("SlidingLinear(32, 96, kernel_size=(4, 4))", "760 windows"),
    "cam":       ("channel 0: {V10/49}, of channel 1: {V11/49}",),
}  # fmt: skip

sys.path.insert(0, str(EXAMPLES))  # as where one of them is run
from drawing import arguments  # noqa: E402
from gallery import COURSE, MOST_BYTES, Example, main, shrink  # noqa: E402

sys.path.remove(str(EXAMPLES))


@pytest.mark.parametrize("example", COURSE, ids=lambda example: example.name)
def test_the_short_form_draws_a_picture(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if lacking := example.lacks(short=True):
        pytest.skip(f"needs {lacking}")
    image = pytest.importorskip("PIL.Image", reason="pictures are looked at with Pillow")
    program, *arguments = example.command(tmp_path, short=True)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(program, run_name="__main__")
    printed = capsys.readouterr().out
    assert all(text in printed for text in PRINTED.get(example.name, ())), printed
    with image.open(tmp_path / example.picture) as picture:
        assert min(picture.size) >= 200
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) >= 10  # something is on it


@pytest.mark.parametrize("given, place", [("", "demo-output/a.png"), ("--out b", "b/a.png"), ("--out c/d.png", "c/d.png")])
def test_where_a_picture_goes(given: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never over those of the gallery, unless that is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["a.py", *given.split()])
    found = arguments("About.", "a.png")
    assert found.out == Path(place) and found.out.parent.is_dir() and not found.short


def test_all_examples_belong_to_the_course() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {example.name for example in COURSE} | {ON_PAPER} | NO_EXAMPLES
    assert PRINTED.keys() <= {example.name for example in COURSE}


@pytest.mark.parametrize("name", [*(example.name for example in COURSE), ON_PAPER])
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < LINES


def test_the_gallery_follows_the_course() -> None:
    """Each section has the command of an example, then its picture, which is there and small."""
    shown = re.findall(r"^    python examples/(\w+)\.py.*\n\n!\[[^\]]+\]\(gallery/([\w.-]+)\)$", PAGE.read_text("utf-8"), re.M)
    assert shown == [(example.name, example.picture) for example in COURSE]
    pictures = {path.name: path.stat().st_size for path in PAGE.with_suffix("").iterdir()}
    assert set(pictures) == {picture for _, picture in shown}
    assert max(pictures.values()) <= MOST_BYTES


@pytest.mark.parametrize("names", [[], ["pooling", "filters"]])
def test_the_gallery_runs_what_is_named_or_all(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    def noted(command: list[str], check: bool) -> None:
        run.append(Path(command[1]).stem)
        assert check and str(tmp_path) in " ".join(command)

    monkeypatch.setattr("gallery.subprocess.run", noted)
    monkeypatch.setattr("gallery.shrink", lambda path: None)
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--short", "--out", str(tmp_path), *names])
    main()
    assert run == [e.name for e in COURSE if not e.lacks(short=True) and (not names or e.name in names)]


def test_the_gallery_refuses_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery.py", "pooling", "poling"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no example poling; there are tensors, filters," in capsys.readouterr().err


def test_pictures_are_made_small(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pictures are made small with Pillow")
    path = tmp_path / "noise.png"
    image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)).save(path)
    assert path.stat().st_size > MOST_BYTES
    shrink(path)
    assert path.stat().st_size <= MOST_BYTES
    with image.open(path) as small:
        assert abs(small.width / small.height - 7 / 5) < 0.01  # its proportions are kept
