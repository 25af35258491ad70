"""The demonstration: train a small network on handwritten digits, show what was derived, learned and misread.

    run()                          trains, writes four pictures and the weights, reads the digits in a fresh process
    python -m faltung.demo FILE    is that fresh process: classifies the held-out digits with the weights in FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import faltung as ft
from faltung import nn, pictures, zoo
from faltung.datasets import Dataset, mnist
from faltung.graph.errors import DataError, FaltungError
from faltung.runtime.checkpoint import fit_into, load_weights, save_weights
from faltung.runtime.train import History, accuracy, fit, one_cycle

EPOCHS, BATCH, LR = 20, 64, 0.1
FRESH_PROCESS_LIMIT = 600.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What a run ended with; accuracy is that of the fresh process on the held-out digits."""

    accuracy: float
    held_out: int
    seconds: float
    history: History
    files: tuple[Path, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"files": [str(path) for path in self.files]})


def run(
    out: str | Path = "demo-output",
    epochs: int = EPOCHS,
    seed: int = 0,
    data: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train for `epochs` and write everything into the folder `out`, which is made if need be.

    `data` is a folder of MNIST files; without it the 5,000 digits of the extra `demo` are taken.
    Raises DataError where there are no digits or `out` cannot be written.
    """
    if epochs < 1:
        raise DataError(f"{epochs} epochs: at least 1 is needed to show anything")
    digits, folder = mnist(data), _folder(out)
    say(f"{len(digits.train_labels)} digits to train on, {len(digits.test_labels)} held out")

    started = time.perf_counter()
    ft.manual_seed(seed)
    net = zoo.digits()
    x, y, loss = graph_of(net)
    gradients = ft.grad(loss, dict(net.named_parameters()))
    say(f"the first convolution      {net[0](x).equation}")
    say(f"its weights' gradient      {gradients['0.weight'].equation}")
    history = train(net, digits, epochs=epochs, seed=seed)
    seconds = time.perf_counter() - started

    weights = folder / "digits.safetensors"
    save_weights(weights, net.state_dict())
    scores = classify(ft.compile(y), digits.test_images)
    fresh = _in_fresh_process(weights, data)
    if fresh != scores.argmax(axis=1).tolist():
        raise FaltungError(f"{weights}: a fresh process reads the held-out digits differently than the one that trained")
    share = float(np.mean(np.array(fresh) == digits.test_labels))

    files = (weights, *_pictures(folder, net, x, digits, scores, history))
    for path in files:
        say(f"wrote {path}")
    say(f"accuracy {share:.4f} on {len(fresh)} held-out digits, trained in {seconds:.1f} s")
    return Outcome(share, len(fresh), seconds, history, files)


def graph_of(net: nn.Module, picture: tuple[int, int, int] = zoo.DIGIT) -> tuple[Any, Any, Any]:
    """Input, scores and loss of a network for pictures of (channels, height, width); the labels are the input `t`."""
    x = ft.input("x", (None, *picture))
    t = ft.input("t", (None,), dtype="int64")
    y = net(x)
    return x, y, ft.cross_entropy(y, t)


def train(
    net: nn.Module,
    data: Dataset,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    lr: float = LR,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> History:
    """Train in place with Nesterov momentum, one cycle of the learning rate, and pictures changed at random.

    The network is left in training mode.
    """
    x, y, loss = graph_of(net.train())
    optimiser = ft.optim.SGD(lr=lr, momentum=0.9, weight_decay=1e-3, nesterov=True)
    step = ft.compile_step(loss, net, optimiser, outputs=[y])
    model = ft.compile(net.eval()(x))
    net.train()
    return fit(
        step,
        data.train,
        epochs,
        batch_size,
        seed,
        net=net,
        validate=lambda: accuracy(model, data.test),
        schedule=one_cycle(lr, epochs),
        augment=data.augment,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def classify(model: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_size: int = 250) -> np.ndarray:
    """Scores (n, 10) for pictures (n, 1, 28, 28)."""
    return np.concatenate([model(images[i : i + batch_size]) for i in range(0, len(images), batch_size)])


def main(argv: list[str] | None = None) -> None:
    """Classify the held-out digits with saved weights; prints a JSON list of the digits read."""
    parser = argparse.ArgumentParser(prog="python -m faltung.demo")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args(argv)
    net = zoo.digits()
    fit_into(net, load_weights(arguments.weights), "weights")
    _, y, _ = graph_of(net)
    print(json.dumps(classify(ft.compile(y), mnist(arguments.data).test_images).argmax(axis=1).tolist()))


def _in_fresh_process(weights: Path, data: str | Path | None) -> list[int]:
    command = [sys.executable, "-m", "faltung.demo", str(weights), *(["--data", str(data)] if data else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FRESH_PROCESS_LIMIT, check=False)
    except subprocess.TimeoutExpired as reason:
        raise FaltungError(f"the fresh process did not end within {FRESH_PROCESS_LIMIT:.0f} s") from reason
    if done.returncode:
        raise FaltungError(f"the fresh process ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    read: list[int] = json.loads(done.stdout)
    return read


def _pictures(
    folder: Path, net: nn.Sequential, x: Any, digits: Dataset, scores: np.ndarray, history: History
) -> tuple[Path, ...]:
    image = digits.test_images[:1]
    responses = ft.compile(net[1](net[0](x)))(image)
    return (
        pictures.training_curve(history, folder / "training.png"),
        pictures.filters(net.state_dict()["0.weight"], folder / "filters.png"),
        pictures.feature_maps(image[0, 0], responses[0], folder / "features.png"),
        pictures.mistakes(*digits.test, scores, folder / "mistakes.png"),
    )


def _folder(out: str | Path) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise DataError(f"{folder}: cannot be made: {reason}") from reason
    return folder


if __name__ == "__main__":
    main()
