"""Verification on real models: inputs made without a recipe, a model against itself, and against a spoilt copy.

Run with `-m models`; see `real_model` in tests/conftest.py for where the models come from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from graphopt.verify import Budget, Reference, verify
from graphopt.verify.run import LoadError, Session
from graphopt.verify.source import Source
from graphopt.verify.spec import input_specs, symbols_of

BUDGET = Budget(seconds=90.0)
HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}


def loads(path: Path) -> bool:
    try:
        Session(Source.of(path))
    except LoadError:
        return False
    return True


def test_a_model_agrees_with_itself_on_inputs_that_were_made(real_model: Path) -> None:
    report = verify(real_model, real_model, budget=BUDGET)
    if not loads(real_model):
        assert report.status == "unchecked" and "does not load" in report.unchecked[0]
        return
    assert report.status == "passed", report.summary()
    assert not report.interface and len(report.runs) >= 2
    assert {run.data for run in report.runs} >= {"base"} or {run.data for run in report.runs} >= {"positive"}
    said = " ".join([*report.unchecked, *report.notes])
    for symbol in symbols_of(input_specs(Source.of(real_model).proto)):
        sizes = {run.bindings[symbol] for run in report.runs}
        assert len(sizes) >= 2 or repr(symbol) in said, f"{symbol} was only run with {sizes}, and nothing says so"


def spoilt(model: ModelProto) -> ModelProto | None:
    """A copy whose weights of matrix products and convolutions are 2 % off, at random; None without such floats."""
    copy = ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(0)
    read = {name for node in copy.graph.node if node.op_type in HEAVY for name in node.input[1:]}
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    changed = False
    for tensor in copy.graph.initializer:
        if tensor.name in read and tensor.data_type in kinds and len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor)
            array = (array * (1 + 0.02 * rng.standard_normal(array.shape))).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            changed = True
    return copy if changed else None


def test_spoilt_weights_fail(real_model: Path) -> None:
    if real_model.stat().st_size > 50 << 20 or not loads(real_model):
        pytest.skip("too large, or not run by ONNX Runtime")
    other = spoilt(Source.of(real_model).proto)
    if other is None:
        pytest.skip("it has no float weights in matrix products or convolutions")
    with Reference(real_model, budget=BUDGET) as reference:
        report = reference.check(other)
    # A model may be too unstable on noise to be judged, or not react to noise at all; then it says so.
    said = any("everywhere" in why or "cannot be judged" in why for why in report.unchecked)
    assert report.status == "failed" or said, report.summary()
