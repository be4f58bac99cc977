"""convert-precision: what changes, what stays, at the borders and in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError
from graphopt.passes import registry
from graphopt.passes.precision.convert_precision import ConvertPrecision

from ..util import apply, fired, model, node, rand, run
from .halves import F16, F32, NAME, halved, ranges, to, weight

X = {"x": rand(2, 4)}
GEMM = [node("Gemm", "x w b", "h", name="gemm"), node("Relu", "h", "y", name="relu")]
WEIGHTS = {"w": rand(4, 3, seed=1), "b": rand(3, seed=2)}


def net(
    nodes: list[onnx.NodeProto] | None = None, weights: Any = None, opset: int = 17, outputs: Any = None, **more: Any
) -> onnx.ModelProto:
    given = WEIGHTS if weights is None else weights
    return model(nodes or GEMM, {"x": [2, 4]}, outputs or ["y"], given, opset=opset, **more)


def test_everything_changes_but_the_interface() -> None:
    half = halved(net(), X)
    assert [n.op_type for n in half.model.graph.node] == ["Cast", "Gemm", "Relu", "Cast"]
    assert half.types["h"] == half.types["w"] == half.types["b"] == F16
    assert half.types["x"] == half.types["y"] == F32
    assert not half.reasons()
    assert fired(half.report) == [NAME]
    assert {t.name for t in half.model.graph.initializer} == {"w", "b"}  # their names stay
    np.testing.assert_array_equal(weight(half.model, "w"), WEIGHTS["w"].astype(np.float16))


def test_the_interface_changes_on_request() -> None:
    half = halved(net(), X, keep_io=False)
    assert [n.op_type for n in half.model.graph.node] == ["Gemm", "Relu"]
    assert [i.type.tensor_type.elem_type for i in (*half.model.graph.input, *half.model.graph.output)] == [F16, F16]


def test_options_in_text_and_wrong_ones() -> None:
    made = registry.make(NAME, {"to": "bfloat16", "keep_io": False, "margin": 4})
    assert made == ConvertPrecision(to="bfloat16", keep_io=False, margin=4)
    with pytest.raises(GraphoptError, match="float16 or bfloat16, not to 'int8'"):
        apply(net(), ConvertPrecision(to="int8"))
    with pytest.raises(GraphoptError, match="at least 1"):
        apply(net(), ConvertPrecision(margin=0.5))
    with pytest.raises(GraphoptError, match="no ranges file"):
        apply(net(), ConvertPrecision(ranges="none.json"))


def test_a_ranges_file(tmp_path: Any) -> None:
    path = tmp_path / "ranges.json"
    ranges(h=(-2, 9e4), y=(0, 9e4)).save(path)
    half = halved(net(), X, ranges=str(path))
    assert half.kept() == {"gemm", "relu"}


def test_nodes_kept_by_name() -> None:
    half = halved(net(), X, keep_float="re*,none")
    assert half.types["h"] == F16 and half.types["y"] == F32
    assert half.reasons() == {"it is to stay float32": ["relu"]}
    half = halved(net(), X, only="gemm")
    assert half.kept() == {"relu"}


def test_no_islands_is_an_error_that_names_one() -> None:
    with pytest.raises(GraphoptError, match=r"1 nodes have to stay float32, relu \(Relu\) for one: it is to stay"):
        apply(net(), ConvertPrecision(keep_float="relu", islands=False))
    halved(net(), X, islands=False)


def test_nothing_to_do_changes_nothing() -> None:
    integers = model([node("Add", "x x", "y")], {"x": [2]}, ["y"], dtype=TensorProto.INT64)
    made, report = apply(integers, ConvertPrecision())
    assert made == integers and not report.rewrites


def test_a_limit_leaves_the_pass_out() -> None:
    from graphopt.ir import from_proto, to_proto
    from graphopt.rewrite import Context

    given = net()
    work = from_proto(given)
    ConvertPrecision().run(work, Context(limit=0))
    assert to_proto(work) == given


def test_one_cast_serves_all_readers() -> None:
    nodes = [node("Relu", "x", "a"), node("Neg", "x", "b"), node("MatMul", "a w", "c"), node("MatMul", "b w", "d")]
    half = halved(net([*nodes, node("Add", "c d", "y")], {"w": rand(4, 3)}), X)
    assert half.count("Cast") == 2


def test_a_shared_constant_is_there_in_both_types_only_where_both_are_read() -> None:
    nodes = [node("MatMul", "x w", "a", name="low"), node("MatMul", "x w", "b", name="high"), node("Add", "a b", "y")]
    half = halved(net(nodes, {"w": rand(4, 3)}), X, keep_float="high")
    assert sorted(t.data_type for t in half.model.graph.initializer) == [F32, F16]


def test_constant_nodes_and_constants_that_are_returned() -> None:
    one = helper.make_tensor("", F32, [1], [1.5])
    nodes = [node("Constant", "", "c", value=one), node("Add", "x c", "y"), node("Identity", "k", "z")]
    given = model(nodes, {"x": [2, 4]}, ["y", "z"], {"k": np.float32([3.25])})
    half = halved(given, X)
    assert half.types["z"] == F32
    floats = model(
        [node("Constant", "", "c", value_float=0.1), node("Mul", "x c", "y")], {"x": [2, 4]}, ["y"], opset=13
    )
    assert halved(floats, X).types["c"] == F16


def test_an_output_that_is_read_inside_keeps_its_name() -> None:
    nodes = [node("Relu", "x", "a"), node("MatMul", "a w", "y"), node("Neg", "y", "n"), node("MatMul", "n v", "z")]
    given = model(nodes, {"x": [2, 4]}, ["y", "z"], {"w": rand(4, 3), "v": rand(3, 3, seed=4)})
    half = halved(given, X)
    matmul = half.model.graph.node[[n.op_type for n in half.model.graph.node].index("Neg")]
    assert half.types[matmul.input[0]] == F16  # not through the Cast of the output


def test_an_input_returned_as_it_is() -> None:
    given = model([node("Relu", "x", "y")], {"x": [2, 4]}, ["y"])
    given.graph.output.append(given.graph.input[0])
    halved(given, X)
    halved(given, X, keep_io=False)


def test_defaults_that_a_caller_may_override_stay() -> None:
    given = net()
    given.graph.input.append(helper.make_tensor_value_info("w", F32, [4, 3]))
    for keep_io in (True, False):
        half = halved(given, {**X, "w": WEIGHTS["w"]} if keep_io else None, keep_io=keep_io)
        assert weight(half.model, "w").dtype == np.float32


def test_old_files_list_their_initializers_as_inputs() -> None:
    given = net([node("MatMul", "x k", "y")], {"k": rand(4, 4)}, 9)
    given.ir_version = 3
    given.graph.input.append(helper.make_tensor_value_info("k", F32, [4, 4]))
    made, _ = apply(given, ConvertPrecision())
    onnx.checker.check_model(made, full_check=True)
    assert {i.name: i.type.tensor_type.elem_type for i in made.graph.input} == {"x": F32, "k": F16}
    assert run(made, X)[0].dtype == np.float32


def test_what_the_file_says_of_values_follows() -> None:
    given = onnx.shape_inference.infer_shapes(net())
    given.graph.value_info.append(helper.make_tensor_value_info("w", F32, [4, 3]))
    half = halved(given, X)
    assert {i.name: i.type.tensor_type.elem_type for i in half.model.graph.value_info} == {"h": F16, "w": F16}


def test_operators_by_schema() -> None:
    """NonMaxSuppression takes float32 alone; ArrayFeatureExtractor and what is no ONNX operator stay, too."""
    nodes = [
        node("Relu", "x", "a"),
        node("NonMaxSuppression", "boxes a k", "i", name="nms"),
        node("Gather", "boxes one", "g", axis=0),
        node("Cast", "i", "c", to=F32),
        node("Add", "c c", "y"),
    ]
    given = model(
        nodes, {"x": [1, 1, 6], "boxes": [1, 6, 4]}, ["y"], {"k": np.int64([3]), "one": np.int64([0])}, opset=17
    )
    half = halved(given, {"x": rand(1, 1, 6), "boxes": rand(1, 6, 4)})
    assert "nms" in half.kept()
    assert any("takes no float16 at opset 17" in why for why in half.reasons())


def test_an_operator_that_takes_it_in_a_later_opset_only() -> None:
    """Clip of opset 6 takes float16; CumSum of 11 does not, that of 14 does; Range never."""
    nodes = [node("Relu", "x", "a"), node("CumSum", "a k", "y", name="sum")]
    for opset, stays in ((11, True), (14, False)):
        given = net(nodes, {"k": np.int64(1)}, opset=opset)
        half = halved(given, X, ranges=ranges(x=(-1, 1), a=(0, 1), y=(0, 4)))
        assert ("sum" in half.kept()) == stays


def test_custom_operators_keep_their_types() -> None:
    given = net(
        [node("Relu", "x", "a"), node("Twist", "a", "b", domain="my"), node("Relu", "b", "y")],
        {},
        outputs={"y": [2, 4]},
        imports={"my": 1},
    )
    made, report = apply(given, ConvertPrecision())
    assert [n.op_type for n in made.graph.node] == ["Relu", "Twist", "Relu"]  # nothing is left that is worth a Cast
    assert "what Twist takes is not known" in report.refusals[NAME]


def test_contrib_operators_that_are_known() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Gelu", "h", "g", domain="com.microsoft"), node("Relu", "g", "y")]
    given = net(nodes, {"w": WEIGHTS["w"]}, outputs={"y": [2, 3]}, imports={"com.microsoft": 1})
    made, _ = apply(given, ConvertPrecision())
    assert [n.op_type for n in made.graph.node] == ["Cast", "MatMul", "Gelu", "Relu", "Cast"]
    np.testing.assert_allclose(run(made, X)[0], run(given, X)[0], atol=1e-2)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")], {}),
        (
            [
                node("Shape", "x", "s"),
                node("ConstantOfShape", "s", "c", value=helper.make_tensor("", F32, [1], [0.5])),
                node("Add", "x c", "y"),
            ],
            {},
        ),
        ([node("EyeLike", "x", "e"), node("Add", "x e", "y")], {}),
        ([node("EyeLike", "x", "e", dtype=F32), node("Add", "x e", "y")], {}),
        ([node("Cast", "x", "i", to=TensorProto.INT32), node("Cast", "i", "f", to=F32), node("Add", "x f", "y")], {}),
        ([node("CastLike", "k x", "f"), node("Add", "x f", "y")], {"k": np.int8([3])}),
        ([node("Size", "x", "s"), node("Cast", "s", "f", to=F32), node("Div", "x f", "y")], {}),
        ([node("Greater", "x z", "g"), node("Where", "g x z", "y")], {"z": np.float32(0.25)}),
        ([node("IsNaN", "x", "n"), node("Where", "n z x", "y")], {"z": np.float32(0)}),
        ([node("TopK", "x k", "v i", axis=1), node("Relu", "v", "y")], {"k": np.int64([2])}),
        ([node("Dropout", "x r", "y")], {"r": np.float32(0.5)}),
        ([node("Pad", "x p v", "y")], {"p": np.int64([0, 1, 0, 1]), "v": np.float32(0.5)}),
        (
            [node("OneHot", "i d v", "o"), node("Add", "x o", "y")],
            {"i": np.int64([1, 2]), "d": np.int64(4), "v": np.float32([0, 1])},
        ),
    ],
    ids=lambda item: "-".join(n.op_type for n in item) if isinstance(item, list) and item else "",
)
def test_types_that_attributes_say(nodes: list[onnx.NodeProto], weights: dict[str, Any]) -> None:
    half = halved(model(nodes, {"x": [2, 4]}, ["y"], weights), X)
    assert fired(half.report) in ([NAME], [])


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_random_numbers_like_another_value(op: str) -> None:
    for given in ({}, {"dtype": F32}):
        half = halved(net([node(op, "x", "r", **given), node("Mul", "x r", "y")], {}))
        assert half.types["r"] == F16
        assert np.isfinite(run(half.model, X)[0]).all()


def test_random_numbers_of_their_own_shape_stay_float32() -> None:
    """ONNX Runtime generates float32 alone; a Cast is all that it takes."""
    half = halved(net([node("RandomNormal", "", "r", shape=[2, 4], name="rng"), node("Mul", "x r", "y")], {}))
    assert half.types["r"] == F32
    assert np.isfinite(run(half.model, X)[0]).all()


def test_sequences_change_as_a_whole() -> None:
    nodes = [
        node("SequenceEmpty", "", "e"),
        node("SequenceInsert", "e x", "s"),
        node("SequenceConstruct", "x x", "t"),
        node("SequenceAt", "t i", "a"),
        node("SequenceInsert", "s a", "u"),
        node("ConcatFromSequence", "u", "y", axis=0),
        node("SequenceLength", "u", "n"),
        node("SplitToSequence", "x", "p", axis=0),
        node("SequenceAt", "p i", "z"),
    ]
    given = model(nodes, {"x": [2, 4]}, {"y": [4, 4], "z": [1, 4]}, {"i": np.int64(0)})
    given.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT64, []))
    half = halved(given, X)
    empty = next(n for n in half.model.graph.node if n.op_type == "SequenceEmpty")
    assert empty.attribute[0].i == F16


def test_a_sequence_that_is_returned_stays() -> None:
    nodes = [node("Relu", "x", "r"), node("SequenceConstruct", "r r", "s", name="both")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F32, [2, 4])],
        [helper.make_tensor_sequence_value_info("s", F32, None)],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    half = halved(given, X)
    assert half.count("Cast") == 0


def test_optionals() -> None:
    nodes = [
        node("Relu", "x", "r"),
        node("MatMul", "r w", "m"),
        node("Optional", "m", "o"),
        node("OptionalHasElement", "o", "h"),
        node("OptionalGetElement", "o", "y"),
    ]
    given = model(nodes, {"x": [2, 4]}, {"y": None}, {"w": rand(4, 4)}, opset=18)
    halved(given, X)


def test_quantized_parts_stay_as_they_are() -> None:
    nodes = [
        node("MatMul", "x w", "a", name="float"),
        node("QuantizeLinear", "a s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Relu", "d", "r", name="between"),
        node("QuantizeLinear", "r s z", "p"),
        node("DequantizeLinear", "p s z", "e"),
        node("Transpose", "e", "t", name="after"),
        node("MatMul", "t v", "y", name="last"),
    ]
    weights = {"w": rand(4, 3), "v": rand(2, 5, seed=3), "s": np.float32(0.02), "z": np.uint8(128)}
    for opset in (17, 21):
        half = halved(net(nodes, weights, opset=opset), X, tol=0.05)
        assert half.reasons()["it is part of a quantized region"]
        assert "between" in half.kept() and "float" not in half.kept()
        assert half.types["s"] == F32


def test_weights_that_are_stored_as_integers_and_dequantized() -> None:
    """From opset 19 on DequantizeLinear makes float16; before, what it makes stays float32."""
    nodes = [
        node("Relu", "x", "r"),
        node("DequantizeLinear", "w s", "d", name="dq"),
        node("MatMul", "r d", "y", name="mm"),
    ]
    weights = {"w": np.int8(np.arange(-6, 6)).reshape(4, 3), "s": np.float32(0.125)}
    assert halved(net(nodes, weights, opset=21), X).types["d"] == F16
    assert "mm" in halved(net(nodes, weights, opset=17), X).kept()


def test_a_model_that_is_partly_float16_keeps_its_islands() -> None:
    nodes = [
        node("Cast", "x", "a", to=F16),
        node("Relu", "a", "b"),
        node("Cast", "b", "c", to=F32),
        node("Softmax", "c", "d", name="island"),
        node("Cast", "d", "e", to=F16),
        node("Neg", "e", "f"),
        node("Cast", "f", "y", to=F32),
    ]
    given = net(nodes, {})
    made, _ = apply(given, ConvertPrecision())
    assert made.SerializeToString() == given.SerializeToString()


def test_weights_stored_in_float16_and_cast_up_are_no_island() -> None:
    nodes = [node("Cast", "w", "v", to=F32), node("MatMul", "x v", "h"), node("Relu", "h", "y")]
    half = halved(net(nodes, {"w": rand(4, 3).astype(np.float16)}), X)
    assert [n.op_type for n in half.model.graph.node] == ["Cast", "MatMul", "Relu", "Cast"]


def test_double_precision_stays() -> None:
    nodes = [
        node("Cast", "x", "d", to=TensorProto.DOUBLE),
        node("Mul", "d d", "e"),
        node("Cast", "e", "f", to=F32),
        node("MatMul", "f w", "y"),
    ]
    half = halved(net(nodes, {"w": rand(4, 4)}), X)
    assert half.types["e"] == TensorProto.DOUBLE and to(half.nodes["f"]) == F16


def test_the_callers_names_and_notes_stay() -> None:
    given = net()
    given.producer_name, given.doc_string = "somebody", "a text"
    given.metadata_props.add(key="k", value="v")
    made = halved(given, X).model
    assert (made.producer_name, made.doc_string, made.metadata_props[0].key) == ("somebody", "a text", "k")


def test_data_movement_between_islands_stays_float32() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Softmax", "a", "b", name="first"),
        node("Reshape", "b s", "c", name="move"),
        node("Transpose", "c", "d", name="turn"),
        node("Softmax", "d", "e", name="second"),
        node("MatMul", "e v", "y"),
    ]
    half = halved(
        net(nodes, {"w": rand(4, 4), "v": rand(2, 2, seed=3), "s": np.int64([2, 4])}), X, keep_float="first,second"
    )
    assert half.types["c"] == half.types["d"] == F32
    assert half.count("Cast") == 4
