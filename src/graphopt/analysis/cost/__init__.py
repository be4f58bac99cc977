"""What nodes and graphs cost: FLOPs, bytes moved, and estimated seconds on a target, under symbolic shapes.

`node_cost` counts FLOPs (conventions in `flops`), `traffic` bytes, `work_of` the work of a node's kernel; `estimate`
turns them into seconds by the description of a `Machine`, and for graphs by what the runtime fuses itself.
`machine_for(target)` is the description that passes go by. docs/cost.md says more.

>>> from graphopt import ir
>>> from graphopt.analysis.shapes import infer
>>> from onnx import parser
>>> text = 'g (float[N, 8] x, float[8, 4] w) => (float[N, 4] y) { y = MatMul(x, w) }'
>>> model = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text))
>>> infer(model)
>>> [node_cost(node, Sizes({"N": 10})).flops for node in model.graph], estimate(model, Sizes({"N": 10})) > 0
([640], True)
"""

from graphopt.analysis.cost.estimate import KernelCost, estimate, kernel_costs
from graphopt.analysis.cost.flops import NodeCost, node_cost, workspace
from graphopt.analysis.cost.kinds import Work, work_of
from graphopt.analysis.cost.machine import Machine
from graphopt.analysis.cost.machines import ORT_CPU, TENSORRT_H200
from graphopt.analysis.cost.saved import machine_for
from graphopt.analysis.cost.sizes import Sizes, evaluate
from graphopt.analysis.cost.traffic import is_view, traffic

__all__ = [
    "ORT_CPU",
    "TENSORRT_H200",
    "KernelCost",
    "Machine",
    "NodeCost",
    "Sizes",
    "Work",
    "estimate",
    "evaluate",
    "is_view",
    "kernel_costs",
    "machine_for",
    "node_cost",
    "traffic",
    "work_of",
    "workspace",
]
