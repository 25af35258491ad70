"""Linked images against LLVM's own linking, memory that is run and given back, and processes that never load LLVM."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from faltung.codegen import target as targets
from faltung.codegen.target import host
from faltung.graph.errors import CompileError
from faltung.runtime import compiler, facts, image, jit, workshop

ELF = sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")
elf = pytest.mark.skipif(not ELF, reason="elsewhere LLVM links")
MAPS = Path("/proc/self/maps")

# name         text, whose function `f` takes and gives an i64; constants of every size, and of none
TEXTS = {
    "no constants": "define i64 @f(i64 %x) { %y = mul i64 %x, 3\n ret i64 %y }",
    "scalars": """define i64 @f(i64 %x) { %a = sitofp i64 %x to double\n %b = fmul double %a, 2.5\n %c = fptrunc double %b to float
        %d = fadd float %c, 1.5\n %e = fptosi float %d to i64\n ret i64 %e }""",
    "vectors": """@v = private constant <16 x i32> <i32 3, i32 1, i32 4, i32 1, i32 5, i32 9, i32 2, i32 6, i32 5, i32 3, i32 5, i32 8, i32 9, i32 7, i32 9, i32 3>
        define i64 @f(i64 %x) { %v = load <16 x i32>, ptr @v, align 64\n %t = trunc i64 %x to i32\n %i = insertelement <16 x i32> poison, i32 %t, i32 0
        %s = shufflevector <16 x i32> %i, <16 x i32> poison, <16 x i32> zeroinitializer\n %p = mul <16 x i32> %v, %s
        %r = call i32 @llvm.vector.reduce.add(<16 x i32> %p)\n %e = sext i32 %r to i64\n ret i64 %e }\ndeclare i32 @llvm.vector.reduce.add(<16 x i32>)""",
    "a table of places": "@t = private constant [5 x i64] [i64 7, i64 -1, i64 50, i64 3, i64 9]\ndefine i64 @f(i64 %x) { switch i64 %x, label %other ["
        + " ".join(f"i64 {n}, label %l{n}" for n in range(9)) + " ]\n"
        + "".join(f"l{n}:\n %p{n} = getelementptr i64, ptr @t, i64 {n % 5}\n %v{n} = load i64, ptr %p{n}\n %w{n} = {op} i64 %x, %v{n}\n ret i64 %w{n}\n"
                  for n, op in enumerate(("add", "sub", "mul", "xor", "or", "and", "mul", "sub", "add")))
        + "other:\n ret i64 %x }",
    "two functions": "define i64 @f(i64 %x) { %y = call i64 @g(i64 %x)\n ret i64 %y }\ndefine i64 @g(i64 %x) noinline { %y = add i64 %x, 70\n ret i64 %y }",
}  # fmt: skip
INPUTS = range(-2, 12)


def called(address: int) -> list[int]:
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
    return [function(n) for n in INPUTS]


def raw(text: str) -> bytes:
    """The object, not linked."""
    generator = compiler.machine(host().cpu, host().features)
    return bytes(generator.emit_object(compiler.optimised(text, generator)))


def rights(address: int) -> str | None:
    """What this process may do with the memory there; None where it has none."""
    for line in MAPS.read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= address < high:
            return line.split()[1]
    return None


@pytest.mark.parametrize("name", TEXTS)
def test_it_does_what_llvm_links(name: str) -> None:
    code = raw(TEXTS[name])
    linked = image.link(code)
    assert (linked != code) == ELF
    library, theirs = image.load([linked]), jit.Linked([code])
    assert called(library.address("f")) == called(theirs.address("f"))


@elf
def test_images_side_by_side_keep_their_alignment() -> None:
    texts = {f"f{n}": text.replace("@f(", f"@f{n}(") for n, text in enumerate([*TEXTS.values(), *TEXTS.values()]) if "@g(" not in text}
    linked = [image.link(raw(text)) for text in texts.values()]
    library = image.load(linked)
    for name, text, own in zip(texts, texts.values(), linked, strict=True):
        align = json.loads(own.partition(b"\n")[0])["align"]
        assert library.address(name) % align == 0 and align >= (64 if "align 64" in text else 1)
        assert called(library.address(name)) == called(image.load([own]).address(name))


@elf
@pytest.mark.parametrize("text", [
    "declare i64 @labs(i64)\ndefine i64 @f(i64 %x) { %y = call i64 @labs(i64 %x)\n ret i64 %y }",
    "@v = global i64 3\ndefine i64 @f(i64 %x) { %y = load i64, ptr @v\n ret i64 %y }",
    "@v = internal global i64 0\ndefine i64 @f(i64 %x) { %y = load i64, ptr @v\n store i64 %x, ptr @v\n ret i64 %y }",
    "@v = thread_local global i64 3\ndefine i64 @f(i64 %x) { %y = load i64, ptr @v\n ret i64 %y }",
], ids=["calls outside", "variable", "variable of zeros", "variable of a thread"])  # fmt: skip
def test_what_is_no_code_alone_is_left_to_llvm(text: str) -> None:
    code = raw(text)
    assert image.link(code) is code


@elf
def test_an_object_that_is_not_linked_is_loaded_beside() -> None:
    state = raw("@v = internal global i64 5\ndefine i64 @s(i64 %x) { %y = load i64, ptr @v\n store i64 %x, ptr @v\n ret i64 %y }")
    library = image.load([image.link(state), image.link(raw(TEXTS["scalars"]))])
    assert called(library.address("s")) == [5, *INPUTS[:-1]]
    assert called(library.address("f")) == called(jit.Linked([raw(TEXTS["scalars"])]).address("f"))


@pytest.mark.parametrize("code", [b"", b"\x7fELF", b"MZ not for us", b"\xcf\xfa\xed\xfe"])
def test_what_is_no_object_is_left_as_it_is(code: bytes) -> None:
    assert image.link(code) is code


@elf
def test_memory_is_run_not_written_and_given_back() -> None:
    library = image.load([image.link(raw(TEXTS["vectors"]))])
    address = library.address("f")
    assert rights(address) == "r-xp"
    del library
    gc.collect()
    assert rights(address) is None


@elf
def test_a_symbol_that_is_nowhere() -> None:
    with pytest.raises(CompileError, match=r"'g'.*f"):
        image.load([image.link(raw(TEXTS["scalars"]))]).address("g")


@elf
def test_a_system_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    linked = image.link(raw(TEXTS["scalars"]))
    system = image._system()

    class Refusing:
        mmap, munmap = system.mmap, system.munmap

        def mprotect(self, *_: int) -> int:
            ctypes.set_errno(13)
            return -1

    before = MAPS.read_text().count("\n")
    monkeypatch.setattr(image, "_system", Refusing)
    for _ in range(100):
        with pytest.raises(CompileError, match="1 kernels may not be run here: Permission denied"):
            image.load([linked])
    gc.collect()
    assert MAPS.read_text().count("\n") < before + 50


# ---- which process compiles ----


def test_other_processes_compile_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = list(TEXTS.values())
    made: list[str] = []
    monkeypatch.setattr(workshop, "_here", lambda text, target: made.append(text))
    monkeypatch.setattr(workshop, "LITTLE", 0)
    assert workshop.images(texts, host()) == [image.link(raw(text)) for text in texts] and not made
    assert workshop.images([], host()) == []


@pytest.mark.parametrize("executable", ["", "/nowhere/python", "/bin/sh", "echo", "false", "cat"])
def test_where_there_is_no_other_process_this_one_compiles(executable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "LITTLE", 0)
    if executable in ("echo", "false", "cat"):
        program = tmp_path / "python"
        program.symlink_to(shutil.which(executable) or pytest.skip(f"no {executable} here"))
        executable = str(program)
    monkeypatch.setattr(sys, "executable", executable)
    assert workshop.images(list(TEXTS.values()), host()) == [image.link(raw(text)) for text in TEXTS.values()]


def test_what_llvm_refuses_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "LITTLE", 0)
    with pytest.raises(CompileError, match="rejects"):
        workshop.images([TEXTS["scalars"], "define void @f( {"], host())


def test_shares_are_about_the_same() -> None:
    texts = ["x" * n for n in (1, 50, 3, 30, 20, 4, 90)]
    shares = workshop._shares(texts, 2)
    assert sorted(n for share in shares for n in share) == list(range(7))
    assert sorted(sum(len(texts[n]) for n in share) for share in shares) == [98, 100]
    assert workshop._shares(["x"], 8) == [[0]]


CHILD = """
import sys
import threading
import numpy as np
import faltung as ft
from faltung import nn

image = ft.input("x", (None, 3, 16, 16))
net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 5)).eval()
model = ft.compile(net(image))
model(np.ones((2, 3, 16, 16), np.float32))
model.explain()

def loaded():
    maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
    return ("llvmlite.binding" in sys.modules) + ("llvm" in maps)

print(loaded(), model._code.compiled, end=" ")
assert "add" in model.assembly()
print(loaded() > 0)
"""


@elf
def test_a_process_whose_kernels_are_known_never_loads_llvm(tmp_path: Path) -> None:
    def child() -> list[str]:
        environment = {**os.environ, "FALTUNG_CACHE": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    cold, warm = child(), child()
    assert int(cold[1]) > 0 and warm == ["0", "0", "True"]


@pytest.mark.parametrize(
    "written, whole",
    [(b"", 0), (struct.pack("<Q", 3) + b"abc", 1), (struct.pack("<Q", 3) + b"ab", 0), (struct.pack("<Q", 3) + b"abc" + b"\0" * 8, 1), (b"Hello", 0)],
    ids=["nothing", "one", "cut", "an empty one", "other words"],
)  # fmt: skip
def test_only_whole_objects_are_taken(written: bytes, whole: int) -> None:
    assert compiler.answered(written, 2) == [b"abc"] * whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="other processes are started from a script")
@pytest.mark.parametrize(
    "script, found",
    [("exit 3", 2), ("kill -9 $$", 2), ("head -c 16 /dev/zero; exit 0", 2), ("printf 'sixteen letters!'; exit 1", 2), ("cat > /dev/null; kill -6 $$", 0), ("exec sleep 30", 2)],
    ids=["fails", "killed", "empty objects", "prints", "aborts", "hangs"],
)  # fmt: skip
def test_a_compiler_that_fails(script: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done here instead, but for what ended another process: that would end this one."""
    (program := tmp_path / "python-that-fails").write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(workshop, "LITTLE", 0)
    monkeypatch.setattr(workshop, "PATIENCE", 0.2)
    texts = list(TEXTS.values())
    if found:
        assert workshop.images(texts, host()) == [image.link(raw(text)) for text in texts]
    else:
        with pytest.raises(CompileError, match="signal 6"):
            workshop.images(texts, host())


def test_no_sound_object_is_left_to_llvm() -> None:
    code = raw(next(iter(TEXTS.values())))
    for cut in (64, 100, len(code) // 2):
        assert image.link(code[:cut]) == code[:cut]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_locks_are_free_in_a_child() -> None:
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with facts._measuring:
            held.set()
            free.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    child = os.fork()
    if not child:
        os._exit(0 if facts._measuring.acquire(timeout=2) and jit.LOCK.acquire(timeout=2) else 1)
    free.set()
    other.join()
    assert os.waitpid(child, 0)[1] == 0


def test_features_are_those_that_llvm_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite.binding as llvm

    ours, theirs = targets.features(), {name.replace(".", ""): has for name, has in llvm.get_host_cpu_features().items()}
    assert not any(theirs.get(name) is False for name in ours)
    named = {f[1:].replace(".", "") for row in targets.TABLE for f in row.features.split(",")} - set(targets.HINTS)
    assert {name for name in named if theirs.get(name)} <= ours
    monkeypatch.setattr(targets, "SYSTEM", Path("/nowhere"))
    assert targets.features.__wrapped__() == {name for name, has in theirs.items() if has}
