"""What fuzzing found in reading a model: each is refused in one short line."""

from __future__ import annotations

import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, parser

import graphopt
from graphopt.ir import from_proto


def relu() -> ModelProto:
    return parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }')


def with_constant(tensor: TensorProto) -> ModelProto:
    model = relu()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], name="big", value=tensor))
    return model


def refusal(model: ModelProto) -> str:
    with pytest.raises(graphopt.ModelError) as caught:
        from_proto(model)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.mark.parametrize("version", [2**31, 2**62, -(2**40)])
def test_operator_set_versions_beyond_32_bits(version: int) -> None:
    """onnx raises TypeError for them."""
    model = relu()
    model.opset_import[0].version = version
    assert str(version) in refusal(model)


def test_a_constant_whose_data_is_not_there() -> None:
    assert "'big' holds 0 values" in refusal(with_constant(TensorProto(dims=[10**12], data_type=1)))
    assert "negative dim" in refusal(with_constant(TensorProto(dims=[-5], data_type=1, float_data=[1.0])))
    assert "element type 77" in refusal(with_constant(TensorProto(dims=[1], data_type=77, raw_data=b"\0")))


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("v", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("v", TensorProto.COMPLEX64, [2], [1.0, 2.0]),
        helper.make_tensor("v", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("v", TensorProto.BFLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("v", TensorProto.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("v", TensorProto.UINT32, [0, 4], []),
    ],
    ids=lambda t: TensorProto.DataType.Name(t.data_type),
)
def test_typed_fields_of_the_right_length_are_taken(tensor: TensorProto) -> None:
    from_proto(with_constant(tensor))


def test_a_sparse_tensor_that_no_machine_can_write_out() -> None:
    values, indices = helper.make_tensor("s", 1, [1], [1.0]), helper.make_tensor("", 7, [1], [5])
    model = relu()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40, 1 << 40]))
    assert "'s'" in refusal(model)


def test_a_name_of_a_megabyte_is_not_repeated() -> None:
    model = relu()
    model.graph.node[0].op_type = "x" * 1_000_000
    assert "xxx" in refusal(model)


def test_bodies_nested_deeper_than_protobuf_reads(tmp_path) -> None:
    def field(number: int, payload: bytes) -> bytes:
        out, size = bytearray([number << 3 | 2]), len(payload)
        while size > 127:
            out.append(size & 127 | 128)
            size >>= 7
        return bytes(out) + bytes([size]) + payload

    inner = relu().graph.SerializeToString()
    attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString()
    node = onnx.NodeProto(op_type="If", input=["c"], output=["y"]).SerializeToString()
    for _ in range(500):
        inner = field(1, node + field(5, attribute + field(6, inner)))
    path = tmp_path / "deep.onnx"
    path.write_bytes(ModelProto(ir_version=8).SerializeToString() + field(7, inner))
    with pytest.raises(graphopt.ModelError, match="protobuf"):
        graphopt.optimize_file(path, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["deep.onnx"]
