"""The kernels that are predicted for real models against those that ONNX Runtime executes.

Run with `-m models`; see `real_model` in tests/conftest.py for where the models come from.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from graphopt.analysis.cost import kernel_costs
from graphopt.analysis.shapes import infer
from graphopt.ir import load

LEAST = 0.6  # of the median model it is over 0.95: see `python benchmarks/cost.py fusion`
HALF = frozenset(("word_click_matcher",))  # in float16, what runs in blocks and what between Casts is not predicted


def executed(path: Path, saved: Path) -> Counter[str]:
    """Operators in the graph that ONNX Runtime saves, bodies included."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(saved)
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no class in common
        pytest.skip(f"ONNX Runtime does not load it: {str(error)[:80]}")
    found: Counter[str] = Counter()
    pending = [onnx.load(saved, load_external_data=False).graph]
    while pending:
        for node in pending.pop().node:
            found[node.op_type] += 1
            pending += [a.g for a in node.attribute if a.HasField("g")]
    return found


def test_kernels_are_mostly_those_that_are_executed(real_model, tmp_path):
    if real_model.stem in HALF:
        pytest.skip("it computes in float16")
    true = executed(real_model, tmp_path / "saved.onnx")
    model = load(real_model)
    infer(model)
    found = Counter(cost.region.kernel for cost in kernel_costs(model))
    wrong = sum((found - true).values()) + sum((true - found).values())
    assert 1 - wrong / (sum(true.values()) + sum(found.values())) >= LEAST
