"""A model being written: values with concrete types, nodes that fit them, and feeds for what it takes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from graphopt.testing.chooser import Chooser
from graphopt.testing.sizes import known

Dims = tuple[int | str, ...]
MAX_ELEMENTS = 4096  # of any one value: models stay quick to run


_REFUSALS = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    ValueError,
    TypeError,
    KeyError,
)


class DoesNotFit(Exception):
    """These operands, attributes or this opset are not ones that the operator takes. The draft is as before."""


@dataclass(frozen=True, eq=False)
class Var:
    """A value of a draft.

    dtype: TensorProto number of the elements. shape: sizes for the feeds drawn; None where they depend on data. dims:
    sizes as the model declares them, names standing for symbols (inputs only). const: the data of an initializer or
    Constant. value: data known while drafting (constants, parameters that are fed, and what follows from sizes). kind:
    "tensor", "sequence" or "optional" (of tensors).
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    dims: Dims | None = None
    const: np.ndarray | None = None
    value: np.ndarray | None = None
    kind: str = "tensor"
    type: TypeProto = field(default_factory=TypeProto, repr=False)

    @property
    def rank(self) -> int | None:
        """The number of dimensions, or None."""
        return None if self.shape is None else len(self.shape)


@dataclass(frozen=True)
class Drawn:
    """A model and what to feed it with (array by input name; overridable initializers need no feed)."""

    model: ModelProto
    feeds: dict[str, np.ndarray]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what Hypothesis shows of a failing example

    def __repr__(self) -> str:
        feeds = ", ".join(f"{k}: {v.dtype}{list(v.shape)} {v.ravel()[:8].tolist()}" for k, v in self.feeds.items())
        return f"{onnx.printer.to_text(self.model)}\nfeeds: {feeds or 'none'}"


class Draft:
    """A graph that grows node by node; every node is checked by onnx's shape inference as it is added.

    >>> from graphopt.testing.chooser import RandomChooser
    >>> draft = Draft(RandomChooser(1), opset=17)
    >>> x = draft.input(TensorProto.FLOAT, (2, 3), ("N", 3))
    >>> [y] = draft.node("Relu", [x])
    >>> draft.output(y)
    >>> drawn = draft.finish()
    >>> [node.op_type for node in drawn.model.graph.node], drawn.feeds["x0"].shape
    (['Relu'], (2, 3))
    """

    def __init__(
        self, chooser: Chooser, opset: int, *, ir_version: int | None = None, parent: Draft | None = None
    ) -> None:
        self.chooser, self.opset, self.parent = chooser, opset, parent
        self.ir_version = ir_version or ir_version_for(opset)
        self.inputs: list[Var] = []
        self.outputs: list[Var] = []
        self.values: list[Var] = []  # whatever may be an operand here, the newest last
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.overridable: list[Var] = []
        self.opsets: dict[str, int] = {"": opset}
        self.functions: list[onnx.FunctionProto] = []
        self.needs = 3  # the lowest IR version that knows everything used
        self.dtypes: frozenset[int] = parent.dtypes if parent else frozenset()  # data of these types alone, if any
        self.portable: bool = parent.portable if parent else True  # only what ORT's CPU kernels implement
        self.counts: dict[str, int] = dict(parent.counts) if parent else {}
        self.grower: Callable[[Draft], None] | None = parent.grower if parent else None  # fills bodies
        self.extras: list[Var] = []  # values that are to be outputs although something reads them
        self.features: frozenset[str] | None = parent.features if parent else None  # None: whatever there is
        self.depth: int = parent.depth + 1 if parent else 0
        self.closed: bool = parent.closed if parent else False  # a function: no initializers, nothing from outside

    def allows(self, feature: str) -> bool:
        """Whether models may have something (a name in `spelling.FEATURES`)."""
        return self.features is None or feature in self.features

    @property
    def root(self) -> Draft:
        """The main graph."""
        found = self
        while found.parent is not None:
            found = found.parent
        return found

    def name(self, prefix: str = "v") -> str:
        """A name that is free in this graph and those around it. Graphs side by side get the same ones."""
        number = self.counts.get(prefix, 0)
        self.counts[prefix] = number + 1
        return f"{prefix}{number}"

    def input(
        self, dtype: int, shape: Sequence[int], dims: Dims | None = None, *, data: np.ndarray | None = None
    ) -> Var:
        """A graph input with a feed of that shape: `data`, or drawn. dims: the shape declared, if another.

        A body has no inputs of its own to feed: there it is one of the main graph, captured.
        """
        shape = tuple(shape)
        chosen = data is not None
        if data is None:
            data = self.chooser.array(dtype, shape, special=self.allows("special-values"))
        if dims is not None and not self.allows("symbols"):
            dims = None
        if self.closed:
            return self.constant(data, dtype)
        if self.parent is not None:
            var = self.root.input(dtype, shape, dims, data=data)
            self.values.append(var)
            return var
        var = self.declare(dtype, shape, dims, data if chosen else None)
        self.feeds[var.name] = data
        return var

    def declare(
        self, dtype: int, shape: Sequence[int], dims: Dims | None = None, value: np.ndarray | None = None
    ) -> Var:
        """A graph input without a feed (of a body, a function). value: its data, where it is known all the same."""
        shape = tuple(shape)
        self._needs(dtype)
        name = self.name("x" if self.parent is None else "b")
        var = Var(name, dtype, shape, dims or shape, value=value, type=tensor_type(dtype, shape))
        self.inputs.append(var)
        self.values.append(var)
        return var

    def constant(self, array: Any, dtype: int | None = None, as_node: bool = False) -> Var:
        """An initializer (or, as_node, a Constant). dtype: its TensorProto number, otherwise that of the array."""
        array = np.asarray(array)
        if dtype is None:
            dtype = TensorProto.STRING if array.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(array.dtype)
        elif dtype != TensorProto.STRING:
            array = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
        self._needs(dtype)
        name = self.name("c")
        tensor = to_tensor(array, dtype, name)
        if self._as_node(dtype, as_node):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        var = Var(name, dtype, array.shape, const=array, value=array, type=tensor_type(dtype, array.shape))
        self.values.append(var)
        return var

    def _as_node(self, dtype: int, wanted: bool) -> bool:
        """Whether a constant is a Constant: functions have no initializers, nor have bodies before IR version 4; and
        the Constant of opsets before 9 holds floats alone."""
        if self.closed or (self.parent is not None and self.ir_version < 4):
            return True
        return wanted and (self.opset >= 9 or dtype in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16))

    def node(
        self,
        op: str,
        inputs: Sequence[Var | None],
        n_out: int | Sequence[bool] = 1,
        domain: str = "",
        *,
        shape: tuple[int | None, ...] | None = None,
        **attrs: Any,
    ) -> list[Var]:
        """Adds a node and returns its outputs, with the types that shape inference gives.

        inputs: None stands for an optional input left out. n_out: how many outputs, or one bool for each (False: left
        out; then the list returned is shorter). shape: of the first output, for when inference does not tell (an
        attribute of that name cannot be given). Attributes that are None are left out. Raises DoesNotFit.
        """
        mark = self.mark()
        wanted = [True] * n_out if isinstance(n_out, int) else list(n_out)
        names = [self.name() if want else "" for want in wanted]
        given = [var.name if var is not None else "" for var in inputs]
        while given and not given[-1]:
            given.pop()
        try:
            schema = onnx.defs.get_schema(op, self.opsets.get(domain, 1), domain)
            node = helper.make_node(op, given, names, domain=domain)
            node.attribute.extend(_attribute(schema, key, value) for key, value in attrs.items() if value is not None)
            types = self._infer(schema, node, {var.name: var for var in inputs if var is not None})
            if shape is not None:
                found = types.get(names[0])
                dtype = found.tensor_type.elem_type if found is not None else _result_type(schema, inputs)
                types[names[0]] = tensor_type(dtype, shape)
            made = [self._made(node, name, types.get(name), inputs, i) for i, name in enumerate(names) if name]
        except (DoesNotFit, *_REFUSALS) as error:
            self.rollback(mark)
            raise DoesNotFit(f"{op}: {str(error).strip()}") from error
        self.nodes.append(node)
        self.values += made
        return made

    def append(self, node: NodeProto, outputs: Sequence[Var]) -> list[Var]:
        """Adds a node whose outputs are known (control flow, calls of functions)."""
        self.nodes.append(node)
        self.values += outputs
        return list(outputs)

    def fresh(self, dtype: int, shape: Sequence[int] | None, kind: str = "tensor") -> Var:
        """A value with a new name, for `append`."""
        shape = None if shape is None else tuple(shape)
        kinds = {"tensor": tensor_type, "sequence": _sequence_type, "optional": _optional_type}
        return Var(self.name(), dtype, shape, kind=kind, type=kinds[kind](dtype, shape))

    def output(self, var: Var) -> None:
        """Makes a value an output of the graph (again, if it is one already)."""
        self.outputs.append(var)

    def body(self) -> Draft:
        """A draft of a subgraph, or body, of a node to be added here: what is visible here is visible there."""
        inner = Draft(self.chooser, self.opset, ir_version=self.ir_version, parent=self)
        inner.values = list(self.values)
        return inner

    def absorb(self, inner: Draft) -> None:
        """What a finished body needs (IR version, functions, opsets) its owner needs."""
        self.needs = max(self.needs, inner.needs)
        self.opsets.update(inner.opsets)
        for prefix, count in inner.counts.items():  # ORT takes no name of a body that comes up again further down
            self.counts[prefix] = max(self.counts.get(prefix, 0), count)

    def graph(self, name: str = "g") -> GraphProto:
        """The graph as it is, with types for inputs and outputs."""
        inputs = [_info(var) for var in [*self.inputs, *self.overridable]]
        if self.ir_version < 4 and self.parent is None:
            listed = {var.name for var in self.overridable}
            inputs += [
                helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
                for t in self.initializers
                if t.name not in listed
            ]
        fixed = self.parent is None and not any(isinstance(dim, str) for var in self.inputs for dim in var.dims or ())
        outputs = [ValueInfoProto(name=var.name, type=var.type if fixed else _open(var.type)) for var in self.outputs]
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)

    def finish(self) -> Drawn:
        """The model. Without any `output`, every value that nothing reads is one."""
        if not self.outputs:
            read = {name for node in self.nodes for name in node.input}
            loose = [var for var in self.values if var.name not in read and var.const is None]
            self.outputs = [var for var in loose if ranked(var)] or [self._last()]
        model = helper.make_model_gen_version(
            self.graph(),
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in self.opsets.items()],
            ir_version=max(self.ir_version, self.needs),
            functions=self.functions,
        )
        model.producer_name = "graphopt.testing"
        return Drawn(model, self.feeds)

    def _last(self) -> Var:
        """A value that can be an output: the checker wants the rank of those."""
        last = self.values[-1]
        return last if ranked(last) else self.node("Size" if last.kind == "tensor" else "Identity", [last])[0]

    def mark(self) -> tuple[Any, ...]:
        """Where the draft stands, for `rollback`."""
        sizes = [len(part) for part in self._parts()]
        return (*sizes, dict(self.counts), self.needs, dict(self.feeds), dict(self.opsets))

    def rollback(self, mark: tuple[Any, ...]) -> None:
        """Takes everything back that came after a mark."""
        for part, size in zip(self._parts(), mark, strict=False):
            del part[size:]
        self.counts, self.needs, self.feeds, self.opsets = dict(mark[-4]), mark[-3], dict(mark[-2]), dict(mark[-1])

    def _parts(self) -> tuple[list[Any], ...]:
        return (
            self.inputs, self.outputs, self.values, self.nodes, self.initializers, self.overridable, self.functions,
            self.extras,
        )  # fmt: skip

    def _infer(self, schema: onnx.defs.OpSchema, node: NodeProto, operands: dict[str, Var]) -> dict[str, TypeProto]:
        data = {
            var.name: to_tensor(var.value, var.dtype, var.name)
            for var in operands.values()
            if var.value is not None and var.value.size <= 64
        }
        types = {name: var.type for name, var in operands.items()}
        imports = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        found: dict[str, TypeProto] = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=imports, ir_version=self.ir_version
        )
        return found

    def _made(self, node: NodeProto, name: str, type_: TypeProto | None, inputs: Sequence[Var | None], at: int) -> Var:
        if type_ is None or type_.WhichOneof("value") is None:
            raise DoesNotFit(f"no type is inferred for output {at}")
        kind, inner = "tensor", type_
        while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
            sequence = inner.WhichOneof("value") == "sequence_type"
            kind, inner = (
                ("sequence", inner.sequence_type.elem_type) if sequence else ("optional", inner.optional_type.elem_type)
            )
        tensor = inner.tensor_type
        self._needs(tensor.elem_type)
        shape = concrete(tensor) if kind == "tensor" else None
        if any(dim.dim_value < 0 for dim in tensor.shape.dim):  # onnx's inference dies of a Slice of that
            raise DoesNotFit("nothing is left")
        if shape is not None and int(np.prod(shape, dtype=np.int64)) > MAX_ELEMENTS:
            raise DoesNotFit("too large")
        value = (
            known(node, [var.value if var is not None else None for var in inputs], inputs, at)
            if kind == "tensor"
            else None
        )
        return Var(name, tensor.elem_type, shape, value=value, kind=kind, type=type_)

    def _needs(self, dtype: int) -> None:
        self.needs = max(self.needs, _IR_OF_TYPE.get(dtype, 3))


def _result_type(schema: onnx.defs.OpSchema, inputs: Sequence[Var | None]) -> int:
    """The element type of the first output, where inference (of onnx before 1.21, for some functions) does not tell."""
    wanted = schema.outputs[0]
    for formal, var in zip(schema.inputs, inputs, strict=False):
        if var is not None and formal.type_str == wanted.type_str:
            return var.dtype
    if len(wanted.types) == 1 and "tensor(bool)" in wanted.types:
        return int(TensorProto.BOOL)
    raise DoesNotFit("no type is inferred")


def _attribute(schema: onnx.defs.OpSchema, name: str, value: Any) -> AttributeProto:
    kind: Any = schema.attributes[name].type if name in schema.attributes else None
    empty = isinstance(value, (list, tuple)) and not value
    return helper.make_attribute(name, value, attr_type=kind.value if empty and kind is not None else None)


_IR_OF_TYPE = {
    number: version
    for version, names in (
        (4, "BFLOAT16"),
        (9, "FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ"),
        (10, "INT4 UINT4"),
        (11, "FLOAT4E2M1"),
        (12, "FLOAT8E8M0"),
        (13, "INT2 UINT2"),
    )
    for number in [getattr(TensorProto, name, -1) for name in names.split()]
}


def ir_version_for(opset: int) -> int:
    """The IR version that the release of onnx with this opset wrote, but for 7 and 8 (IR 3) no less than 4."""
    for first, version in (
        (28, 14),
        (26, 13),
        (25, 12),
        (23, 11),
        (21, 10),
        (19, 9),
        (15, 8),
        (12, 7),
        (11, 6),
        (10, 5),
        (9, 4),
    ):
        if opset >= first:
            return min(version, 13)
    return 4


def tensor_type(dtype: int, shape: Sequence[int | str | None] | None) -> TypeProto:
    """The type of a tensor. shape: None for an unknown rank."""
    return helper.make_tensor_type_proto(dtype, shape)


def ranked(var: Var) -> bool:
    """Whether a value can be declared as an output."""
    inner = var.type
    while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
        inner = inner.sequence_type.elem_type if inner.HasField("sequence_type") else inner.optional_type.elem_type
    return var.kind != "tensor" or inner.tensor_type.HasField("shape")


def _sequence_type(dtype: int, shape: Sequence[int] | None) -> TypeProto:
    return helper.make_sequence_type_proto(tensor_type(dtype, shape))


def _optional_type(dtype: int, shape: Sequence[int] | None) -> TypeProto:
    return helper.make_optional_type_proto(tensor_type(dtype, shape))


def concrete(tensor: TypeProto.Tensor) -> tuple[int, ...] | None:
    """The sizes of a tensor type, if they are all known."""
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def to_tensor(array: np.ndarray, dtype: int, name: str = "") -> TensorProto:
    """A TensorProto of exactly that element type."""
    if dtype == TensorProto.STRING:
        items: Any = [str(item).encode() for item in array.ravel()]
        return helper.make_tensor(name, dtype, array.shape, items)
    tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    if tensor.data_type != dtype:
        raise DoesNotFit(f"{array.dtype} is not element type {dtype}")
    return tensor


def _info(var: Var) -> ValueInfoProto:
    return ValueInfoProto(name=var.name, type=tensor_type(var.dtype, var.dims if var.dims is not None else var.shape))


def _open(type_: TypeProto) -> TypeProto:
    """A type with its rank but without its sizes, which only hold for the feeds drawn."""
    bare = TypeProto()
    bare.CopyFrom(type_)
    inner = bare
    while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
        inner = inner.sequence_type.elem_type if inner.HasField("sequence_type") else inner.optional_type.elem_type
    for dim in inner.tensor_type.shape.dim:
        dim.Clear()
    return bare
