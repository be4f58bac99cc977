from __future__ import annotations

import pytest
from onnx import parser

from graphopt import ir, optimize
from graphopt.errors import GraphoptError
from graphopt.quantization.regions import anchors_of, grouped, patterns, regions_of, translated

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 4, 8, 8] x, float[4, 4, 1, 1] w) => (float[1, 4, 8, 8] y) {
        [before] a = Neg(x)
        [first] b = Conv(a, w)
        [relu] c = Relu(b)
        [second] d = Conv(c, w)
        [add] e = Add(d, c)
        [third] y = Conv(e, w)
    }"""


@pytest.fixture
def model():
    return ir.from_proto(parser.parse_model(TEXT))


def test_a_region_is_a_product_and_what_follows(model):
    assert [region.labels for region in regions_of(model)] == [("first", "relu"), ("second", "add"), ("third",)]
    assert [node.label for node in anchors_of(model)] == ["first", "second", "third"]


def test_neighbours_are_joined_where_there_are_too_many(model):
    found = grouped(regions_of(model), 2)
    assert [region.anchors for region in found] == [("first", "second"), ("third",)]
    assert found[0].name == "first and 1 more"
    assert found[0].labels == ("first", "relu", "second", "add")


def test_patterns_take_commas():
    assert patterns(["a", "b,c", "a"]) == "a,b?c"


def test_patterns_mean_labels_and_origins(model):
    assert translated(model, "f*,add", "keep_float") == ["first", "add"]
    fused = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) <float[1, 1, 1, 1] w = {2}, float s = {3}>
        { [the_conv] a = Conv(x, w)  [the_mul] y = Mul(a, s) }""")
    small = ir.from_proto(optimize(fused, verify="off"))
    assert len(small.graph) == 1
    assert translated(small, "the_mul", "keep_float") == translated(small, "the_conv", "keep_float")


def test_a_pattern_that_means_nothing_is_named(model):
    with pytest.raises(GraphoptError, match="keep_float 'no_such' matches no node"):
        translated(model, "first,no_such", "keep_float")


def test_nodes_in_bodies_have_regions():
    found = regions_of(
        ir.from_proto(
            parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
            g (bool c, float[4, 4] x) => (float[4, 4] y) { [if] y = If(c) <
                then_branch = t () => (float[4, 4] p) { [inner] m = MatMul(x, x)  [tail] p = Relu(m) },
                else_branch = e () => (float[4, 4] q) { [other] q = Neg(x) }> }""")
        )
    )
    assert [region.labels for region in found] == [("inner", "tail")]
