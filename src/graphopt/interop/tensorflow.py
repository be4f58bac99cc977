"""TensorFlow and Keras: models and functions, by tf2onnx, compared with TensorFlow's own outputs."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, ClassVar

import numpy as np

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.interop.adapter import Adapter, Request, library
from graphopt.interop.exported import confirm_export
from graphopt.ir import Model

__all__ = ["TensorFlow"]

_PACKAGES = ("keras", "tf_keras", "tensorflow")


class TensorFlow(Adapter):
    """keras.Model, and what tf.function gives."""

    package: ClassVar[str] = "tensorflow"
    extra: ClassVar[str] = "tensorflow"
    types: ClassVar[tuple[tuple[str, str], ...]] = tuple(
        (package, name) for package in _PACKAGES for name in ("Model", "Function")
    )
    shown: ClassVar[tuple[str, ...]] = ("a Keras model", "a tf.function with example_inputs")
    exports: ClassVar[bool] = True

    def to_model(self, given: Any, request: Request) -> Model:
        """The converted model. Raises GraphoptError, VerificationError."""
        if request.dynamic_shapes is not None:
            raise GraphoptError("dynamic_shapes are for torch: TensorFlow's inputs say themselves which sizes are open")
        tf2onnx = library("tf2onnx", self.extra)
        examples = _examples(request.example_inputs)
        is_model = any(base.__name__ == "Model" for base in type(given).__mro__)
        model = ir.from_proto(self._convert(tf2onnx, given, is_model, examples, dict(request.options)))
        if not request.check:
            return model
        if examples is None:
            request.said.append("the conversion was not compared with tensorflow: no example_inputs were given")
            return model
        with self.asking("run this model on the example inputs"):
            outputs = _call(given, *examples) if is_model else given(*examples)
            expected = [np.asarray(value) for value in _leaves(outputs)]
        confirm_export(model, [np.asarray(value) for value in examples], expected, self.package, request)
        return model

    def _convert(
        self, tf2onnx: Any, given: Any, is_model: bool, examples: tuple[Any, ...] | None, options: dict[str, Any]
    ) -> Any:
        signature = options.pop("input_signature", None)
        if is_model and not _is_keras_3(given):
            with self.asking("convert this model"):
                return tf2onnx.convert.from_keras(given, input_signature=signature, **options)[0]
        tensorflow = library("tensorflow", self.extra)
        with self.asking("convert this model"):
            if is_model:  # tf2onnx 1.17 cannot find the outputs of a Keras 3 model, but those of a function
                specs = [tensorflow.TensorSpec(i.shape, i.dtype, name=i.name) for i in given.inputs]
                given, signature = tensorflow.function(partial(_call, given)), signature or specs
            elif signature is None:
                signature = _signature(tensorflow, examples)
            return tf2onnx.convert.from_function(given, input_signature=signature, **options)[0]


def _is_keras_3(given: Any) -> bool:
    package = next(base.__module__.partition(".")[0] for base in type(given).__mro__ if base.__name__ == "Model")
    version = getattr(sys.modules.get(package), "__version__", "2") if package == "keras" else "2"
    return int(version.partition(".")[0]) >= 3


def _call(model: Any, *inputs: Any) -> Any:
    """A Keras model takes several inputs as one list."""
    return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)


def _examples(given: Any) -> tuple[Any, ...] | None:
    if given is None:
        return None
    if isinstance(given, dict):
        return tuple(given.values())
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _signature(tensorflow: Any, examples: tuple[Any, ...] | None) -> list[Any]:
    if examples is None:
        raise GraphoptError(
            "a tf.function is converted for the types of its inputs: give example_inputs=, or input_signature= to "
            "graphopt.interop.from_tensorflow"
        )
    arrays = [np.asarray(value) for value in examples]
    return [tensorflow.TensorSpec(array.shape, array.dtype) for array in arrays]


def _leaves(outputs: Any) -> list[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
