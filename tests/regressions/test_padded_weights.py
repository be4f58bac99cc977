"""ONNX Runtime merges a Pad into the Conv that reads it as its weights, and then refuses the model."""

from __future__ import annotations

import numpy as np
from onnx import parser

from graphopt.testing import conformance


def test_one_pad_for_input_and_weights() -> None:
    model = parser.parse_model(
        '<ir_version: 4, opset_import: ["": 7]> g (float[2,2,2] x) => (float[2,2,1] y) '
        "{ p = Pad<pads = [0, 0, 0, 0, 0, 0]>(x)  y = Conv(p, p) }"
    )
    assert not conformance("fuse-pad-conv", model, {"x": np.ones((2, 2, 2), np.float32)}).changed
