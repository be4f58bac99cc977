"""Initializers with the same dtype, shape and bits become one.

Bits, not values: 0.0 and -0.0, or two NaNs with other payloads, stay apart. Guards: defaults that a caller may override
stay; one that is returned keeps its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.ir import Graph, Model, Tensor, Value
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
    seen: dict[Any, list[Value]] = {}
    for value in list(graph.initializers.values()):
        if value.is_input or value.tensor is None or not (value.users or value.outs):
            continue
        same = seen.setdefault(_key(value.tensor), [])
        first = next((v for v in same if _equal(v.tensor, value.tensor)), None)
        if first is None:
            same.append(value)
        elif not value.outs and ctx.allow():
            value.replace_with(first)
            graph.erase_initializer(value)
            ctx.record("deduplicate", [value.name], [first.name], graph)


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
