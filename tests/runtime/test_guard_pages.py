"""No kernel touches a byte outside its buffers: a slice of the sweep between forbidden pages, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COUNT = 40
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are protected as Linux does it")


def child(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_kernels_stay_inside_their_buffers() -> None:
    found = child("tests.sweep", "--guarded", "--count", str(COUNT), "--start", "1000")
    assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    assert f"guarded end {COUNT}, guarded start {COUNT}\n" in found.stdout
    assert found.stdout.endswith(f"{COUNT} configurations, 0 failures\n")


@pytest.mark.parametrize("at, element, dies", [("end", 999, False), ("end", 1000, True), ("start", 0, False), ("start", -1, True)])
def test_a_byte_outside_ends_the_process(at: str, element: int, dies: bool) -> None:
    assert child("tests.sweep.guarded", "--at", at, f"--probe={element}").returncode == (-signal.SIGSEGV if dies else 0)
