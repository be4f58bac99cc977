"""The dims that operators make, in terms of the dims that they are given.

Shape inference makes up a symbol for each dim that it cannot name; the rules here say what such a symbol stands for:
sums, products, minima, or what a window leaves of a dim (the same symbol for the same window on the same dim). A rule
may count on the operator to succeed: where broadcasting or a Reshape would fail there is no result to be wrong about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir import Node
from graphopt.passes.simplify import _poly as poly
from graphopt.passes.simplify._facts import axis_of, ints, normalize, option
from graphopt.passes.simplify._poly import Size
from graphopt.passes.simplify._sizes import Facts, List, product

Dims = Sequence[Size | None]
FAR = 2**31 - 1  # a Slice's end at least this far means "all"


def visit(node: Node, facts: Facts) -> None:
    """Takes in what a node's dims say. Nodes come in topological order."""
    shape = node.output.shape
    if node.domain or (shape is not None and all(isinstance(dim, int) or dim in facts.given for dim in shape)):
        return
    rule, several = _RULES.get(node.op), _SEVERAL.get(node.op)
    try:
        if rule is not None:
            facts.define(node.output, rule(node, facts))
        if several is not None:
            for value, dims in zip(node.outputs, several(node, facts) or (), strict=False):
                facts.define(value, dims)
    except poly.TooLarge:
        return


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
        elif size is None or size == -1 or not (new or size == old or facts.is_positive(size)):
            sizes.append(None)
        else:
            sizes.append(size)
    others = [size for size in sizes if size is not None]
    if dims is not None and len(others) == len(sizes) - 1:
        count = product(others)
        if facts.is_positive(count) or (count != 0 and target.items[sizes.index(None)] == -1):
            sizes[sizes.index(None)] = poly.divide(product(dims), count)
    return sizes


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
        if isinstance(size, int) or poly.is_positive(poly.subtract(size, 1)):
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
    if start is None or limit is None or step is None or step.numbers != (1,):
        return None
    low, high = start.items[0], limit.items[0]
    if low is None or high is None:
        return None
    count = poly.subtract(high, low)
    return [count] if poly.is_natural(count) else None


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
    if start is None or end is None or not poly.is_natural(start):
        return None
    if isinstance(end, int) and end < 0:
        stop: Size = poly.add(size, end)
        return poly.subtract(stop, start) if poly.is_natural(poly.subtract(stop, start)) else None
    if not poly.is_natural(end):
        return None
    stop = size if isinstance(end, int) and end >= FAR else smaller(size, end, facts)
    left = poly.subtract(stop, start)
    return left if start == 0 or poly.is_natural(left) else None


def smaller(a: Size, b: Size, facts: Facts) -> Size:
    """The smaller of two sizes, as a symbol of its own where that is not known."""
    order = poly.compare(a, b)
    if order is not None:
        return b if order == 1 else a
    for size, other in ((a, b), (b, a)):
        if poly.is_natural(poly.subtract(other, size)):
            return size
    low, high = sorted((a, b), key=repr)
    found = facts.opaque("min", low, high)
    facts.least[found] = low, high
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
    dims, pads = facts.dims(node.input(0)), option(node, "pads", 1)
    if dims is None or pads is None or node.input(3) is not None or len(pads) != 2 * len(dims):
        return None
    return [poly.add(size, pads[axis] + pads[axis + len(dims)]) for axis, size in enumerate(dims)]


def _resized(node: Node, facts: Facts) -> Dims | None:
    """Whole-number scales, or sizes."""
    dims = facts.dims(node.input(0))
    two_inputs = node.op == "Upsample" or node.graph.opset() < 11
    scales, sizes = node.input(1 if two_inputs else 2), None if two_inputs else facts.of(node.input(3))
    if dims is None or node.attr("axes") or node.attr("keep_aspect_ratio_policy") not in (None, "stretch"):
        return None
    if sizes is not None and len(sizes.items) == len(dims):
        return sizes.items
    if scales is None or not scales.is_const or scales.numpy().size != len(dims):
        return None
    factors = scales.numpy().reshape(-1).tolist()
    return [poly.multiply(d, int(f)) if f == int(f) and f >= 1 else None for d, f in zip(dims, factors, strict=True)]


def _tiled(node: Node, facts: Facts) -> Dims | None:
    dims, repeats = facts.dims(node.input(0)), ints(node.input(1))
    if dims is None or repeats is None or len(repeats) != len(dims):
        return None
    return [poly.multiply(size, count) for size, count in zip(dims, repeats, strict=True)]


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
    dims, given = facts.dims(node.input(0)), option(node, "split", 1)
    axis = None if dims is None else axis_of(node, len(dims))
    if dims is None or axis is None or given is None:
        return None
    sizes: list[Size | None] = list(given)
    if not given:
        part = poly.divide(dims[axis], len(node.outputs))  # exact, or the last one may be smaller
        sizes = [part] * len(node.outputs)
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
