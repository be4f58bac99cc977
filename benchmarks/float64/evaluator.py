"""The evaluator: scopes of nodes, run one by one, each value dropped after its last reader."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from float64.kernels import KERNELS
from float64.node import Node, Unsupported

_ALIASES = ("", "ai.onnx")
_NARROW = ("float16", "float32", "bfloat16")
_ITERATIONS = 100_000  # of a loop


def promoted(value: Any) -> Any:
    """The same numbers in float64 where they are floats of 16 or 32 bits; sequences and maps item by item."""
    if isinstance(value, list):
        return [promoted(item) for item in value]
    if isinstance(value, dict):
        return {promoted(key): promoted(item) for key, item in value.items()}
    if isinstance(value, float | np.ndarray | np.generic):
        array = np.asarray(value)
        return array.astype(np.float64) if array.dtype.name in _NARROW else array
    return value


class _Scope:
    """A graph made ready: its weights in double, its nodes decoded, and after which node each value is done with."""

    def __init__(self, graph: GraphProto, opsets: Mapping[str, int]) -> None:
        if graph.sparse_initializer:
            raise Unsupported("sparse weights")
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.weights = {tensor.name: promoted(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
        self.steps: list[_Step] = _sorted([_Step(node, opsets) for node in graph.node])
        self.reads: set[str] = {name for step in self.steps for name in step.reads} | set(self.outputs)
        remaining = Counter(name for step in self.steps for name in step.reads)
        keep = {*self.outputs, *self.weights}
        for step in self.steps:
            remaining.subtract(step.reads)
            made = {name for name in step.node.outputs if name and name not in self.reads}
            step.done = [name for name in {*step.reads, *made} if remaining[name] == 0 and name not in keep]


def _sorted(steps: list[_Step]) -> list[_Step]:
    """In an order in which each has what it reads; their own order where that is one."""
    makers = {name: number for number, step in enumerate(steps) for name in step.node.outputs if name}
    waits = [{makers[name] for name in step.reads if name in makers} for step in steps]
    readers: dict[int, list[int]] = {}
    for number, needed in enumerate(waits):
        for maker in needed:
            readers.setdefault(maker, []).append(number)
    ready = [number for number, needed in enumerate(waits) if not needed]
    ordered = []
    while ready:
        number = heapq.heappop(ready)
        ordered.append(steps[number])
        for reader in readers.get(number, ()):
            waits[reader].discard(number)
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return ordered


class _Step:
    """One node; its bodies by attribute."""

    def __init__(self, proto: NodeProto, opsets: Mapping[str, int]) -> None:
        domain = "" if proto.domain in _ALIASES else proto.domain
        attributes = {a.name: a for a in proto.attribute}
        self.bodies = {k: _Scope(a.g, opsets) for k, a in attributes.items() if a.type == AttributeProto.GRAPH}
        plain = {k: helper.get_attribute_value(a) for k, a in attributes.items() if k not in self.bodies}
        self.node = Node(proto.op_type, domain, list(proto.output), plain, opsets.get(domain, 1))
        self.inputs = list(proto.input)
        inner = {name for body in self.bodies.values() for name in body.reads}
        self.reads: set[str] = {name for name in (*self.inputs, *inner) if name}
        self.done: list[str] = []
        self._proto, self._opsets = proto, opsets
        self._evaluator: Any = None

    def compute(self, values: list[Any]) -> tuple[Any, ...]:
        """The outputs."""
        kernel = KERNELS.get(self.node.op) if self.node.domain == "" else None
        if kernel is not None:
            found = kernel(self.node, *values)
            return found if isinstance(found, tuple) else (found,)
        return self._by_reference(values)

    def _by_reference(self, values: list[Any]) -> tuple[Any, ...]:
        from onnx.reference import ReferenceEvaluator

        feeds = {name: value for name, value in zip(self.inputs, values, strict=True) if name}
        try:
            if self._evaluator is None:
                self._evaluator = ReferenceEvaluator(self._function())
            found = iter(self._evaluator.run(None, feeds, {}))
        except Exception as error:  # whatever the evaluator raises, it has not computed this
            raise Unsupported(f"{self.node.op}: {type(error).__name__}: {error}") from error
        return tuple(next(found) if name else None for name in self.node.outputs)

    def _function(self) -> FunctionProto:
        """The node alone, as a function: that asks for no types."""
        proto = NodeProto()
        proto.CopyFrom(self._proto)
        imports = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        names = [name for name in dict.fromkeys(self.inputs) if name]
        outputs = [name for name in proto.output if name]
        return helper.make_function("one", "node", names, outputs, [proto], imports)


class Evaluator:
    """A model in double precision, made ready to run. Raises `Unsupported` for what it cannot take."""

    def __init__(self, model: ModelProto) -> None:
        if model.functions:
            from onnx import inliner

            model = inliner.inline_local_functions(model)
        opsets = {"" if entry.domain in _ALIASES else entry.domain: entry.version for entry in model.opset_import}
        self._scope = _Scope(model.graph, opsets)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, for inputs by name (of the model's own types)."""
        given = {name: promoted(value) for name, value in feeds.items()}
        with np.errstate(all="ignore"):
            return dict(zip(self._scope.outputs, _run(self._scope, given, {}), strict=True))


def _run(scope: _Scope, given: Mapping[str, Any], outer: Mapping[str, Any]) -> list[Any]:
    """The outputs of a graph; outer: what a body sees of the graphs around it."""
    known: dict[str, Any] = {**outer, **scope.weights, **given}
    for step in scope.steps:
        node = step.node
        if step.bodies:
            found: tuple[Any, ...] = tuple(_control(step, known))
        else:
            found = step.compute([known[name] if name else None for name in step.inputs])
        for name, value in zip(node.outputs, found, strict=False):
            if isinstance(value, np.ndarray | np.generic) and value.dtype.name in _NARROW:
                raise Unsupported(f"{node.op} was computed in {value.dtype}")
            known[name] = value
        for name in step.done:
            known.pop(name, None)
    return [known[name] for name in scope.outputs]


def _control(step: _Step, known: Mapping[str, Any]) -> Iterator[Any]:
    values = [known[name] if name else None for name in step.inputs]
    if step.node.op == "If":
        branch = "then_branch" if np.asarray(values[0]).reshape(-1)[0] else "else_branch"
        yield from _run(step.bodies[branch], {}, known)
    elif step.node.op == "Loop":
        yield from _loop(step.bodies["body"], values, known)
    else:
        raise Unsupported(f"{step.node.op} has bodies")


def _loop(body: _Scope, values: list[Any], known: Mapping[str, Any]) -> Iterator[Any]:
    trips = _ITERATIONS if values[0] is None else int(np.asarray(values[0]).reshape(-1)[0])
    going = True if values[1] is None else bool(np.asarray(values[1]).reshape(-1)[0])
    carried, turn = list(values[2:]), 0
    scanned: list[list[Any]] = [[] for _ in body.outputs[1 + len(carried) :]]
    while going and turn < trips:
        if turn == _ITERATIONS:
            raise Unsupported(f"a loop of more than {_ITERATIONS} turns")
        given = dict(zip(body.inputs, [np.array(turn), np.array(True), *carried], strict=True))
        found = _run(body, given, known)
        going = bool(np.asarray(found[0]).reshape(-1)[0])
        carried = found[1 : 1 + len(carried)]
        for held, value in zip(scanned, found[1 + len(carried) :], strict=True):
            held.append(value)
        turn += 1
    if scanned and not turn:
        raise Unsupported("a loop of no turns that collects values")
    yield from (*carried, *(np.stack(held) for held in scanned))
