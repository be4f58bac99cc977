"""Passes that trade accuracy: their distance is reported; what they must not do is still refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

import graphopt
from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.pipeline import Pipeline
from graphopt.rewrite import Context
from graphopt.testing import conformance
from graphopt.verify import VerificationReport, verify

ORT = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


def network() -> ModelProto:
    """Identity, MatMul by fixed numbers, Relu."""
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 16] x) => (float[N, 8] y) '
        "<float[16, 8] w> { a = Identity(x)  b = MatMul(a, w)  y = Relu(b) }"
    )
    weights = np.random.default_rng(3).standard_normal((16, 8)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made


@dataclass(frozen=True)
class Coarse(Pass):
    """Rounds weights to a grid."""

    name = "coarse"
    lossy = True
    step: float = 0.0625
    last: float = 0.0

    def run(self, model: Model, ctx: Context) -> None:
        for node in list(model.graph):
            if node.op == "MatMul" and not node.attr("coarse", None) and ctx.allow(self.name, node.outputs[0].name):
                weights = node.inputs[1].numpy()
                rounded = (np.round(weights / self.step) * self.step).astype(np.float32)
                if self.last:
                    rounded[-1, -1] = self.last
                if np.array_equal(rounded, weights):
                    continue
                node.set_input(1, node.graph.constant(rounded, "coarse"))
                ctx.record(self.name, [node.label], [node.label], node.graph)


@dataclass(frozen=True)
class Wrong(Pass):
    """Says that it is exact, and is not."""

    name = "wrong"

    def run(self, model: Model, ctx: Context) -> None:
        for node in list(model.graph):
            if node.op == "Identity" and ctx.allow(self.name, node.outputs[0].name):
                node.outputs[0].replace_with(node.graph.insert("Neg", [node.inputs[0]], before=node).outputs[0])
                ctx.record(self.name, [node.label], ["neg"], node.graph)


def test_the_distance_is_reported_and_not_judged() -> None:
    _, report = graphopt.optimize(network(), ["dead-code", Coarse()], with_report=True)
    found = report.verification
    assert report.exact() is not None
    assert found.ok
    assert found.lossy
    assert "keeps" in found.summary()
    assert "dB" in found.summary()
    worst = min(check.sqnr_db for run in found.runs for check in run.outputs if check.sqnr_db is not None)
    assert 10 < worst < 60
    assert VerificationReport.from_dict(found.to_dict()) == found


def test_without_a_rewrite_of_a_lossy_pass_nothing_is_excused() -> None:
    _, report = graphopt.optimize(network(), ["dead-code", Coarse(step=2.0**-40)], with_report=True)
    assert report.exact() is None
    assert not report.verification.lossy


@pytest.mark.parametrize("passes", [[Wrong(), Coarse()], [Wrong()]], ids=["before a lossy pass", "alone"])
def test_what_was_made_before_is_compared_as_ever(passes: list[Any]) -> None:
    with pytest.raises(graphopt.VerificationError, match="Rewrite 0 did it: wrong"):
        graphopt.optimize(network(), passes)


def test_new_infinities_are_a_fault_and_name_the_pass() -> None:
    with pytest.raises(graphopt.VerificationError, match=r"NaN or infinite.*coarse"):
        graphopt.optimize(network(), [Coarse(last=float("inf"))])


def test_conformance_of_a_lossy_pass() -> None:
    assert conformance(Coarse(), network()).changed
    with pytest.raises(AssertionError, match="NaN or infinite"):
        conformance(Coarse(last=float("inf")), network())


def test_another_type_is_a_fault() -> None:
    other = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 16] x) => (double[N, 16] y) { y = Cast<to=11>(x) }'
    )
    same = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 16] x) => (float[N, 16] y) { y = Identity(x) }'
    )
    assert not verify(same, other, lossy=True).ok


def test_rewrite_by_rewrite_is_refused() -> None:
    with pytest.raises(graphopt.GraphoptError, match="trades accuracy"):
        graphopt.optimize(network(), [Coarse()], verify="rewrites")


def test_a_pipeline_knows_whether_it_is_lossy() -> None:
    assert Pipeline.of(["dead-code", Coarse()]).lossy
    assert not Pipeline.of("(cse,dead-code)*2").lossy


@pytest.mark.skipif(ORT < (1, 24), reason="ONNX Runtime 1.23 does not make this mistake")
def test_the_runtime_must_do_what_the_graph_says() -> None:
    """Weights of int8 that ONNX Runtime multiplies with activations of 8 bits, unasked: further off than as written."""
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((64, 32)).astype(np.float32)
    weights[1] = 0  # what comes in there is large, decides the scale of quantized activations, and does not matter
    original = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, ["N", 64])],
            [helper.make_tensor_value_info("y", 1, ["N", 32])],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    scale = (np.abs(weights).max(0) / 127).astype(np.float32)
    quantized = ModelProto()
    quantized.CopyFrom(original)
    del quantized.graph.initializer[:]
    quantized.graph.initializer.extend(
        [
            numpy_helper.from_array(np.round(weights / scale).astype(np.int8), "q"),
            numpy_helper.from_array(scale, "s"),
            numpy_helper.from_array(np.zeros(32, np.int8), "z"),
        ]
    )
    quantized.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1))
    feed = rng.standard_normal((4, 64)).astype(np.float32)
    feed[:, 1] *= 1000
    found = verify(original, quantized, {"x": feed}, lossy=True)
    assert not found.ok
    assert "further from the original" in found.summary()
    assert found.runtime
