from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.quantization.runs import Runner, race

TEXT = '<ir_version: 8, opset_import: ["": 17]> g (float[N, N] x) => (float[N, N] y) { y = Neg(x) }'
SLOW = '<ir_version: 8, opset_import: ["": 17]> g (float[N, N] x) => (float[N, N] y) { a = MatMul(x, x)  y = Exp(a) }'


def test_what_is_slower_is_found_slower():
    runners = [Runner(parser.parse_model(text)) for text in (TEXT, SLOW)]
    (quick, one), (slow, ratio) = race(runners, {"x": np.zeros((256, 256), np.float32)}, seconds=0.1)
    assert one == 1.0
    assert quick < slow
    assert ratio < 0.7


def test_inputs_that_a_model_has_not_are_left_out():
    assert Runner(parser.parse_model(TEXT))({"x": np.ones((1, 1), np.float32), "z": np.ones(1)})[0].tolist() == [[-1.0]]


def test_errors_are_one_line():
    with pytest.raises(GraphoptError, match="does not load"):
        Runner("no/such/file.onnx")
    with pytest.raises(GraphoptError, match="does not run"):
        Runner(parser.parse_model(TEXT))({"x": np.ones(3, np.float32)})
