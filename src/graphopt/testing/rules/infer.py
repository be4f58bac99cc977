"""onnx's shape inference, kept from what it dies of, and asked again where it is stricter than runtimes."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from graphopt.analysis.shapes import has_negative_sizes
from graphopt.errors import ModelError
from graphopt.testing.draft import DoesNotFit
from graphopt.testing.rules.numbers import arrays, nodes_of, tensors

__all__ = ["check_sane", "inferred", "loads"]


def inferred(model: ModelProto, strict: bool = False) -> ModelProto:
    """The model with types. Raises DoesNotFit where onnx finds it contradictory."""
    check_sane(model)
    try:
        found: ModelProto = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=strict)
    except Exception as error:  # inference raises several C++ exceptions under no common class
        raise DoesNotFit(str(error)) from error
    return found


_SCALARS = frozenset("Clip Compress CumSum Loop OneHot Pad Range Resize Slice TopK Trilu Upsample".split())
_VARIADIC = frozenset("Concat Einsum Max Mean Min SequenceConstruct Sum".split())
_LOWEST = dict.fromkeys(
    "block_size blocksize dilations group hidden_size kernel_shape kv_num_heads num_groups num_heads num_outputs "
    "q_num_heads rotary_embedding_dim size strides".split(),
    1,
) | {"batch_dims": 0}  # of attributes
_NORMS = ("LayerNormalization", "RMSNormalization")


def check_sane(model: ModelProto) -> None:
    """Raises DoesNotFit for what onnx's inference ends the process over, or ONNX Runtime computes garbage from.

    An operand left out of many, a Split with other outputs than sizes, an axis far out, no element where one is read,
    sizes and counts below 1, a body that returns one value twice, a Slice of what has less than no elements.
    """
    _check_slices(model)
    known: dict[str, int] = {t.name: int(t.dims[0]) for t in model.graph.initializer if len(t.dims) == 1}
    ranks = {t.name: len(t.dims) for t in model.graph.initializer}
    lowest = {t.name: arrays(t).reshape(-1).tolist() for t in tensors(model) if t.data_type == 7 and len(t.dims) == 1}
    ranks |= {
        i.name: len(i.type.tensor_type.shape.dim) for i in model.graph.input if i.type.tensor_type.HasField("shape")
    }
    for node in nodes_of(model):
        if any(min(a.ints or (a.i,)) < _LOWEST.get(a.name, -(2**63)) for a in node.attribute):
            raise DoesNotFit(
                "a size, or a number of groups or dims, that is too low"
            )  # ConvTranspose divides by it as it is loaded
        rank = ranks.get(node.input[0]) if node.input else None
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1 if node.op_type in _NORMS else None)
        if (
            rank is not None
            and axis is not None
            and not -rank - (node.op_type not in _NORMS) <= axis <= rank - (node.op_type in _NORMS)
        ):
            raise DoesNotFit("an axis out of range")
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names = [output.name for output in attribute.g.output]
                if len(set(names)) < len(names):
                    raise DoesNotFit("a body returns a value twice")
                known.update({t.name: int(t.dims[0]) for t in attribute.g.initializer if len(t.dims) == 1})
            elif node.op_type == "Constant" and attribute.type == onnx.AttributeProto.TENSOR:
                known[node.output[0]] = int(arrays(attribute.t).size)
        if node.op_type in _VARIADIC and not all(node.input):
            raise DoesNotFit("an operand that is left out")
        if node.op_type.startswith("Random") and any(a.name == "scale" and not a.f > 0 for a in node.attribute):
            raise DoesNotFit("no deviation")
        if node.op_type in _SCALARS and any(known.get(name) == 0 for name in node.input):
            raise DoesNotFit("no element where one is read")
        if node.op_type == "Split":
            sizes = next((len(a.ints) for a in node.attribute if a.name == "split"), None)
            if len(node.input) > 1 and node.input[1]:
                sizes = known.get(node.input[1])
            parts = next((list(a.ints) for a in node.attribute if a.name == "split"), [])
            if min([0, *parts, *lowest.get(node.input[1] if len(node.input) > 1 else "", [])]) < 0:
                raise DoesNotFit("a part of less than nothing")
            count = next((a.i for a in node.attribute if a.name == "num_outputs"), len(node.output))
            if (sizes is not None and sizes != len(node.output)) or count != len(node.output):
                raise DoesNotFit("a Split with other outputs than sizes")


def _check_slices(model: ModelProto) -> None:
    try:
        if has_negative_sizes(model):
            raise DoesNotFit("a Slice of a size below zero")
    except ModelError as error:
        raise DoesNotFit(str(error)) from error


def loads(model: ModelProto) -> bool:
    """Whether ONNX Runtime loads the model."""
    from graphopt.errors import GraphoptError
    from graphopt.testing.rules.run import Runner

    try:
        Runner(model)
    except GraphoptError:
        return False
    return True
