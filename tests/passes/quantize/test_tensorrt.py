"""Q/DQ for TensorRT: where they are and where not, that its parser takes them, and what ONNX Runtime computes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tests.passes.quantize.models import batches, cnn, error, ranges_of_model, residual
from tests.passes.util import apply, fired, model, node, ops, rand, reasons

from graphopt import ir
from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError
from graphopt.passes.quantize.insert_qdq_tensorrt import InsertQdqTensorrt
from graphopt.targets.tensorrt_parser import why_not_parsed


def quantized(made: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    ranges = options.pop("ranges", None) or ranges_of_model(made, batches())
    after, _ = apply(made, InsertQdqTensorrt(ranges=ranges, **options), target="tensorrt")
    onnx.checker.check_model(after, full_check=True)
    assert unparsed(after) == unparsed(made)
    return after


def unparsed(made: onnx.ModelProto) -> set[str]:
    """What TensorRT's parser does not take."""
    return {why_not_parsed(item) for item in ir.from_proto(made).graph} - {""}


def makers(made: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: item for item in made.graph.node for name in item.output}


def sources(made: onnx.ModelProto, name: str) -> list[str]:
    """What makes each input of a node: an operator, or nothing for a constant or an input."""
    by_output = makers(made)
    [found] = [item for item in made.graph.node if item.name == name]
    return [by_output[i].op_type if i in by_output else "" for i in found.input]


def stored(made: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in made.graph.initializer}


def test_a_residual_network() -> None:
    before = residual()
    after = quantized(before)
    for name in ("stem", "conv1", "conv2", "shortcut", "conv3"):
        assert sources(after, name)[:2] == ["DequantizeLinear", "DequantizeLinear"]
        assert sources(after, name)[2:] in ([], [""])  # the bias stays float
    assert sources(after, "add1") == ["Conv", "DequantizeLinear"]  # fused with conv2
    assert sources(after, "add2") == ["DequantizeLinear", "Conv"]  # and with conv3, the later of two
    assert sources(after, "head") == ["DequantizeLinear", "DequantizeLinear", ""]
    by_output = makers(after)
    for item in after.graph.node:  # nothing between Conv and what follows it
        if item.op_type in ("Relu", "MaxPool", "GlobalAveragePool", "Flatten"):
            assert by_output[item.input[0]].op_type not in ("DequantizeLinear", "QuantizeLinear")
    assert error(before, after, batches()) < 1e-3


def test_symmetric_int8_with_zero_points_of_zero() -> None:
    after = quantized(residual())
    tensors = stored(after)
    for item in after.graph.node:
        if item.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = numpy_helper.to_array(tensors[item.input[2]])
            assert zero.dtype == np.int8
            assert not zero.any()
            assert zero.shape == numpy_helper.to_array(tensors[item.input[1]]).shape


@pytest.mark.parametrize("weights_as", ["qdq", "int8"])
def test_weights(weights_as: str) -> None:
    before = residual()
    after = quantized(before, weights_as=weights_as)
    tensors, by_output = stored(after), makers(after)
    for item in after.graph.node:
        if item.op_type != "Conv":
            continue
        back = by_output[item.input[1]]
        assert [a.i for a in back.attribute if a.name == "axis"] == [0]
        assert [list(a.ints) for a in item.attribute if a.name == "kernel_shape"] in ([[3, 3]], [[1, 1]])
        if weights_as == "int8":
            assert tensors[back.input[0]].data_type == TensorProto.INT8
        else:
            assert by_output[back.input[0]].op_type == "QuantizeLinear"
            assert tensors[by_output[back.input[0]].input[0]].data_type == TensorProto.FLOAT
    assert error(quantized(before), after, batches()) < 1e-12


def test_one_scale_for_all_weights() -> None:
    after = quantized(cnn(spread=0.1), per_channel=False)
    assert all(not t.dims for t in after.graph.initializer if t.data_type == TensorProto.INT8)


def test_a_value_is_quantized_once() -> None:
    after = quantized(residual())
    read = Counter(item.input[0] for item in after.graph.node if item.op_type == "QuantizeLinear")
    assert max(read.values()) == 1


def test_operands_of_a_concat_share_a_scale() -> None:
    nodes = [
        node("Conv", "x w1", "a", name="one"),
        node("Relu", "a", "ra"),
        node("Conv", "ra w2", "b", name="two"),
        node("Concat", "ra b", "c", axis=1),
        node("MaxPool", "c", "m", kernel_shape=[2, 2]),
        node("Conv", "m w3", "y", name="three"),
    ]
    weights = {"w1": rand(4, 3, 1, 1), "w2": 9 * rand(4, 4, 1, 1), "w3": rand(2, 8, 1, 1)}
    made = model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], weights)
    after = quantized(made)
    tensors, by_output = stored(after), makers(after)
    scales = {}
    for item in after.graph.node:
        if item.op_type == "Conv":
            pair = by_output[by_output[item.input[0]].input[0]]
            scales[item.name] = float(numpy_helper.to_array(tensors[pair.input[1]]))
    assert scales["two"] == scales["three"] != scales["one"]


def test_an_average_pool_between_layers() -> None:
    nodes = [
        node("Conv", "x w1", "a", name="one"),
        node("AveragePool", "a", "p", name="pool", kernel_shape=[2, 2]),
        node("Conv", "p w2", "y", name="two"),
    ]
    made = model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], {"w1": rand(4, 3, 1, 1), "w2": rand(2, 4, 1, 1)})
    assert sources(quantized(made), "pool") == ["DequantizeLinear"]


def attention() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x wq", "q", name="query"),
        node("MatMul", "x wk", "k", name="key"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "s", name="scores"),
        node("Softmax", "s", "p"),
        node("MatMul", "p q", "o", name="mix"),
        node("LayerNormalization", "o g b", "y", name="norm"),
    ]
    weights = {"wq": rand(6, 6), "wk": rand(6, 6, seed=1), "g": rand(6), "b": rand(6)}
    return model(nodes, {"x": [2, 5, 6]}, ["y"], weights)


@pytest.mark.parametrize("both", [False, True])
def test_products_of_activations_on_request(both: bool) -> None:
    made = attention()
    ranges = ranges_of_model(made, [{"x": rand(2, 5, 6, seed=s)} for s in range(3)], axis=2)
    after = quantized(made, ranges=ranges, attention=both)
    wanted = ["DequantizeLinear"] * 2
    assert sources(after, "query") == wanted
    assert (sources(after, "scores") == wanted) is both
    assert (sources(after, "mix") == wanted) is both
    assert sources(after, "norm")[0] == "MatMul"


def test_what_is_left_float() -> None:
    made = residual()
    ranges = ranges_of_model(made, batches())
    after, report = apply(made, InsertQdqTensorrt(ranges=ranges, keep_float="conv*, head"), target="tensorrt")
    assert len(fired(report)) == 3  # two Convs, and an Add that one of them is fused with
    assert ops(after)["QuantizeLinear"] == 5
    few = Ranges({"x": TensorRange(0, 1, 0, 1)})
    _, report = apply(made, InsertQdqTensorrt(ranges=few), target="tensorrt")
    assert reasons(report, "insert-qdq-tensorrt") == ["there is no range of its input"]
    again, report = apply(after, InsertQdqTensorrt(ranges=ranges, only="stem,shortcut"), target="tensorrt")
    assert not fired(report)
    assert ops(again) == ops(after)


def test_a_tensor_that_is_always_zero() -> None:
    made = cnn(spread=0.1)
    known = dict(ranges_of_model(made, batches()))
    known["x"] = TensorRange(0, 0, 0, 0)
    after = quantized(made, ranges=Ranges(known))
    assert error(after, after, batches()) == 0


def test_wrong_options() -> None:
    ranges = Ranges({"x": TensorRange(0, 1, 0, 1)})
    said = reasons(apply(cnn(opset=12), InsertQdqTensorrt(ranges=ranges))[1], "insert-qdq-tensorrt")
    assert said == ["scales per channel are of opset 13: run raise-opset first"]
    with pytest.raises(GraphoptError, match="'qdq' or 'int8'"):
        apply(cnn(), InsertQdqTensorrt(ranges=ranges, weights_as="int4"))
    with pytest.raises(GraphoptError, match="no ranges"):
        apply(cnn(), "insert-qdq-tensorrt")
