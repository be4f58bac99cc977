from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import parser

from graphopt.quantization import runtime_agrees
from graphopt.quantization.judge import Tally

QDQ = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y)
    <float s = {0.1}, uint8 z = {128}> { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
PLAIN = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y) { y = Identity(x) }'


def feeds(rng):
    return [{"x": rng.normal(size=(4, 8)).astype(np.float32)}]


def test_what_is_run_as_written_agrees(rng):
    found = runtime_agrees(parser.parse_model(QDQ), feeds(rng))
    assert found.ok
    assert found.sqnr_db == math.inf
    assert found.to_dict()["graph_db"] is None


def test_what_quantization_costs_is_known_with_a_reference(rng):
    given = feeds(rng)
    found = runtime_agrees(parser.parse_model(QDQ), given, [[each["x"]] for each in given])
    assert found.ok
    assert 20 < found.graph_db < 60


def test_a_model_that_does_not_load_does_not_agree():
    found = runtime_agrees(parser.parse_model(QDQ.replace("QuantizeLinear(x", "NoSuchOperator(x")), [])
    assert not found.ok
    assert "does not load" in found.why


@pytest.mark.parametrize(("off", "known", "ok"), [(0.001, None, True), (0.2, None, False), (0.2, 10.0, True)])
def test_as_much_as_quantization_costs_is_rounding(rng, monkeypatch, off, known, ok):
    """off: by how much the optimized run differs; known: dB of the graph as written against fp32."""
    given = feeds(rng)

    class Fake:
        def __init__(self, model, *, optimize=True, threads=1):
            self.factor = 1.0 + off if optimize else 1.0

        def __call__(self, feeds):
            return [feeds["x"] * np.float32(self.factor)]

    monkeypatch.setattr("graphopt.quantization.check.Runner", Fake)
    reference = None
    if known is not None:
        reference = [[given[0]["x"] * np.float32(1 + 10 ** (-known / 20))]]
        tally = Tally()
        tally.add(reference[0], [given[0]["x"]])
        assert abs(tally.figures().sqnr_db - known) < 4
    found = runtime_agrees(parser.parse_model(PLAIN), given, reference)
    assert found.ok is ok, found
    assert bool(found.why) is not ok


def test_integers_must_agree(rng, monkeypatch):
    class Fake:
        def __init__(self, model, *, optimize=True, threads=1):
            self.shift = int(optimize)

        def __call__(self, feeds):
            return [np.arange(10) + self.shift]

    monkeypatch.setattr("graphopt.quantization.check.Runner", Fake)
    assert "integer outputs differ" in runtime_agrees(parser.parse_model(PLAIN), feeds(rng)).why
