"""Extra demands that a case makes on the optimized model, and the ones made on every case."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from traps.case import Check


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every body below it."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        pending.extend(bodies(graph.node))


def bodies(nodes: object) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield attr.g
            yield from attr.graphs


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: main graph, bodies, functions and their bodies."""
    for graph in graphs(model):
        yield from graph.node
    pending = list(model.functions)
    for function in pending:
        yield from function.node
        inner = list(bodies(function.node))
        while inner:
            graph = inner.pop()
            yield from graph.node
            inner.extend(bodies(graph.node))


def count(model: onnx.ModelProto, op: str) -> int:
    return sum(node.op_type == op for node in nodes(model))


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every initializer and every tensor in an attribute."""
    for graph in graphs(model):
        yield from graph.initializer
    for node in nodes(model):
        yield from (attr.t for attr in node.attribute if attr.HasField("t"))


def has_tensor(data: bytes) -> Check:
    """Some tensor of the model holds exactly these bytes."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        assert any(t.data_type != t.STRING and numpy_helper.to_array(t).tobytes() == data for t in tensors(b))

    return check


def keeps(*ops: str) -> Check:
    """As many nodes of these operators as before."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        for op in ops:
            assert count(b, op) == count(a, op), f"{op}: {count(a, op)} before, {count(b, op)} after"

    return check


def gone(*ops: str) -> Check:
    """No node of these operators is left: the rewrite is easy, sound, and expected of any optimizer."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        for op in ops:
            assert count(b, op) == 0, f"{op} is still there"

    return check


def keeps_default(*names: str) -> Check:
    """The initializers that a caller may override are still there, with their values."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        before = {t.name: t for t in a.graph.initializer}
        after = {t.name: t for t in b.graph.initializer}
        for name in names:
            assert name in after, f"the default of input {name} is gone"
            old, new = (numpy_helper.to_array(t[name]) for t in (before, after))
            assert old.dtype == new.dtype and old.tobytes() == new.tobytes(), f"the default of input {name} has changed"

    return check


def all_initializers_are_inputs(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer is listed as a graph input."""
    listed = {i.name for i in b.graph.input}
    missing = [t.name for t in b.graph.initializer if t.name not in listed]
    assert not missing, f"initializers that are not inputs in an IR {b.ir_version} model: {missing}"


def grows_at_most(size: int) -> Check:
    """The optimized file is at most `size` bytes larger."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        grown = b.ByteSize() - a.ByteSize()
        assert grown <= size, f"the file grew by {grown} bytes"

    return check


def same_bytes(*names: str) -> Check:
    """The nodes of these names are byte for byte as they were."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        old, new = ({node.name: node for node in nodes(m) if node.name} for m in (a, b))
        for name in names:
            assert name in new, f"node {name} is gone"
            assert old[name].SerializeToString(deterministic=True) == new[name].SerializeToString(deterministic=True), (
                f"node {name} has changed: {new[name]}"
            )

    return check


def has_import(domain: str) -> Check:
    """The model imports an operator set for `domain`."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        assert any(o.domain == domain for o in b.opset_import), f"no opset_import for {domain!r}"

    return check


def same_body_interfaces(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Contrib generation operators find their decoder's inputs and outputs by name and order."""

    def faces(model: onnx.ModelProto) -> list[tuple[list[str], list[str]]]:
        return [([i.name for i in g.input], [o.name for o in g.output]) for g in graphs(model)]

    assert faces(a) == faces(b)
