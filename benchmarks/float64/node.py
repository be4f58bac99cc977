"""What the kernels share: a node as they see it, and what they raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

Array = np.ndarray
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class Unsupported(Exception):
    """There is no evaluation in double precision of this; the message says of what."""


@dataclass
class Node:
    """What a kernel knows of a node beside its inputs."""

    op: str
    domain: str
    outputs: list[str]
    attrs: dict[str, Any]
    opset: int

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def ints(self, name: str, default: int, count: int) -> list[int]:
        """An attribute that is a list of integers, by default `count` times the same."""
        return list(self.attrs.get(name, [default] * count))


def channels(values: Array, rank: int, axis: int = 1) -> Array:
    """One value a channel, shaped so that it meets axis `axis` of a tensor of this rank."""
    return values.reshape([-1 if place == axis else 1 for place in range(rank)])


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))
