"""ONNX Runtime writes the running statistics of a BatchNormalization in training mode where it read the old ones."""

from __future__ import annotations

import numpy as np
from onnx import parser

from graphopt.testing import conformance


def test_equal_statistics_stay_apart() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 16]> g (float[2,1,4] x) => '
        "(float[2,1,4] y, float[1] m, float[1] v, float[2,1,4] h, float[1] j, float k) "
        "<float[1] a = {2}, float[1] b = {0.5}, float[1] c = {0.5}, float[1] d = {2}, "
        "float[1] a2 = {2}, float[1] b2 = {0.5}, float[1] c2 = {0.5}, float[1] d2 = {2}> "
        "{ y, m, v = BatchNormalization<training_mode = 1>(x, a, b, c, d) "
        "h, j, n = BatchNormalization<training_mode = 1, epsilon = 0.1>(x, a2, b2, c2, d2)  k = Squeeze(n) }"
    )
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 1, 4)}
    outcome = conformance("default", model, feeds)
    assert {t.name for t in outcome.model.graph.initializer} == {"a", "b", "c", "d", "c2", "d2"}
