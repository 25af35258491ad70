"""`python -m bench WHAT [options]` runs one measurement; `python -m bench` lists them."""

from __future__ import annotations

import importlib
import sys

# what        what is measured
TABLE = {
    "training": "a training step of LeNet-5 and of a small CNN, beside PyTorch",
    "inference": "whole networks, beside PyTorch, ONNX Runtime, OpenVINO, ncnn and MNN",
    "convolutions": "convolutions of every kind and their gradients, beside PyTorch",
    "layers": "every distinct convolution of six networks, inside its network, against the peak and the memory",
    "winograd": "convolutions by Winograd's algorithm against sums of products, and against the peak",
    "kernels": "single kernels: GFLOP/s against this machine's peak",
    "peak": "multiply-adds and read bandwidth of this machine, cache by cache",
    "startup": "importing, deriving, compiling: how long before the first step",
}


def main(argv: list[str]) -> int:
    """Run the measurement that the first argument names; returns the exit code."""
    if not argv or argv[0] not in TABLE:
        print("usage: python -m bench WHAT [--json] [options]\n", file=sys.stderr)
        print("\n".join(f"  {name:10} {about}" for name, about in TABLE.items()), file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"bench.{argv[0]}")
    except ModuleNotFoundError as reason:
        print(f"bench {argv[0]} needs {reason.name}: pip install -e '.[bench]'", file=sys.stderr)
        return 1
    return int(module.main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
