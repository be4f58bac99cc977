"""Computing a set of nodes that depend on constants alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from graphopt.ir import Model, NDArray, Node, Value

_INLINE = 1 << 12  # bytes; larger constants are fed, so that they are not copied


def evaluate(model: Model, nodes: list[Node], wanted: list[Value]) -> dict[Value, NDArray]:
    """The values that could be computed; `nodes` are in topological order. One session for all where that works,
    else one a node, with what the runtime cannot do left to `onnx.reference`."""
    try:
        return _session(model, nodes, wanted, {})
    except Exception:  # noqa: BLE001 - ORT raises its own types, which share no other base
        pass
    known: dict[Value, NDArray] = {}
    for node in nodes:
        if any(v is not None and not v.is_const and v not in known for v in node.inputs):
            continue
        outputs = [v for v in node.outputs if v.name]
        for run in (_session, _reference):
            try:
                known.update(run(model, [node], outputs, known))
                break
            except Exception:  # noqa: BLE001 - the same; reference implementations raise whatever numpy does
                continue
    return {value: known[value] for value in wanted if value in known}


class _Build:
    """A model of the nodes alone, with names of its own: those of different bodies may be equal."""

    def __init__(self, model: Model, nodes: list[Node], known: dict[Value, NDArray]):
        self.names: dict[Value, str] = {}
        self.feeds: dict[str, NDArray] = {}
        self.known = known
        self.proto = ModelProto(ir_version=max(4, min(model.ir_version, 10)))
        self.proto.graph.name = "constants"
        for domain, version in sorted(model.opsets.items()):
            self.proto.opset_import.add(domain=domain, version=version)
        made = {value: None for node in nodes for value in node.outputs if value.name}
        for node in nodes:
            proto = NodeProto(op_type=node.op, domain=node.domain)
            proto.attribute.extend(node.proto.attribute)
            proto.input.extend(self._input(v, v in made) if v is not None else "" for v in node.inputs)
            proto.output.extend(self._name(v) if v.name else "" for v in node.outputs)
            self.proto.graph.node.append(proto)

    def _name(self, value: Value) -> str:
        return self.names.setdefault(value, f"v{len(self.names)}")

    def _input(self, value: Value, made: bool) -> str:
        if made or value in self.names:
            return self._name(value)
        name = self._name(value)
        array = self.known.get(value)
        dtype = value.dtype or TensorProto.UNDEFINED
        array = value.numpy() if array is None else array
        if array.nbytes > _INLINE:
            self.feeds[name] = array
            self.proto.graph.input.append(helper.make_tensor_value_info(name, dtype, array.shape))
        else:
            tensor = self.proto.graph.initializer.add()
            if value.tensor is not None and value.tensor.raw() is None:
                tensor.CopyFrom(value.tensor.proto)
                tensor.name = name
            else:
                _store(tensor, array, name, dtype)
        return name

    def ask(self, wanted: list[Value]) -> list[str]:
        names = [self.names[value] for value in wanted]
        for name in names:
            self.proto.graph.output.add(name=name)
        return names


def _store(tensor: TensorProto, array: NDArray, name: str, dtype: int) -> None:
    from graphopt.ir import Store
    from graphopt.ir.tensor import fill

    fill(tensor, array, name, Store(), dtype)


def _session(model: Model, nodes: list[Node], wanted: list[Value], known: dict[Value, NDArray]) -> dict[Value, NDArray]:
    import onnxruntime as ort

    build = _Build(model, nodes, known)
    names = build.ask(wanted)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(build.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _accept(wanted, session.run(names, build.feeds))


def _reference(
    model: Model, nodes: list[Node], wanted: list[Value], known: dict[Value, NDArray]
) -> dict[Value, NDArray]:
    from onnx.reference import ReferenceEvaluator

    build = _Build(model, nodes, known)
    names = build.ask(wanted)
    with np.errstate(all="ignore"):
        return _accept(wanted, list(ReferenceEvaluator(build.proto).run(names, build.feeds)))


def _accept(wanted: list[Value], results: list[Any]) -> dict[Value, NDArray]:
    """Results whose dtype and shape are what inference says they are."""
    found: dict[Value, NDArray] = {}
    for value, result in zip(wanted, results, strict=True):
        array = np.asarray(result)
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        if value.dtype in (None, dtype) and (value.shape is None or len(value.shape) == array.ndim):
            found[value] = array
    return found
