"""Seconds that nodes and graphs take on a target.

    seconds of a node = overhead + max(work x seconds for a unit of it, bytes moved / bandwidth)

(a roofline: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009). For a graph the kernels are added up
that the runtime executes once it has fused what it fuses itself (`analysis.runtime_fusion`): what is worked into a
kernel costs its arithmetic and moves nothing, and constants cost nothing.

What a kernel takes hangs on more than its shapes, so that only large differences mean something; see docs/cost.md for
how well it orders the nodes of real models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.analysis.cost.kinds import spilled, work_of
from graphopt.analysis.cost.machine import Machine
from graphopt.analysis.cost.machines import ORT_CPU
from graphopt.analysis.cost.sizes import Sizes
from graphopt.analysis.cost.traffic import size_of, traffic
from graphopt.ir import Graph, Model, Node

if TYPE_CHECKING:
    from graphopt.analysis.runtime_fusion import Region


@dataclass(frozen=True)
class KernelCost:
    """What one kernel of the runtime costs. region: the nodes in it. seconds: all of them; bytes: moved. known: whether
    all shapes were; if not, only the overhead is in the seconds."""

    region: Region
    seconds: float
    bytes: int
    known: bool


def estimate(what: Node | Graph | Model, sizes: Sizes | None = None, machine: Machine | None = None) -> float:
    """Seconds that a node takes by itself, or a graph or model as the runtime fuses it.

    sizes: numbers for symbols (1 each). machine: the target (`ORT_CPU`). Bodies of a Loop or Scan count once, both
    branches of an If count. A node whose shapes are not known counts as its overhead.

    >>> from graphopt import ir
    >>> from graphopt.analysis.shapes import infer
    >>> from onnx import parser
    >>> text = 'g (float[N, 64] x) => (float[N, 64] y) { a = Elu(x)  y = Relu(a) }'
    >>> model = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text))
    >>> infer(model)
    >>> slow, fast = [estimate(node, Sizes({"N": 1000})) for node in model.graph]
    >>> slow > 5 * fast, round(estimate(model, Sizes({"N": 1000})) / (slow + fast), 3)
    (True, 1.0)
    """
    sizes, machine = sizes if sizes is not None else Sizes(), machine or ORT_CPU
    if isinstance(what, Node):
        return alone(what, sizes, machine)
    return sum(cost.seconds for cost in kernel_costs(what, sizes, machine))


def alone(node: Node, sizes: Sizes, machine: Machine) -> float:
    """Seconds of one node that is fused with nothing."""
    work, moved = work_of(node, sizes, machine), traffic(node, sizes)
    if work is None:
        return machine.overhead
    compute = work.units * machine.seconds_of(work.kind) + spilled(node, sizes, machine) / machine.memory_bandwidth
    return machine.overhead + max(compute, _transfer(moved or 0, machine))


def kernel_costs(
    what: Graph | Model, sizes: Sizes | None = None, machine: Machine | None = None
) -> Iterator[KernelCost]:
    """What each kernel costs that the runtime executes, bodies included."""
    from graphopt.analysis.runtime_fusion import kernels

    sizes, machine = sizes if sizes is not None else Sizes(), machine or ORT_CPU
    pending = [what.graph if isinstance(what, Model) else what]
    while pending:
        graph = pending.pop()
        for region in kernels(graph, machine.runtime, *machine.widths[:1]):
            yield region_cost(region, sizes, machine)
            pending.extend(body for node in region.nodes for body in node.subgraphs)


def region_cost(region: Region, sizes: Sizes, machine: Machine) -> KernelCost:
    """Seconds and bytes of nodes that run as one kernel."""
    if not region.nodes:
        return _layout_cost(region, sizes, machine)
    if len(region.nodes) == 1 and not region.is_renamed:
        moved = traffic(region.root, sizes)
        known = moved is not None and work_of(region.root, sizes, machine) is not None
        return KernelCost(region, alone(region.root, sizes, machine), moved or 0, known)
    moved = _moved(region, sizes)
    if moved is None:
        return KernelCost(region, machine.overhead, 0, False)
    compute = sum(_inside(node, region, sizes, machine) for node in region.nodes)
    if region.kernel in machine.seconds:  # a kernel of its own that was measured
        whole = size_of(region.root.outputs[:1], sizes) or 0
        compute = machine.seconds[region.kernel] * whole / 4
    return KernelCost(region, machine.overhead + max(compute, _transfer(moved, machine)), moved, True)


def _layout_cost(region: Region, sizes: Sizes, machine: Machine) -> KernelCost:
    """A kernel that reorders a value, or only gives it another shape."""
    moved = size_of([region.value], sizes)
    if region.kernel == "Reshape" or moved is None:
        return KernelCost(region, machine.overhead, 0, moved is not None)
    seconds = max(machine.seconds_of("reorder") * moved / 4, _transfer(2 * moved, machine))
    return KernelCost(region, machine.overhead + seconds, 2 * moved, True)


def _inside(node: Node, region: Region, sizes: Sizes, machine: Machine) -> float:
    """Seconds of a node's arithmetic inside a kernel. What is cheap is hidden behind the products that a kernel is made
    of, and what is folded into weights is gone."""
    work = None if node in region.folded else work_of(node, sizes, machine)
    if work is None or (region.anchor is not node and work.kind in _HIDDEN):
        return 0.0
    return work.units * machine.seconds_of(work.kind) + spilled(node, sizes, machine) / machine.memory_bandwidth


_HIDDEN = frozenset(("add", "copy", "Abs", "Clip", "HardSigmoid", "LeakyRelu", "Mul", "Relu", "BatchNormalization"))


def _moved(region: Region, sizes: Sizes) -> int | None:
    """Bytes that come from outside of a region, and those of its result."""
    inside = {value for node in region.nodes for value in node.outputs}
    read = {value: None for node in region.nodes for value in node.inputs if value is not None and value not in inside}
    return size_of([*read, *region.root.outputs], sizes)


def _transfer(moved: int, machine: Machine) -> float:
    return moved / (machine.bandwidth if moved <= machine.cache else machine.memory_bandwidth)
