"""Which axis of a value is which dimension of an input, and which sizes the weights demand of it.

A small abstract interpretation over the main graph: shapes of sizes, of symbols that stand unchanged since the input,
and of None for what is neither. It is a help for guessing inputs, so it may know little; what it knows must be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from graphopt.verify.flow import Flow, attribute
from graphopt.verify.spec import InputSpec

__all__ = ["Axes"]

Shape = tuple["int | str | None", ...]

_SAME = set(
    (
        "Identity Cast CastLike Relu Sigmoid Tanh Softmax LogSoftmax Clip LeakyRelu Elu Selu HardSigmoid HardSwish Erf"
        " Exp Log Sqrt Neg Abs Floor Ceil Round Dropout Gelu Mish Softplus Softsign Not Sign Reciprocal Sin Cos LRN"
        " LpNormalization CumSum Trilu QuantizeLinear DequantizeLinear Hardmax IsNaN IsInf Scaler Normalizer Binarizer"
        " MeanVarianceNormalization"
    ).split()
)
_BROADCAST = set(
    (
        "Add Sub Mul Div Pow Mod Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor PRelu Min Max Sum Mean Where"
    ).split()
)


class Axes:
    """Shapes of values in terms of the inputs' symbols, and `required`: symbol -> the size that a weight demands."""

    def __init__(self, flow: Flow, specs: Sequence[InputSpec]) -> None:
        self._flow = flow
        self.required: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {spec.name: tuple(spec.dims) for spec in specs if spec.dims is not None}
        for node in flow.model.graph.node:
            if node.domain in ("", "ai.onnx", "com.microsoft", "ai.onnx.ml") and node.output:
                self._step(node)

    def shape(self, name: str) -> Shape | None:
        """The shape of a value of the main graph, None where unknown."""
        return self.shapes.get(name) or self._flow.shape(0, name)

    def _step(self, node: NodeProto) -> None:
        shapes = [self.shape(name) if name else None for name in node.input]
        if not any(shape and any(isinstance(dim, str) for dim in shape) for shape in shapes):
            return
        op = node.op_type
        found: Shape | None = None
        if op in _SAME:
            found = shapes[0]
        elif op in _BROADCAST:
            found = self._broadcast(shapes)
        elif op in _RULES and shapes[0]:
            found = _RULES[op](self, node, shapes[0])
        if found is not None:
            self.shapes[node.output[0]] = found

    def _demand(self, dim: int | str | None, size: int | None) -> int | str | None:
        """`dim` has to be `size`; what is known of it then."""
        if isinstance(dim, str) and size is not None and size > 0:
            self.required.setdefault(dim, size)
        return size if isinstance(dim, str) and size is not None else dim

    def _broadcast(self, shapes: list[Shape | None]) -> Shape | None:
        if any(shape is None for shape in shapes):
            return None
        known = [shape for shape in shapes if shape is not None]
        rank = max(map(len, known))
        result: list[int | str | None] = []
        for axis in range(-rank, 0):
            dims = [shape[axis] for shape in known if len(shape) >= -axis and shape[axis] != 1]
            sizes = [dim for dim in dims if isinstance(dim, int)]
            for dim in dims if sizes else ():
                self._demand(dim, sizes[0])
            result.append(sizes[0] if sizes else dims[0] if len(set(dims)) == 1 else None if dims else 1)
        return tuple(result)

    def _weight(self, node: NodeProto, slot: int) -> tuple[int, ...]:
        """The shape of a constant input, () when it is none."""
        return self._flow.shape(0, node.input[slot]) or () if slot < len(node.input) else ()

    def _conv(self, node: NodeProto, shape: Shape) -> Shape | None:
        weight = self._weight(node, 1)
        group = attribute(node, "group", 1)
        if len(weight) != len(shape) or not isinstance(group, int):
            return None
        self._demand(shape[1], weight[1] * group if node.op_type == "Conv" else weight[0])
        channels = weight[0] if node.op_type == "Conv" else weight[1] * group
        return (shape[0], channels, *[None] * (len(shape) - 2))

    def _matmul(self, node: NodeProto, shape: Shape) -> Shape | None:
        weight = self._weight(node, 1)
        if len(weight) < 2:
            return None
        transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
        if node.op_type == "Gemm" and attribute(node, "transA", 0):
            return None
        self._demand(shape[-1], weight[-1] if transposed else weight[-2])
        return (*shape[:-1], weight[-2] if transposed else weight[-1]) if len(weight) == 2 else None

    def _norm(self, node: NodeProto, shape: Shape) -> Shape | None:
        weight = self._weight(node, 1)
        axis = -1 if node.op_type in ("LayerNormalization", "SimplifiedLayerNormalization") else 1
        if len(weight) != 1 or len(shape) < 2 or attribute(node, "axis", -1) != -1:
            return shape
        known = self._demand(shape[axis], weight[0])
        return (*shape[:axis], known, *shape[axis:][1:])

    def _recurrent(self, node: NodeProto, shape: Shape) -> Shape | None:
        weight = self._weight(node, 1)
        if len(weight) == 3 and len(shape) == 3:
            self._demand(shape[2], weight[2])
        return None

    def _transpose(self, node: NodeProto, shape: Shape) -> Shape | None:
        perm = attribute(node, "perm")
        if not isinstance(perm, (list, tuple)):
            return shape[::-1]
        return tuple(shape[int(axis)] for axis in perm) if len(perm) == len(shape) else None

    def _axes(self, node: NodeProto) -> list[int] | None:
        axes = attribute(node, "axes")
        if isinstance(axes, (list, tuple)):
            return [int(axis) for axis in axes]
        constant = self._flow.constant(0, node.input[1]) if len(node.input) > 1 else None
        return None if constant is None else [int(axis) for axis in constant.ravel()]

    def _unsqueeze(self, node: NodeProto, shape: Shape) -> Shape | None:
        axes = self._axes(node)
        if axes is None:
            return None
        rank = len(shape) + len(axes)
        new, rest = {axis % rank for axis in axes}, iter(shape)
        return tuple(1 if axis in new else next(rest) for axis in range(rank))

    def _squeeze(self, node: NodeProto, shape: Shape) -> Shape | None:
        axes = self._axes(node)
        if axes is None:
            return None
        gone = {axis % len(shape) for axis in axes}
        return tuple(dim for axis, dim in enumerate(shape) if axis not in gone)

    def _reshape(self, node: NodeProto, shape: Shape) -> Shape | None:
        target = self._flow.constant(0, node.input[1]) if len(node.input) > 1 else None
        if target is None or attribute(node, "allowzero", 0):
            return None
        asked = [int(n) for n in target.ravel()]
        if any(n == 0 and axis >= len(shape) for axis, n in enumerate(asked)):
            return None
        return tuple(shape[axis] if n == 0 else n if n > 0 else None for axis, n in enumerate(asked))

    def _flatten(self, node: NodeProto, shape: Shape) -> Shape | None:
        return (shape[0], shape[1] if len(shape) == 2 else None) if attribute(node, "axis", 1) == 1 else None

    def _gather(self, node: NodeProto, shape: Shape) -> Shape | None:
        indices = self.shape(node.input[1])
        axis = attribute(node, "axis", 0)
        if indices is None or not isinstance(axis, int):
            return None
        axis %= len(shape)
        return (*shape[:axis], *indices, *shape[axis + 1 :])


_RULES: dict[str, Callable[[Axes, NodeProto, Shape], Shape | None]] = {
    "Conv": Axes._conv, "ConvTranspose": Axes._conv, "MatMul": Axes._matmul, "Gemm": Axes._matmul,
    "BatchNormalization": Axes._norm, "InstanceNormalization": Axes._norm, "LayerNormalization": Axes._norm,
    "SimplifiedLayerNormalization": Axes._norm, "LSTM": Axes._recurrent, "GRU": Axes._recurrent, "RNN": Axes._recurrent,
    "Transpose": Axes._transpose, "Unsqueeze": Axes._unsqueeze, "Squeeze": Axes._squeeze, "Reshape": Axes._reshape,
    "Flatten": Axes._flatten, "Gather": Axes._gather,
}  # fmt: skip
