"""Compiled kernels on disk: one file an entry, and whatever is wrong with it is a miss.

An entry is named by the SHA-256 of its key and holds

    magic | format version | SHA-256 of the key | length of the payload | SHA-256 of the payload | payload

Entries are machine code that this process will run.  So a folder or a file that belongs to somebody else, or that
others may write, is not read; everything read is checked; and an entry appears under its name complete or not at all
(written beside, then renamed).  The cache never raises: a disk that is full or read-only means compiling again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import random
import re
import stat
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from faltung.codegen import config

FORMAT = 1
HEADER = struct.Struct("<8sI32sQ32s")         # magic, format, key, length, payload; the order of the docstring
MAGIC = b"faltung\0"
CAPACITY = 512 << 20        # bytes on disk; beyond it the entries unused for longest go
KEPT = 0.75                 # the part of the capacity that a sweep leaves, so that sweeps stay rare
SWEPT = 1 / 16              # of the capacity: bytes written, whoever writes them, between two looks at all of the folder
REFRESH_SECONDS = 3600      # an entry used again is marked as used at most this often
STALE_SECONDS = 3600        # a half-written file this old belongs to a writer that died
_ENTRY = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"part-\w+")
_counting = threading.Lock()


def _after_fork() -> None:
    global _counting
    _counting = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True, slots=True)
class Stats:
    """What this process asked of the cache, and what lies on disk now."""

    folder: str
    hits: int
    misses: int
    writes: int
    entries: int
    bytes: int
    capacity: int


class Cache:
    """Entries in one folder; no folder (None) caches nothing.  Any number of threads and processes may share it."""

    def __init__(self, folder: Path | None, capacity: int = CAPACITY) -> None:
        self.folder, self.capacity = folder, capacity
        self.hits = self.misses = self.writes = 0
        self._unswept = random.uniform(0, SWEPT * capacity)  # so that many processes, each writing little, look as often

    def get(self, key: bytes | str) -> bytes | None:
        """The payload stored under `key`, or None."""
        name = _name(key)
        payload = self._read(name)
        with _counting:
            if payload is None:
                self.misses += 1
            else:
                self.hits += 1
        return payload

    def put(self, key: bytes | str, payload: bytes) -> None:
        """Store `payload` under `key`, if that can be done."""
        name, size = _name(key), HEADER.size + len(payload)
        if self.folder is None or size > self.capacity:
            return
        header = HEADER.pack(MAGIC, FORMAT, bytes.fromhex(name), len(payload), hashlib.sha256(payload).digest())
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _ours(os.stat(self.folder)):
                return
            handle, part = tempfile.mkstemp(prefix="part-", dir=self.folder)
            try:
                with open(handle, "wb") as file:
                    file.write(header)
                    file.write(payload)
                os.replace(part, self.folder / name)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part)
                raise
            with _counting:
                self.writes += 1
                self._unswept += size
                due = self._unswept >= SWEPT * self.capacity
                self._unswept = 0 if due else self._unswept
            if due:
                self._sweep()

    def clear(self) -> int:
        """Remove every entry, and nothing else that may lie in the folder; returns how many there were."""
        gone = 0
        for path, _ in self._files(_ENTRY):
            with suppress(OSError):
                path.unlink()
                gone += 1
        for path, _ in self._files(_PART):
            with suppress(OSError):
                path.unlink()
        return gone

    def stats(self) -> Stats:
        """Counts of this process, and the entries and bytes on disk."""
        files = self._files(_ENTRY)
        return Stats("off" if self.folder is None else str(self.folder), self.hits, self.misses, self.writes,
                     len(files), sum(facts.st_size for _, facts in files), self.capacity)

    def _read(self, name: str) -> bytes | None:
        if self.folder is None:
            return None
        try:
            if not _ours(os.stat(self.folder)):
                return None
            path = self.folder / name
            with open(path, "rb", opener=_plainly) as file:
                facts = os.fstat(file.fileno())
                if not (stat.S_ISREG(facts.st_mode) and _ours(facts)):
                    return None
                if not HEADER.size <= facts.st_size <= self.capacity:
                    return None
                content = file.read(facts.st_size + 1)
            payload = _payload(content, name)
            if payload is not None and time.time() - facts.st_mtime > REFRESH_SECONDS:
                with suppress(OSError):
                    os.utime(path)
            return payload
        except (OSError, MemoryError):
            return None

    def _sweep(self) -> None:
        """Bring the folder below its capacity, oldest use first, and remove what dead writers left."""
        now = time.time()
        for path, facts in self._files(_PART):
            if now - facts.st_mtime > STALE_SECONDS:
                with suppress(OSError):
                    path.unlink()
        files = sorted(self._files(_ENTRY), key=lambda file: file[1].st_mtime)
        held = sum(facts.st_size for _, facts in files)
        if held <= self.capacity:
            return
        for path, facts in files:
            if held <= KEPT * self.capacity:
                return
            with suppress(OSError):
                path.unlink()
                held -= facts.st_size

    def _files(self, pattern: re.Pattern[str]) -> list[tuple[Path, os.stat_result]]:
        """The regular files of the folder whose whole name is like `pattern`; none of a folder that is not ours."""
        found = []
        with suppress(OSError):
            if self.folder is not None and _ours(os.stat(self.folder)):
                for file in os.scandir(self.folder):
                    if pattern.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                        with suppress(OSError):
                            found.append((Path(file.path), file.stat(follow_symlinks=False)))
        return found


def _name(key: bytes | str) -> str:
    # keys can hold any text, so also text that no encoding has a place for
    return hashlib.sha256(key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key).hexdigest()


def _payload(content: bytes, name: str) -> bytes | None:
    """The payload of an entry, or None unless every byte is as it was written."""
    if len(content) < HEADER.size:
        return None
    magic, version, key, length, digest = HEADER.unpack_from(content)
    payload = content[HEADER.size:]
    sound = (magic == MAGIC and version == FORMAT and key.hex() == name and length == len(payload)
             and digest == hashlib.sha256(payload).digest())
    return payload if sound else None


def _plainly(path: str, flags: int) -> int:
    """Open a file without following a link, and without waiting when a pipe lies there."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _ours(facts: os.stat_result) -> bool:
    """Belongs to this user and nobody else may write it.  Systems without such owners guard the user's folder alone."""
    if not hasattr(os, "geteuid"):
        return True
    return facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


# --------------------------------------------------------------------------------------- the cache of this process

@functools.lru_cache(maxsize=8)
def _at(folder: Path | None) -> Cache:
    return Cache(folder)


def default() -> Cache:
    """The cache that FALTUNG_CACHE names: a folder, "off", or nothing for the user's own."""
    wanted = str(config.get("FALTUNG_CACHE"))
    if wanted.lower() == "off":
        return _at(None)
    try:
        return _at(Path(wanted).expanduser() if wanted else config.user_cache() / "faltung" / "kernels")
    except RuntimeError:            # a user without a home has no cache
        return _at(None)


def get(key: bytes | str) -> bytes | None:
    """The payload stored under `key`, or None."""
    return default().get(key)


def put(key: bytes | str, payload: bytes) -> None:
    """Store `payload` under `key`, if that can be done."""
    default().put(key, payload)


def clear() -> int:
    """Remove every entry; returns how many there were."""
    return default().clear()


def stats() -> Stats:
    """What this process asked of its cache, and what lies on disk."""
    return default().stats()


@functools.cache
def fingerprint() -> str:
    """What compiled code depends on beside its own text: the compiler and the system; a part of every key.

    The compiler is known by its files: who finds all kernels here never loads it.
    """
    found = importlib.util.find_spec("llvmlite")
    folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    versions = source(*(str(file) for folder in folders for file in sorted(folder.glob("*.py"))))
    libraries = [(file.name, file.stat().st_size) for folder in folders for file in sorted(folder.glob("binding/*llvmlite*"))]
    return f"llvmlite {versions} {libraries}, {sys.platform} {platform.machine()}"


@functools.cache
def source(*files: str) -> str:
    """A hash of what these files hold: a part of the keys of what depends on them. Raises OSError."""
    found = hashlib.sha256()
    for file in files:
        found.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return found.hexdigest()


def written_by(*files: str) -> str:
    """A hash of what these files of Faltung hold; where there are none to read, as in a zip archive, its version."""
    try:
        return source(*files)
    except OSError:
        try:
            return metadata.version("faltung")
        except metadata.PackageNotFoundError:
            return "unknown"
