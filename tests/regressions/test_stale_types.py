"""A preset ends where its own result gives it nothing more to do: each round sees shapes that the last one made known.

Found by the backend campaign on the function bodies of RMSNormalization, LayerNormalization and Attention.
"""

from __future__ import annotations

import pytest
from onnx import parser

from graphopt.testing import conformance

AXES = """<ir_version: 9, opset_import: ["": 18]> g (float[3,4] x) => (float[3,1] y) {
    shape = Shape(x)
    rank = Size(shape)
    axis = Constant<value = int64 {1}>()
    same = Identity(axis)
    one = Constant<value = int64 {1}>()
    axes = Range(same, rank, one)
    y = ReduceMean(x, axes)
}"""
REDUCED = """<ir_version: 9, opset_import: ["": 18]> g (float[3,4] x) => (float[3,1] y) {
    shape = Shape(x)
    rank = Size(shape)
    zero = Constant<value = int64[1] {0}>()
    axis = Constant<value = int64[1] {1}>()
    prefix = Slice(shape, zero, axis)
    number = Sub(rank, axis)
    suffix = ConstantOfShape<value = int64[1] {1}>(number)
    reduced = Concat<axis = 0>(prefix, suffix)
    flat = Flatten<axis = 1>(x)
    mean = ReduceMean(flat, axis)
    y = Reshape(mean, reduced)
}"""


@pytest.mark.parametrize("text", [AXES, REDUCED], ids=["axes", "reduced"])
@pytest.mark.parametrize("preset", ["default", "cleanup"])
def test_what_becomes_known_is_used(preset: str, text: str) -> None:
    outcome = conformance(preset, parser.parse_model(text))
    assert [node.op_type for node in outcome.model.graph.node] == ["ReduceMean"]
