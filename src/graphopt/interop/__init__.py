"""Models of other libraries: taken as they are, and given back as what they were.

`graphopt.optimize` does this by itself; here are the conversions alone, to and from `graphopt.Model`. Each is checked:
what another library has no place for is said (an `InteropWarning`) if it is a note, such as the origin of a node, and
refused (a GraphoptError) if the model would compute something else without it. The libraries are imported when one of
their objects is there.
"""

from __future__ import annotations

import os
from typing import Any

from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.interop.adapter import Adapter, InteropWarning, Request, say
from graphopt.interop.graphsurgeon import GraphSurgeon
from graphopt.interop.onnx_ir import OnnxIr
from graphopt.interop.tensorflow import TensorFlow
from graphopt.interop.torch import Torch
from graphopt.ir import Model

__all__ = [
    "ADAPTERS", "Adapter", "InteropWarning", "Request", "accepted", "adapter_of", "from_graphsurgeon", "from_onnx_ir",
    "from_tensorflow", "from_torch", "model_of", "to_graphsurgeon", "to_onnx_ir",
]  # fmt: skip

_GRAPHSURGEON, _ONNX_IR, _TORCH, _TENSORFLOW = GraphSurgeon(), OnnxIr(), Torch(), TensorFlow()
ADAPTERS: tuple[Adapter, ...] = (_GRAPHSURGEON, _ONNX_IR, _TORCH, _TENSORFLOW)


def adapter_of(given: object) -> Adapter | None:
    """The adapter of the library that an object comes from; nothing is imported."""
    return next((adapter for adapter in ADAPTERS if adapter.matches(type(given))), None)


def accepted() -> str:
    """What can be given as a model, in words."""
    return ", ".join(["a ModelProto, a path, a graphopt Model", *(t for a in ADAPTERS for t in a.shown)])


def model_of(given: Any, verb: str = "read", request: Request | None = None) -> Model:
    """Any object that stands for a model, as a Model: a `graphopt.Model` itself, anything else read or exported.

    verb: for the message of the GraphoptError that is raised for an object of another kind.

    >>> from onnx import parser
    >>> model_of(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                             '{y = Neg(x)}'))
    <Model g: 1 nodes>
    """
    if isinstance(given, Model):
        return given
    if isinstance(given, ModelProto):
        return ir.from_proto(given)
    if isinstance(given, (str, os.PathLike)):
        return ir.load(given)
    adapter = adapter_of(given)
    if adapter is None:
        raise GraphoptError(f"cannot {verb} a {type(given).__name__}: give {accepted()}")
    return adapter.to_model(given, request or Request())


def from_graphsurgeon(graph: Any) -> Model:
    """An `onnx_graphsurgeon.Graph` as a Model; weights that it has not loaded are not loaded.

    Raises GraphoptError where graphsurgeon cannot export it, ModelError where the result is not valid.
    """
    return _GRAPHSURGEON.to_model(graph, Request())


def to_graphsurgeon(model: Model) -> Any:
    """An `onnx_graphsurgeon.Graph` of a Model, which stays as it is. Weights stay where they are until they are asked
    for (`Constant.values`, or graphsurgeon's export).

    Warns (InteropWarning) of notes that are lost: graphsurgeon keeps no metadata_props, no doc_string of nodes, none of
    the model's own fields. Raises GraphoptError for what it cannot hold: inputs with defaults, attributes that are
    empty lists, types or sparse tensors, optional and map types, overloaded functions.
    """
    made, lost = _GRAPHSURGEON.from_model(model)
    say(lost)
    return made


def from_onnx_ir(model: Any) -> Model:
    """An `onnx_ir.Model` as a Model. Arrays and files are viewed, not copied: do not change them while it is in use.

    Raises GraphoptError where onnx_ir cannot serialize it, ModelError where the result is not valid.
    """
    return _ONNX_IR.to_model(model, Request())


def to_onnx_ir(model: Model) -> Any:
    """An `onnx_ir.Model` of a Model, which stays as it is; weights are views of the same memory and files.

    Warns (InteropWarning) of notes that are lost, such as training_info. Raises GraphoptError for what onnx_ir cannot
    hold: sparse constants, map types.
    """
    made, lost = _ONNX_IR.from_model(model)
    say(lost)
    return made


def from_torch(
    module: Any, example_inputs: Any = None, dynamic_shapes: Any = None, *, check: bool = True, **options: Any
) -> Model:
    """A `torch.nn.Module` or `torch.export.ExportedProgram` as a Model, by ``torch.onnx.export(dynamo=True)``.

    example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments; an ExportedProgram has
    its own. dynamic_shapes: as for `torch.export.export`. check: whether the exported model must give what torch gives
    on the example inputs. options: of `torch.onnx.export`, such as input_names and opset_version. A module is exported
    as in inference (`eval`), and is afterwards in the mode that it was in.

    Raises GraphoptError where torch cannot export it, VerificationError where the exported model differs.
    """
    request = Request(example_inputs, dynamic_shapes, check, options)
    model = _TORCH.to_model(module, request)
    say(request.said)
    return model


def from_tensorflow(model: Any, example_inputs: Any = None, *, check: bool = True, **options: Any) -> Model:
    """A Keras model or a `tf.function` as a Model, by tf2onnx.

    example_inputs: an array or tensor, or a tuple of them, to compare with what TensorFlow itself gives; a tf.function
    needs them, or ``input_signature=`` among the options, which are those of `tf2onnx.convert.from_keras` and
    `from_function`. Raises GraphoptError where tf2onnx cannot convert it, VerificationError where the result differs.
    """
    request = Request(example_inputs, None, check, options)
    made = _TENSORFLOW.to_model(model, request)
    say(request.said)
    return made
