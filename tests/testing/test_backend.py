"""`graphopt.testing.backend_cases`: onnx's own cases, and the variants with constant inputs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir import dtypes
from graphopt.testing import BackendCase, backend_cases


def only(name: str, variant: str = "original") -> BackendCase:
    (case,) = backend_cases(variants=[variant], match=f"^{name}$")
    return case


def test_there_are_thousands() -> None:
    count = Counter((case.kind, case.variant) for case in backend_cases())
    assert count["node", "original"] > 1500
    assert count["node", "constant"] > 1500
    assert count["light", "original"] == 9
    assert count["simple", "original"] >= 20
    assert count["pytorch-converted", "constant"] > 50
    assert count["pytorch-operator", "weights"] > 5
    assert sum(count.values()) > 6500


def test_values_have_the_types_that_models_declare() -> None:
    for case in backend_cases(variants=["original"]):
        model = case.model
        for feeds, expected in case.runs:
            outputs = zip(model.graph.output, expected or (), strict=bool(expected))
            for info, value in [*((i, feeds[i.name]) for i in model.graph.input if i.name in feeds), *outputs]:
                if info.type.HasField("tensor_type"):
                    assert isinstance(value, np.ndarray), (str(case), info.name)
                    assert dtypes.from_numpy(value.dtype) == info.type.tensor_type.elem_type, (str(case), info.name)


def test_inputs_become_initializers() -> None:
    original = only("test_add")
    feeds = original.runs[0][0]
    for variant, left in (("constant", []), ("weights", ["x"]), ("first", ["y"])):
        case = only("test_add", variant)
        model = case.model
        onnx.checker.check_model(model)
        assert [info.name for info in model.graph.input] == left == list(case.runs[0][0])
        for tensor in model.graph.initializer:
            assert numpy_helper.to_array(tensor).tobytes() == feeds[tensor.name].tobytes()
        assert model.graph.node == original.model.graph.node


def test_defaults_are_others_than_what_is_fed() -> None:
    case = only("test_add", "defaults")
    model = case.model
    assert [info.name for info in model.graph.input] == ["x", "y"] == list(case.runs[0][0])
    (first, second) = model.graph.initializer
    assert numpy_helper.to_array(first).tobytes() != case.runs[0][0]["x"].tobytes()
    assert {first.name, second.name} == {"x", "y"}


def test_before_ir_version_4_initializers_stay_inputs() -> None:
    found = [case for case in backend_cases(["pytorch-operator"], ["constant"]) if case.model.ir_version < 4]
    assert found
    for case in found:
        listed = {info.name for info in case.model.graph.input}
        assert {tensor.name for tensor in case.model.graph.initializer} <= listed
        assert not case.runs[0][0]


def test_variants_that_would_be_another_are_left_out() -> None:
    assert [case.variant for case in backend_cases(match="^test_abs$")] == ["original", "constant", "defaults"]
    assert [case.variant for case in backend_cases(match="^test_constant$")] == ["original"]


def test_narrow_types_and_text_survive() -> None:
    case = only("test_strnorm_model_monday_casesensintive_lower", "constant")
    assert case.model.graph.initializer[0].string_data[0].decode() in ("monday", "Monday")
    original, constant = only("test_cast_INT4_to_FLOAT"), only("test_cast_INT4_to_FLOAT", "constant")
    (given,) = original.runs[0][0].values()
    stored = numpy_helper.to_array(constant.model.graph.initializer[0])
    assert stored.astype(np.int8).tolist() == given.astype(np.int8).tolist()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(GraphoptError, match="unknown kind of case 'real'"):
        list(backend_cases(["real"]))
    with pytest.raises(GraphoptError, match="unknown variant 'other'"):
        list(backend_cases(variants=["other"]))
