"""Computing a set of nodes that depend on constants alone, within a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from graphopt.ir import Model, NDArray, Node, Value
from graphopt.ir.tensor import payload_bytes

_INLINE = 1 << 12  # bytes; larger constants are fed, so that they are not copied
_WORK = 1 << 34  # FLOPs of a batch: nodes that are computed together, and lost together when time runs out
_BYTES = 1 << 29  # of a batch's results
_PLAIN = 1 << 26  # FLOPs that `onnx.reference`, which nothing can stop, may spend on a node
_LOOPS = 1 << 18  # and on one that it computes in loops of Python's
_LOOPING = frozenset(
    "AveragePool Col2Im Conv ConvInteger ConvTranspose DeformConv Det GRU GridSample LRN LSTM LpPool MaxPool MaxUnpool "
    "MelWeightMatrix QLinearConv RNN Resize RoiAlign STFT Scatter ScatterElements ScatterND TensorScatter "
    "Upsample".split()
)


class Evaluation:
    """The values of nodes, which are in topological order and come with the FLOPs of each.

    until: when to stop, on `time.monotonic`'s clock. What was computed by then counts; `is_late` says that it was not
    all.
    """

    def __init__(self, model: Model, nodes: Mapping[Node, int], wanted: list[Value], until: float):
        self.model, self.nodes, self.wanted, self.until = model, nodes, dict.fromkeys(wanted), until
        self.is_late = False
        self.failed: set[Node] = set()  # those that no evaluator could compute, though their inputs were there
        self.known: dict[Value, NDArray] = {}

    def results(self) -> dict[Value, NDArray]:
        """Those of the wanted values that could be computed. One session for each batch where that works, else one a
        node, with what the runtime cannot do left to `onnx.reference`."""
        place = {node: index for index, node in enumerate(self.nodes)}
        last = {  # where a value is read for the last time
            v: max((place.get(user, -1) for user in v.users), default=-1) for node in self.nodes for v in node.outputs
        }
        at = 0
        for batch in self._batches():
            at += len(batch)
            ready = self._ready(batch)
            needed = [v for node in ready for v in node.outputs if v.name and (v in self.wanted or last[v] >= at)]
            if self._is_over():
                break
            if ready:
                self._compute(ready, needed)
            self.known = {v: array for v, array in self.known.items() if v in self.wanted or last[v] >= at}
        return {value: self.known[value] for value in self.wanted if value in self.known}

    def _batches(self) -> Iterator[list[Node]]:
        batch: list[Node] = []
        work = size = 0
        for node, flops in self.nodes.items():
            if batch and (work + flops > _WORK or size > _BYTES):
                yield batch
                batch, work, size = [], 0, 0
            batch.append(node)
            work += flops
            size += sum(_bytes(v) for v in node.outputs)
        if batch:
            yield batch

    def _ready(self, batch: list[Node]) -> list[Node]:
        """The nodes whose inputs are there: those of an earlier batch may have failed."""
        made: set[Value] = set()
        ready = []
        for node in batch:
            if all(v is None or v.is_const or v in self.known or v in made for v in node.inputs):
                ready.append(node)
                made.update(node.outputs)
        return ready

    def _is_over(self) -> bool:
        self.is_late = self.is_late or time.monotonic() >= self.until
        return self.is_late

    def _compute(self, nodes: list[Node], needed: list[Value]) -> None:
        try:
            self.known.update(_session(self.model, nodes, needed, self.known, self.until))
            return
        except Exception:  # noqa: BLE001 - ORT raises its own types, which share no other base
            if len(nodes) == 1 and self._try_reference(nodes[0]):
                return
        for node in nodes if len(nodes) > 1 else ():
            if self._is_over():
                return
            if all(v is None or v.is_const or v in self.known for v in node.inputs):
                self._alone(node)

    def _alone(self, node: Node) -> None:
        outputs = [v for v in node.outputs if v.name]
        try:
            self.known.update(_session(self.model, [node], outputs, self.known, self.until))
        except Exception:  # noqa: BLE001 - the same
            self._try_reference(node)

    def _try_reference(self, node: Node) -> bool:
        if self._is_over():
            return False
        if self.nodes[node] <= (_LOOPS if node.op in _LOOPING else _PLAIN):
            try:
                self.known.update(_reference(self.model, [node], [v for v in node.outputs if v.name], self.known))
                return True
            except Exception:  # noqa: BLE001 - reference implementations raise whatever numpy does
                pass
        self.failed.add(node)
        return False


def _bytes(value: Value) -> int:
    shape = [dim for dim in value.shape or () if isinstance(dim, int)]
    return payload_bytes(value.dtype or 0, prod(shape))


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


def _session(
    model: Model, nodes: list[Node], wanted: list[Value], known: dict[Value, NDArray], until: float
) -> dict[Value, NDArray]:
    import onnxruntime as ort

    build = _Build(model, nodes, known)
    names = build.ask(wanted)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(build.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    run = ort.RunOptions()
    run.log_severity_level = 4
    clock = threading.Timer(min(max(0.0, until - time.monotonic()), 1e6), setattr, (run, "terminate", True))
    clock.daemon = True  # it acts between nodes
    clock.start()
    try:
        return _accept(wanted, session.run(names, build.feeds, run))
    finally:
        clock.cancel()


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
