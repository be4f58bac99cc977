"""A constant of shape [1] raises the rank of a scalar: what it is folded into no longer fits."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from graphopt.testing import conformance


@pytest.mark.parametrize("op", ["Div", "Mul"])
def test_a_scalar_in_front_of_a_matmul(op: str) -> None:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g (float x) => (float[3] y) <float[1] c = {{3}}, '
        f"float[1,3] w = {{1, 2, 3}}> {{ a = {op}(x, c)  y = MatMul(a, w) }}"
    )
    assert not conformance("default", model, {"x": np.array(2, np.float32)}).changed
