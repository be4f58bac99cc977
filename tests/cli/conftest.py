from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.cli import _progress, main


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def graphopt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in this process; progress, which a slow machine would see, keeps silent."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(_progress, "DELAY", 3600.0)

    def run(*args: object) -> Result:
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


def conv_bn(scale: float = 1.5) -> onnx.ModelProto:
    """x [N, 3, 8, 8] -> Conv "conv_0" -> BatchNormalization "bn_0" -> Relu -> y."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)),
        "g": np.full(4, scale),
        "t": rng.normal(size=4),
        "m": rng.normal(size=4),
        "v": rng.uniform(0.5, 2, size=4),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv_0", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "t", "m", "v"], ["b"], "bn_0"),
        helper.make_node("Relu", ["b"], ["y"], "relu_0"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="tests")
    model.ir_version = 8
    return model


@pytest.fixture
def make_model() -> Callable[..., onnx.ModelProto]:
    return conv_bn


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(conv_bn(), path)
    return path
