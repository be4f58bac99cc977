"""Where the values of a graph input go: through operators that keep values, into bodies and functions, to their users.

This reads the proto, not the IR: verification must not rest on the code that it verifies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.verify.source import bodies, nested, nodes_of

__all__ = ["Flow", "Use", "attribute"]

Key = tuple[int, str]  # which namespace (0: main graph and its bodies; i: the i-th function), and the value's name
_SMALL = 65_536  # elements: constants with more are never looked into

# Operators whose outputs hold elements of these inputs, unchanged (but for their type, order or number).
_KEEPS: dict[str, tuple[int, ...]] = dict.fromkeys(
    (
        "Identity Cast CastLike Reshape Squeeze Unsqueeze Flatten Transpose Slice Expand Tile Split Dropout Pad Gather"
        " GatherND GatherElements DepthToSpace SpaceToDepth Compress Round ReverseSequence Floor Ceil Trilu Optional"
        " OptionalGetElement SplitToSequence SequenceAt ConcatFromSequence ScatterND ScatterElements Scatter TopK"
        " ReduceMax ReduceMin Unique"
    ).split(),
    (0,),
)
_KEEPS.update({"Where": (1, 2), "SequenceInsert": (0, 1)})
_KEEPS_ALL = {"Concat", "SequenceConstruct"}
_BOUNDS = {"Clip", "Min", "Max", "Mod", "Relu"}  # from here on the values are within bounds that the model sets


@dataclass(frozen=True)
class Use:
    """One use of an input's values: `slot` of `node` reads scale * x + offset of the input's values x.

    cast: whether the values went through a Cast to an integer type. bounded: whether the model bounds them itself.
    """

    node: NodeProto
    slot: int
    space: int
    scale: float = 1.0
    offset: float = 0.0
    cast: bool = False
    bounded: bool = False


class Flow:
    """The users of every value of `model`, across bodies and functions, and the constants that are known."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._users: dict[Key, list[tuple[NodeProto, int]]] = defaultdict(list)
        self._constants: dict[Key, TensorProto | np.ndarray] = {}
        self._derived: dict[Key, tuple[int, ...]] = {}
        self._functions = {(f.domain, f.name, getattr(f, "overload", "")): i for i, f in enumerate(model.functions, 1)}
        self._body_of: dict[Key, list[Key]] = defaultdict(list)  # body output -> the node's outputs
        roots: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
        for space, root in enumerate(roots):
            for scope in nested(root):
                self._read(scope, space)

    def constant(self, space: int, name: str) -> np.ndarray | None:
        """The value of a small constant, or None."""
        value = self._constants.get((space, name))
        if not isinstance(value, TensorProto):
            return value
        if value.data_location == TensorProto.EXTERNAL or int(np.prod(value.dims, dtype=np.int64)) > _SMALL:
            return None
        return numpy_helper.to_array(value)

    def shape(self, space: int, name: str) -> tuple[int, ...] | None:
        """The shape of a constant (or of what Cast, DequantizeLinear or Identity make of one), or None."""
        value = self._constants.get((space, name))
        if value is None:
            return self._derived.get((space, name))
        return tuple(value.dims) if isinstance(value, TensorProto) else value.shape

    def uses(self, name: str, limit: int = 2000) -> list[Use]:
        """Where the values of the graph input `name` end, at most `limit` of them."""
        found: list[Use] = []
        state = (1.0, 0.0, False, False)
        waiting: list[tuple[int, str, tuple[float, float, bool, bool]]] = [(0, name, state)]
        seen = set(waiting)
        while waiting and len(found) < limit:
            space, value, state = waiting.pop()
            for node, slot in self._users.get((space, value), []):
                found.append(Use(node, slot, space, *state))
                for step in self._onward(node, slot, space, state):
                    if step not in seen:
                        seen.add(step)
                        waiting.append(step)
            for target in self._body_of.get((space, value), ()):
                if (*target, state) not in seen:
                    seen.add((*target, state))
                    waiting.append((*target, state))
        return found

    def _onward(
        self, node: NodeProto, slot: int, space: int, state: tuple[float, float, bool, bool]
    ) -> Iterator[tuple[int, str, tuple[float, float, bool, bool]]]:
        """The values that hold what `slot` of `node` reads, with how they follow from the input."""
        scale, offset, cast, bounded = state
        op = node.op_type
        called = self._functions.get((node.domain, op, getattr(node, "overload", "")))
        if called is not None:
            formal = self.model.functions[called - 1].input
            if slot < len(formal):
                yield called, formal[slot], state
            return
        if op in ("Loop", "Scan"):
            for body in bodies(node):
                inner = slot if op == "Loop" else slot - max(0, len(node.input) - len(body.input))
                if 0 <= inner < len(body.input):
                    yield space, body.input[inner].name, state
            return
        if op in _KEEPS_ALL or slot in _KEEPS.get(op, ()):
            to = attribute(node, "to", 0) if op == "Cast" else 0  # of any type, in a file that is damaged
            state = (scale, offset, cast or (isinstance(to, int) and to in _INTEGERS), bounded)
        elif op in _BOUNDS:
            state = (scale, offset, cast, True)
        elif op in ("Add", "Sub", "Mul", "Div"):
            moved = self._affine(node, slot, space, scale, offset)
            if moved is None:
                return
            state = (*moved, cast, bounded)
        else:
            return
        for name in node.output:
            if name:
                yield space, name, state

    def _affine(
        self, node: NodeProto, slot: int, space: int, scale: float, offset: float
    ) -> tuple[float, float] | None:
        """scale and offset after an arithmetic operator with a scalar constant; a factor that varies counts as 1."""
        if len(node.input) != 2:
            return None
        constant = self.constant(space, node.input[1 - slot])
        if constant is None:
            return (scale, offset) if node.op_type == "Mul" else None
        if constant.size != 1 or constant.dtype.kind not in "iuf":
            return None
        number = float(constant.ravel()[0])
        if node.op_type == "Add":
            return scale, offset + number
        if node.op_type == "Sub":
            return (scale, offset - number) if slot == 0 else (-scale, number - offset)
        if node.op_type == "Mul":
            return scale * number, offset * number
        return (scale / number, offset / number) if slot == 0 and number else None

    def _read(self, scope: GraphProto | FunctionProto, space: int) -> None:
        if isinstance(scope, GraphProto):
            fed = {value.name for value in scope.input}
            for tensor in scope.initializer:
                if tensor.name not in fed:
                    self._constants[space, tensor.name] = tensor
        for node in nodes_of(scope):
            for slot, name in enumerate(node.input):
                if name:
                    self._users[space, name].append((node, slot))
            if node.op_type == "Constant":
                value = _constant_of(node)
                if value is not None:
                    self._constants[space, node.output[0]] = value
            elif node.op_type in ("Cast", "DequantizeLinear", "Identity") and node.input and node.output:
                shape = self.shape(space, node.input[0])
                if shape is not None:
                    self._derived[space, node.output[0]] = shape
            for body in bodies(node):
                self._link_body(node, body, space)
            called = self._functions.get((node.domain, node.op_type, getattr(node, "overload", "")))
            if called is not None:
                self._link_call(node, called, space)

    def _link_call(self, node: NodeProto, called: int, space: int) -> None:
        function = self.model.functions[called - 1]
        for inner, outer in zip(function.output, node.output, strict=False):
            self._body_of[called, inner].append((space, outer))
        for inner, outer in zip(function.input, node.input, strict=False):
            shape = self.shape(space, outer)
            if shape is not None:
                self._derived.setdefault((called, inner), shape)

    def _link_body(self, node: NodeProto, body: GraphProto, space: int) -> None:
        skip = 1 if node.op_type == "Loop" else 0
        for inner, outer in zip(body.output[skip:], node.output, strict=False):
            if outer:
                self._body_of[space, inner.name].append((space, outer))


_INTEGERS = {
    value for name, value in TensorProto.DataType.items() if name.startswith(("INT", "UINT"))
}  # fmt: skip


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """The decoded attribute `name` of `node`, or `default`."""
    for entry in node.attribute:
        if entry.name == name and not entry.ref_attr_name:
            return helper.get_attribute_value(entry)
    return default


def _constant_of(node: NodeProto) -> TensorProto | np.ndarray | None:
    for entry in node.attribute:
        if entry.ref_attr_name:  # the caller's: it may differ from call to call
            return None
        if entry.type == AttributeProto.TENSOR:
            return entry.t
        if entry.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(entry), np.int64)
        if entry.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(entry), np.float32)
        if entry.name in ("value_string", "value_strings"):
            value = helper.get_attribute_value(entry)
            texts = [v.decode("utf-8", "replace") for v in (value if isinstance(value, list) else [value])]
            return np.asarray(texts if isinstance(value, list) else texts[0], object)
    return None
