"""The rule for Swish."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

RULE = "spell-swish"


@pytest.mark.parametrize("alpha", [None, 1.0, 1.702, -0.5])
def test_swish(alpha: float | None) -> None:
    attrs = {} if alpha is None else {"alpha": alpha}
    before = model([node("Swish", "x", "y", **attrs)], {"x": ("N", 5)}, ["y"], opset=24, ir_version=11)
    after, report = apply(before, RULE)
    assert fired(report) == [RULE]
    assert ops(after) == {"Sigmoid": 1, "Mul": 1 if alpha in (None, 1.0) else 2}
    assert_same(before, after, {"x": rand(2, 5, low=-6, high=6)})
    special = {"x": np.array([[np.nan, np.inf, -np.inf, 80.0, -80.0]], np.float32)}
    np.testing.assert_array_equal(run(after, special)[0], run(before, special)[0])
    assert fired(apply(before, RULE, target="tensorrt")[1]) == []


def test_other_types_stay() -> None:
    before = model([node("Swish", "x", "y")], {"x": (2,)}, ["y"], dtype=TensorProto.FLOAT16, opset=24, ir_version=11)
    assert "float32" in reasons(apply(before, RULE)[1], RULE)[0]
