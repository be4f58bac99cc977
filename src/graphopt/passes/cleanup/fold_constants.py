"""What depends on constants alone is computed now: y = f(c1, c2)   ==   constant y.

Evaluated by ONNX Runtime with its optimizations off, all in one session where that works, and by `onnx.reference` where
the runtime lacks an operator. Guards: never random, stateful or unknown operators, nor ones with bodies; never
(De)QuantizeLinear, whose integer weights are wanted as integers; results only of dtypes that numpy holds exactly; and
never without knowing the size first: a result may have at most `size` bytes, or as many as the constants that it is
made of, and the model may grow by `growth` bytes in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, NDArray, Node, Value
from graphopt.ir.tensor import fill, payload_bytes
from graphopt.passes.base import Pass
from graphopt.passes.cleanup._evaluate import evaluate
from graphopt.passes.cleanup.cse import RANDOM
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_opaque, sweep

NAME = "fold-constants"

# Quantization is there on purpose; sequences and optionals have no constant form; Constant is one already.
_KEEP = RANDOM | frozenset(
    "Constant QuantizeLinear DequantizeLinear DynamicQuantizeLinear If Loop Scan SequenceMap Identity "
    "SequenceConstruct SequenceEmpty SequenceAt SequenceInsert SequenceErase SequenceLength SplitToSequence "
    "ConcatFromSequence Optional OptionalGetElement OptionalHasElement "
    "StringSplit StringConcat StringNormalizer RegexFullMatch TfIdfVectorizer ImageDecoder".split()
)
_EXACT = frozenset(
    getattr(TensorProto, name)
    for name in "FLOAT DOUBLE FLOAT16 BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Computes constant expressions.

    size: bytes that a result may have (more only if the constants it is made of have as many). growth: bytes that all
    results together may add to the model.
    """

    name = NAME
    size: int = 1 << 20
    growth: int = 1 << 26

    def run(self, model: Model, ctx: Context) -> None:
        """Folds in waves: what one computes may tell the next a size."""
        room = self.growth
        for wave in range(8):
            ensure_types(model, fresh=wave > 0)
            sites = _Sites(self.size, room, ctx)
            for graph in model.scopes(functions=False):
                if graph.holds_initializers and not is_opaque(graph):
                    sites.search(graph)
            if not sites.nodes:
                return
            room -= sites.grown
            if not _fold(model, sites, ctx) or not sites.unknown:
                return


class _Sites:
    """The nodes that can be folded together, in topological order."""

    def __init__(self, size: int, room: int, ctx: Context):
        self.size, self.room, self.ctx = size, room, ctx
        self.nodes: dict[Node, None] = {}
        self.values: dict[Value, int] = {}  # what they make, with its size in bytes
        self.unknown = 0  # nodes whose size may be known once the others are folded
        self.grown = 0

    def search(self, graph: Graph) -> None:
        for node in graph:
            if node.domain or not node.outputs or not all(self._is_known(v) for v in node.inputs):
                continue
            if node.op in _KEEP or node.subgraphs or (not node.inputs and node.op != "EyeLike"):
                continue
            reason = self._admit(node)
            if reason:
                self.ctx.refuse(NAME, reason, node)

    def _is_known(self, value: Value | None) -> bool:
        return value is None or value in self.values or value.is_const

    def _admit(self, node: Node) -> str:
        """Takes the node in, or says why not."""
        if node.op in ("Div", "Mod") and not self._divides(node):
            return "the divisor could be 0 or -1, at which integer division traps"
        given = sum(self.values.get(v) or _bytes(v) or 0 for v in node.inputs if v is not None)
        sizes: dict[Value, int] = {}
        for value in node.outputs:
            if not value.name:
                continue
            if value.dtype is not None and value.dtype not in _EXACT:
                return "the result's dtype is kept for the runtime to compute"
            count = _bytes(value)
            if count is None:
                self.unknown += 1
                return "the size of the result is not known"
            if count > max(self.size, given):
                return f"the result has {count} bytes: more than the size limit and than its constants"
            sizes[value] = count
        more = max(0, sum(sizes.values()) - given)
        if self.grown + more > self.room:
            return "the model would grow past the growth limit"
        self.grown += more
        self.values.update(sizes)
        self.nodes[node] = None
        return ""

    def _divides(self, node: Node) -> bool:
        """Whether a division is of floats, or by known integers that the processor can divide by."""
        divisor = node.inputs[1]
        if divisor is None or divisor.dtype in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
            return True
        if not divisor.is_const:
            self.unknown += 1  # it is computed in this wave; the next one knows it
            return False
        array = divisor.numpy()
        return bool((array != 0).all() and (array.dtype.kind == "u" or (array != -1).all()))


def _bytes(value: Value) -> int | None:
    """Bytes of a value whose dtype and dims are all known."""
    shape, dtype = value.shape, value.dtype
    if value.is_const and value.tensor is None:
        return int(value.numpy().nbytes)
    if shape is None or dtype is None or any(not isinstance(dim, int) for dim in shape):
        return None
    return payload_bytes(dtype, prod(d for d in shape if isinstance(d, int)))


def _fold(model: Model, sites: _Sites, ctx: Context) -> bool:
    """Computes the values that something else reads, and puts them in place; whether any was."""
    inner = sites.nodes
    wanted = [v for v in sites.values if v.outs or any(user not in inner for user in v.users)]
    results = evaluate(model, list(inner), wanted)
    done = False
    for value in wanted:
        array = results.get(value)
        node = value.producer
        assert node is not None
        if array is None:
            ctx.refuse(NAME, "no evaluator could compute it", node)
        elif ctx.allow():
            label, name = node.label, value.name
            _place(value, array)
            sweep(node)
            ctx.record(NAME, [label], [name], value.graph)
            done = True
    return done


def _place(value: Value, array: NDArray) -> None:
    tensor = TensorProto()
    graph = value.graph
    fill(tensor, array, "", graph.model.store, value.dtype)
    if value.outs:  # a returned value keeps a node: runtimes disagree on initializers as outputs of bodies
        made = graph.adopt(tensor, value.name)
        node = graph.insert("Identity", [made], before=value.producer, name=f"{value.name}_constant")
        node.output.set_type(value.type)
        value.replace_with(node.output)
    else:
        graph.freeze(value, tensor)
