"""The dims that operators make, in terms of the dims that they are given.

Shape inference makes up a symbol for each dim that it cannot name; the rules here say what such a symbol stands for:
sums, products, minima, or what a window leaves of a dim (the same symbol for the same window on the same dim). A rule
may count on the operator to succeed: where broadcasting or a Reshape would fail there is no result to be wrong about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.facts import Facts, List, product
from graphopt.analysis.sizes.operands import axis_of, normalize, option
from graphopt.analysis.sizes.poly import Size
from graphopt.ir import Node

Dims = Sequence[Size | None]
FAR = 2**31 - 1  # a Slice's end at least this far means "all"


def visit(node: Node, facts: Facts) -> None:
    """Takes in what a node's dims say. Nodes come in topological order."""
    rule, several = _RULES.get(node.op), _SEVERAL.get(node.op)
    if node.domain or (rule is None and several is None):
        return
    try:
        if rule is not None and not facts.is_defined(node.output):
            facts.define(node.output, rule(node, facts))
        if several is not None:
            for value, dims in zip(node.outputs, several(node, facts) or (), strict=False):
                facts.define(value, dims)
    except poly.TooLarge:
        return


def has_rule(node: Node) -> bool:
    """Whether anything can be known of the dims that a node makes."""
    return (node.op in _RULES or node.op in _SEVERAL) and not node.domain


def reshaped(node: Node, facts: Facts) -> Dims | None:
    """The dims that a Reshape makes, as far as they are known.

    A size that may be 0 at run time would then copy a dim instead: it counts only where it is that dim. One dim that is
    not known follows from the element count where all others are positive numbers; a -1 always, as nothing else may be
    0 then.
    """
    dims, target = facts.dims(node.input(0)), facts.of(node.input(1))
    if target is None or target.is_scalar:
        return None
    keep_zeros = bool(node.attr("allowzero", 0))
    sizes: list[Size | None] = []
    for axis, size in enumerate(target.items):
        old = dims[axis] if dims is not None and axis < len(dims) else None
        new = keep_zeros or (dims is not None and axis >= len(dims))  # nothing to copy
        if size == 0 and not keep_zeros:
            sizes.append(old)
        elif size is None or size == -1 or not (new or _vanishes_with(old, size) or facts.terms.is_positive(size)):
            sizes.append(None)
        else:
            sizes.append(size)
    if -1 in target.items and dims is not None:
        _note_positive(node, list(target.items), dims, facts)
    others = [size for size in sizes if size is not None]
    if dims is not None and len(others) == len(sizes) - 1:
        count = product(others)
        if facts.terms.is_positive(count) or (count != 0 and target.items[sizes.index(None)] == -1):
            sizes[sizes.index(None)] = poly.divide(product(dims), count)
    return sizes


def _vanishes_with(old: Size | None, size: Size) -> bool:
    """Whether the dim at a size's place is 0 wherever the size is: then the 0 that is written copies a 0."""
    return old is not None and (old == size or (not isinstance(size, int) and poly.divide(old, size) is not None))


def _note_positive(node: Node, target: list[Size | None], dims: tuple[Size, ...], facts: Facts) -> None:
    """Next to a -1 no dim of the result may be 0: a Reshape that succeeds says so."""
    if node.graph.parent is not None or node.graph.in_function:
        return  # it may not be run
    for axis, size in enumerate(target):
        old = dims[axis] if axis < len(dims) else None
        if size == 0 and not node.attr("allowzero", 0):
            size = old
        elif size is None or isinstance(size, int) or not (old is None or _vanishes_with(old, size)):
            continue
        if size is not None and not isinstance(size, int) and len(size.terms) == 1:
            facts.claim(node, poly.symbols_of(size))


def _flattened(node: Node, facts: Facts) -> Dims | None:
    dims = facts.dims(node.input(0))
    axis = node.attr("axis")
    if dims is None or not -len(dims) <= axis <= len(dims):
        return None
    axis = axis + len(dims) if axis < 0 else axis
    return [product(dims[:axis]), product(dims[axis:])]


def _joined(node: Node, facts: Facts) -> Dims | None:
    parts = [facts.dims(value) for value in node.inputs]
    first = parts[0] if parts else None
    axis = axis_of(node, None if first is None else len(first), default=1)
    if first is None or axis is None:
        return None
    total: Size = 0
    for part in parts:
        if part is None or len(part) != len(first):
            return None
        total = poly.add(total, part[axis])
    return [*first[:axis], total, *first[axis + 1 :]]


def broadcast(shapes: Sequence[Dims | None], facts: Facts) -> Dims | None:
    """The dims that come of broadcasting these shapes together."""
    known = [dims for dims in shapes if dims is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(len(dims) for dims in known)
    result: list[Size | None] = [1] * rank
    for dims in known:
        for axis, size in enumerate(dims, rank - len(dims)):
            result[axis] = _wider(result[axis], size, facts)
    return result


def _wider(a: Size | None, b: Size | None, facts: Facts) -> Size | None:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    for size, other in ((a, b), (b, a)):
        if size is None:
            continue
        # Certainly not 1: then the other is either 1 or the same.
        if isinstance(size, int) or facts.terms.is_positive(poly.subtract(size, 1)):
            return size
        # other = min(size, bound): where the bound counts, the two are neither equal nor 1, and the operator fails.
        pair = facts.least.get(other) if other is not None else None
        if pair is not None and size in pair:
            bound = pair[1] if pair[0] == size else pair[0]
            if isinstance(bound, int) and bound > 1:
                return size
    return None


def _elementwise(node: Node, facts: Facts) -> Dims | None:
    return broadcast([facts.dims(value) for value in node.inputs if value is not None], facts)


def expanded(node: Node, facts: Facts) -> Dims | None:
    """The dims that an Expand makes."""
    target: List | None = facts.of(node.input(1))
    return broadcast([facts.dims(node.input(0)), None if target is None else target.items], facts)


def _filled(node: Node, facts: Facts) -> Dims | None:
    target = facts.of(node.input(0))
    return None if target is None or target.is_scalar else target.items


def _range(node: Node, facts: Facts) -> Dims | None:
    start, limit, step = (facts.of(value) for value in node.inputs)
    if start is None or limit is None or step is None or not step.numbers or not step.numbers[0]:
        return None
    low, high, by = start.items[0], limit.items[0], step.numbers[0]
    if low is None or high is None:
        return None
    span = facts.terms.greatest(poly.multiply(poly.subtract(high, low), 1 if by > 0 else -1), 0)
    return None if span is None else [facts.terms.ceil(span, abs(by))]


def _product(node: Node, facts: Facts) -> Dims | None:
    a, b = facts.dims(node.input(0)), facts.dims(node.input(1))
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    batch = broadcast([a[:-2], b[:-2]], facts)
    return None if batch is None else [*batch, a[-2], b[-1]]


def _cut(node: Node, facts: Facts) -> Dims | None:
    dims = facts.dims(node.input(0))
    starts, ends = facts.of(node.input(1)), facts.of(node.input(2))
    steps = option(node, "steps", 4)
    if "starts" in node.attributes:
        starts, ends = (List(tuple(node.attr(name)), False) for name in ("starts", "ends"))
    if dims is None or starts is None or ends is None or steps is None:
        return None
    front = normalize(option(node, "axes", 3) or tuple(range(len(starts.items))), len(dims))
    if option(node, "axes", 3) is None or front is None or not len(front) == len(starts.items) == len(ends.items):
        return None
    sizes: list[Size | None] = list(dims)
    for index, axis in enumerate(front):
        size, start, end, step = dims[axis], starts.items[index], ends.items[index], steps[index] if steps else 1
        if isinstance(size, int) and isinstance(start, int) and isinstance(end, int) and step and 0 <= size < FAR:
            sizes[axis] = len(range(*slice(start, end, step).indices(size)))  # clamped as ONNX does
        else:
            sizes[axis] = _left(size, start, end, facts) if step == 1 else None
    return sizes


def _left(size: Size, start: Size | None, end: Size | None, facts: Facts) -> Size | None:
    """What is left of a dim from a start that is not behind its end to an end counted from the front."""
    if start is None or end is None or not facts.terms.is_natural(start):
        return None
    if isinstance(end, int) and end < 0:
        stop: Size = poly.add(size, end)
        return poly.subtract(stop, start) if facts.terms.is_natural(poly.subtract(stop, start)) else None
    if not facts.terms.is_natural(end):
        return None
    whole = isinstance(end, int) and end >= FAR
    nearer = size if whole else smaller(size, end, facts)
    left = None if nearer is None else poly.subtract(nearer, start)
    return left if start == 0 or (left is not None and facts.terms.is_natural(left)) else None


def smaller(a: Size, b: Size, facts: Facts) -> Size | None:
    """The smaller of two dims."""
    found = facts.terms.least(a, b, natural=True)
    if found is not None and found not in (a, b):
        facts.least[found] = a, b
    return found


def _windowed(node: Node, facts: Facts) -> Dims | None:
    """Conv and pooling: what the window leaves of each spatial dim."""
    dims, weight = facts.dims(node.input(0)), facts.dims(node.input(1))
    if dims is None or len(dims) < 3 or (weight is None and node.op == "Conv"):
        return None
    channels = weight[0] if node.op == "Conv" and weight is not None else dims[1]
    count = len(dims) - 2
    kernel = node.attr("kernel_shape")
    if kernel is None:
        kernel = weight[2:] if weight is not None else ()
    strides, dilations = node.attr("strides") or (1,) * count, node.attr("dilations") or (1,) * count
    pads = node.attr("pads") or (0,) * (2 * count)
    mode = node.attr("auto_pad") or "NOTSET"
    if not len(kernel) == len(strides) == len(dilations) == count or len(pads) != 2 * count:
        return None
    sizes: list[Size | None] = [dims[0], channels, *[None] * count]
    for axis in range(count):
        size, window, stride = dims[axis + 2], kernel[axis], strides[axis]
        if not isinstance(window, int):
            continue
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            sizes[axis + 2] = size if stride == 1 else _rounded_up(size, stride, facts)
            continue
        added = 0 if mode == "VALID" else pads[axis] + pads[axis + count]
        rest = poly.add(size, added - (window - 1) * dilations[axis] - 1)
        rounding = node.attr("ceil_mode") or 0
        # with a ceiling the last window may be dropped if it starts in the padding: the pads are part of the key
        key = ("window", rest, stride, rounding, pads if rounding else 0)
        if stride == 1:
            sizes[axis + 2] = poly.add(rest, 1)
        elif not isinstance(rest, int):
            sizes[axis + 2] = facts.opaque(*key)
        elif not rounding:
            sizes[axis + 2] = rest // stride + 1
    return sizes


def _rounded_up(size: Size, stride: int, facts: Facts) -> Size:
    return -(-size // stride) if isinstance(size, int) else facts.opaque("ceil", size, stride)


def _padded(node: Node, facts: Facts) -> Dims | None:
    dims, axes = facts.dims(node.input(0)), option(node, "axes", 3)
    pads = _listed(node, "paddings" if "paddings" in node.attributes else "pads", 1, facts)
    if dims is None or pads is None or axes is None:
        return None
    front = normalize(axes or tuple(range(len(dims))), len(dims))
    if front is None or len(pads) != 2 * len(front):
        return None
    sizes: list[Size | None] = list(dims)
    for place, axis in enumerate(front):
        before, after = pads[place], pads[place + len(front)]
        sizes[axis] = None if before is None or after is None else poly.add(dims[axis], poly.add(before, after))
    return sizes


def _listed(node: Node, name: str, slot: int, facts: Facts) -> Dims | None:
    """The elements of a list given as attribute or input, computed or not; () where it is left out."""
    if name in node.attributes:
        return option(node, name, slot)
    value = node.input(slot)
    found = facts.of(value)
    return () if value is None else None if found is None else found.items


def _resized(node: Node, facts: Facts) -> Dims | None:
    """Sizes, or scales by whole numbers or halves."""
    dims = facts.dims(node.input(0))
    two_inputs = node.op == "Upsample" or node.graph.opset() < 11
    scales, sizes = node.input(1 if two_inputs else 2), None if two_inputs else facts.of(node.input(3))
    if dims is None or node.attr("axes") or node.attr("keep_aspect_ratio_policy") not in (None, "stretch"):
        return None
    if sizes is not None and len(sizes.items) == len(dims):
        return sizes.items
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None  # the region counts, too
    if scales is None or not scales.is_const or scales.numpy().size != len(dims):
        return None
    return [_scaled(d, factor, facts) for d, factor in zip(dims, scales.numpy().reshape(-1).tolist(), strict=True)]


def _scaled(size: Size, factor: float, facts: Facts) -> Size | None:
    if factor >= 1 and factor == int(factor):
        return poly.multiply(size, int(factor))
    over, under = factor.as_integer_ratio() if factor > 0 and math.isfinite(factor) else (0, 1)
    return facts.terms.floor(poly.multiply(size, over), under, natural=True) if over and under in (2, 4, 8) else None


def _tiled(node: Node, facts: Facts) -> Dims | None:
    dims, repeats = facts.dims(node.input(0)), facts.of(node.input(1))
    if dims is None or repeats is None or repeats.is_scalar or len(repeats.items) != len(dims):
        return None
    pairs = zip(dims, repeats.items, strict=True)
    return [None if count is None else poly.multiply(size, count) for size, count in pairs]


def _spread(node: Node, facts: Facts) -> Dims | None:
    """DepthToSpace and SpaceToDepth, which ask for dims that can be divided."""
    dims, block = facts.dims(node.input(0)), node.attr("blocksize")
    if dims is None or len(dims) != 4 or not block or block < 0:
        return None
    batch, channels, *spatial = dims
    if node.op == "SpaceToDepth":
        return [
            batch,
            poly.multiply(channels, block * block),
            *(facts.terms.floor(d, block, natural=True) for d in spatial),
        ]
    return [
        batch,
        facts.terms.floor(channels, block * block, natural=True),
        *(poly.multiply(d, block) for d in spatial),
    ]


def _transposed_conv(node: Node, facts: Facts) -> Dims | None:
    dims, weight = facts.dims(node.input(0)), facts.dims(node.input(1))
    if dims is None or weight is None or len(dims) < 3 or len(weight) != len(dims) or node.attr("output_shape"):
        return None
    count = len(dims) - 2
    strides, dilations = node.attr("strides") or (1,) * count, node.attr("dilations") or (1,) * count
    pads, added = node.attr("pads") or (0,) * (2 * count), node.attr("output_padding") or (0,) * count
    if (node.attr("auto_pad") or "NOTSET") != "NOTSET" or len(pads) != 2 * count:
        return None
    if not len(strides) == len(dilations) == len(added) == count:
        return None
    sizes: list[Size | None] = [dims[0], poly.multiply(weight[1], node.attr("group"))]
    for axis in range(count):
        window, stride = weight[axis + 2], strides[axis]
        fixed = added[axis] - pads[axis] - pads[axis + count] + 1 - stride
        reach = poly.multiply(poly.subtract(window, 1), dilations[axis])
        sizes.append(poly.add(poly.add(poly.multiply(dims[axis + 2], stride), reach), fixed))
    return sizes


def _first(node: Node, facts: Facts) -> Dims | None:
    return facts.dims(node.input(0))


def _transposed(node: Node, facts: Facts) -> Dims | None:
    dims, perm = facts.dims(node.input(0)), node.attr("perm")
    if dims is None or (perm is not None and len(perm) != len(dims)):
        return None
    return dims[::-1] if perm is None else [dims[axis] for axis in perm]


def _unsqueezed(node: Node, facts: Facts) -> Dims | None:
    dims, axes = facts.dims(node.input(0)), option(node, "axes", 1)
    front = normalize(axes, len(dims) + len(axes)) if dims is not None and axes is not None else None
    if dims is None or front is None:
        return None
    rest = iter(dims)
    return [1 if axis in front else next(rest) for axis in range(len(dims) + len(front))]


def _squeezed(node: Node, facts: Facts) -> Dims | None:
    dims, axes = facts.dims(node.input(0)), option(node, "axes", 1)
    front = normalize(axes, len(dims)) if dims is not None and axes else None
    return None if dims is None or front is None else [size for axis, size in enumerate(dims) if axis not in front]


def _gathered(node: Node, facts: Facts) -> Dims | None:
    dims, index = facts.dims(node.input(0)), facts.dims(node.input(1))
    axis = None if dims is None else axis_of(node, len(dims))
    return None if dims is None or index is None or axis is None else [*dims[:axis], *index, *dims[axis + 1 :]]


def _indexed(node: Node, facts: Facts) -> Dims | None:
    return facts.dims(node.input(1))


def _reduced(node: Node, facts: Facts) -> Dims | None:
    dims = facts.dims(node.input(0))
    if dims is None:
        return None
    axes = (node.attr("axis") or 0,) if node.op.startswith("Arg") else option(node, "axes", 1)
    if axes == () and node.attr("noop_with_empty_axes"):
        return dims
    front = normalize(tuple(range(len(dims))) if axes == () else axes, len(dims))
    if front is None:
        return None
    if node.attr("keepdims"):
        return [1 if axis in front else size for axis, size in enumerate(dims)]
    return [size for axis, size in enumerate(dims) if axis not in front]


def _gemm(node: Node, facts: Facts) -> Dims | None:
    a, b = facts.dims(node.input(0)), facts.dims(node.input(1))
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [a[1 if node.attr("transA") else 0], b[0 if node.attr("transB") else 1]]


def _pooled_whole(node: Node, facts: Facts) -> Dims | None:
    dims = facts.dims(node.input(0))
    return None if dims is None or len(dims) < 2 else [*dims[:2], *[1] * (len(dims) - 2)]


def _counted(node: Node, facts: Facts) -> Dims | None:
    rank = facts.rank(node.inputs[0]) if node.inputs[0] is not None else None
    return None if rank is None else [len(range(rank)[slice(node.attr("start", 0), node.attr("end", None))])]


def _split(node: Node, facts: Facts) -> list[Dims] | None:
    dims, given = facts.dims(node.input(0)), _listed(node, "split", 1, facts)
    axis = None if dims is None else axis_of(node, len(dims))
    if dims is None or axis is None or given is None:
        return None
    parts = len(node.outputs)
    sizes = list(given)
    if not sizes and node.attr("num_outputs") is None:
        sizes = [facts.terms.floor(dims[axis], parts, natural=True)] * parts  # it must come out even
    elif not sizes:
        sizes = [poly.divide(dims[axis], parts)] * parts  # exact, or the last one may be smaller
    return [[*dims[:axis], size, *dims[axis + 1 :]] for size in sizes]


def _recurrent(node: Node, facts: Facts) -> list[Dims] | None:
    dims, hidden = facts.dims(node.input(0)), node.attr("hidden_size")
    if dims is None or len(dims) != 3 or not hidden or node.attr("layout"):
        return None
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    state = [directions, dims[1], hidden]
    return [[dims[0], directions, dims[1], hidden], state, state]


_ELEMENTWISE = (
    "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or "
    "Pow Sub Sum Where Xor"
)
_LIKE_FIRST = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh "
    "CumSum DequantizeLinear Dropout DynamicQuantizeLinear Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid "
    "HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax "
    "LpNormalization MeanVarianceNormalization Mish Neg Not PRelu QuantizeLinear RMSNormalization Reciprocal Relu "
    "ReverseSequence Round ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign "
    "Sqrt Tan Tanh ThresholdedRelu Trilu"
)
_REDUCTIONS = (
    "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare"
)
_RULES: dict[str, Callable[[Node, Facts], Dims | None]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_LIKE_FIRST.split(), _first),
    **dict.fromkeys(_REDUCTIONS.split(), _reduced),
    "AveragePool": _windowed,
    "Concat": _joined,
    "ConstantOfShape": _filled,
    "Conv": _windowed,
    "ConvTranspose": _transposed_conv,
    "DepthToSpace": _spread,
    "Expand": expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "GatherElements": _indexed,
    "Gemm": _gemm,
    "GlobalAveragePool": _pooled_whole,
    "GlobalMaxPool": _pooled_whole,
    "MatMul": _product,
    "MatMulInteger": _product,
    "MaxPool": _windowed,
    "Pad": _padded,
    "Range": _range,
    "Reshape": reshaped,
    "Resize": _resized,
    "Shape": _counted,
    "Slice": _cut,
    "SpaceToDepth": _spread,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    "Upsample": _resized,
}
_SEVERAL: dict[str, Callable[[Node, Facts], list[Dims] | None]] = {
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Split": _split,
}
