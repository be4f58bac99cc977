"""A small model out of ONNX text plus arrays for its initializers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

Build = Callable[..., ModelProto]


@pytest.fixture
def build() -> Build:
    """build("g (float[N] x) => (float[N] y) { y = Neg(x) }", opset=17, W=array, ...) -> checked model."""

    def make(text: str, opset: int = 18, functions: str = "", check: bool = True, **weights: np.ndarray) -> ModelProto:
        header = f'<ir_version: 9, opset_import: ["": {opset}, "local": 1, "ai.onnx.ml": 3, "com.microsoft": 1]>\n'
        model = parser.parse_model(header + text + functions)
        for name, array in weights.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        if check:
            onnx.checker.check_model(model)
        return model

    return make
