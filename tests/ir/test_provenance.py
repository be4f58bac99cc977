"""Where nodes and constants come from: kept through rules, save, load, and another optimization."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from onnx import NodeProto, TensorProto, parser

from graphopt import ir, optimize
from graphopt.demo import demo_model
from graphopt.ir.provenance import MOST, Origin, mark, mark_tensor, origin_in, origin_of, origin_of_all
from graphopt.testing.strategies import Drawn, models


def test_an_original_is_its_own_source() -> None:
    node = next(iter(ir.from_proto(demo_model()).graph))
    assert origin_of(node) == Origin((node.label,))


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a,b", "c"), ("[x", "y"), ("ä", "7")])
def test_marks_can_be_read_again(names: tuple[str, ...]) -> None:
    for proto in (NodeProto(), TensorProto()):
        node = ir.from_proto(demo_model()).graph.nodes[0]
        origin = Origin(names, ("one-rule", "another"))
        mark(node, origin)
        mark(node, origin)  # again: the marks are replaced
        assert (len(node.proto.metadata_props), origin_in(node.proto), origin_of(node)) == (2, origin, origin)
        if isinstance(proto, TensorProto):
            mark_tensor(proto, origin)
            assert origin_in(proto) == origin


def test_other_metadata_stays_and_marks_by_other_hands_do_no_harm() -> None:
    proto = NodeProto()
    proto.metadata_props.add(key="namespace", value="x")
    assert origin_in(proto) is None
    proto.metadata_props.add(key="graphopt.sources", value="[broken")
    assert origin_in(proto) == Origin(("[broken",))


def test_rules_are_listed_once_in_the_order_of_their_last_use_and_sources_are_bounded() -> None:
    graph = ir.from_proto(demo_model()).graph
    first, second = graph.nodes[:2]
    mark(first, Origin(("a", "b"), ("r", "s")))
    mark(second, Origin(tuple(map(str, range(100))), ("s", "t")))
    found = origin_of_all([first, second], "r")
    assert found.rules == ("s", "t", "r")
    assert len(found.sources) == MOST


def test_through_a_file_and_a_second_optimization(tmp_path: Path) -> None:
    model = demo_model()
    labels = {node.label for graph in ir.from_proto(model).scopes() for node in graph}
    once = optimize(model, verify="off")
    onnx.save(once, tmp_path / "once.onnx")
    twice = optimize(tmp_path / "once.onnx", target="onnxruntime", verify="off")
    for node in ir.from_proto(twice).graph:
        assert set(origin_of(node).sources) <= labels


@settings(max_examples=60)
@given(drawn=models(max_nodes=12))
def test_every_node_and_constant_of_what_comes_out_has_a_source_in_what_went_in(drawn: Drawn) -> None:
    before = ir.from_proto(drawn.model)
    labels = {name for graph in before.scopes() for node in graph for name in (node.label, node.name)}
    values = {name for graph in before.scopes() for name in graph.values}
    after = ir.from_proto(optimize(drawn.model, verify="off"))
    for graph in after.scopes():
        for node in graph:
            assert set(origin_of(node).sources) <= labels, node
        for name, value in graph.initializers.items():
            assert value.tensor is not None
            origin = origin_in(value.tensor.proto)
            assert name in values if origin is None else set(origin.sources) <= labels, name


def test_the_nodes_of_functions_and_bodies_keep_their_names_in_the_marks() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y) { y = own.f(x) }'
        '<domain: "own", opset_import: ["": 17]> f (p) => (q)'
        "{ go = Constant<value = bool {1}>() q = If(go) <then_branch = t () => (r) { r = Exp(p) },"
        " else_branch = e () => (s) { s = Abs(p) }> }"
    )
    (node,) = ir.from_proto(optimize(model, verify="off")).graph
    assert origin_of(node).sources == ("r",)
    assert origin_of(node).rules == ("inline-functions", "inline-if")
