"""Whether inferring a model anew would find more than is known: asked of the few nodes that changed, each by itself.

Inference is a function of a node's attributes, of what is known of its inputs, and of those that are small constants.
Where none of these is new, nor is the result; so if no changed node makes more of its inputs than was known before, no
other does.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from onnx import ModelProto, TypeProto, numpy_helper

from graphopt.analysis.shapes import UNKNOWN, run_inference
from graphopt.ir import Dim, Model, Node, Value
from graphopt.ir.dtypes import to_numpy

_SMALL = 1024  # elements of a constant that may say sizes
_HUGE = 1 << 31
_FIRST = 24  # nodes asked at first


def is_made_up(dim: Dim) -> bool:
    """Whether it is one of the names that inference gives to sizes that it does not know."""
    return isinstance(dim, str) and dim.startswith(UNKNOWN)


def is_open(value: Value) -> bool:
    """Whether something is left to be known of its rank and dims."""
    shape = value.shape
    return shape is None or any(dim is None or is_made_up(dim) for dim in shape)


def tells_more(model: Model, nodes: Iterable[Node]) -> bool:
    """Whether inference finds more of what these nodes make than is known: a type, a rank, a size, or a symbol that
    one of their inputs has."""
    found = [node for node in nodes if any(value.name and is_open(value) for value in node.outputs)]
    if not found:
        return False
    if model.functions or any(node.subgraphs for node in found):
        return True  # what is inside counts, too
    try:
        start, count = 0, _FIRST
        while start < len(found):  # mostly one of the first few has news, or none of all
            if _Question(model, found[start : start + count]).answer():
                return True
            start, count = start + count, 8 * count
        return False
    except Exception:  # noqa: BLE001 - onnx raises several C++ exception types
        return True


class _Question:
    """A model of these nodes side by side: each reads what is known of its inputs, none reads another."""

    def __init__(self, model: Model, nodes: list[Node]):
        self.proto = ModelProto(ir_version=max(4, model.ir_version), opset_import=model.proto.opset_import)
        self.names: dict[Value, str] = {}
        self.symbols: set[str] = set()
        self.made: dict[str, Value] = {}
        for node in nodes:
            proto = self.proto.graph.node.add(op_type=node.op, domain=node.domain)
            proto.attribute.extend(node.proto.attribute)
            proto.input.extend([self.read(value) if value is not None else "" for value in node.inputs])
            for value in node.outputs:
                name = f"out{len(self.made)}" if value.name else ""
                self.made[name] = value
                proto.output.append(name)

    def read(self, value: Value) -> str:
        """The name of what stands for a value."""
        name = self.names.get(value)
        if name is not None:
            return name
        name = self.names[value] = f"in{len(self.names)}"
        shape, dtype = value.shape, value.dtype
        if value.is_const and prod(d for d in shape or () if isinstance(d, int)) <= _SMALL:
            array = value.numpy()
            if dtype is not None and array.dtype == to_numpy(dtype):
                self.proto.graph.initializer.append(numpy_helper.from_array(array, name))
                return name
        if dtype is None:  # a sequence, or not known
            if value.type is not None:
                self.proto.graph.input.add(name=name, type=value.type)
            return name
        tensor = self.proto.graph.input.add(name=name).type.tensor_type
        tensor.elem_type = dtype
        if shape is not None:
            tensor.shape.SetInParent()
        for dim in shape or ():
            if dim is None or (isinstance(dim, int) and not 0 <= dim < _HUGE):
                tensor.shape.dim.add()  # onnx ends the process where a Slice reads a size below zero
            elif isinstance(dim, int):
                tensor.shape.dim.add(dim_value=dim)
            else:
                tensor.shape.dim.add(dim_param=dim)
                self.symbols.add(dim)
        return name

    def answer(self) -> bool:
        result = run_inference(self.proto)
        return any(self.is_news(self.made[info.name], info.type) for info in result.graph.value_info)

    def is_news(self, value: Value, found: TypeProto) -> bool:
        if value.type is None or not found.HasField("tensor_type"):
            return value.type is None or value.type != found
        if not found.tensor_type.HasField("shape"):
            return False
        shape = value.shape
        if shape is None or len(shape) != len(found.tensor_type.shape.dim):
            return True
        for dim, new in zip(shape, found.tensor_type.shape.dim, strict=True):
            if dim is None or is_made_up(dim):
                if new.dim_value > 0 or new.HasField("dim_value"):
                    return True
                if new.dim_param in self.symbols and new.dim_param != dim:
                    return True
        return False
