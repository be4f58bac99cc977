"""What ONNX Runtime fuses on a CPU (1.31, levels 1 to 3), as read off the graphs that it saves.

1. Level 1: constants; BatchNormalization, Mul and Add with constants into Conv; MatMul and Add to Gemm.
2. Level 2: GELU, LayerNormalization and their like in the one spelling that it knows; a bias in front of GELU, a sum in
   front of LayerNormalization; x sigmoid(x); a scale or Transpose into MatMul; activations into Conv and Gemm; dynamic
   quantization of matrix products.
3. Level 3: the blocked layout of convolutions, see `blocks`.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.analysis.runtime_fusion import blocks, written
from graphopt.analysis.runtime_fusion.groups import Group, Groups
from graphopt.analysis.runtime_fusion.region import (
    Region,
    all_read_in,
    may_equal,
    near,
    number,
    only_reader,
    operands,
    ordered,
)
from graphopt.ir import Graph, Node, Value

MS = "com.microsoft"
CONV_ACTIVATIONS = frozenset("Relu Sigmoid Tanh LeakyRelu Clip HardSigmoid".split())
GEMM_ACTIVATIONS = CONV_ACTIVATIONS - {"Clip"} | frozenset("Elu Selu Softplus Softsign ThresholdedRelu".split())
MANY = 64  # readers of one value, beyond which nobody looks through all of them for each
NORMS = frozenset(("LayerNormalization", "SimplifiedLayerNormalization"))


def plan(graph: Graph, width: int = blocks.WIDTH) -> list[Region]:
    """The kernels that run a graph; bodies are plans of their own. width: channels of a block."""
    groups = Groups(graph)
    for step in STEPS:
        for node in graph:
            group = groups.of.get(node)
            if group is not None and group.nodes[-1] is node:
                step(groups, group)
    _activations(groups)
    blocks.lay_out(groups, width)
    return groups.regions()


def _fold_into_conv(groups: Groups, group: Group) -> None:
    """BatchNormalization, and Mul, Add with a constant for each channel."""
    node = group.nodes[0]
    if node.op != "Conv" or node.domain or not all(groups.is_const(value) for value in node.inputs[1:]):
        return
    channels = (node.inputs[1].shape or (None,))[0] if node.inputs[1] is not None else None
    while (after := groups.next(group)) is not None:
        reader = after.nodes[0]
        spread = reader.op in ("Add", "Mul") and _per_channel(operands(reader)[1], channels, node.output.rank)
        if not spread and (reader.op != "BatchNormalization" or reader.attr("training_mode", 0)):
            return
        groups.absorb(group, after, folded=True)


def _per_channel(constant: Value | None, channels: object, rank: int | None) -> bool:
    """Whether a constant is a number, or one per channel of an image."""
    if constant is None or constant.shape is None:
        return False
    shape = constant.shape
    spread = len(shape) in (rank, (rank or 0) - 1) and len(shape) > 0 and shape[1 - (rank or 0)] == channels
    return all(dim == 1 for dim in shape) or (spread and sum(dim != 1 for dim in shape) <= 1)


def _gemm(groups: Groups, group: Group) -> None:
    """MatMul of two matrices, and an Add: Gemm."""
    node, after = group.nodes[0], groups.next(group)
    if node.op != "MatMul" or node.domain or after is None or after.nodes[0].op != "Add":
        return
    ranks = [None if value is None else value.rank for value in node.inputs]
    shape, bias = node.output.shape, [v for v in after.nodes[0].inputs if v is not None and v is not node.output]
    if ranks[1] != 2 or (ranks[0] or 0) < 2 or shape is None or not bias or bias[0].shape is None:
        return
    dims = bias[0].shape
    wide = ranks[0] != 2
    if len(dims) > 2 or (wide and (len(dims) != 1 or dims != shape[-1:] or not _is_static(node))):
        return
    if all(dim in (1, shape[place - len(dims)]) for place, dim in enumerate(dims)):
        groups.absorb(group, after)
        group.kernel, group.anchor, group.closed = "Gemm", node, wide
        if wide:
            groups.add("Reshape", node.inputs[0] or node.output)
            groups.add("Reshape", group.output)


def _is_static(node: Node) -> bool:
    """Whether all sizes of the operands are known, and the second is a weight: the first can be written as a matrix."""
    if node.inputs[1] is None or not node.inputs[1].is_const:
        return False
    return all(isinstance(dim, int) for value in node.inputs if value is not None for dim in value.shape or (None,))


def _split_of_slices(groups: Groups, group: Group) -> None:
    """Slices that side by side cover an axis of one value become a Split; the first of them stands for all."""
    node = group.nodes[0]
    x = node.inputs[0]
    if node.op != "Slice" or node.domain or len(group.nodes) > 1 or x is None or len(x.users) > MANY:
        return
    found = [(_cut(reader), reader) for reader in x.users if reader.op == "Slice" and reader in groups.of]
    cuts = sorted(((cut, reader) for cut, reader in found if cut is not None), key=lambda pair: pair[0][:3])
    if len(cuts) < 2 or len(cuts) != len(found) or len({cut[0] for cut, _ in cuts}) != 1 or cuts[0][1] is not node:
        return
    ends = [0, *(cut[2] for cut, _ in cuts)]
    if ends[-1] != cuts[0][0][3] or any(cut[1] != end for (cut, _), end in zip(cuts, ends, strict=False)):
        return
    group.kernel = "Split"
    for _, reader in cuts[1:]:
        del groups.of[reader]


def _cut(node: Node) -> tuple[int, int, int, int] | None:
    """Axis, start, end and size of the axis of a Slice without steps along one axis."""
    x, given = node.inputs[0], [node.input(place) for place in range(1, 5)]
    if x is None or x.shape is None or any(v is not None and (not v.is_const or v.shape != (1,)) for v in given):
        return None
    numbers = [None if value is None else int(value.numpy()[0]) for value in given]
    start, end, axis, step = numbers
    if start is None or end is None or axis is None or step not in (None, 1):
        return None
    axis %= max(1, len(x.shape))
    size = x.shape[axis]
    if not isinstance(size, int):
        return None
    return axis, start + size if start < 0 else start, min(end + size if end < 0 else end, size), size


def _quantized(groups: Groups, group: Group) -> None:
    """An operator between DequantizeLinear and QuantizeLinear computes in integers."""
    node = group.nodes[0]
    after = groups.next(group)
    if node.op not in QUANTIZED or node.domain or after is None or after.kernel != "QuantizeLinear":
        return
    makers = [v.producer for v in node.inputs if v is not None and not v.is_const]
    if not makers or any(maker is None or maker.op != "DequantizeLinear" for maker in makers):
        return
    groups.absorb(group, after)
    group.kernel, group.domain = (QUANTIZED[node.op], MS) if QUANTIZED[node.op] else (node.op, "")
    for maker in makers:
        few = maker is not None and len(maker.output.users) <= MANY
        if few and maker in groups.of and all(_is_quantized(groups, r) for r in maker.output.users):
            del groups.of[maker]


def _is_quantized(groups: Groups, node: Node) -> bool:
    group = groups.of.get(node)
    return group is not None and group.nodes[-1].op == "QuantizeLinear"


QUANTIZED = {
    **{op: f"QLinear{op}" for op in "Add AveragePool Concat Conv LeakyRelu Mul Sigmoid Softmax".split()},
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "MatMul": "QLinearMatMul",
    **dict.fromkeys("Gather MaxPool Reshape Resize Squeeze Transpose Unsqueeze".split(), ""),
}


def _written_out(groups: Groups, group: Group) -> None:
    """GELU, SiLU and normalizations written out as ONNX Runtime looks for them."""
    root = group.nodes[-1]
    if len(group.nodes) > 1 or root.domain:
        return
    found = written.activation(root)
    if found is not None and _is_seen(found):
        groups.join(found.nodes, found.kernel, MS, found.anchor)
        return
    nodes = _layer_norm(root) or _rms_norm(root)
    if nodes:
        kernel = "LayerNormalization" if root.op == "Add" else "SimplifiedLayerNormalization"
        groups.join(nodes, kernel, "", next(node for node in nodes if node.op == "ReduceMean"))


def _is_seen(region: Region) -> bool:
    """Whether it is spelled as ONNX Runtime wants it."""
    ops = sorted(node.op for node in region.nodes)
    if region.kernel == "QuickGelu":
        return True
    if region.kernel == "FastGelu":
        return "Pow" in ops or len(ops) >= 8
    return region.kernel == "Gelu" and ops == ["Add", "Div", "Erf", "Mul", "Mul"]


def _layer_norm(root: Node) -> list[Node]:
    """Add(Mul(Div(d, Sqrt(Add(ReduceMean(Pow(d, 2)), eps))), g), b), d = Sub(x, ReduceMean(x))"""
    scaled = _maker(operands(root)[0], "Mul") if root.op == "Add" and operands(root)[1] is not None else None
    quotient = None if scaled is None else _maker(operands(scaled)[0], "Div")
    nodes = [] if quotient is None or scaled is None else _deviation(quotient)
    centred = quotient.inputs[0].producer if quotient is not None and quotient.inputs[0] is not None else None
    if not nodes or quotient is None or scaled is None or centred is None or centred.op != "Sub":
        return []
    mean = centred.inputs[1].producer if centred.inputs[1] is not None else None
    if mean is None or mean.op != "ReduceMean" or mean.inputs[0] is not centred.inputs[0]:
        return []
    return list(ordered([mean, centred, *nodes, quotient, scaled], root))


def _rms_norm(root: Node) -> list[Node]:
    """Mul(Div(x, Sqrt(Add(ReduceMean(Pow(x, 2)), eps))), g)"""
    if root.op != "Mul" or operands(root)[1] is None:
        return []
    quotient = _maker(operands(root)[0], "Div")
    nodes = [] if quotient is None else _deviation(quotient)
    centred = None if quotient is None or quotient.inputs[0] is None else quotient.inputs[0].producer
    if centred is not None and centred.op == "Sub":
        return []
    return [] if not nodes or quotient is None else list(ordered([*nodes, quotient], root))


def _deviation(quotient: Node) -> list[Node]:
    """The nodes of sqrt(mean(d^2) + eps) in d / sqrt(mean(d^2) + eps)."""
    root = _maker(quotient.inputs[1], "Sqrt")
    total = None if root is None else _maker(root.inputs[0], "Add")
    mean = None if total is None else _maker(operands(total)[0], "ReduceMean")
    square = None if mean is None else _maker(mean.inputs[0], "Pow")
    if root is None or total is None or mean is None or square is None or square.inputs[0] is not quotient.inputs[0]:
        return []
    x = square.inputs[0]
    if not _over_last(mean, None if x is None else x.rank):
        return []
    return [square, mean, total, root] if near(number(square.inputs[1]), 2.0) else []


def _over_last(mean: Node, rank: int | None) -> bool:
    """Whether a reduction is over the last axis."""
    given = mean.input(1)
    if given is not None and not given.is_const:
        return False
    axes = given.numpy().reshape(-1).tolist() if given is not None else list(mean.attr("axes", None) or ())
    return axes in ([-1], [(rank or 0) - 1])


def _maker(value: Value | None, op: str) -> Node | None:
    """The node of this operator that makes a value for one reader."""
    node = None if value is None else value.producer
    return node if node is not None and node.op == op and value is not None and only_reader(value) is not None else None


def _bias_gelu(groups: Groups, group: Group) -> None:
    """A bias along the last axis in front of GELU."""
    if group.kernel not in ("Gelu", "FastGelu") or group.domain != MS:
        return
    add = _before(groups, group, "Add")
    bias = None if add is None else operands(add.nodes[0])[1]
    if add is not None and bias is not None and bias.rank == 1:
        group.kernel = "BiasGelu" if group.kernel == "Gelu" else group.kernel
        _prepend(groups, group, add)


def _skip_norm(groups: Groups, group: Group) -> None:
    """A sum of two equal shapes of rank 3 in front of LayerNormalization."""
    if group.kernel not in NORMS:
        return
    root = group.nodes[0] if len(group.nodes) == 1 else None
    x = root.inputs[0] if root is not None else None
    add = _before(groups, group, "Add")
    if root is None or x is None or add is None or x.rank != 3 or len(root.inputs) < 3:
        return
    live = [value for value in add.nodes[0].inputs if value is not None]
    if len(live) != 2 or not may_equal(live[0].shape, live[1].shape):
        return
    group.kernel, group.domain = f"Skip{group.kernel}", MS
    _prepend(groups, group, add)
    bias = _before(groups, group, "Add")
    constant = None if bias is None else operands(bias.nodes[0])[1]
    if bias is not None and constant is not None and constant.rank == 1 and group.kernel == "SkipLayerNormalization":
        _prepend(groups, group, bias)


def _before(groups: Groups, group: Group, op: str) -> Group | None:
    """The one-node kernel of this operator whose result the group alone reads, however often."""
    inside = set(group.nodes)
    for node in group.nodes:
        for value in node.inputs:
            made = groups.made_by(value)
            if made is None or value is None or made is group or len(made.nodes) > 1:
                continue
            if made.nodes[0].op == op and not made.domain and all_read_in(value, inside):
                return made
    return None


def _prepend(groups: Groups, group: Group, other: Group) -> None:
    group.nodes[:0] = other.nodes
    groups.of.update(dict.fromkeys(other.nodes, group))


def _fused_matmul(groups: Groups, group: Group) -> None:
    """A product by a number in front of or behind MatMul, and Transposes of the last two axes."""
    node = group.nodes[0]
    if node.op != "MatMul" or node.domain or group.kernel != "MatMul" or node.output.dtype != TensorProto.FLOAT:
        return
    for value in node.inputs:
        made = groups.made_by(value)
        if value is not None and made is not None and len(made.nodes) == 1 and only_reader(value) is node:
            reader = made.nodes[0]
            if _is_scale(reader) or _swaps_last(reader):
                group.nodes.insert(0, reader)
                groups.of[reader] = group
    after = groups.next(group)
    if after is not None and _is_scale(after.nodes[0]):
        groups.absorb(group, after)
    if len(group.nodes) > 1:
        group.kernel, group.domain, group.anchor = "FusedMatMul", MS, node


def _is_scale(node: Node) -> bool:
    if node.op not in ("Mul", "Div") or node.domain or number(operands(node)[1]) is None:
        return False
    return node.op == "Mul" or (node.inputs[1] is not None and node.inputs[1].is_const)


def _swaps_last(node: Node) -> bool:
    perm = list(node.attr("perm", None) or ()) if node.op == "Transpose" and not node.domain else []
    return len(perm) > 1 and perm == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


def _quantized_matmul(groups: Groups, group: Group) -> None:
    """MatMulInteger, Cast, Mul by both scales, and a bias; with DynamicQuantizeLinear in front where it alone reads
    that."""
    node = group.nodes[0]
    if node.op != "MatMulInteger" or node.domain or group.kernel != "MatMulInteger":
        return
    cast = groups.next(group)
    scaled = None if cast is None or cast.nodes[0].op != "Cast" else groups.next(cast)
    if cast is None or scaled is None or scaled.nodes[0].op != "Mul":
        return
    scale = next((v for v in scaled.nodes[0].inputs if v is not None and v is not cast.output), None)
    factor = groups.made_by(scale)
    if factor is None or factor.nodes[0].op != "Mul" or scale is None or only_reader(scale) is None:
        return
    groups.absorb(group, cast)
    groups.absorb(group, scaled)
    _prepend(groups, group, factor)
    bias = groups.next(group)
    if bias is not None and bias.nodes[0].op == "Add":
        constant = operands(bias.nodes[0])[1]
        if constant is not None and constant.rank == 1:
            groups.absorb(group, bias)
    group.kernel, group.domain, group.anchor = "MatMulIntegerToFloat", MS, node
    quantize = node.inputs[0].producer if node.inputs[0] is not None else None
    if quantize is None or quantize.op != "DynamicQuantizeLinear" or quantize not in groups.of:
        return
    readers = {reader for value in quantize.outputs for reader in value.users}
    if readers <= set(group.nodes):
        group.kernel = "DynamicQuantizeMatMul"
        _prepend(groups, group, groups.of[quantize])


def _activations(groups: Groups) -> None:
    """Activations into Conv and Gemm."""
    for group in groups:
        after = groups.next(group)
        if after is None or after.domain or group.closed:
            continue
        conv = group.kernel == "Conv" and not group.domain and after.kernel in CONV_ACTIVATIONS
        if conv and not all(groups.is_const(value) for value in after.nodes[0].inputs[1:]):
            continue
        if conv or (group.kernel == "Gemm" and after.kernel in GEMM_ACTIVATIONS):
            groups.absorb(group, after, closes=True)
            group.kernel, group.domain = f"Fused{group.kernel}", MS


STEPS = (
    _fold_into_conv,
    _split_of_slices,
    _gemm,
    _written_out,
    _quantized_matmul,
    _bias_gelu,
    _skip_norm,
    _fused_matmul,
    _quantized,
)
