"""Is this installation sound, and how fast is it here: what `faltung doctor` and `faltung bench` find out."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from faltung.graph.errors import FaltungError
from faltung.graph.room import granted

PACKAGES = ("numpy", "llvmlite", "sympy", "networkx", "safetensors")
FEWEST = 5


@dataclass(frozen=True)
class Check:
    """One question, its answer in words, and whether that is as it should be."""

    name: str
    finding: str
    well: bool = True


def examine() -> list[Check]:
    """Every check, in order; a check that raises is a finding, not an error."""
    questions: list[tuple[str, Callable[[], str]]] = [
        ("python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("packages", _packages),
        ("target", _target),
        ("threads", _threads),
        ("machine", _machine),
        ("kernel cache", _cache),
        ("switches", _switches),
        ("inference", _inference),
        ("training", _training),
        ("threads agree", _threads_agree),
    ]
    found = []
    for name, question in questions:
        try:
            found.append(Check(name, question()))
        except (FaltungError, ImportError, OSError, RuntimeError, metadata.PackageNotFoundError) as reason:
            found.append(Check(name, f"{type(reason).__name__}: {reason}", well=False))
    return found


def speed(name: str, batch_size: int, seconds: float) -> tuple[list[str], dict[str, Any]]:
    """Time inference and a training step of a named network; medians over about `seconds` each."""
    import faltung as ft
    from faltung import zoo
    from faltung.demo import graph_of

    net = zoo.build(name)
    picture = zoo.TABLE[name].input
    x, y, loss = graph_of(net.train(), picture)
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=0.01, momentum=0.9))
    model = ft.compile(net.eval()(x))
    net.train()
    generator = np.random.default_rng(0)
    with granted(f"pictures [{batch_size}, {', '.join(map(str, picture))}]", "make the batch smaller", 4 * batch_size * math.prod(picture)):
        images = generator.random((batch_size, *picture), np.float32)
        labels = generator.integers(0, y.shape[1], batch_size)
    runs: list[tuple[str, Callable[[], Any]]] = [
        ("inference", lambda: model(images)),
        ("training step", lambda: step(images, labels)),
    ]
    lines = [f"{name}, batch {batch_size}, {_threads()}, {_target()}"]
    values: dict[str, Any] = {"network": name, "batch_size": batch_size, "median_ms": {}, "images_per_s": {}}
    for what, run in runs:
        median = statistics.median(_samples(run, seconds))
        lines.append(f"{what:14} {1e3 * median:9.3f} ms   {batch_size / median:12,.0f} images/s")
        values["median_ms"][what] = 1e3 * median
        values["images_per_s"][what] = batch_size / median
    return lines, values


def _samples(run: Callable[[], Any], seconds: float) -> list[float]:
    """Durations of single runs after a warm-up, until the time is up; at least a few."""
    for _ in range(2):
        run()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < FEWEST or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        samples.append(time.perf_counter() - started)
    return samples


def _packages() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("faltung", *PACKAGES))


def _target() -> str:
    from faltung.codegen import target

    row = target.host()
    return f"{row.name}: {row.lanes('f32')} lanes of float32, {row.registers} vector registers"


def _threads() -> str:
    from faltung.runtime.threads import threads

    count = threads()
    return f"{count} thread{'s' * (count != 1)}"


def _machine() -> str:
    from faltung.runtime import facts

    return str(facts.machine())


def _cache() -> str:
    from faltung.runtime import cache

    written = cache.default().writes
    cache.put("doctor", b"kept")
    found = asdict(cache.stats())
    if found["writes"] == written and found["folder"] != "off":
        raise FaltungError(f"nothing can be kept in {found['folder']}: it cannot be written, or others may write it; kernels are compiled in every process")
    return f"{found['folder']}: {found['entries']} entries, {found['bytes'] / 2**20:.1f} of {found['capacity'] / 2**20:.0f} MiB"


def _switches() -> str:
    from faltung.codegen import config

    return ", ".join(f"{row.name}={config.get(row.name)}" for row in config.TABLE)


def _inference() -> str:
    """A convolution on small integers, where compiled and evaluated must agree in every bit."""
    import faltung as ft

    generator = np.random.default_rng(0)
    image, weight = (generator.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 3, 9, 11), (5, 3, 3, 3)))
    got = ft.compile(ft.conv2d(ft.input("x", (None, 3, 9, 11)), ft.constant(weight), stride=2, padding=1))(image)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    if not np.array_equal(got, np.einsum("ncijpq,fcpq->nfij", windows, weight)):
        raise FaltungError("a compiled convolution differs from NumPy's")
    return "a compiled convolution equals NumPy's in every bit"


def _training() -> str:
    """A small network must learn a handful of pictures by heart."""
    _, losses = _learn(20)
    if not losses[-1] < 0.5 * losses[0]:
        raise FaltungError(f"20 steps took the loss from {losses[0]:.4f} to {losses[-1]:.4f}, less than half was expected")
    return f"20 steps took the loss of a small network from {losses[0]:.4f} to {losses[-1]:.4f}"


def _threads_agree() -> str:
    """The weights after a few steps do not depend on the number of threads, bit for bit."""
    from faltung.runtime.threads import set_threads, threads

    before = threads()
    try:
        results = []
        for count in (1, 2, 3):
            set_threads(count)
            results.append(_learn(3)[0])
    finally:
        set_threads(before)
    if any(result != results[0] for result in results):
        raise FaltungError("1, 2 and 3 threads train to different bits")
    return "1, 2 and 3 threads train to the same bits"


def _learn(steps: int) -> tuple[list[bytes], list[float]]:
    import faltung as ft
    from faltung import nn

    ft.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 4))
    x, t = ft.input("x", (None, 1, 8, 8)), ft.input("t", (None,), dtype="int64")
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(lr=0.1, momentum=0.9))
    generator = np.random.default_rng(0)
    images, labels = generator.random((8, 1, 8, 8), np.float32), np.arange(8) % 4
    losses = [float(step(images, labels)) for _ in range(steps)]
    return [np.asarray(array).tobytes() for array in net.state_dict().values()], losses
