"""What folding a node would cost, known before it is done, and which nodes fit into what may be spent.

Work is counted in FLOPs of a matrix product of floats; everything else is slower and counts `SLOW` times, and moving
data counts, too. So one figure bounds the time of a node, which no evaluator can be stopped in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx import AttributeProto, TensorProto

from graphopt.analysis.cost import node_cost, workspace
from graphopt.ir.wire import token_index

if TYPE_CHECKING:
    from graphopt.ir import Model, Node, Value

SLOW = 16
_FAST = frozenset("MatMul Gemm Conv ConvTranspose Attention Einsum".split())
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
_FACT = "folding"


@dataclass
class Spent:
    """What constant folding has used up in a model, over all its runs there."""

    work: int = 0
    seconds: float = 0.0
    grown: int = 0
    failed: set[Node] = field(default_factory=set)  # which no evaluator could compute

    @classmethod
    def of(cls, model: Model) -> Spent:
        """The account of a model."""
        account: Spent = model.facts.setdefault(_FACT, cls())
        return account


def work_of(node: Node, moved: int) -> int | None:
    """FLOPs, as counted here, or None where nothing bounds them. moved: bytes of its inputs and outputs."""
    flops = node_cost(node).flops
    if flops is None:
        return None
    data = SLOW * moved // 4
    first = node.inputs[0] if node.inputs else None
    fast = node.op in _FAST and first is not None and first.dtype in _FLOATS
    return flops + data if fast else max(SLOW * flops, data)


def memory_of(node: Node, moved: int) -> int:
    """Bytes at a time while the node is computed. moved: bytes of its inputs and outputs."""
    return moved + 8 * workspace(node)


def is_apart(node: Node) -> bool:
    """Whether an attribute holds a tensor whose values are not in it: an evaluator would look for them elsewhere."""
    return any(
        tensor.data_location == TensorProto.EXTERNAL or token_index(tensor.raw_data) is not None
        for attribute in node.proto.attribute
        if attribute.type in (AttributeProto.TENSOR, AttributeProto.TENSORS)
        for tensor in (attribute.tensors or [attribute.t])
    )


class Plan:
    """Which of the nodes that could be folded are: those whose results let the model grow by no more than `room` bytes
    and whose intermediate results have no more than a quarter of `memory` at a time.

    made: bytes of each value that the nodes make; constant: bytes of a constant value.
    """

    def __init__(self, nodes: Mapping[Node, int], made: Mapping[Value, int], room: int, memory: int):
        self.made, self.room = made, room
        self.nodes = dict(nodes)
        self.left_out: list[Node] = []
        self.grown = self._growth()
        if self.grown > room or self._peak() > memory // 4:
            self._choose()

    def wanted(self) -> list[Value]:
        """The values that something else reads."""
        return [v for node in self.nodes for v in node.outputs if v.name and self._is_wanted(v)]

    def _is_wanted(self, value: Value) -> bool:
        return bool(value.outs) or any(user not in self.nodes for user in value.users)

    def _growth(self) -> int:
        """Bytes of the results, less those of the constants that nothing reads any more."""
        read = {v: None for node in self.nodes for v in node.inputs if v is not None and v not in self.made}
        freed = sum(size_of(v) for v in read if not self._is_wanted(v))
        return sum(self.made[v] for v in self.wanted()) - freed

    def _peak(self) -> int:
        """Bytes of intermediate results at a time, when the nodes run in order."""
        left = {v: sum(user in self.nodes for user in v.users) for v in self.made if not self._is_wanted(v)}
        now = most = 0
        for node in self.nodes:
            now += sum(self.made[v] for v in node.outputs if v in left)
            most = max(most, now)
            for value in dict.fromkeys(node.inputs):
                if value in left:
                    left[value] -= 1
                    now -= 0 if left[value] else self.made[value]
        return most

    def _choose(self) -> None:
        """In order, each node whose results fit: what it makes counts until all that read it are folded, too."""
        chosen: dict[Node, int] = {}
        lost: set[Value] = set()
        grown = 0
        for node, work in self.nodes.items():
            inputs = [v for v in dict.fromkeys(node.inputs) if v is not None]
            done = [v for v in inputs if not v.outs and all(user is node or user in chosen for user in v.users)]
            more = sum(self.made[v] for v in node.outputs if v.name)
            after = grown + more - sum(self.made[v] if v in self.made else size_of(v) for v in done)
            if any(v in lost for v in inputs) or after > self.room:
                lost.update(node.outputs)
                self.left_out.append(node)
            else:
                chosen[node], grown = work, after
        self.nodes, self.grown = chosen, grown


def size_of(value: Value) -> int:
    """Bytes of a constant."""
    return value.tensor.nbytes if value.tensor is not None else int(value.numpy().nbytes)
