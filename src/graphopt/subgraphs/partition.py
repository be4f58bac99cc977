"""A model cut into parts that run one after the other.

Every node gets a stage, no smaller than those of the nodes it reads from; the nodes of one stage are a part. As stages
only grow along the edges, no two parts can wait for each other. (Cutting at supported operators this way is the
level-based partitioning of Chen et al., TVM, OSDI 2018, section 3: each change between kinds begins a new level.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from graphopt.analysis.cost import node_cost
from graphopt.analysis.shapes import ensure_types
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.external import shown
from graphopt.ir.order import reads_of
from graphopt.subgraphs.boundary import types_of
from graphopt.subgraphs.cut import cut
from graphopt.subgraphs.extract import Path, model_of
from graphopt.subgraphs.region import Region, region_of

__all__ = ["Part", "Partition", "partition"]

Predicate = Callable[[Node], bool]


@dataclass(frozen=True)
class Part:
    """One part. model: with its weights. inputs, outputs: names of the tensors that it reads and makes; they are the
    same in all parts. kind: "supported", "rest", or "" where the cut was not by operators."""

    model: Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Partition:
    """parts: in an order in which they can be run; inputs, outputs: the interface of the whole; name: of its graph."""

    parts: tuple[Part, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = "model"


def partition(
    model: ModelProto | Path | Model,
    *,
    cuts: Sequence[str] | None = None,
    parts: int | None = None,
    supported: Collection[str] | Predicate | None = None,
    kinds: tuple[str, str] = ("supported", "rest"),
) -> Partition:
    """Cuts a model into parts, one of three ways.

    cuts: names of tensors; whatever depends on one is in a later part than what makes it. parts: so many, of about the
    same number of FLOPs each (nodes count where FLOPs are not known). supported: operators (or a function of a
    `graphopt.ir.Node`, or "tensorrt" for what its parser takes) that one runtime takes; parts are then all of one kind,
    of which `kinds` gives the names.

    Bodies of If, Loop and Scan stay with their nodes. Raises GraphoptError for a cut that is no tensor computed in the
    main graph, fewer than one part, and tensors in between of which the type is not known.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Neg(x)  b = Erf(a)  y = Relu(b) }')
    >>> [(part.kind, part.inputs, part.outputs) for part in partition(m, supported={"Neg", "Relu"}).parts]
    [('supported', ('x',), ('a',)), ('rest', ('a',), ('b',)), ('supported', ('b',), ('y',))]
    """
    source = model_of(model)
    if sum(way is not None for way in (cuts, parts, supported)) != 1:
        raise GraphoptError("say how to cut the model: by cuts, by a number of parts, or by supported operators")
    graph = source.graph
    nodes = [node for node in graph if not _is_constant(node)]
    if not nodes:
        raise GraphoptError("the model computes nothing, so it has no parts")
    labels: dict[int, str] = {}
    if cuts is not None:
        stages = _at_cuts(graph, nodes, cuts)
    elif parts is not None:
        stages = _by_cost(source, nodes, parts)
    else:
        assert supported is not None
        if supported == "tensorrt":
            ensure_types(source)
        stages, labels = _by_kind(nodes, supported if callable(supported) else _one_of(supported), kinds)
    return _parts(source, nodes, stages, labels)


def _is_constant(node: Node) -> bool:
    return node.op == "Constant" and not node.domain and not node.output.outs


def _makers(node: Node, graph: Graph) -> list[Node]:
    return [value.producer for value in reads_of(node) if value.producer is not None and value.graph is graph]


def _one_of(ops: Collection[str]) -> Predicate:
    if ops == "tensorrt":
        from graphopt.targets.tensorrt_parser import why_not_parsed

        return lambda node: not why_not_parsed(node)
    known = frozenset([ops] if isinstance(ops, str) else ops)
    return lambda node: node.op in known


def _at_cuts(graph: Graph, nodes: Sequence[Node], cuts: Sequence[str]) -> dict[Node, int]:
    ends: set[Value] = set()
    for name in cuts:
        value = graph.values.get(name)
        if value is None or value.producer is None:
            raise GraphoptError(f"{shown(name)} is no tensor that the main graph computes, so it cannot be cut there")
        ends.add(value)
    stages: dict[Node, int] = {}
    for node in nodes:
        after = [
            stages[v.producer] + (v in ends) for v in reads_of(node) if v.producer is not None and v.producer in stages
        ]
        stages[node] = max(after, default=0)
    return stages


def _by_cost(model: Model, nodes: Sequence[Node], parts: int) -> dict[Node, int]:
    if parts < 1:
        raise GraphoptError(f"a model cannot be cut into {parts} parts; ask for 1 or more")
    ensure_types(model)
    costs = [1 + (node_cost(node).flops or 0) for node in nodes]
    total, done, stages = sum(costs), 0, {}
    for node, cost in zip(nodes, costs, strict=True):
        stages[node] = min(parts - 1, (2 * done + cost) * parts // (2 * total))  # by where its middle lies
        done += cost
    return stages


def _by_kind(nodes: Sequence[Node], takes: Predicate, kinds: tuple[str, str]) -> tuple[dict[Node, int], dict[int, str]]:
    """Even stages are of the first kind, odd ones of the second."""
    stages: dict[Node, int] = {}
    for node in nodes:
        odd = 0 if takes(node) else 1
        least = max((stages[maker] for maker in _makers(node, node.graph) if maker in stages), default=0)
        stages[node] = least + (least % 2 != odd)
    return stages, {stage: kinds[stage % 2] for stage in stages.values()}


def _parts(model: Model, nodes: Sequence[Node], stages: dict[Node, int], labels: dict[int, str]) -> Partition:
    members: dict[int, list[Node]] = {}
    for node in nodes:
        members.setdefault(stages[node], []).append(node)
    regions = [(stage, region_of(members[stage])) for stage in sorted(members)]
    ends = [value for _, region in regions for value in (*region.inputs, *region.outputs)]
    types = types_of(model, ends)
    found = []
    fixed = [value for value in model.graph.outputs if value.producer is None and not value.is_input]
    if fixed:  # constants that the model returns: a part without nodes
        held = Region(model.graph, (), (), tuple(fixed), tuple(fixed))
        piece = cut(held, types_of(model, fixed), name=f"{model.graph.name}_constants")
        found.append(Part(piece, (), tuple(value.name for value in fixed)))
    for number, (stage, region) in enumerate(regions):
        piece = cut(region, types, name=f"{model.graph.name or 'model'}_{number}")
        names = tuple(value.name for value in region.inputs), tuple(value.name for value in region.outputs)
        found.append(Part(piece, *names, labels.get(stage, "")))
    inputs = tuple(value.name for value in model.graph.inputs)
    return Partition(tuple(found), inputs, tuple(value.name for value in model.graph.outputs), model.graph.name)
