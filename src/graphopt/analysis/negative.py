"""Sizes below zero: onnx's inference computes them for invalid models, and a Slice that reads one ends the process.

A Conv or a pool over a static image smaller than its kernel "has" -1 rows; so have Pad, Expand, Split and others with
absurd constants, and sums of enormous dims. Where such a node stands before a Slice, the inference is first run with
that Slice (and those after it) hidden; if a size comes out negative, it stays hidden, and what follows it is unknown.
Models in which nothing of the kind stands before a Slice, nearly all, cost one walk over their nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import ModelProto, TensorProto

from graphopt.ir import Model, Node, Value

HIDDEN = "graphopt.hidden"  # a domain that onnx knows nothing of
_ROUNDS = 2  # Slices one behind the other, with such nodes between them, that are told apart: more would take too long
_HUGE = 1 << 31
_SMALL = 4096  # elements of an operand that holds sizes


def suspects(model: Model) -> list[set[int]]:
    """Which Slices of the main graph to hide, by their place in it, in each run before the real one; mostly nothing.

    A last set may be empty: then only the Slices in bodies and functions are hidden.
    """
    graph = model.graph
    inner = [node for scope in model.scopes() if scope is not graph for node in scope]
    nested = any(node.op == "Slice" for node in inner)
    if not nested and not any(node.op == "Slice" for node in graph):
        return []
    if not any(_is_static(value) for value in graph.inputs):
        return []  # what has no known size has no negative one; constants are looked at by `is_absurd`
    levels = {value: 1 for value in (*graph.inputs, *graph.initializers.values()) if _is_huge(value)}
    places: list[tuple[int, int]] = []
    unsafe = bool(levels) or any(_may_shrink(node) for node in inner)
    for place, node in enumerate(graph):
        level = max((levels.get(v, 0) for v in node.inputs if v is not None), default=0) if levels else 0
        if node.op == "Slice":
            if level % 2:
                level += 1
            if level:
                places.append((place, level // 2))
        elif _may_shrink(node):
            unsafe, level = True, level + 1 - level % 2
        if level:
            levels.update((value, level) for value in node.outputs)
    deepest = min(_ROUNDS, max((level for _, level in places), default=0))
    rounds = [{place for place, level in places if level >= depth} for depth in range(1, deepest + 1)]
    return [*rounds, set()] if nested and unsafe else rounds


def is_absurd(model: Model) -> bool:
    """Whether a constant operand that is a size is negative or enormous where it must not be, or an input's dim is:
    runtimes propagate such numbers further than onnx does."""
    if any(_is_huge(value) for value in (*model.graph.inputs, *model.graph.initializers.values())):
        return True
    nodes = (node for scope in model.scopes() for node in scope if node.op not in ("Pad", "Range") and not node.domain)
    return any(node.op in _SIZES and _operands(node, -1) for node in nodes)  # -1 is taken for 1 here and there


def has_slices(proto: ModelProto) -> bool:
    """Whether there is a Slice anywhere."""
    return any(node.op_type == "Slice" for node in (*proto.graph.node, *_inner_nodes(proto)))


def outline(proto: ModelProto) -> ModelProto:
    """A copy without the data of large tensors, in which inputs that have a default are that default."""
    copy = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph, stored = proto.graph, {tensor.name for tensor in proto.graph.initializer}
    copy.graph.name = graph.name
    copy.graph.node.extend(graph.node)
    copy.graph.input.extend(info for info in graph.input if info.name not in stored)
    copy.graph.output.extend(graph.output)
    copy.graph.initializer.extend(map(_emptied, graph.initializer))
    copy.graph.sparse_initializer.extend(graph.sparse_initializer)
    return copy


def _emptied(tensor: TensorProto) -> TensorProto:
    large = tensor.data_location == TensorProto.EXTERNAL or any(dim > _SMALL for dim in tensor.dims)
    if not large and len(tensor.dims) < 2:
        return tensor
    return TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)


def _is_static(value: Value) -> bool:
    return sum(isinstance(dim, int) for dim in value.shape or ()) > 1 or _is_huge(value)


def _is_huge(value: Value) -> bool:
    return any(isinstance(dim, int) and dim >= _HUGE for dim in value.shape or ())


def hide(bare: ModelProto, places: set[int]) -> None:
    """Makes onnx take these Slices of the main graph, and all in bodies and functions, for ones it does not know."""
    if not any(entry.domain == HIDDEN for entry in bare.opset_import):
        bare.opset_import.add(domain=HIDDEN, version=1)
    for place in places:
        bare.graph.node[place].domain = HIDDEN
    for node in _inner_nodes(bare):
        if node.op_type == "Slice":
            node.domain = HIDDEN


def show(bare: ModelProto) -> None:
    """The opposite of `hide`."""
    for node in (*bare.graph.node, *_inner_nodes(bare)):
        if node.domain == HIDDEN:
            node.domain = ""


def _inner_nodes(bare: ModelProto) -> list[Any]:
    found: list[Any] = [node for function in bare.functions for node in function.node]
    bodies = [body for node in (*found, *bare.graph.node) for body in _bodies(node)]
    while bodies:
        body = bodies.pop()
        found += body.node
        bodies += [inner for node in body.node for inner in _bodies(node)]
    return found


def has_negative(result: ModelProto, places: set[int]) -> bool:
    """Whether the inference found a size below zero before one of these Slices of the main graph, or in any body."""
    nodes = result.graph.node
    read = {nodes[place].input[0] for place in places if nodes[place].input}
    pending: list[Any] = [info for info in (*result.graph.value_info, *result.graph.input) if info.name in read]
    bodies = [body for node in nodes for body in _bodies(node)]
    while bodies:
        body = bodies.pop()
        pending += (*body.value_info, *body.output)
        bodies += [inner for node in body.node for inner in _bodies(node)]
    return any(dim.dim_value < 0 for info in pending for dim in info.type.tensor_type.shape.dim)


def _bodies(node: Any) -> list[Any]:
    if node.op_type not in ("If", "Loop", "Scan", "SequenceMap"):
        return []
    return [body for a in node.attribute for body in (*([a.g] if a.HasField("g") else []), *a.graphs)]


# -- nodes that may make a size negative -------------------------------------------------------------------------------


def _may_shrink(node: Node) -> bool:
    check = _CHECKS.get(node.op)
    return check is not None and not node.domain and check(node)


def _window(node: Node) -> bool:
    """Conv and pools: safe when the padding alone makes up for the kernel."""
    kernel = node.attr("kernel_shape", None)
    if kernel is None:
        weight = node.input(1)
        shape = weight.shape if weight is not None and node.op not in _POOLS else None
        kernel = [size if isinstance(size, int) else None for size in shape[2:]] if shape else None
    if not isinstance(kernel, (list, tuple)) or not all(isinstance(size, int) and 0 < size < _HUGE for size in kernel):
        return True
    if node.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return False
    count = len(kernel)
    pads, dilations = _listed(node.attr("pads", None)), _listed(node.attr("dilations", None))
    pads, dilations = pads or [0] * (2 * count), dilations or [1] * count
    numbers = [*pads, *dilations, *_listed(node.attr("strides", None))]
    if len(pads) != 2 * count or len(dilations) != count or not all(0 <= n < _HUGE for n in numbers):
        return True
    spare = [pads[i] + pads[i + count] - (kernel[i] - 1) * dilations[i] for i in range(count)]
    return any(n > 0 for n in spare) if node.op == "ConvTranspose" else any(n < 0 for n in spare)


def _operands(node: Node, least: int = 0) -> bool:
    """Operators whose constant operands (or attributes) are sizes: safe when none is below `least` or enormous."""
    least = -1 if node.op == "Reshape" else least
    for index in _SIZES[node.op]:
        value = node.input(index)
        if value is not None and value.is_const and not _sensible(value, least):
            return True
    numbers = [n for name in _NUMBERS for n in _listed(node.attr(name, None))]
    return any(not least <= n < _HUGE for n in numbers)


def _sensible(value: Value, least: int) -> bool:
    shape = value.shape
    if shape is None or len(shape) > 1 or not all(isinstance(dim, int) and dim <= _SMALL for dim in shape):
        return True  # data, or what inference does not look into
    array = value.numpy()
    return array.dtype.kind not in "iuf" or bool(((array >= least) & (array < _HUGE)).all())


def _listed(value: Any) -> list[int]:
    return [n for n in (value if isinstance(value, tuple) else [value]) if isinstance(n, int)]


def _doubled(node: Node) -> bool:
    return len(set(node.inputs)) < len(node.inputs)


_NUMBERS = ("pads", "split", "repeats", "k", "blocksize", "shape", "paddings", "depth", "dft_length", "num_outputs")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "MaxUnpool")
# The operands that are sizes, repeats or scales.
_SIZES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("Pad Expand TopK Split OneHot Upsample CenterCropPad DFT Reshape".split(), (1,)),
    **dict.fromkeys("ConstantOfShape HannWindow HammingWindow BlackmanWindow".split(), (0,)),
    "Tile": (1, 2),
    "Resize": (1, 2, 3),
    "Col2Im": (1, 2),
    "STFT": (1, 3),
    "Range": (0, 1, 2),
    "DepthToSpace": (),
    "SpaceToDepth": (),
}
_CHECKS: dict[str, Callable[[Node], bool]] = {
    **dict.fromkeys((*_POOLS, "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"), _window),
    **dict.fromkeys(_SIZES, _operands),
    "Concat": _doubled,
}
