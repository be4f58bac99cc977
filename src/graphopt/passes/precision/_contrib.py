"""Operators of com.microsoft that compute in float16 as well, as ONNX Runtime's ContribOperators.md declares them.

onnx has no schemas for them. What is not listed here keeps the types that it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Node


@dataclass(frozen=True)
class Contrib:
    """One operator. floats: input slots of the type parameter that may be float16, None for all; like: the slot whose
    element type the outputs have; float_outputs: outputs that are float32 whatever the inputs are."""

    floats: frozenset[int] | None = None
    like: int = 0
    float_outputs: frozenset[int] = frozenset()


_ALL = Contrib()
_NORM = Contrib(float_outputs=frozenset({1, 2}))
_CONTRIB = {
    "BiasGelu": _ALL,
    "BiasSplitGelu": _ALL,
    "FastGelu": _ALL,
    "FusedConv": _ALL,
    "FusedGemm": _ALL,
    "FusedMatMul": _ALL,
    "Gelu": _ALL,
    "MatMulNBits": Contrib(frozenset({0, 2, 5})),
    "MultiHeadAttention": _ALL,
    "QuickGelu": _ALL,
    "RotaryEmbedding": _ALL,
    "SimplifiedLayerNormalization": _NORM,
    "SkipLayerNormalization": _NORM,
    "SkipSimplifiedLayerNormalization": _NORM,
}


def contrib(node: Node) -> Contrib | None:
    """What is known of a node of com.microsoft, or None."""
    return _CONTRIB.get(node.op) if node.domain == "com.microsoft" else None
