"""Parts taken out: by tensors, nodes, pattern, ends; in bodies and functions; with and without weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.subgraphs.extract import extract, extract_file
from graphopt.verify.run import Session
from graphopt.verify.source import Source

HEAD = '<ir_version: 8, opset_import: ["": 17]> g '
CHAIN = parser.parse_model(
    HEAD + "(float[N, 4] x) => (float[N, 4] y, float[N, 4] z)"
    "{ a = Neg(x)  c = Constant<value_float = 2.0>()  b = Mul(a, c)  y = Relu(b)  z = Exp(a) }"
)
BRANCHES = parser.parse_model(
    HEAD + "(float[N] x, bool flag) => (float[N] y)"
    "{ a = Neg(x) y = If(flag) <then_branch = t () => (float[N] r) { s = Abs(a)  r = Exp(s) },"
    " else_branch = e () => (float[N] q) { q = Relu(a) }> }"
)
CALLS = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y)'
    "{ a = Neg(x)  y = own.twice <slope = 0.5> (a) }"
    '<domain: "own", opset_import: ["": 17]> twice <slope> (p) => (q)'
    "{ r = LeakyRelu <alpha: float = @slope> (p)  q = Add(r, r) }"
)


def ops(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def names(infos: Any) -> list[str]:
    return [info.name for info in infos]


def run(model: ModelProto, **feeds: Any) -> list[Any]:
    onnx.checker.check_model(model)
    return Session(Source.of(model)).run(feeds)


def test_by_tensors() -> None:
    part = extract(CHAIN, inputs="a", outputs="y")
    assert set(ops(part)) == {"Constant", "Mul", "Relu"}
    assert names(part.graph.input) == ["a"]
    assert run(part, a=np.float32([[1, -1, 2, 0]]))[0].tolist() == [[2, 0, 4, 0]]


def test_without_inputs_it_goes_back_to_those_of_the_model() -> None:
    assert names(extract(CHAIN, outputs=["y", "z"]).graph.input) == ["x"]


def test_types_are_those_of_the_whole() -> None:
    info = extract(CHAIN, inputs="a", outputs="b").graph.output[0]
    assert info.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim] == ["N", 4]


def test_by_nodes_and_globs() -> None:
    model = ModelProto()
    model.CopyFrom(CHAIN)
    for node in model.graph.node:
        node.name = f"/block/{node.op_type}"
    assert ops(extract(model, nodes="/block/Neg")) == ["Neg"]
    assert ops(extract(model, nodes=["/block/[NR]e*"])) == ["Neg", "Relu"]


def test_a_node_without_a_name_goes_by_its_first_output() -> None:
    assert ops(extract(CHAIN, nodes="z")) == ["Exp"]


def test_by_pattern_and_place() -> None:
    model = parser.parse_model(HEAD + "(float[N] x) => (float[N] y) { a = Neg(x) b = Relu(a) c = Neg(b) y = Relu(c) }")
    assert names(extract(model, pattern="Neg Relu", match=2).graph.output) == ["y"]
    with pytest.raises(GraphoptError, match="only 2 places match"):
        extract(model, pattern="Neg,Relu", match=3)
    with pytest.raises(GraphoptError, match="nothing matches"):
        extract(model, pattern="Neg Exp")


def test_between_two_ends() -> None:
    part = extract(CHAIN, between=("a", "y"))
    assert "Exp" not in ops(part)
    assert names(part.graph.output) == ["a", "y"]  # named like nodes without names: the first is part of it
    with pytest.raises(GraphoptError, match="other way around"):
        extract(CHAIN, between=("y", "a"))


def test_what_a_body_captures_becomes_an_input() -> None:
    part = extract(BRANCHES, outputs="r")
    assert (ops(part), names(part.graph.input)) == (["Abs", "Exp"], ["a"])
    whole = extract(BRANCHES, nodes="y")
    assert set(names(whole.graph.input)) == {"flag", "a"}
    assert run(whole, flag=np.array(False), a=np.float32([-1, 2]))[0].tolist() == [0, 2]


def test_in_a_function_types_and_attributes_are_those_of_the_first_call() -> None:
    part = extract(CALLS, outputs="r")
    assert part.graph.node[0].attribute[0].f == 0.5
    assert run(part, p=np.float32([-2, 2]))[0].tolist() == [-1, 2]


def test_functions_that_are_called_come_along() -> None:
    part = extract(CALLS, inputs="a", outputs="y")
    assert [function.name for function in part.functions] == ["twice"]
    assert run(part, a=np.float32([-2, 2]))[0].tolist() == [-2, 4]


def weighted(external: str = "") -> ModelProto:
    tensor = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    if external:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", external), ("offset", "0"), ("length", str(64 * 64 * 4))):
            tensor.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in ("x", "y")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_without_weights_they_are_inputs() -> None:
    part = extract(weighted(), nodes="m", weights=False)
    assert names(part.graph.input) == ["x", "w"]
    assert not part.graph.initializer
    assert run(part, x=np.ones((1, 64), np.float32), w=np.ones((64, 64), np.float32))[0][0, 0] == 64


def test_an_input_with_a_default_keeps_it() -> None:
    model = weighted()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]))
    part = extract(model, nodes="m")
    assert names(part.graph.input) == ["x", "w"]
    assert run(part, x=np.ones((1, 64), np.float32))[0][0, 0] == 64


def test_external_data_goes_beside_the_part(tmp_path: Any) -> None:
    (tmp_path / "w.bin").write_bytes(np.full((64, 64), 2, np.float32).tobytes())
    (tmp_path / "m.onnx").write_bytes(weighted("w.bin").SerializeToString())
    (tmp_path / "sub").mkdir()
    extract_file(tmp_path / "m.onnx", tmp_path / "sub" / "p.onnx", nodes="m")
    assert (tmp_path / "sub" / "p.onnx.data").stat().st_size >= 64 * 64 * 4
    found = Session(Source.of(tmp_path / "sub" / "p.onnx")).run({"x": np.ones((1, 64), np.float32)})
    assert found[0][0, 0] == 128


def test_before_ir_version_4() -> None:
    model = weighted()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]))
    part = extract(model, nodes="m")
    assert names(part.graph.input) == ["x"]
    assert run(part, x=np.ones((1, 64), np.float32))[0][0, 0] == 64


def test_the_types_that_onnx_does_not_infer_come_from_the_runtime() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[N, 4] x) => (float[N, 4] y)'
        "{ a = com.microsoft.Gelu(x)  y = Relu(a) }"
    )
    part = extract(model, inputs="a", outputs="y")
    assert part.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_an_ir_model_gives_one_that_shares_its_payloads() -> None:
    model = ir.from_proto(weighted())
    part = extract(model, nodes="m")
    assert [node.op for node in part.graph] == ["MatMul"]
    assert len(model.graph) == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "nothing was given"),
        ({"outputs": "y", "nodes": "z"}, "outputs and nodes"),
        ({"inputs": "x"}, "nothing was given"),
        ({"nodes": "z", "inputs": "x"}, "go with outputs"),
        ({"outputs": "q"}, "no tensor 'q'"),
        ({"nodes": "nope"}, "no node 'nope'"),
        ({"outputs": "y", "inputs": "nope"}, "no tensor 'nope'"),
        ({"outputs": ["y", "z"], "inputs": "b"}, "depend on more than the inputs named: on 'x'"),
        ({"outputs": "x"}, "is an input of the graph"),
        ({"outputs": "a", "inputs": "a"}, "as an input and as an output"),
        ({"between": ("nope", "y")}, "no tensor 'nope'"),
    ],
)
def test_what_cannot_be_is_said(how: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        extract(CHAIN, **how)


def test_nodes_of_two_scopes_are_refused() -> None:
    with pytest.raises(GraphoptError, match="several scopes"):
        extract(BRANCHES, nodes=["a", "s"])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(GraphoptError, match="part of a int"):
        extract(3, nodes="a")  # type: ignore[call-overload]
