"""Operators that end the process which runs them, in ONNX Runtime 1.31: where they stand, and on which shapes.

What does so whatever it is fed is not shown to the runtime at all: ConvTranspose and Conv in 0 groups (a division by
zero), and Sum, Max, Min, Mean, Einsum with an input left out between others. What depends on the inputs is tried in a
copy of the process first: LSTM and GRU on empty inputs, ConvTranspose of three spatial axes one of which is empty, and
the lowest integer divided by -1, which has no result. With all of its own optimizations on, the runtime is not shown a
float16 Transpose that moves the first axis behind others, if a MatMul reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.ir import Node, Value
from graphopt.verify.effort import inferred_at
from graphopt.verify.source import scopes

__all__ = ["Hazards"]

_LISTS = frozenset(("Sum", "Max", "Min", "Mean", "Einsum"))
_GROUPED = frozenset(("Conv", "ConvTranspose"))
_RECURRENT = frozenset(("LSTM", "GRU"))
_SHAPED = _RECURRENT | {"ConvTranspose"}
_PLANE = 4  # axes of a ConvTranspose that has a kernel of its own for them
_DIVIDE = frozenset(("Div", "Mod"))
_INVOLVED = _SHAPED | _DIVIDE
_BY_VALUE = frozenset("NonZero Compress Unique NonMaxSuppression Loop Scan".split())  # give sizes by values
_WATCHED = _LISTS | _GROUPED | _INVOLVED | _BY_VALUE
_WIDE = (TensorProto.INT32, TensorProto.INT64)  # narrower ones are divided as int32
_DEFAULT = ("", "ai.onnx")
_FEW = 1 << 12  # elements: constants with more are not looked into
# Results that are never negative; and operators whose results are not, when these inputs are not (None: all of them).
_COUNTS = frozenset("Shape Size NonZero ArgMax ArgMin SequenceLength Abs".split())
_KEEP: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Gather Slice Squeeze Unsqueeze Reshape Identity Expand Tile Transpose Flatten ReduceProd "
                     "ReduceMax ReduceMin ReduceSum Split GatherElements GatherND").split(), (0,)),
    **dict.fromkeys("Concat Add Mul Div Mod Max Min".split(), None),
    "Where": (1, 2),
}  # fmt: skip


# Operators that are for floats alone; whose result has another input's type than the first's; that do not say its type.
_FLOATING = frozenset(
    """Conv ConvTranspose Sqrt Exp Log Sigmoid Tanh Erf Softmax LogSoftmax BatchNormalization LayerNormalization
    InstanceNormalization DequantizeLinear AveragePool GlobalAveragePool Reciprocal HardSwish HardSigmoid Softplus Gelu
    LpNormalization LSTM GRU RNN Sin Cos""".split()
)
_TYPED_BY = {"Where": 1, "OneHot": 2, "CastLike": 1}
_UNTYPED = frozenset(
    """If Loop Scan Equal Greater Less GreaterOrEqual LessOrEqual And Or Not Xor IsNaN QuantizeLinear
    DynamicQuantizeLinear QLinearConv QLinearMatMul MatMulInteger ConvInteger TfIdfVectorizer EyeLike RandomNormalLike
    RandomUniformLike Bernoulli Multinomial SequenceAt OptionalGetElement Unique TopK MaxPool StringSplit BitCast
    NonMaxSuppression""".split()
)


# Operators whose results have elements if their inputs have; of some, only the first input counts.
_RESHAPING = frozenset(
    "Reshape Squeeze Unsqueeze Flatten ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 LSTM GRU RNN".split()
)
_FILLING = _RESHAPING | frozenset(
    """Identity Cast Transpose Concat Gather Add Sub Mul Div Pow Neg Abs Sqrt Exp Log Erf Relu LeakyRelu PRelu Elu Selu
    Clip Sigmoid HardSigmoid HardSwish Tanh Softplus Softmax LogSoftmax Gelu Where Equal Not Min Max Dropout Conv MatMul
    Gemm MaxPool AveragePool GlobalAveragePool GlobalMaxPool BatchNormalization InstanceNormalization Einsum
    LayerNormalization QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger""".split()
)


_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Hazards:
    """Those of one model. always: why it must not be shown to the runtime, "" for nothing. A run for which `of` is true
    has to be tried."""

    @cached_property
    def when_optimized(self) -> str:
        """Why it must not be shown to the runtime with all optimizations on, "" for nothing."""
        if not any(_crosses(node, scope) for scope in scopes(self._proto) for node in scope.node):
            return ""
        try:
            model = inferred_at(self._proto, {})
        except Exception:  # noqa: BLE001 - then nothing is known of it
            return ""
        for graph in model.scopes():
            for node in graph:
                if node.op == "Transpose" and _is_half(node) and _moves_first(node.attr("perm") or ()):
                    return f"ONNX Runtime's optimizations end the process on float16 Transpose {node.label}"
        return ""

    def __init__(self, proto: ModelProto) -> None:
        self._proto = proto
        self._known: dict[tuple[str, ...], bool] = {}
        self.always, self._divides, self._shaped, self._by_value = "", False, False, False
        for scope in scopes(proto):
            nodes = [node for node in scope.node if node.op_type in _WATCHED and node.domain in _DEFAULT]
            lines = _Lines(scope) if any(node.op_type in _INVOLVED for node in nodes) else None
            for node in nodes:
                self.always = self.always or _always(node)
                self._by_value |= node.op_type in _BY_VALUE
                if lines is not None:
                    self._divides |= node.op_type in _DIVIDE and _is_unsafe(node, lines)
                    self._shaped |= node.op_type in _SHAPED and _is_shaped(node, lines)

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return self._divides or self._shaped

    def of(self, feeds: Mapping[str, Any]) -> bool:
        """Whether a run on these inputs may end the process."""
        if self._divides or not self._shaped:
            return self._divides
        key = _key(feeds)
        if key not in self._known:
            try:
                self._known[key] = self._look({name: np.shape(value) for name, value in feeds.items()})
            except Exception:  # noqa: BLE001 - then nothing is known of it
                self._known[key] = True
        return self._known[key]

    def survived(self, feeds: Mapping[str, Any]) -> None:
        """A trial with these inputs went well: others of the same shapes need none, unless sizes depend on values."""
        if self._shaped and not self._by_value:
            self._known[_key(feeds)] = False

    def _look(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        model = inferred_at(self._proto, shapes)
        return any(_on_nothing(node) for scope in model.scopes() for node in scope if node.op in _SHAPED)


def _key(feeds: Mapping[str, Any]) -> tuple[str, ...]:
    """The shapes, and the values of single numbers and flags: they choose branches."""
    parts = ((name, np.shape(value), value.tolist() if np.size(value) == 1 else "") for name, value in feeds.items())
    return tuple(sorted(map(repr, parts)))


def _moves_first(perm: Sequence[int]) -> bool:
    """Whether the first axis goes right before the last, or to the end, and the others stay in order."""
    last = len(perm) - 1
    return last > 1 and tuple(perm) in ((*range(1, last), 0, last), (*range(1, last + 1), 0))


def _is_half(node: Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype in _HALVES


def _crosses(node: NodeProto, scope: GraphProto | FunctionProto) -> bool:
    """Whether a Transpose moves its first axis so and a MatMul of the scope reads it, whatever its type."""
    if node.op_type != "Transpose" or node.domain not in _DEFAULT:
        return False
    perm = next((entry.ints for entry in node.attribute if entry.name == "perm"), ())
    return _moves_first(perm) and any(n.op_type == "MatMul" and node.output[0] in n.input for n in scope.node)


def _always(node: NodeProto) -> str:
    if node.op_type in _LISTS and not all(node.input):
        return f"{node.op_type} with an input left out would end the process"
    if node.op_type in _GROUPED and any(a.name == "group" and a.i == 0 for a in node.attribute):
        return f"{node.op_type} in 0 groups would end the process"
    return ""


def _on_nothing(node: Node) -> bool:
    """Whether what a node reads may be empty where that ends the process."""
    value = node.inputs[0]
    if value is None:
        return True
    shape = value.shape
    if node.op == "ConvTranspose" and shape is not None:
        return len(shape) > _PLANE and not _is_full(shape[2:]) and _may_be_empty(value)
    return _may_be_empty(value)


def _is_full(shape: Sequence[object]) -> bool:
    return all(isinstance(dim, int) and dim > 0 for dim in shape)


def _may_be_empty(value: Value) -> bool:
    """Whether a value may have no elements, as far as one sees from what it is made of."""
    waiting, seen = [value], {value}
    while waiting:
        item = waiting.pop()
        if item.shape is not None and _is_full(item.shape):
            continue
        maker = item.producer
        if maker is not None and maker.op == "If":
            waiting += [body.outputs[item.index] for body in maker.subgraphs]
            continue
        if maker is None or maker.op not in _FILLING or maker.domain not in _DEFAULT or 0 in (item.shape or ()):
            return True
        for operand in maker.inputs[:1] if maker.op in _RESHAPING else maker.inputs:
            if operand is not None and operand not in seen:
                seen.add(operand)
                waiting.append(operand)
    return False


def _is_shaped(node: NodeProto, lines: _Lines) -> bool:
    """Whether the shape of what a node reads matters."""
    if node.op_type != "ConvTranspose":
        return True
    kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), None)
    if kernel is not None:
        return len(kernel) + 2 > _PLANE
    weight = lines.constants.get(node.input[1]) if len(node.input) > 1 else None
    return weight is None or len(weight.dims) > _PLANE


class _Lines:
    """Who makes what in one scope, its constants, and the types of its inputs."""

    def __init__(self, scope: GraphProto | FunctionProto) -> None:
        self.makers = {name: node for node in scope.node for name in node.output if name}
        self.constants: dict[str, TensorProto] = {}
        self._types: dict[str, int] = {}
        if isinstance(scope, GraphProto):
            self.constants = {tensor.name: tensor for tensor in scope.initializer}
            self._types = {value.name: value.type.tensor_type.elem_type for value in scope.input}
            self._types.update((tensor.name, tensor.data_type) for tensor in scope.initializer)

    def constant(self, name: str) -> np.ndarray | None:
        """The values of a small constant."""
        tensor = self.constants.get(name)
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            value = helper.get_node_attr_value(maker, maker.attribute[0].name) if maker.attribute else None
            if not isinstance(value, TensorProto):
                return None if value is None else np.atleast_1d(np.array(value))
            tensor = value
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        if np.prod(tensor.dims, dtype=np.float64) > _FEW:
            return None
        return numpy_helper.to_array(tensor)

    def is_other(self, name: str) -> bool:
        """Whether a value is certainly of another type than those that trap."""
        seen: list[str] = []
        found = 0
        while found == 0 and name and len(seen) < _FEW:
            maker = self.makers.get(name)
            found = self._types.get(name, 0)
            if found or maker is None or not maker.input or maker.domain not in _DEFAULT:
                break
            seen.append(name)
            if maker.op_type in _FLOATING:
                found = TensorProto.FLOAT
            elif maker.op_type in _COUNTS - {"Abs"}:
                found = TensorProto.INT64
            elif maker.op_type == "Cast":
                found = next((a.i for a in maker.attribute if a.name == "to"), 0)
            elif maker.op_type == "ConstantOfShape":
                found = next((a.t.data_type for a in maker.attribute if a.name == "value"), TensorProto.FLOAT)
            name = maker.input[_TYPED_BY.get(maker.op_type, 0)] if maker.op_type not in _UNTYPED else ""
        self._types.update(dict.fromkeys(seen, found))
        return found not in (0, *_WIDE)

    def is_counted(self, name: str) -> bool:
        """Whether no element can be negative: sizes, and what is made of them."""
        waiting, seen = [name], set[str]()
        while waiting:
            item = waiting.pop()
            if item in seen or not item:
                continue
            seen.add(item)
            value = self.constant(item)
            maker = self.makers.get(item)
            if value is not None:
                if value.dtype.kind not in "biu" or (value < 0).any():
                    return False
            elif maker is None or len(seen) > _FEW:
                return False
            elif maker.op_type not in _COUNTS:
                if maker.op_type not in _KEEP:
                    return False
                slots = _KEEP[maker.op_type]
                waiting += maker.input if slots is None else [maker.input[slot] for slot in slots]
        return True


def _is_unsafe(node: NodeProto, lines: _Lines) -> bool:
    """Whether a division may trap, as far as one sees."""
    if len(node.input) < 2 or any(lines.is_other(name) for name in node.input):
        return False
    divisor = lines.constant(node.input[1])
    if divisor is not None:
        return divisor.dtype.kind == "i" and bool((divisor == -1).any())
    return not lines.is_counted(node.input[1]) and not lines.is_counted(node.input[0])
