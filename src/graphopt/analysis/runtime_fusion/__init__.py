"""What runtimes fuse themselves: which nodes run as one kernel, and what it is worth that they do.

A rewrite that takes a node out of such a kernel may make the file smaller and the model slower. `kernels` gives all
kernels of a graph; `region_with` the operator written out that one node is part of; `worth` the seconds that fusing
saves.
"""

from __future__ import annotations

from graphopt.analysis.cost.estimate import alone, region_cost
from graphopt.analysis.cost.machine import Machine
from graphopt.analysis.cost.sizes import Sizes
from graphopt.analysis.runtime_fusion import blocks, onnxruntime, tensorrt
from graphopt.analysis.runtime_fusion.region import Region
from graphopt.analysis.runtime_fusion.written import region_with
from graphopt.ir import Graph

__all__ = ["Region", "kernels", "region_with", "worth"]


def kernels(graph: Graph, runtime: str = "onnxruntime", width: int = blocks.WIDTH) -> list[Region]:
    """The kernels that a runtime ("onnxruntime" on a CPU, "tensorrt") executes for a graph, as it fuses them itself.

    Bodies of control flow are not included: they are graphs of their own. Types must be known (`shapes.infer`). width:
    channels of a block of the layout in which ONNX Runtime's convolutions run.

    >>> from graphopt import ir
    >>> from graphopt.analysis.shapes import infer
    >>> from onnx import parser
    >>> text = 'g (float[2, 8] x, float[8, 4] w, float[4] b) => (float[2, 4] y) '
    >>> text += '{ p = MatMul(x, w)  s = Add(p, b)  y = Relu(s) }'
    >>> model = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text))
    >>> infer(model)
    >>> [(region.kernel, [node.op for node in region.nodes]) for region in kernels(model.graph)]
    [('FusedGemm', ['MatMul', 'Add', 'Relu'])]
    """
    return tensorrt.plan(graph) if runtime == "tensorrt" else onnxruntime.plan(graph, width)


def worth(region: Region, sizes: Sizes, machine: Machine) -> float:
    """Seconds that it saves to run these nodes as one kernel."""
    return sum(alone(node, sizes, machine) for node in region.nodes) - region_cost(region, sizes, machine).seconds
