"""What TensorRT fuses: convolutions and products with what follows them, and regions of pointwise operators.

From NVIDIA's documentation (TensorRT, "Layer Fusion Catalog"), not from engines that were looked at: Conv or
ConvTranspose with bias, scale and BatchNormalization, one activation, a residual sum and an activation behind it;
MatMul with bias and activation; any connected pointwise operators are one kernel (PointWise); Reshape and Transpose
next to each other are one Shuffle, and views cost nothing; LayerNormalization and Softmax are kernels of their own.
"""

from __future__ import annotations

from graphopt.analysis.cost.traffic import is_view
from graphopt.analysis.runtime_fusion.groups import Group, Groups
from graphopt.analysis.runtime_fusion.region import Region
from graphopt.ir import Graph

PRODUCTS = frozenset("Conv ConvTranspose Gemm MatMul".split())
ACTIVATIONS = frozenset("Relu Sigmoid Tanh LeakyRelu Clip HardSigmoid Elu Selu Softplus Gelu HardSwish Mish".split())
POINTWISE = ACTIVATIONS | frozenset(
    "Abs Add Ceil Cos Cosh Div Equal Erf Exp Floor Greater Less Log Max Min Mul Neg Not Pow Reciprocal Round Sign Sin "
    "Sqrt Sub Sum Tan ThresholdedRelu Where".split()
)


def plan(graph: Graph) -> list[Region]:
    """The kernels that run a graph; bodies are plans of their own."""
    groups = Groups(graph, frozenset("Constant Identity Flatten Reshape Squeeze Unsqueeze".split()))
    for node in graph:
        group = groups.of.get(node)
        if group is not None and node.op in PRODUCTS and not node.domain and not is_view(node):
            _epilogue(groups, group)
    _pointwise(groups)
    return groups.regions()


def _epilogue(groups: Groups, group: Group) -> None:
    """Bias, scale, BatchNormalization; an activation, or a residual sum and an activation."""
    summed = False
    while (after := groups.next(group)) is not None and not group.closed:
        node = after.nodes[0]
        live = sum(value is not None and not value.is_const for value in node.inputs)
        if node.op == "BatchNormalization" or (node.op in ("Add", "Mul", "Sub", "Div") and live == 1 and not summed):
            groups.absorb(group, after, folded=True)
        elif node.op in ("Add", "Sum") and live == 2 and not summed:
            groups.absorb(group, after)
            summed = True
        elif node.op in ACTIVATIONS and not node.domain:
            groups.absorb(group, after, closes=True)
        else:
            return


def _pointwise(groups: Groups) -> None:
    """Joins a pointwise operator with the one that alone reads it."""
    for group in groups:
        if not _is_pointwise(group):
            continue
        while (after := groups.next(group)) is not None and _is_pointwise(after):
            groups.absorb(group, after)
            group.kernel, group.anchor = "PointWise", None


def _is_pointwise(group: Group) -> bool:
    return not group.domain and all(node.op in POINTWISE for node in group.nodes)
