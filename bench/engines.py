"""The engines that run a network for inference, one row each, and the process that each of them runs in.

Every engine has a process of its own: thread pools do not disturb each other, and the peak of memory is the engine's.
A process waits on a pipe, which costs nothing, until it is told to run; so engines take turns in one measurement.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Job:
    """A network to run: where its files lie (see exports.py), how many images at a time, on how many threads."""

    network: str
    folder: Path
    batch: int
    threads: int
    accuracy: str = "balanced"

    @property
    def onnx(self) -> Path:
        return self.folder / f"{self.network}-{self.batch}.onnx"

    @property
    def weights(self) -> Path:
        return self.folder / f"{self.network}.npz"


# ---- the engines ----


def _faltung(job: Job, x: Array) -> Run:
    import faltung as ft
    from faltung import zoo
    from faltung.runtime.threads import set_threads

    set_threads(job.threads)
    net = zoo.build(job.network)
    net.load(job.weights, keep=False)
    net.eval()
    image = ft.input("image", (None, *x.shape[1:]))
    model = ft.compile(net(image), accuracy=job.accuracy, batch=job.batch)
    return lambda x: np.asarray(model(x))


def _torch(job: Job) -> Any:
    import torch

    from bench.exports import loaded

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    return loaded(job.network, job.folder)


def _eager(job: Job, x: Array) -> Run:
    import torch

    net = _torch(job)
    return lambda x: np.asarray(net(torch.from_numpy(x)).numpy())


def _compiled(job: Job, x: Array) -> Run:
    import torch

    net = torch.compile(_torch(job))
    return lambda x: np.asarray(net(torch.from_numpy(x)).numpy())


def _onnxruntime(job: Job, x: Array) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(str(job.onnx), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x})[0])


def _openvino(job: Job, x: Array) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(job.onnx), "CPU", settings).create_infer_request()
    return lambda x: np.array(next(iter(request.infer([x]).values())))


def _ncnn(job: Job, x: Array) -> Run:
    """ncnn has no batches: images go through one by one."""
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.num_threads = job.threads
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = options.use_bf16_storage = False
    stem = job.folder / f"{job.network}.ncnn"
    if net.load_param(f"{stem}.param") or net.load_model(f"{stem}.bin"):
        raise RuntimeError(f"ncnn does not load {stem}")
    source, result = net.input_names()[0], net.output_names()[0]

    def one(image: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input(source, ncnn.Mat(image))
        return np.array(extractor.extract(result)[1])

    return lambda x: np.stack([one(image) for image in x])


def _mnn(job: Job, x: Array) -> Run:
    import MNN

    settings = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": job.threads, "precision": "high"},))
    file = str(job.folder / f"{job.network}-{job.batch}.mnn")
    net = MNN.nn.load_module_from_file(file, ["image"], ["scores"], runtime_manager=settings)

    def run(x: Array) -> Array:
        image = MNN.expr.placeholder(list(x.shape), MNN.expr.NCHW, MNN.numpy.float32)
        image.write(x)
        return np.array(net.forward([image])[0].read())

    return run


@dataclass(frozen=True)
class Engine:
    """A way to run networks; `package` must be importable, and `needs` are the files that it reads."""

    name: str
    package: str
    start: Callable[[Job, Array], Run]
    needs: str  # "weights", "onnx", "ncnn" or "mnn"

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


ENGINES = (
    #      name             package        start          reads
    Engine("faltung",       "faltung",     _faltung,      "weights"),
    Engine("torch",         "torch",       _eager,        "weights"),
    Engine("torch.compile", "torch",       _compiled,     "weights"),
    Engine("onnxruntime",   "onnxruntime", _onnxruntime,  "onnx"),
    Engine("openvino",      "openvino",    _openvino,     "onnx"),
    Engine("ncnn",          "ncnn",        _ncnn,         "ncnn"),
    Engine("mnn",           "MNN",         _mnn,          "mnn"),
)  # fmt: skip


# ---- the process of an engine ----


@dataclass(frozen=True)
class Started:
    """What an engine's process says once it has run for the first time."""

    scores: Array
    seconds: float  # from the start to the first result


class Worker:
    """An engine in its own process. Raises RuntimeError, with the engine's own words, where it cannot run the job."""

    def __init__(self, engine: Engine, job: Job, x: Array) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, engine.name, job, x), daemon=True)
        self.process.start()
        theirs.close()
        self.started: Started = self._answer()

    def time(self, calls: int) -> float:
        """Seconds a call, over this many calls after one that wakes the threads."""
        self.pipe.send(calls)
        return float(self._answer())

    def peak(self) -> int:
        """The most memory that the process has held, in bytes."""
        self.pipe.send("memory")
        return int(self._answer())

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def _answer(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"its process ended with code {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            self.stop()
            raise RuntimeError(f"{type(answer).__name__}: {answer}".splitlines()[0]) from answer
        return answer


def _serve(pipe: Connection, name: str, job: Job, x: Array) -> None:
    engine = next(e for e in ENGINES if e.name == name)
    try:
        begin = time.perf_counter()
        run = engine.start(job, x)
        pipe.send(Started(run(x), time.perf_counter() - begin))
    except Exception as reason:  # what an engine may raise is its own affair
        pipe.send(RuntimeError(f"{type(reason).__name__}: {reason}"))
        return
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order == "memory":
            pipe.send(_peak())
            continue
        run(x)
        begin = time.perf_counter()
        for _ in range(order):
            run(x)
        pipe.send((time.perf_counter() - begin) / order)


def _peak() -> int:
    """The most memory of this process; its own, where the system tells it apart from that of the process it came from."""
    import resource

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
