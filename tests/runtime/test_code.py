"""Machine code of kernels: compiled once, found again by the next process, and nothing trusted that is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from faltung.codegen.builder import Builder
from faltung.codegen.loops import Kernel
from faltung.codegen.program import lower
from faltung.codegen.target import Target, host
from faltung.graph import dsl
from faltung.graph.pipeline import optimise
from faltung.runtime import cache, code
from tests.codegen.kernels import RUNNABLE, compiled


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel cache of this test's own."""
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def scale(factor: float, name: str = "kernel") -> Kernel:
    """y = factor · x on 8 elements."""
    k = Builder(name, lanes=4)
    x, y = k.buffer("x", size=(8, 0)), k.buffer("y", size=(8, 0), written=True)
    with k.parallel(2) as t:
        k.store(y, t * 4, k.load(x, t * 4) * factor)
    return k.finish()


def run(kernels: Sequence[Kernel], kernel: Kernel) -> list[float]:
    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    compiled(kernels, host())(kernel, [x, y], 0, 0, 2)
    return y.tolist()


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if len(path.name) == 64)


def test_equal_kernels_are_compiled_once(folder: Path) -> None:
    twins, other = [scale(2.0), scale(2.0)], scale(3.0)
    found = code.build([*twins, other], host())
    assert found.compiled == 2
    assert found.address(twins[0]) == found.address(twins[1]) != found.address(other)
    assert len(entries(folder)) == 2
    assert code.build([scale(2.0), scale(3.0)], host()).compiled == 0


def test_no_kernels_are_no_code(folder: Path) -> None:
    assert code.build([], host()).compiled == 0


def test_code_outlives_the_list_it_came_from(folder: Path) -> None:
    doubled, tripled = scale(2.0), scale(3.0)
    assert run([doubled, tripled], doubled) == [2.0 * n for n in range(8)]
    assert run([doubled, tripled], tripled) == [3.0 * n for n in range(8)]


def test_each_target_has_code_of_its_own(folder: Path) -> None:
    kernel = scale(2.0)
    assert [code.build([kernel], target).compiled for target in RUNNABLE] == [1] * len(RUNNABLE)
    assert [code.build([kernel], target).compiled for target in RUNNABLE] == [0] * len(RUNNABLE)


@pytest.mark.parametrize("damage", ["a byte changed", "cut short", "emptied", "another entry", "gone"])
def test_a_damaged_entry_is_compiled_again(folder: Path, damage: str) -> None:
    doubled, tripled = scale(2.0), scale(3.0)
    code.build([doubled, tripled], host())
    first, second = entries(folder)
    contents = first.read_bytes()
    match damage:
        case "a byte changed":
            middle = len(contents) // 2
            first.write_bytes(contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :])
        case "cut short":
            first.write_bytes(contents[:-9])
        case "emptied":
            first.write_bytes(b"")
        case "another entry":
            first.write_bytes(second.read_bytes())
        case "gone":
            first.unlink()
    assert code.build([doubled, tripled], host()).compiled == 1
    assert run([doubled, tripled], doubled) == [2.0 * n for n in range(8)]
    assert run([doubled, tripled], tripled) == [3.0 * n for n in range(8)]
    assert code.build([doubled, tripled], host()).compiled == 0


def test_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", "off")
    assert [code.build([scale(2.0)], host()).compiled for _ in range(2)] == [1, 1]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "file" / "below"))
    assert code.build([scale(5.0)], host()).compiled == 1
    kernel = scale(5.0)
    assert run([kernel], kernel) == [5.0 * n for n in range(8)]


def network(target: Target) -> list[Kernel]:
    x = dsl.input("x", (None, 3, 8, 8))
    k, b = dsl.parameter(np.ones((8, 3, 3, 3)), "k"), dsl.parameter(np.zeros(8), "b")
    program = lower(optimise([dsl.max_pool2d(dsl.relu(dsl.conv2d(x, k, b, padding=1)), 2)]), {}, target)
    return [s.kernel for s in program.steps]


def test_lowering_is_repeatable(folder: Path) -> None:
    """The same graph made again gives the same text, hence finds its code."""
    assert code.build(network(host()), host()).compiled >= 1
    assert code.build(network(host()), host()).compiled == 0


CHILD = """
import json
import numpy as np
import faltung as ft
from faltung import nn

x, t = ft.input("x", (None, 1, 8, 8)), ft.input("t", (None,), dtype="int64")
net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3))
step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(0.1, momentum=0.9))
images = np.linspace(-1, 1, 5 * 64, dtype=np.float32).reshape(5, 1, 8, 8)
losses = [step(images, np.arange(5) % 3) for _ in range(3)]
from faltung.runtime import cache
print(json.dumps({"compiled": step._code.compiled, "losses": losses, "misses": cache.stats().misses}))
"""


def test_the_next_process_compiles_nothing(folder: Path) -> None:
    def child(seed: str) -> dict[str, object]:
        # text that followed the order of a set would differ with the seed of hashes
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    first, second = child("1"), child("2")
    assert first["compiled"] != 0 and first["losses"] == second["losses"]
    assert second["compiled"] == 0 and second["misses"] == 0
    for path in entries(folder):  # every entry damaged
        path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    third = child("3")
    assert third["compiled"] == first["compiled"] and third["losses"] == first["losses"]
    assert cache.default().folder == folder
