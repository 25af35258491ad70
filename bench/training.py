"""A whole training step, forward, backward and update: Faltung beside PyTorch eager, same weights, same data.

Before anything is timed both take a step from the same weights, and the weights must agree afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import faltung as ft
from bench.timing import Timing, in_turns, table
from faltung import zoo
from faltung.demo import graph_of
from faltung.runtime.threads import set_threads
from faltung.zoo.mnist import CLASSES

LR, MOMENTUM = 0.01, 0.9
TOLERANCE = 1e-4  # of the largest weight, after one step in float32
NO_TORCH = "PyTorch is not installed, so Faltung stands alone here: pip install -e '.[bench]' brings it"


@dataclass(frozen=True)
class Case:
    """A network of the zoo at a batch size."""

    title: str
    network: str
    batch: int


TABLE = [
    #     title                                network   batch
    Case("LeNet-5", "lenet5", 64),
    Case("CNN conv32-conv64-pool-fc128-fc10", "wide", 128),
]


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench training", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    set_threads(arguments.threads)
    torch = _torch(arguments.threads)
    results = {case: measure(case, torch, arguments.rounds) for case in TABLE}
    if arguments.json:
        print(json.dumps({"threads": arguments.threads, "cases": [_values(case, found) for case, found in results.items()]}))
    else:
        print(f"one training step, SGD with momentum, float32, {arguments.threads} threads, {arguments.rounds} rounds; ms")
        print(_text(results))
        if torch is None:
            print(NO_TORCH)
    return 0


def measure(case: Case, torch: Any, rounds: int) -> dict[str, Timing]:
    """Timings by competitor; raises ArithmeticError where the two do not train alike."""
    net = zoo.build(case.network)
    generator = np.random.default_rng(0)
    images = generator.random((case.batch, *zoo.DIGIT), np.float32)
    labels = generator.integers(0, CLASSES, case.batch)
    start = {name: np.array(array) for name, array in net.state_dict().items()}
    _, _, loss = graph_of(net)
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=LR, momentum=MOMENTUM))
    competitors: dict[str, Callable[[], Any]] = {"faltung": lambda: step(images, labels)}
    if torch is not None:
        theirs, weights = _torch_step(torch, net, start, images, labels)
        competitors["torch"] = theirs
        step(images, labels)
        theirs()
        for name, array in net.state_dict().items():
            reach, error = np.abs(start[name]).max(), np.abs(array - weights()[name]).max()
            if not error <= TOLERANCE * reach:
                raise ArithmeticError(f"{case.title}: {name} differs by {error:.2e} after one step, largest weight {reach:.2e}")
    return in_turns(competitors, rounds)


def _torch(threads: int) -> Any:
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    return torch


def _torch_step(
    torch: Any, net: Any, start: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    """The same network, weights and optimiser in PyTorch: a step, and the weights as they stand."""
    layers = [_torch_layer(torch, layer) for layer in net]
    twin = torch.nn.Sequential(*layers)
    twin.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in start.items()})
    optimiser = torch.optim.SGD(twin.parameters(), lr=LR, momentum=MOMENTUM)
    x, t = torch.from_numpy(images), torch.from_numpy(labels)
    cross_entropy = torch.nn.functional.cross_entropy

    def step() -> float:
        optimiser.zero_grad()
        loss = cross_entropy(twin(x), t)
        loss.backward()
        optimiser.step()
        return float(loss)

    return step, lambda: {name: tensor.numpy() for name, tensor in twin.state_dict().items()}


def _torch_layer(torch: Any, layer: Any) -> Any:
    """PyTorch's layer of the same name; the attributes carry PyTorch's names already."""
    kind = type(layer).__name__
    takes = {
        "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
        "Linear": ("in_features", "out_features"),
        "MaxPool2d": ("kernel_size",),
    }
    return getattr(torch.nn, kind)(*(getattr(layer, name) for name in takes.get(kind, ())))


def _text(results: dict[Case, dict[str, Timing]]) -> str:
    rows = []
    for case, found in results.items():
        ours, theirs = found["faltung"], found.get("torch")
        row = [f"{case.title}, batch {case.batch}", f"{1e3 * ours.median:.3f}", f"{1e3 * ours.best:.3f}"]
        row += ["", "", ""] if theirs is None else [
            f"{1e3 * theirs.median:.3f}", f"{1e3 * theirs.best:.3f}", f"{ours.ratio(theirs):.2f}×"
        ]  # fmt: skip
        rows.append(row)
    return table(["network", "faltung", "best", "torch", "best", "torch/faltung"], rows)


def _values(case: Case, found: dict[str, Timing]) -> dict[str, Any]:
    values: dict[str, Any] = {"network": case.network, "batch": case.batch}
    values |= {name: timing.to_dict() for name, timing in found.items()}
    if "torch" in found:
        values["ratio"] = found["faltung"].ratio(found["torch"])
    return values


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
