"""Initial values by layer kind, for networks that do not keep PyTorch's defaults."""

from __future__ import annotations

from typing import TypeVar

from faltung import nn
from faltung.init import constant, kaiming_normal, normal

Network = TypeVar("Network", bound=nn.Module)


def he(net: Network, mode: str, linear_std: float | None = None) -> Network:
    """He's normal values for convolutions by `mode`, fan_in or fan_out, and no bias at first.

    With `linear_std` linear layers are normal with that deviation and without bias; otherwise they keep the default.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            kaiming_normal(layer.weight, mode)
            _unbiased(layer)
        elif isinstance(layer, nn.Linear) and linear_std is not None:
            normal(layer.weight, linear_std)
            _unbiased(layer)
    return net


def gaussian(net: Network, std: float) -> Network:
    """Normal values of one deviation for all weights, and no bias at first."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            normal(layer.weight, std)
            _unbiased(layer)
    return net


def _unbiased(layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        constant(layer.bias, 0)
