from __future__ import annotations

import numpy as np
from onnx import parser

from graphopt.quantization import layer_losses

FP32 = """<ir_version: 8, opset_import: ["": 17]> g (float[4, 8] x, float[8, 8] w) => (float[4, 8] y) {
    [first] a = MatMul(x, w)  [relu] b = Relu(a)  [second] c = MatMul(b, w)  [third] d = MatMul(x, w)
    y = Add(c, d) }"""
QUANTIZED = """<ir_version: 8, opset_import: ["": 17]> g (float[4, 8] x, float[8, 8] w) => (float[4, 8] y)
    <float s = {0.25}, uint8 z = {128}> {
    q = QuantizeLinear(x, s, z)  r = DequantizeLinear(q, s, z)
    [first] a = MatMul(r, w)  [relu] b = Relu(a)  [second] c = MatMul(b, w)  [third] d = MatMul(x, w)
    y = Add(c, d) }"""


def test_each_layer_has_its_loss(rng):
    feeds = [
        {name: rng.normal(size=(4 if name == "x" else 8, 8)).astype(np.float32) for name in "xw"} for _ in range(3)
    ]
    found = layer_losses(parser.parse_model(FP32), parser.parse_model(QUANTIZED), feeds, {"first": "static"})
    assert [layer.name for layer in found] == ["first", "second", "third"]
    first, second, third = found
    assert (first.method, second.method) == ("static", "float")
    assert 15 < first.sqnr_db < 30
    assert first.added_db == first.sqnr_db
    assert third.sqnr_db == float("inf")
    assert abs(second.sqnr_db - first.sqnr_db) < 8


def test_a_product_and_the_relu_that_saturation_replaces_are_one(rng):
    fp32 = """<ir_version: 8, opset_import: ["": 17]> g (float[4, 8] x, float[8, 8] w) => (float[4, 8] y) {
        [first] a = MatMul(x, w)  [relu] b = Relu(a)  [second] y = MatMul(b, w) }"""
    quantized = """<ir_version: 8, opset_import: ["": 17]> g (float[4, 8] x, float[8, 8] w) => (float[4, 8] y)
        <float s = {0.05}, uint8 z = {0}> { [first] c = MatMul(x, w)
        q = QuantizeLinear(c, s, z)  [relu] b = DequantizeLinear(q, s, z)  [second] y = MatMul(b, w) }"""
    feeds = [{name: rng.normal(size=(4 if name == "x" else 8, 8)).astype(np.float32) for name in "xw"}]
    found = layer_losses(parser.parse_model(fp32), parser.parse_model(quantized), feeds, {})
    assert found[0].name == "first"
    assert found[0].sqnr_db > 30
