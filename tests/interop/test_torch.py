"""torch's modules and exported programs: exported, compared with torch, optimized."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import interop, ir
from graphopt.errors import GraphoptError, VerificationError
from graphopt.interop.adapter import Request
from graphopt.interop.exported import confirm_export

from .util import conv_bn

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings(
    "ignore:::torch", "ignore:.*treespec:FutureWarning", "ignore::DeprecationWarning"
)
nn = torch.nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)

    def forward(self, x, scale=None):
        x = torch.relu(self.norm(self.conv(x)))
        return {"y": self.drop(x), "mean": x.mean() if scale is None else x.mean() * scale}


def ops(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture
def image() -> Any:
    return torch.rand(2, 3, 16, 16)


def test_a_module_is_exported_checked_and_optimized(image: Any) -> None:
    net = Net()
    assert net.training
    shapes = {"x": {0: "N", 2: "H", 3: "W"}}
    model, report = graphopt.optimize(net, example_inputs=(image,), dynamic_shapes=shapes, with_report=True)
    assert net.training and net.norm.training
    assert isinstance(model, onnx.ModelProto)
    assert ops(model)[:2] == ["Conv", "Relu"] and "BatchNormalization" not in ops(model)
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["N", "", "H", "W"]
    assert report.verification.status == "passed" and report.warnings == []
    assert len({run.bindings["N"] for run in report.verification.runs}) == 2
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {model.graph.input[0].name: image.numpy()})
    with torch.no_grad():
        expected = net.eval()(image)
    assert np.allclose(found[0], expected["y"], atol=1e-5)


def test_keyword_arguments_and_arrays(image: Any) -> None:
    model = interop.from_torch(Net(), {"x": image.numpy(), "scale": torch.tensor(2.0)}, input_names=["image", "scale"])
    assert [value.name for value in model.graph.inputs] == ["image", "scale"]
    assert "BatchNormalization" not in ops(graphopt.optimize(model))


def test_exported_programs(image: Any) -> None:
    program = torch.export.export(Net().eval(), (image,))
    assert ops(graphopt.optimize(program))[:2] == ["Conv", "Relu"]
    with pytest.raises(GraphoptError, match="has dynamic_shapes already"):
        graphopt.optimize(program, dynamic_shapes={})
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert ops(graphopt.optimize(exported))[:2] == ["Conv", "Relu"]
    assert type(graphopt.optimize(exported.model)) is type(exported.model)
    assert graphopt.verify(program, exported).status == "passed"


def test_weights_are_views_of_torchs_memory() -> None:
    layer = nn.Linear(512, 512)
    model = interop.from_torch(layer, torch.rand(1, 512))
    weight = next(v.tensor for v in model.graph.initializers.values() if len(v.shape) == 2)
    assert np.shares_memory(weight.numpy(), layer.weight.detach().numpy())


def test_reduced_precision() -> None:
    model = graphopt.optimize(nn.Linear(4, 4).to(torch.bfloat16), example_inputs=torch.ones(1, 4, dtype=torch.bfloat16))
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16


def test_examples_are_needed() -> None:
    with pytest.raises(GraphoptError, match="give example_inputs="):
        graphopt.optimize(Net())
    with pytest.raises(GraphoptError, match="torch cannot export this module"):
        graphopt.optimize(Net(), example_inputs=(torch.ones(1), 2, 3, 4))


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x), -x


def test_random_numbers_are_not_compared() -> None:
    _, report = graphopt.optimize(Noisy(), example_inputs=torch.ones(2, 3), with_report=True)
    assert [text.split(":")[1] for text in report.warnings] == [" it depends on random numbers"]


# -- the comparison with the exporter's library ------------------------------------------------------------------------


def run(model: Any, x: Any) -> list[Any]:
    from graphopt.verify.run import Session
    from graphopt.verify.source import Source

    return Session(Source.of(model)).run({"x": x})


def test_an_export_that_computes_something_else_is_refused() -> None:
    model, x = ir.from_proto(conv_bn()), np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    expected = run(conv_bn(), x)
    request = Request()
    confirm_export(model, [x], expected, "torch", request)
    confirm_export(model, [x], [expected[0] * np.float32(1 + 1e-7)], "torch", request)
    assert request.said == []
    for wrong in (expected[0] * np.float32(1.01), expected[0][:, :4], expected[0].astype(np.float64)):
        with pytest.raises(VerificationError, match="does not give what torch gives on the example inputs: output 'y'"):
            confirm_export(model, [x], [wrong], "torch", request)
    confirm_export(model, [x, x], expected, "torch", request)
    assert request.said == [
        "the export was not compared with torch: it has 1 inputs and 1 outputs, the example 2 and 1"
    ]
    with pytest.raises(VerificationError, match="does not run on the example inputs"):
        confirm_export(model, [x[:, :2]], expected, "torch", request)
