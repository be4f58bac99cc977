"""What the dearest operator of a model costs: no runtime can be stopped while one is at work."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnx import ModelProto

from graphopt.analysis.cost import node_cost
from graphopt.analysis.negative import outline
from graphopt.analysis.shapes import infer
from graphopt.ir import Model, Node

__all__ = ["HEAVY", "Effort"]

_LARGE = 1 << 20  # elements of all inputs: with fewer, symbolic sizes count as 1
HEAVY = 20 * 10**9  # FLOPs of one operator that are a matter of seconds
_DEAR = frozenset(
    "MatMul Gemm Conv ConvTranspose Einsum LSTM GRU RNN Attention MatMulInteger ConvInteger QLinearConv QLinearMatMul "
    "DFT STFT Det Resize TopK".split()
)


class Effort:
    """Figures of a model's operators, as far as its shapes are known."""

    def __init__(self, proto: ModelProto) -> None:
        self._proto = proto
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
        self._applies = any(node.op_type in _DEAR for node in proto.graph.node)

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """FLOPs of the dearest operator of the main graph. shapes: of the inputs; small ones are left as declared."""
        if not self._applies:
            return 0
        large = sum(map(prod, shapes.values())) >= _LARGE
        key = tuple(sorted(shapes.items())) if large else ()
        if key not in self._known:
            self._known[key] = self._dearest(dict(key))
        return self._known[key]

    def _dearest(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        try:
            model = inferred_at(self._proto, shapes)
            return max((_flops(node) for node in model.graph if node.op in _DEAR and not node.domain), default=0)
        except Exception:  # noqa: BLE001 - then nothing is known of it
            return 0


def inferred_at(proto: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """A model without its weights, types inferred for inputs of these shapes."""
    bare = outline(proto)
    for info in bare.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, shapes.get(info.name, ()), strict=False):
            dim.dim_value = size
    model = Model(bare)
    infer(model)
    return model


def _flops(node: Node) -> int:
    try:
        return node_cost(node).flops or 0
    except Exception:  # noqa: BLE001 - absurd attributes
        return 0
