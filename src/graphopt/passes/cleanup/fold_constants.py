"""What depends on constants alone is computed now: y = f(c1, c2)   ==   constant y.

Evaluated by ONNX Runtime with its optimizations off, all in one session where that works, and by `onnx.reference` where
the runtime lacks an operator. Guards: never random, stateful or unknown operators, nor ones with bodies; never
(De)QuantizeLinear, whose integer weights are wanted as integers; results only of dtypes that numpy holds exactly; and
never without knowing first how much it will be: bytes of each result and of all, bytes needed at a time, FLOPs of each
node and of all. The options of `FoldConstants` are those limits, and what is over one is refused, saying which. Time
itself is a limit only behind those: what it stops depends on the machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod

from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, NDArray, Node, Tensor, Value
from graphopt.ir.provenance import mark, mark_tensor, origin_of_all
from graphopt.ir.tensor import fill, payload_bytes
from graphopt.passes.base import Pass
from graphopt.passes.cleanup._evaluate import Evaluation
from graphopt.passes.cleanup._limits import Plan, Spent, is_apart, memory_of, size_of, work_of
from graphopt.passes.cleanup.cse import RANDOM
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_opaque, sweep

NAME = "fold-constants"
FAILED = "no evaluator could compute it"
_LARGE, _MOST = 1 << 12, 4096  # bytes of a constant that counts as one, and how many are kept apart

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

    size: bytes that a result which stays may have (more only if the model's constants that it is made of have as many).
    growth: bytes that all results together may add to the model, and that one on the way to them may have; `ratio`: or
    add that share of its constants' bytes, if it is more.
    memory: bytes that computing a node may take. flops: FLOPs of a node, work: of all (as MatMul counts them: other
    operators take about 16 times as long for one). seconds: wall-clock time of all; a last resort.
    """

    name = NAME
    size: int = 1 << 20
    growth: int = 1 << 26
    ratio: float = 0.5
    memory: int = 1 << 31
    flops: float = 2.0**33
    work: float = 2.0**36
    seconds: float = 60.0

    def run(self, model: Model, ctx: Context) -> None:
        """Folds in waves: what one computes may tell the next a size."""
        spent = Spent.of(model)
        room = max(self.growth, int(self.ratio * _weights(model)))
        for wave in range(8):
            ensure_types(model, fresh=wave > 0)
            sites = _Sites(self, spent, ctx)
            for graph in model.scopes(functions=False):
                if graph.holds_initializers and not is_opaque(graph):
                    sites.search(graph)
            sites.trim()
            if not sites.nodes:
                return
            made = {v: sites.values[v] for node in sites.nodes for v in node.outputs if v.name}
            plan = Plan(sites.nodes, made, room - spent.grown, self.memory)
            for node in plan.left_out:
                ctx.refuse(NAME, "the model would grow past the growth limit, or results not fit into memory", node)
            if not _fold(model, plan, self.seconds, spent, ctx) or not sites.unknown:
                return


class _Sites:
    """The nodes that can be folded together, in topological order."""

    def __init__(self, limits: FoldConstants, spent: Spent, ctx: Context):
        self.limits, self.spent, self.ctx = limits, spent, ctx
        self.nodes: dict[Node, int] = {}  # with the work of each
        self.values: dict[Value, int] = {}  # what they make, with its size in bytes
        self.origins: dict[Value, int] = {}
        self.constants: dict[Value, int] = {}  # large ones, each with a bit of its own
        self.unknown = 0  # nodes whose size may be known once the others are folded
        self.work = spent.work

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
        if node in self.spent.failed:
            return FAILED
        if is_apart(node):
            return "a tensor among its attributes is stored apart"
        if node.op in ("Div", "Mod") and not self._divides(node):
            return "the divisor could be 0 or -1, at which integer division traps"
        origins = self._origins(node)
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
            if count > max(self.limits.size, self.limits.growth) and count > self.weight(origins):
                return _too_large(count)
            sizes[value] = count
        given = sum(
            self.values[v] if v in self.values else size_of(v) for v in dict.fromkeys(node.inputs) if v is not None
        )
        reason = self._afford(node, given + sum(sizes.values()))
        if not reason:
            self.values.update(sizes)
            self.origins.update((value, origins) for value in sizes)
        return reason

    def _origins(self, node: Node) -> int:
        """The large constants that a node's results are made of, one bit for each: they may be replaced by as much, but
        not what was made of them on the way, which could double at each step."""
        found = 0
        for value in node.inputs:
            if value in self.values:
                found |= self.origins.get(value, 0)
            elif value is not None and size_of(value) >= min(_LARGE, self.limits.size):
                known = self.constants.setdefault(value, 1 << len(self.constants))
                found |= known if known < 1 << _MOST else 0
        return found

    def weight(self, origins: int) -> int:
        """Bytes of the constants that results are made of."""
        return sum(size_of(value) for value, bit in self.constants.items() if origins & bit)

    def trim(self) -> None:
        """Leaves out the nodes whose results would stay, and are too large for that."""
        for node in reversed(list(self.nodes)):
            for value in node.outputs:
                count = self.values.get(value, 0)
                stays = value.outs or any(user not in self.nodes for user in value.users)
                if stays and count > self.limits.size and count > self.weight(self.origins[value]):
                    self.ctx.refuse(NAME, _too_large(count), node)
                    del self.nodes[node]
                    break

    def _afford(self, node: Node, moved: int) -> str:
        """Charges the node's work, or says which limit it is over."""
        limits, work = self.limits, work_of(node, moved)
        if work is None:
            return "how long it would take is not known"
        if work > limits.flops:
            return f"computing it takes {work:g} FLOPs: more than the flops limit of {limits.flops:g}"
        if memory_of(node, moved) > limits.memory:
            return f"computing it takes more than the memory limit of {limits.memory} bytes"
        if self.work + work > limits.work:
            return f"with the others it takes more FLOPs than the work limit of {limits.work:g}"
        self.work += work
        self.nodes[node] = work
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


def _too_large(count: int) -> str:
    return f"the result has {count} bytes: more than the size limit and than its constants"


def _weights(model: Model) -> int:
    return sum(v.tensor.nbytes for g in model.scopes() for v in g.initializers.values() if v.tensor is not None)


def _fold(model: Model, plan: Plan, seconds: float, spent: Spent, ctx: Context) -> bool:
    """Computes the values that something else reads, and puts them in place; whether any was."""
    wanted = plan.wanted()
    began = time.monotonic()
    run = Evaluation(model, plan.nodes, wanted, began + seconds - spent.seconds)
    results = run.results()
    spent.seconds += time.monotonic() - began
    spent.work += sum(plan.nodes.values())
    spent.grown += plan.grown
    spent.failed |= run.failed
    done = False
    for value in wanted:
        array = results.get(value)
        node = value.producer
        assert node is not None
        if array is None and run.is_late:
            ctx.refuse(NAME, f"the time limit of {seconds:g} seconds is over", node)
        elif array is None:
            ctx.refuse(NAME, FAILED, node)
        elif ctx.allow(NAME, value.name):
            label, name = node.label, value.name
            _place(value, array, ctx)
            sweep(node)
            ctx.record(NAME, [label], [name], value.graph)
            done = True
    return done


def _place(value: Value, array: NDArray, ctx: Context) -> None:
    tensor = TensorProto()
    graph = value.graph
    fill(tensor, array, "", graph.model.store, value.dtype)
    ctx.claim((value, Tensor(tensor, graph.model.store)))
    if value.outs:  # a returned value keeps a node: runtimes disagree on initializers as outputs of bodies
        made = graph.adopt(tensor, value.name)
        node = graph.insert("Identity", [made], before=value.producer, name=f"{value.name}_constant")
        assert value.producer is not None
        origin = origin_of_all([value.producer], NAME)
        mark(node, origin)
        if made.tensor is not None:
            mark_tensor(made.tensor.proto, origin)
        node.output.set_type(value.type)
        value.replace_with(node.output)
    else:
        graph.freeze(value, tensor)
