"""Topological order, without recursion."""

from __future__ import annotations

import random
import time

import pytest
from onnx import ModelProto, TensorProto, helper

from graphopt.errors import ModelError
from graphopt.ir import Model, from_proto
from graphopt.ir.order import is_sorted

from .util import BRANCH, committed, model, ops, proto


def chain(length: int, reverse: bool = False) -> ModelProto:
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"], f"n{i}") for i in range(length)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in ("v0", f"v{length}")]
    graph = helper.make_graph(nodes[::-1] if reverse else nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_long_chain_in_reverse() -> None:
    m = from_proto(chain(5000, reverse=True))
    assert not is_sorted(m.graph)
    m.graph.toposort()
    assert [n.name for n in m.graph] == [f"n{i}" for i in range(5000)]
    assert m.commit() == chain(5000)


def test_sorting_is_linear() -> None:
    times = []
    for length in (2000, 20000):
        m = from_proto(chain(length, reverse=True))
        began = time.process_time()
        m.graph.toposort()
        times.append(time.process_time() - began)
    assert times[1] < 40 * max(times[0], 0.001)


def test_what_is_sorted_stays() -> None:
    m = model("g (float[N] x) => (float[N] y) { a = Neg(x)  b = Exp(x)  c = Abs(b)  d = Log(a)  y = Add(d, c) }")
    before = m.graph.nodes
    m.graph.toposort()
    assert m.graph.nodes == before
    version = m.version
    m.graph.ensure_sorted()
    assert m.version == version


def test_any_order_can_be_sorted() -> None:
    proto = chain(60)
    proto.graph.node.add(op_type="Sum", input=[f"v{i}" for i in range(0, 60, 7)], output=["s"])
    nodes = list(proto.graph.node)
    for seed in range(20):
        random.Random(seed).shuffle(nodes)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        m = from_proto(proto)
        m.graph.toposort()
        assert is_sorted(m.graph)
        committed(m)


def test_bodies_wait_for_what_they_capture() -> None:
    m = model(BRANCH)
    graph = m.graph.proto
    graph.node.insert(0, graph.node.pop())  # type: ignore[union-attr]
    m = from_proto(m.proto)
    assert ops(m) == ["If", "Relu"]
    with pytest.raises(ModelError, match="order"):
        m.check()
    m.graph.toposort()
    assert ops(m) == ["Relu", "If"]
    committed(m)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N] x) => (float[N] y) { a = Add(x, y)  y = Neg(a) }",
        "g (float[N] x) => (float[N] y) { y = Add(x, y) }",
        """g (float[N] x, bool c) => (float[N] y) {
            y = If(c) <
                then_branch = t () => (float[N] o) { o = Neg(z) },
                else_branch = e () => (float[N] o) { o = Neg(x) }
            >
            z = Neg(y)
        }""",
    ],
    ids=["two", "itself", "through a body"],
)
def test_cycles(text: str) -> None:
    m = Model(proto(text))
    with pytest.raises(ModelError, match="cycle through"):
        m.graph.toposort()
    assert len(m.graph) == len(m.graph.nodes)  # as it was
    with pytest.raises(ModelError, match="cycle through"):
        model(text)


def test_unsorted_chains_can_be_edited() -> None:
    m = from_proto(chain(50, reverse=True))
    for node in m.graph.nodes[::2]:
        node.output.replace_with(m.graph.insert("Abs", [node.inputs[0]]).output)
        m.graph.erase(node)
    m.graph.toposort()
    assert len(committed(m).graph.node) == 50


def test_a_model_without_nodes() -> None:
    m = model("g (float[N] x) => (float[N] x) { }")
    m.graph.toposort()
    assert ops(m) == []
    assert m.graph.outputs == m.graph.inputs
    m.check()
