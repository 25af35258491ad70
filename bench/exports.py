"""A network of the zoo for the other engines: as a PyTorch module, and as the files that each engine loads.

    weights   NAME.npz                 faltung and torch
    onnx      NAME-BATCH.onnx          ONNX Runtime and OpenVINO, with the batch size fixed, which they like best
    mnn       NAME-BATCH.mnn           made from the ONNX file
    ncnn      NAME.ncnn.param, .bin    one image; ncnn has no batches

The PyTorch module is built layer by layer from the network's own layers, and runs the forward functions of its own
modules on PyTorch's tensors, so that both compute the same by construction; outputs are compared all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from faltung import nn, zoo

WINDOW = ("kernel_size", "stride", "padding")
CONV = ("in_channels", "out_channels", *WINDOW, "dilation", "groups")

# layer              arguments that are attributes of the same name
LAYERS: dict[str, tuple[str, ...]] = {
    "Conv2d":            CONV,
    "Linear":            ("in_features", "out_features"),
    "BatchNorm2d":       ("num_features", "eps", "momentum"),
    "MaxPool2d":         (*WINDOW, "dilation", "ceil_mode"),
    "AvgPool2d":         (*WINDOW, "ceil_mode", "count_include_pad"),
    "AdaptiveAvgPool2d": ("output_size",),
    "Flatten":           ("start_dim", "end_dim"),
    "Dropout":           ("p",),
    "ReLU":              (),
    "ReLU6":             (),
    "Identity":          (),
}  # fmt: skip
BIASED = ("Conv2d", "Linear")
DRAWS = "._step"  # how often a dropout has drawn: PyTorch keeps that elsewhere


def twin(network: str) -> Any:
    """The network as a torch.nn.Module with the same keys in its state_dict, and initial values of its own."""
    return _module(zoo.build(network))


def _module(m: nn.Module) -> Any:
    import torch

    kind = type(m).__name__
    if kind in LAYERS:
        arguments = {name: getattr(m, name) for name in LAYERS[kind]}
        if kind in BIASED:
            arguments["bias"] = getattr(m, "bias", None) is not None
        return getattr(torch.nn, kind)(**arguments)
    parts = OrderedDict((name, _module(part)) for name, part in m.named_children())
    if type(m).forward is nn.Sequential.forward:
        return torch.nn.Sequential(parts)
    return _own(m, parts)


def _own(m: nn.Module, parts: OrderedDict[str, Any]) -> Any:
    """A module that runs the forward function of `m`, with PyTorch's functions in place of ours."""
    import torch

    source = type(m).forward
    functions = SimpleNamespace(relu=torch.relu, cat=torch.cat, pad=torch.nn.functional.pad, as_tensor=lambda x: x)
    forward = FunctionType(source.__code__, {**source.__globals__, "dsl": functions}, source.__name__, source.__defaults__, source.__closure__)

    class Own(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, value in vars(m).items():
                if value is None or isinstance(value, (bool, int, float, str, tuple)):
                    setattr(self, name, value)
            for name, part in parts.items():
                self.add_module(name, part)

        def __iter__(self) -> Any:
            return iter(list(self.children()))

    Own.forward = forward
    Own.__name__ = type(m).__name__
    return Own().eval()


# ---- files ----


def prepare(network: str, folder: Path, seed: int = 0) -> Path:
    """The weights file of a network, made where it is missing: the zoo's initial values, and statistics that are not 0 and 1."""
    file = folder / f"{network}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        state = {name: np.array(array) for name, array in zoo.build(network).state_dict().items()}
        for name, array in state.items():
            if name.endswith("running_mean"):
                state[name] = generator.normal(0, 0.1, array.shape).astype(array.dtype)
            elif name.endswith("running_var"):
                state[name] = generator.uniform(0.8, 1.2, array.shape).astype(array.dtype)
        part = folder / f"{network}.part.npz"
        np.savez(part, **state)  # type: ignore[arg-type]
        os.replace(part, file)
    return file


def export(needs: str, network: str, folder: Path, batch: int) -> str | None:
    """Make what an engine loads, in another process; None, or the reason why it could not be made."""
    prepare(network, folder)
    if needs == "weights" or _target(needs, network, folder, batch).exists():
        return None
    if needs == "mnn" and (reason := export("onnx", network, folder, batch)) is not None:
        return reason
    order = [sys.executable, "-m", "bench.exports", needs, network, str(folder), str(batch)]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    if done.returncode or not _target(needs, network, folder, batch).exists():
        lines = (done.stderr or done.stdout).strip().splitlines()
        return lines[-1] if lines else f"code {done.returncode}"
    return None


def _target(needs: str, network: str, folder: Path, batch: int) -> Path:
    return folder / (f"{network}.ncnn.bin" if needs == "ncnn" else f"{network}-{batch}.{needs}")


def _torch_to_onnx(network: str, folder: Path, batch: int) -> None:
    import torch

    shape = (batch, *zoo.TABLE[network].input)
    torch.onnx.export(
        loaded(network, folder), (torch.zeros(shape),), str(folder / f"{network}-{batch}.onnx"),
        input_names=["image"], output_names=["scores"], dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip


def _onnx_to_mnn(network: str, folder: Path, batch: int) -> None:
    stem = folder / f"{network}-{batch}"
    converter = Path(sys.executable).with_name("mnnconvert")
    subprocess.run([converter, "-f", "ONNX", "--modelFile", f"{stem}.onnx", "--MNNModel", f"{stem}.mnn", "--bizCode", "bench"], check=True)


def _torch_to_ncnn(network: str, folder: Path, batch: int) -> None:
    import pnnx
    import torch

    shape = (1, *zoo.TABLE[network].input)
    stem = str(folder / network)
    made = {f"pnnx{kind}": f"{stem}.pnnx.{kind}" for kind in ("param", "bin", "py", "onnx")}
    made |= {f"ncnn{kind}": f"{stem}.ncnn.{kind}" for kind in ("param", "bin", "py")}
    pnnx.export(loaded(network, folder), f"{stem}.pt", torch.zeros(shape), fp16=False, **made)
    for file in [*made.values(), f"{stem}.pt"]:
        if not file.endswith((".ncnn.param", ".ncnn.bin")):
            Path(file).unlink(missing_ok=True)


def loaded(network: str, folder: Path) -> Any:
    """The PyTorch module with the weights of the file, for evaluation."""
    import torch

    net = twin(network)
    with np.load(folder / f"{network}.npz") as arrays:
        net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files if not name.endswith(DRAWS)})
    return net.eval()


MAKERS = {"onnx": _torch_to_onnx, "mnn": _onnx_to_mnn, "ncnn": _torch_to_ncnn}

if __name__ == "__main__":
    kind, name, where, size = sys.argv[1:]
    MAKERS[kind](name, Path(where), int(size))
