"""A failed verification of a file with external data names the rewrite: replayed models have their weights in them."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper
from tests.passes.util import model, node, rand

import graphopt
from graphopt import VerificationError, rule
from graphopt.rewrite import P


@rule("wrong-relu-outside", P.Relu("x").as_("relu"))
def wrong_relu(m, new):
    """Relu is Abs, it is said."""
    return new.Abs(m.x, like=m.relu)


def test_the_rewrite_is_named(tmp_path):
    nodes = [node("MatMul", "x w", "m"), node("Relu", "m", "y", name="relu_0")]
    given = model(nodes, {"x": ["N", 8]}, ["y"], {"w": rand(8, 8, low=-1)})
    source = tmp_path / "m.onnx"
    onnx.save(given, source, save_as_external_data=True, size_threshold=0, location="w.bin")
    with pytest.raises(VerificationError, match="did it: wrong-relu-outside on relu_0"):
        graphopt.optimize_file(source, tmp_path / "o.onnx", [wrong_relu])
    assert "`wrong-relu-outside`, on `relu_0`" in (tmp_path / "o.onnx.repro" / "README.md").read_text()
    before = onnx.load(tmp_path / "o.onnx.repro" / "before.onnx")
    assert [n.op_type for n in before.graph.node] == ["Relu"]
    assert numpy_helper.to_array(onnx.load(source).graph.initializer[0]).shape == (8, 8)
