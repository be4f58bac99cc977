"""Small files that stand for much: what they stand for is never made, and refusing them takes no time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.security.util import SIDE, build

import graphopt as package
from graphopt import ModelError
from graphopt.analysis.cost import evaluate
from graphopt.analysis.sizes import poly
from graphopt.ir import calls, from_proto, load, to_proto
from graphopt.passes import registry
from graphopt.rewrite import Context

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 20


# -- functions ---------------------------------------------------------------------------------------------------------


def nested(depth: int, each: int = 2, payload: int = 0) -> onnx.ModelProto:
    """Each of `depth` functions calls the next `each` times; the last computes. payload: bytes of a constant in it."""
    model = build([helper.make_node("F0", ["x"], ["y"], domain="my")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    model.opset_import.append(opsets[1])
    for level in range(depth):
        nodes = [
            helper.make_node(f"F{level + 1}", [f"v{i}"], [f"v{i + 1}"], domain="my", name=f"call{i}")
            for i in range(each)
        ]
        model.functions.append(helper.make_function("my", f"F{level}", ["v0"], [f"v{each}"], nodes, opsets))
    nodes = [helper.make_node("Neg", ["a"], ["b"])]
    if payload:
        value = numpy_helper.from_array(np.zeros(payload, np.uint8), "p")
        nodes.append(helper.make_node("Constant", [], ["unused"], value=value))
    model.functions.append(helper.make_function("my", f"F{depth}", ["a"], ["b"], nodes, opsets))
    return model


@pytest.mark.parametrize("depth", [18, 40, 300])
def test_functions_that_write_out_to_more_than_can_be(depth: int) -> None:
    with pytest.raises(ModelError, match=r"write out to .* nodes, more than the limit"):
        package.optimize(nested(depth))


def test_functions_whose_constants_write_out_to_more() -> None:
    """16,384 calls of a function with 60 KB in it."""
    model = nested(14, payload=60_000)
    assert len(model.SerializeToString()) < 100_000
    with pytest.raises(ModelError, match=r"write out to .* bytes, more than the limit"):
        package.optimize(model)


def test_ordinary_nesting_is_inlined() -> None:
    out = package.optimize(nested(8, each=2), "inline-functions")
    assert [node.op_type for node in out.graph.node] == ["Neg"] * 256


def test_a_large_model_may_grow_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "NODES", 10)
    package.optimize(nested(1, each=15), "inline-functions", verify="off")


@pytest.mark.parametrize("length", [1, 2, 1000])
def test_recursion(length: int) -> None:
    model = nested(length)
    model.functions[length].node[0].op_type = "F0"
    model.functions[length].node[0].domain = "my"
    with pytest.raises(ModelError, match="calls itself"):
        package.optimize(model)


def test_recursion_in_a_body() -> None:
    model = nested(2)
    info = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("F0", ["a"], ["o"], domain="my")], "b", [], [info("o", 1, None)])
    model.functions[2].node.extend(
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
            helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body),
        ]
    )
    with pytest.raises(ModelError, match="calls itself"):
        package.optimize(model)


# -- sparse constants --------------------------------------------------------------------------------------------------


def sparse(dims: list[int], indices: object, count: int = 2) -> onnx.ModelProto:
    """y = x + the sum of a sparse constant."""
    value = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(count, np.float32), "v"), numpy_helper.from_array(np.array(indices), "i"), dims
    )
    return build(
        [
            helper.make_node("Constant", [], ["k"], sparse_value=value),
            helper.make_node("ReduceSum", ["k"], ["s"], keepdims=0),
            helper.make_node("Add", ["x", "s"], ["y"]),
        ]
    )


@pytest.mark.parametrize("dims", [[10**12], [10**6, 10**6], [2**40, 2**20], [2**62, 2**62]], ids=str)
def test_sparse_constants_are_not_written_out(dims: list[int]) -> None:
    model = sparse(dims, [0, 5])
    try:
        out = package.optimize(model, verify="off")
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert [node.op_type for node in out.graph.node] == [node.op_type for node in model.graph.node]
    assert from_proto(model).text()


def test_small_sparse_constants_are_constants() -> None:
    model = sparse([8], [1, 5])
    value = from_proto(model).graph.values["k"]
    assert value.is_const
    assert value.numpy().tolist() == [0, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("indices", [[0, 8], [-1, 0], [0, 2**40]], ids=str)
def test_sparse_indices_that_are_not_there(indices: list[int]) -> None:
    with pytest.raises(ModelError, match="sparse"):
        from_proto(sparse([8], indices)).graph.values["k"].numpy()


# -- sizes as polynomials ----------------------------------------------------------------------------------------------


def shapes(steps: list[tuple[str, str]], dims: list[str]) -> onnx.ModelProto:
    """The dims of x, d0, d1 ..., and what `steps` (operator, inputs) make of them: v0, v1 ...; y is x of the last."""
    nodes = [helper.make_node("Shape", ["z"], ["shape"])]
    model = build([])
    for i in range(len(dims)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([i]), f"i{i}"))
        nodes.append(helper.make_node("Gather", ["shape", f"i{i}"], [f"d{i}"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    nodes += [helper.make_node(op, inputs.split(), [f"v{i}"]) for i, (op, inputs) in enumerate(steps)]
    last = f"v{len(steps) - 1}"
    nodes += [helper.make_node("Cast", [last], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"])]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, dims))
    return model


CHAINS = {
    "powers of a sum": [("Add", "d0 one"), *[("Mul", f"v{i} v{i}") for i in range(60)]],
    "product of sums": [
        *[("Add", f"d{i} one") for i in range(24)],
        ("Mul", "v0 v1"),
        *[("Mul", f"v{23 + i} v{i + 1}") for i in range(1, 22)],
    ],
    "factors": [("Add", "d0 d0"), *[("Add", f"v{i} v{i}") for i in range(200)]],
    "numbers": [("Add", "one one"), *[("Mul", f"v{i} v{i}") for i in range(60)]],
    "sums of many": [("Add", "d0 d1"), *[("Add", f"v{i - 2} d{i}") for i in range(2, 200)]],
    "divisions": [("Div", "d0 d1"), *[("Div", f"v{i} v{max(0, i - 1)}") for i in range(100)]],
}


@pytest.mark.parametrize("name", CHAINS)
def test_polynomials_stay_short(name: str) -> None:
    model = shapes(CHAINS[name], [f"D{i}" for i in range(24 if name != "sums of many" else 200)])
    package.optimize(model, "fold-shapes,simplify,fold-constants", verify="off")


def test_polynomials_are_exact_up_to_their_limits() -> None:
    n = poly.symbol("N")
    size: poly.Size = 1
    for _ in range(poly.DEGREE):
        size = poly.multiply(size, n)
    with pytest.raises(poly.TooLarge):
        poly.multiply(size, n)
    with pytest.raises(poly.TooLarge):
        poly.multiply(poly.multiply(n, 1 << 62), 4)
    many: poly.Size = 0
    for i in range(poly.TERMS):
        many = poly.add(many, poly.symbol(f"N{i:02}"))
    assert poly.subtract(many, many) == 0
    with pytest.raises(poly.TooLarge):
        poly.add(many, 1)


# -- names of dims -----------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    "9**9**9",
    "(" * 5000 + "1" + ")" * 5000,
    "-" * 100_000 + "1",
    "1" + "*9" * 100_000,
    "9" * 100_000,
    "1e999",
    "floor()",
    "min()",
    "floor(1,2,3)",
    "N" * 100_000,
    "a.b.c",
    "__import__('os').system('true')",
    "[1,2]",
    "1 if 1 else 2",
    "floor(1e400)",
    "1/0",
    "0%0",
    "lambda: 1",
    "x:=3",
    "'a'*9999999999",
    "max('a', 1)",
    "floor('a')",
    "\0",
    "\ud800",
]


@pytest.mark.parametrize("text", EXPRESSIONS, ids=lambda text: repr(text)[:24])
def test_expressions_are_computed_or_not(text: str) -> None:
    """Dims are called what exporters please, expressions too; a name is never run, and never takes long."""
    assert isinstance(evaluate(text, {"N": 3}, 1), int)


def test_dims_that_are_expressions(tmp_path: object) -> None:
    for text in EXPRESSIONS[:-1]:
        model = build([helper.make_node("Relu", ["x"], ["y"])])
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = text
        package.optimize(model)


# -- many of something -------------------------------------------------------------------------------------------------


def nested_branches(depth: int) -> onnx.ModelProto:
    """`depth` Ifs, each in a branch of the one before; the innermost branch is Neg(x)."""
    info = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Neg", ["x"], ["p"])], "b", [], [info("p", 1, None)])
    for level in range(depth - 1):
        node = helper.make_node("If", ["c"], [f"p{level}"], then_branch=body, else_branch=body_of(level))
        body = helper.make_graph([node], f"q{level}", [], [info(f"p{level}", 1, None)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body_of(99))
    return build([node], {"c": np.array(True)})


def test_bodies_in_bodies() -> None:
    """Nearly as deep as protobuf parses; each is decided, and moved out of the one around it."""
    out = package.optimize(nested_branches(26), verify="check")
    assert [node.op_type for node in out.graph.node] == ["Neg"]


def body_of(level: int) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"e{level}", 1, None)
    return helper.make_graph([helper.make_node("Relu", ["x"], [f"e{level}"])], f"e{level}", [], [out])


@pytest.mark.parametrize("trips", [2**62, 10**9, -(2**63)])
def test_loops_are_not_run(trips: int) -> None:
    """However many trips, and however constant the body."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c0"], ["c1"]), helper.make_node("Add", ["a0", "k"], ["a1"])],
        "body",
        [info("i", 7, []), info("c0", 9, []), info("a0", 1, None)],
        [info("c1", 9, []), info("a1", 1, None)],
    )
    loop = helper.make_node("Loop", ["trips", "yes", "k"], ["total"], body=body)
    model = build(
        [loop, helper.make_node("Add", ["x", "total"], ["y"])],
        {"trips": np.array(trips), "yes": np.array(True), "k": np.float32([1])},
    )
    out = package.optimize(model, verify="off")
    assert ("Loop" in [node.op_type for node in out.graph.node]) == (trips > 0)


def test_many_tensors_that_are_alike(tmp_path: object) -> None:
    """The same beginning and end, another middle: each is compared with few others."""
    model = build([])
    names = []
    for i in range(6000):
        array = np.zeros(200, np.float32)
        array[100] = i + 1
        names.append(f"w{i}")
        model.graph.initializer.append(numpy_helper.from_array(array, names[-1]))
    info = helper.make_tensor_value_info
    model.graph.node.append(helper.make_node("Concat", names[:3000], ["a"], axis=0))
    model.graph.node.append(helper.make_node("Concat", names[3000:], ["b"], axis=0))
    model.graph.node.append(helper.make_node("Sum", ["x", "u"], ["y"]))
    model.graph.input.append(info("u", 1, [1]))
    model.graph.output.extend([info("a", 1, None), info("b", 1, None)])
    began = time.monotonic()
    ir = from_proto(model)
    registry.make("deduplicate", {}).run(ir, Context())
    assert time.monotonic() - began < 5
    assert len(to_proto(ir).graph.initializer) == 6000


def test_a_name_of_a_megabyte(tmp_path: object) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"], name="n" * (1 << 20))])
    assert package.optimize(model).graph.node[0].name == "n" * (1 << 20)
    model.graph.node[0].op_type = "R" * (1 << 20)
    with pytest.raises(ModelError) as error:
        package.optimize(model)
    assert len(str(error.value)) < 2000


def test_loading_does_not_read_what_is_not_used(tmp_path: object) -> None:
    """A tensor of 2^40 elements in a file that has them, with holes: it is mapped, and a page of it read."""
    from pathlib import Path

    folder = Path(str(tmp_path))
    with open(folder / "w.bin", "wb") as file:
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("no sparse files here")
    model = build([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Identity", ["r"], ["y"])])
    held = model.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[1 << 40])
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value="w.bin")
    model.graph.output.append(helper.make_tensor_value_info("g", TensorProto.UINT8, None))
    model.graph.initializer.append(numpy_helper.from_array(np.array([SIDE]), "i"))
    model.graph.node.append(helper.make_node("Gather", ["w", "i"], ["g"]))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert load(folder / "m.onnx").graph.values["w"].shape == (1 << 40,)
    report = package.optimize_file(folder / "m.onnx", folder / "o.onnx")
    assert report.nodes_after < report.nodes_before
