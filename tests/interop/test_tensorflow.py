"""TensorFlow and Keras by tf2onnx: with a stand-in that records the calls, and with the real thing where it is."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import graphopt
from graphopt import interop
from graphopt.errors import GraphoptError, VerificationError

from .util import conv_bn

IMAGE = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)


def reference(x: Any) -> Any:
    from graphopt.verify.run import Session
    from graphopt.verify.source import Source

    return Session(Source.of(conv_bn())).run({"x": x})[0]


class Model:
    """A Keras model, as far as anyone looks."""

    __module__ = "tf_keras.engine.training"

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def __call__(self, x: Any, training: bool) -> Any:
        assert not training
        return reference(x) * np.float32(self.factor)


class Sequential(Model):
    __module__ = "tf_keras.engine.sequential"


class Function:
    __module__ = "tensorflow.python.eager.polymorphic_function"

    def __call__(self, x: Any) -> Any:
        return {"y": reference(x)}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def converter(name: str) -> Any:
        def convert(model: Any, **options: Any) -> tuple[ModelProto, None]:
            found.append((name, model, options))
            return conv_bn(), None

        return convert

    tf2onnx, tensorflow = ModuleType("tf2onnx"), ModuleType("tensorflow")
    names = {name: converter(name) for name in ("from_keras", "from_function")}
    tf2onnx.convert = SimpleNamespace(**names)  # type: ignore[attr-defined]
    tensorflow.TensorSpec = lambda shape, dtype: (tuple(shape), str(dtype))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tf2onnx", tf2onnx)
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    return found


def test_keras_models_are_converted_and_compared(calls: list[Any]) -> None:
    model = Sequential()
    small, report = graphopt.optimize(model, example_inputs=IMAGE, with_report=True)
    assert [node.op_type for node in small.graph.node] == ["Conv", "Relu"] and report.warnings == []
    interop.from_tensorflow(model, IMAGE, opset=17)
    assert calls == [
        ("from_keras", model, {"input_signature": None}),
        ("from_keras", model, {"input_signature": None, "opset": 17}),
    ]


def test_a_conversion_that_computes_something_else_is_refused(calls: list[Any]) -> None:
    with pytest.raises(VerificationError, match="does not give what tensorflow gives"):
        graphopt.optimize(Sequential(1.1), example_inputs=IMAGE)
    assert graphopt.optimize(Sequential(1.1), example_inputs=IMAGE, verify="off") is not None


def test_without_examples_it_is_said_that_nothing_was_compared(calls: list[Any]) -> None:
    _, report = graphopt.optimize(Sequential(), with_report=True)
    assert report.warnings == ["the conversion was not compared with tensorflow: no example_inputs were given"]
    with pytest.warns(interop.InteropWarning, match="was not compared"):
        interop.from_tensorflow(Sequential())


def test_functions_are_converted_for_their_examples(calls: list[Any]) -> None:
    graphopt.optimize(Function(), example_inputs=(IMAGE,))
    assert calls[0][0] == "from_function" and calls[0][2] == {"input_signature": [((1, 3, 8, 8), "float32")]}
    with pytest.raises(GraphoptError, match="give example_inputs="):
        graphopt.optimize(Function())
    with pytest.raises(GraphoptError, match="dynamic_shapes are for torch"):
        graphopt.optimize(Function(), example_inputs=IMAGE, dynamic_shapes={})


def test_what_tf2onnx_cannot_convert(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise KeyError("StatefulPartitionedCall")

    monkeypatch.setattr(sys.modules["tf2onnx"].convert, "from_keras", fails)
    with pytest.raises(GraphoptError, match="tensorflow cannot convert this model: KeyError: 'Stateful"):
        graphopt.optimize(Sequential())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_thing() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
    )
    small, report = graphopt.optimize(model, example_inputs=IMAGE.transpose(0, 2, 3, 1), with_report=True)
    assert "BatchNormalization" not in [node.op_type for node in small.graph.node] and report.warnings == []
    function = tf.function(lambda x: (tf.nn.relu(x) * 2.0, -x))
    assert len(graphopt.optimize(function, example_inputs=np.float32([[1, -2]])).graph.output) == 2
