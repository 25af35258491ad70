"""Layers under PyTorch's names: modules with parameters, and the functional ops as modules."""

from faltung.nn.activation import Identity, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from faltung.nn.container import Sequential
from faltung.nn.linear import Conv1d, Conv2d, Conv3d, Linear
from faltung.nn.loss import CrossEntropyLoss
from faltung.nn.module import Loaded, Module
from faltung.nn.pooling import AvgPool1d, AvgPool2d, AvgPool3d, Flatten, MaxPool1d, MaxPool2d, MaxPool3d

__all__ = [
    "AvgPool1d", "AvgPool2d", "AvgPool3d", "Conv1d", "Conv2d", "Conv3d", "CrossEntropyLoss", "Flatten", "Identity",
    "Linear", "Loaded", "LogSoftmax", "MaxPool1d", "MaxPool2d", "MaxPool3d", "Module", "ReLU", "Sequential", "Sigmoid",
    "Softmax", "Tanh",
]  # fmt: skip
