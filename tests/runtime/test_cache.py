"""The kernel cache: what comes back is what was stored, or nothing."""

import os
import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from faltung.runtime import cache
from faltung.runtime.cache import Cache

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and modes of files")


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "deep" / "kernels")


def entry(kept: Cache) -> Path:
    assert kept.folder is not None
    return next(path for path in kept.folder.iterdir() if len(path.name) == 64)


def test_round_trip(kept: Cache) -> None:
    assert kept.get("a") is None
    kept.put("a", b"code")
    kept.put(b"\xff\x00", b"")
    assert (kept.get("a"), kept.get(b"a"), kept.get(b"\xff\x00"), kept.get("b")) == (b"code", b"code", b"", None)
    kept.put("a", b"newer")
    assert kept.get("a") == b"newer"
    facts = kept.stats()
    assert (facts.hits, facts.misses, facts.writes, facts.entries) == (4, 2, 3, 2)
    assert facts.bytes == 2 * cache.HEADER.size + len(b"newer")


@POSIX
def test_only_the_user_can_write(kept: Cache) -> None:
    kept.put("a", b"code")
    assert kept.folder is not None
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    assert entry(kept).stat().st_mode & 0o077 == 0


def test_every_changed_byte_is_a_miss(kept: Cache) -> None:
    kept.put("a", b"a few bytes of machine code")
    path = entry(kept)
    sound = path.read_bytes()
    for place in range(len(sound)):
        for change in (0x01, 0x80, 0xff):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ change]) + sound[place + 1:])
            assert kept.get("a") is None, f"byte {place} changed by {change:#x}"
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        assert kept.get("a") is None, f"cut to {length} bytes"
    path.write_bytes(sound + b"\0")
    assert kept.get("a") is None
    path.write_bytes(sound)
    assert kept.get("a") == b"a few bytes of machine code"


def test_an_entry_under_another_name_is_a_miss(kept: Cache) -> None:
    kept.put("a", b"code")
    path = entry(kept)
    path.rename(path.with_name(cache._name("b")))
    assert kept.get("b") is None


def test_a_damaged_entry_is_replaced(kept: Cache) -> None:
    kept.put("a", b"code")
    entry(kept).write_bytes(b"")
    kept.put("a", b"code")
    assert kept.get("a") == b"code"


@POSIX
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_write_is_not_used(kept: Cache, mode: int) -> None:
    kept.put("a", b"code")
    assert kept.folder is not None
    kept.folder.chmod(mode)
    kept.put("b", b"more")
    assert (kept.get("a"), kept.get("b"), kept.stats().entries, kept.clear()) == (None, None, 0, 0)
    kept.folder.chmod(0o755)
    assert (kept.get("a"), kept.get("b")) == (b"code", None)
    entry(kept).chmod(0o620)
    assert kept.get("a") is None


@POSIX
def test_what_belongs_to_somebody_else_is_not_used(kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put("a", b"code")
    monkeypatch.setattr(os, "geteuid", lambda: entry(kept).stat().st_uid + 1)
    assert kept.get("a") is None


@POSIX
def test_links_pipes_and_folders_are_misses(kept: Cache) -> None:
    kept.put("a", b"code")
    path = entry(kept)
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert kept.get("a") is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert kept.get("a") is None
    path.unlink()
    path.mkdir(0o700)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert kept.get("a") is None
    kept.put("a", b"code")
    assert kept.get("a") is None
    assert before == (len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300), Path("/proc/none")):
        kept = Cache(folder)
        kept.put("a", b"code")
        assert (kept.get("a"), kept.stats().entries, kept.clear()) == (None, 0, 0)


def test_a_full_disk_is_no_error(kept: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    kept.put("a", b"code")
    assert kept.get("a") is None
    assert kept.folder is not None and not list(kept.folder.iterdir())


def test_the_folder_is_swept_by_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whomever: a hundred processes that write a little each look at it as often as one that writes all of it."""
    swept: list[Cache] = []
    monkeypatch.setattr(Cache, "_sweep", lambda self: swept.append(self))
    capacity = 160 * (cache.HEADER.size + 1000)
    for _ in range(100):
        Cache(tmp_path, capacity).put("a", bytes(1000))
    assert 1 <= len(swept) <= 30  # 10 are expected
    swept.clear()
    one = Cache(tmp_path, capacity)
    for _ in range(100):
        one.put("a", bytes(1000))
    assert 9 <= len(swept) <= 11


def test_the_longest_unused_go_first(kept: Cache) -> None:
    size = cache.HEADER.size + 1000
    kept.capacity = 4 * size
    assert kept.folder is not None
    for age, key in enumerate("dcba"):
        kept.put(key, bytes(1000))
        os.utime(kept.folder / cache._name(key), (1e9 - age, 1e9 - age))
    assert kept.get("a") is not None                # used, so the youngest now
    kept.put("e", bytes(1000))                      # the fifth: down to three quarters, so c and b go
    assert [key for key in "abcde" if kept.get(key) is not None] == ["a", "d", "e"]
    kept.put("f", bytes(4 * size))                  # larger than all the cache may hold
    assert kept.get("f") is None
    assert kept.get("a") is not None


def test_sweeping_removes_what_dead_writers_left(kept: Cache) -> None:
    kept.put("a", b"code")
    assert kept.folder is not None
    old, new, foreign = (kept.folder / name for name in ("part-old", "part-new", "notes.txt"))
    for path in (old, new, foreign):
        path.write_text("half")
    os.utime(old, (1e9, 1e9))
    os.utime(foreign, (1e9, 1e9))
    kept._sweep()
    assert (old.exists(), new.exists(), foreign.exists()) == (False, True, True)
    assert kept.clear() == 1
    assert [path.name for path in kept.folder.iterdir()] == ["notes.txt"]


WRITER = """
import sys
from pathlib import Path
from faltung.runtime.cache import Cache
kept = Cache(Path(sys.argv[1]))
for i in range(60):
    kept.put("shared", bytes([int(sys.argv[2])]) * 200_000)
"""


def test_writers_at_the_same_time(tmp_path: Path) -> None:
    """Processes and threads write one entry while it is read: a reader sees one whole payload or none."""
    kept = Cache(tmp_path)
    tmp_path.chmod(0o700)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(i)]) for i in (1, 2)]

    def write() -> None:
        for _ in range(60):
            kept.put("shared", bytes([3]) * 200_000)
    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    while thread.is_alive() or any(writer.poll() is None for writer in writers):
        payload = kept.get("shared")
        assert payload is None or (len(payload) == 200_000 and len(set(payload)) == 1)
        reads += payload is not None
    thread.join()
    assert [writer.wait(30) for writer in writers] == [0, 0]
    assert reads and len(list(tmp_path.iterdir())) == 1


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "mine"))
    cache.put("a", b"code")
    assert cache.get("a") == b"code"
    assert cache.stats().folder == str(tmp_path / "mine")
    monkeypatch.setenv("FALTUNG_CACHE", "off")
    cache.put("a", b"code")
    assert (cache.get("a"), cache.stats().folder, cache.stats().entries) == (None, "off", 0)
    monkeypatch.delenv("FALTUNG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    cache.put("a", b"code")
    assert cache.get("a") == b"code"
    assert cache.clear() == 1
    assert cache.stats().folder == str(tmp_path / "caches" / "faltung" / "kernels")


def test_another_compiler_has_another_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told apart by the text of its version and by the size of its library; none at all is no error."""
    def fingerprint(folder: Path | None) -> str:
        found = ModuleSpec("llvmlite", None, is_package=True) if folder else None
        if found and found.submodule_search_locations is not None:
            found.submodule_search_locations.append(str(folder))
        monkeypatch.setattr(cache.importlib.util, "find_spec", lambda name: found)
        return cache.fingerprint.__wrapped__()

    present = cache.fingerprint()
    for name, version, size in (("a", "1", 3), ("b", "1", 3), ("c", "2", 3), ("d", "1", 4)):
        (tmp_path / name / "binding").mkdir(parents=True)
        (tmp_path / name / "_version.py").write_text(version)
        (tmp_path / name / "binding" / "libllvmlite.so").write_bytes(bytes(size))
    a, b, c, d = (fingerprint(tmp_path / name) for name in "abcd")
    assert a == b and len({a, c, d, fingerprint(None), present}) == 5
