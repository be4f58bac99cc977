"""Calibration: every sample is a model that ONNX Runtime runs, and what is measured is a description."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.cost import ORT_CPU, Machine
from graphopt.targets import measure as module
from graphopt.targets._samples import SAMPLES
from graphopt.targets.measure import measure, units_of


def is_newer(version: str) -> bool:
    import onnxruntime

    have, want = ([int(part) for part in text.split(".")[:2]] for text in (onnxruntime.__version__, version))
    return have >= want


def test_each_kind_has_one_sample_and_a_shipped_figure():
    kinds = [sample.kind for sample in SAMPLES]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) <= set(ORT_CPU.seconds)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.kind)
def test_samples_are_valid_and_their_work_is_known(sample):
    for length in (1, module.LONG) if sample.chain else (1,):
        model = sample.model(length)
        assert len(model.graph.node) == length
        if is_newer("1.31"):  # older versions lack some
            assert module._Bench(1, 0.0).session(model).get_outputs()
    assert units_of(sample, ORT_CPU) > 0
    assert sample.feed().shape == sample.shape
    assert np.isfinite(sample.feed()).all()


def test_what_is_measured_is_a_description():
    told = []
    machine = measure(seconds=0.1, kinds=["Relu", "Softplus", "gemm"], progress=lambda *what: told.append(what))
    assert told == [("measure", number, 3) for number in range(3)]
    assert Machine.from_dict(machine.to_dict()) == machine
    assert machine.source.startswith("measured, ONNX Runtime ")
    assert machine.seconds["Softplus"] > 3 * machine.seconds["Relu"] > 0
    assert machine.seconds["Elu"] == ORT_CPU.seconds["Elu"]
    assert 0 < machine.overhead < 1e-3
    assert machine.bandwidth > 1e8


def test_an_operator_that_the_runtime_lacks_keeps_the_shipped_figure(monkeypatch):
    (gelu,) = (sample for sample in SAMPLES if sample.kind == "Gelu")
    absent = type(gelu)("Gelu", "Unheard", gelu.shape, domain="com.microsoft")
    monkeypatch.setattr(module, "SAMPLES", (absent,))
    assert measure(seconds=0.0, kinds=["Gelu"]).seconds["Gelu"] == ORT_CPU.seconds["Gelu"]
