"""Weights that scaling makes too small for their type: zero times infinity is no number."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.testing import conformance


@pytest.mark.parametrize(("size", "fuses"), [(1e-30, False), (1e-3, True), (0.0, True)])
def test_tiny_weights_and_scales(size: float, fuses: bool) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 15]> g (float[1,2,3,3] x) => (float[1,2,3,3] y) '
        "{ c = Conv(x, w)  y = BatchNormalization(c, s, b, m, v) }"
    )
    for name, shape, value in (("w", (2, 2, 1, 1), size), ("s", 2, size), ("b", 2, 1), ("m", 2, 1), ("v", 2, 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, value, np.float32), name))
    feeds = {"x": np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)}
    if not fuses:
        feeds["x"][0, 0, 0, 0] = np.inf
    assert conformance("fuse-conv-bn", model, feeds).changed is fuses
