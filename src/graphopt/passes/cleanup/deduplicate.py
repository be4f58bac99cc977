"""Initializers with the same dtype, shape and bits become one.

Bits, not values: 0.0 and -0.0, or two NaNs with other payloads, stay apart. Guards: defaults that a caller may override
stay; one that is returned keeps its name; running statistics of a BatchNormalization in training mode stay apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.ir import Graph, Model, Tensor, Value
from graphopt.ir.external import span
from graphopt.passes.base import Pass
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_opaque

_PART = 1 << 24  # bytes compared at a time
_SAMPLE = 256  # bytes at either end that tell most large tensors apart before all is compared


@dataclass(frozen=True)
class Deduplicate(Pass):
    """Merges initializers that are equal bit for bit."""

    name = "deduplicate"

    def run(self, model: Model, ctx: Context) -> None:
        """Merges within each scope."""
        for graph in list(model.scopes(functions=False)):
            if not is_opaque(graph):
                _merge(graph, ctx)


def _merge(graph: Graph, ctx: Context) -> None:
    seen: dict[Any, _Alike] = {}
    for value in list(graph.initializers.values()):
        if value.is_input or value.tensor is None or not (value.users or value.outs) or _is_updated(value):
            continue
        first = seen.setdefault(_key(value.tensor), _Alike()).find(value, value.tensor)
        if first is not value and not value.outs and ctx.allow("deduplicate", value.name):
            ctx.claim((value, first))
            value.replace_with(first)
            graph.erase_initializer(value)
            ctx.record("deduplicate", [value.name], [first.name], graph)


def _is_updated(value: Value) -> bool:
    """Whether a BatchNormalization in training mode reads it as running statistics: ONNX Runtime (1.31) writes the new
    ones into the same memory, so that another reader would see them."""
    return any(
        node.op == "BatchNormalization" and len(node.outputs) > 1 and any(node.input(slot) is value for slot in (3, 4))
        for node in value.users
    )


class _Alike:
    """Tensors that the key does not tell apart. Two are compared; where there are more, their digests tell which."""

    def __init__(self) -> None:
        self.first: Value | None = None
        self.others: dict[bytes, Value] = {}

    def find(self, value: Value, tensor: Tensor) -> Value:
        """The one with the same bits that was here before, or the value itself."""
        if self.first is None:
            self.first = value
        if self.first is value or _equal(self.first.tensor, tensor):
            return self.first
        found = self.others.setdefault(_digest(tensor), value)
        return found if found is value or _equal(found.tensor, tensor) else value


def _digest(tensor: Tensor) -> bytes:
    digest, bits = blake2b(digest_size=16), _bits(tensor)
    if isinstance(bits, tuple):
        bits = repr(bits).encode()
    for start in range(0, len(bits), _PART):
        digest.update(bits[start : start + _PART])
    return digest.digest()


def _bits(tensor: Tensor) -> Any:
    raw = tensor.raw()
    if raw is None:  # in a typed field: the canonical bytes are the array's
        array = tensor.numpy()
        return tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()
    return raw


def _key(tensor: Tensor) -> Any:
    key = (tensor.dtype, tensor.shape)
    bits = _bits(tensor)
    if len(bits) <= 2 * _SAMPLE:
        return *key, bits if isinstance(bits, tuple) else bytes(bits)
    if isinstance(bits, tuple):
        return *key, bits[:_SAMPLE]
    return *key, bytes(bits[:_SAMPLE]), bytes(bits[-_SAMPLE:])


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    assert a is not None and b is not None
    if a.is_external and b.is_external and span(a.proto) == span(b.proto):
        return True
    left, right = _bits(a), _bits(b)
    if isinstance(left, tuple) or isinstance(right, tuple):
        return bool(left == right)
    if len(left) <= 2 * _SAMPLE:
        return True  # the key held all of it
    if a.dtype == TensorProto.STRING or len(left) != len(right):
        return False
    for start in range(0, len(left), _PART):  # mapped files must not pile up in memory
        ours, theirs = (np.frombuffer(bits[start : start + _PART], np.uint8) for bits in (left, right))
        if not np.array_equal(ours, theirs):
            return False
        if len(left) > _PART:
            a.store.forget_pages()
    return True
