"""What a caller would trip over, and what it would not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.verify.interface import describe, interface_differences, interface_notes

BASE = "g (float[N,3] x, int64[N] k) => (float[N,3] y, float[M] z) { y = Identity(x) z = Cast<to=1>(k) }"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE, ""),
        (BASE.replace("float[N,3] x", "float[2,3] x"), "input 'x': float[N, 3] became float[2, 3]"),
        (BASE.replace("float[N,3] x", "float[B,3] x"), "input 'x': float[N, 3] became float[B, 3]"),
        (BASE.replace("int64[N] k", "int32[N] k"), "input 'k': int64[N] became int32[N]"),
        (
            BASE.replace("float[N,3] x, int64[N] k", "int64[N] k, float[N,3] x"),
            "the order of the inputs differs: x, k became k, x",
        ),
        (
            BASE.replace("float[N,3] y, float[M] z", "float[M] z, float[N,3] y"),
            "the order of the outputs differs: y, z became z, y",
        ),
        (BASE.replace("float[N,3] y, ", ""), "output 'y' is missing"),
        (BASE.replace(" z", " w"), "output 'z' is missing"),
        (BASE.replace("float[M] z", "float[7] z"), "output 'z': float[M] became float[7]"),
        (BASE.replace("float[M] z", "float z"), "output 'z': float[M] became float[]"),
        (BASE.replace("float[N,3] x, ", "float[N,3] x, float[1] extra, "), "input 'extra' is new"),
    ],
)
def test_differences(build, text, said):
    found = interface_differences(build(BASE, check=False), build(text, check=False))
    assert said in found if said else found == []


def test_an_open_output_may_be_stated_but_no_input(build):
    open_ended = build("g (float[N] x) => (float[?] y) { y = Identity(x) }", check=False)
    open_ended.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    stated = build("g (float[N] x) => (float[N] y) { y = Identity(x) }")
    assert interface_differences(open_ended, stated) == []
    assert interface_differences(stated, open_ended) == ["output 'y': float[N] became float[?]"]
    open_ended.graph.input[0].type.tensor_type.ClearField("shape")
    stated.graph.output[0].CopyFrom(open_ended.graph.output[0])
    assert interface_differences(open_ended, stated) == ["input 'x': float became float[N]"]


def test_overridable_inputs_stay(build):
    kept = build("g (float[N] x, float[1] w) => (float[N] y) { y = Mul(x, w) }", w=np.ones(1, np.float32))
    gone = build("g (float[N] x) => (float[N] y) { y = Mul(x, w) }", w=np.ones(1, np.float32))
    assert interface_differences(kept, gone) == ["default of input 'w' is missing"]
    kept.ir_version = 3  # where every initializer has to be listed, and none can be overridden
    assert interface_differences(kept, gone) == []
    required = build("g (float[N] x, float[1] w) => (float[N] y) { y = Mul(x, w) }")
    assert interface_differences(gone, required) == ["input 'w' is new"]


@pytest.mark.parametrize("axis", range(6))
def test_other_kinds(axis):
    float_tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
    kinds = [
        float_tensor,
        helper.make_sequence_type_proto(float_tensor),
        helper.make_optional_type_proto(float_tensor),
        helper.make_optional_type_proto(helper.make_sequence_type_proto(float_tensor)),
        helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["N"]),
        helper.make_map_type_proto(TensorProto.STRING, float_tensor),
    ]
    models = []
    for kind in kinds:
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_value_info("x", kind)],
            [helper.make_value_info("y", kind)],
        )
        models.append(helper.make_model(graph))
    for other, model in enumerate(models):
        assert (interface_differences(models[axis], model) == []) == (axis == other)
    assert describe(kinds[3]) == "optional(sequence(float[N]))"
    assert describe(kinds[4]) == "sparse float[N]"
    assert describe(kinds[5]) == "map(string, float[N])"


def test_notes_of_versions(build):
    a, b = build(BASE), build(BASE, opset=17)
    b.ir_version = 8
    b.opset_import.append(helper.make_opsetid("org.new", 2))
    notes = interface_notes(a, b)
    assert notes == ["opset of 'ai.onnx': 18 became 17", "opset of 'org.new' is new: 2", "IR version: 9 became 8"]
    assert interface_differences(a, b) == []


def test_weights_do_not_count(build):
    a = build("g (float[N] x) => (float[N] y) { y = Mul(x, w) }", w=np.ones(1, np.float32))
    b = build("g (float[N] x) => (float[N] y) { y = Mul(x, v) }", v=np.zeros(1, np.float32))
    assert interface_differences(a, b) == []
    b.graph.initializer.append(numpy_helper.from_array(np.ones(3), "unused"))
    assert interface_differences(a, b) == []
