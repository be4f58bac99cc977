"""The same operators, weights and all, on several inputs: how far they go on alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from graphopt.analysis.batching import Plan, Work
from graphopt.ir import Node, Value
from graphopt.passes.horizontal._join import GATHER, computes_sizes, concat_of, source_of
from graphopt.passes.horizontal._levels import attributes, axis_in, casts_to_what_moves, estimate, is_single, operand
from graphopt.passes.horizontal._siblings import BINARY, UNARY

_HALF = 10  # TensorProto.FLOAT16
_FEW = 8  # readers of a value that are looked at
_ALONE = UNARY | frozenset("Cast Ceil Cos Erf Floor Identity Log Not Reciprocal Round Sin Sqrt".split())
_PER_ITEM = frozenset(
    "AveragePool Conv ConvTranspose GlobalAveragePool GlobalMaxPool InstanceNormalization LRN LpPool MaxPool".split()
)
_WEIGHTED = frozenset("Conv ConvTranspose Gemm MatMul".split())


@dataclass
class Tower:
    """Lanes of equal operators.

    rows: row 0 has what the lanes begin with, row j the results of stage j - 1, one value a lane. stages: nodes, one a
    lane, and for each operand the row that it is of, or None for a constant. last: the node of the first stage in front
    of which all that the lanes begin with is there.
    """

    rows: list[list[Value]]
    last: Node
    stages: list[tuple[list[Node], list[int | None]]] = field(default_factory=list)

    @property
    def lanes(self) -> int:
        """How many."""
        return len(self.rows[0])

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return [node for stage, _ in self.stages for node in stage]

    def exits(self) -> list[int]:
        """The rows that others read, or that the graph returns."""
        inside = set(self.nodes)
        return [
            row
            for row, values in enumerate(self.rows)
            if row and any(v.outs or any(user not in inside for user in v.users) for v in values)
        ]


def grow(first: list[Node], last: Node, level: dict[Node, int]) -> Tower:
    """The tower that begins with these nodes, equal but for their first operand; `last` is the last one of them."""
    tower = Tower([[node.inputs[0] for node in first if node.inputs[0] is not None]], last)
    places = {value: (0, lane) for lane, value in enumerate(tower.rows[0])}
    taken: set[Node] = set()
    _add(tower, first, places, taken)
    row = 1
    while row < len(tower.rows):
        for user in list(tower.rows[row][0].users)[:_FEW]:
            stage = _stage(tower, user, row, places, level) if user not in taken else None
            if stage is not None and not taken.intersection(stage):
                _add(tower, stage, places, taken)
        row += 1
    return tower


def _add(tower: Tower, stage: list[Node], places: dict[Value, tuple[int, int]], taken: set[Node]) -> None:
    operands = [places[v][0] if v is not None and v in places else None for v in stage[0].inputs]
    tower.stages.append((stage, operands))
    tower.rows.append([node.output for node in stage])
    places.update((node.output, (len(tower.rows) - 1, lane)) for lane, node in enumerate(stage))
    taken.update(stage)


def _stage(
    tower: Tower, user: Node, row: int, places: dict[Value, tuple[int, int]], level: dict[Node, int]
) -> list[Node] | None:
    """One node a lane, equal to `user`, which reads the first lane."""
    if user not in level or not keeps_items_apart(user, [v for v in user.inputs if v is not None and v in places]):
        return None
    if any(places[v][1] != 0 for v in user.inputs if v is not None and v in places):
        return None
    stage, slot = [user], list(user.inputs).index(tower.rows[row][0])
    like = (user.op, attributes(user), level[user])
    for lane in range(1, tower.lanes):
        readers = list(tower.rows[row][lane].users)[: 2 * _FEW]
        found = [
            node
            for node in readers
            if node.graph is user.graph
            and (node.op, attributes(node), level.get(node)) == like
            and not node.domain
            and len(node.inputs) == len(user.inputs)
            and len(node.outputs) == 1
            and node.inputs[slot] is tower.rows[row][lane]
            and all(_fits(tower, a, b, lane, places) for a, b in zip(user.inputs, node.inputs, strict=True))
        ]
        if len(found) != 1:
            return None
        stage.append(found[0])
    return stage


def _fits(tower: Tower, a: Value | None, b: Value | None, lane: int, places: dict[Value, tuple[int, int]]) -> bool:
    """Whether b is in this lane what a is in the first."""
    if a is None or b is None or a not in places:
        return a is b
    return tower.rows[places[a][0]][lane] is b


def keeps_items_apart(node: Node, inside: Sequence[Value]) -> bool:
    """Whether what the node makes of each item along the first axis depends on that item alone. inside: the operands
    that vary, of known shape where that matters; all others have to be constants."""
    if node.domain or len(node.outputs) != 1 or not node.inputs or node.inputs[0] is None:
        return False
    if not casts_to_what_moves(node):
        return False
    if any(v is not None and v not in inside and not v.is_const for v in node.inputs):
        return False
    if node.op in BINARY or node.op == "PRelu":
        return _broadcasts_within(node, inside)
    if node.inputs[0] not in inside or sum(v in inside for v in node.inputs if v is not None) != 1:
        return False
    rank, opset = node.inputs[0].rank, node.graph.opset()
    if node.op in _ALONE or node.op in _PER_ITEM:
        return True
    if node.op == "Clip":
        return all(v is None or v.shape in ((), (1,)) for v in node.inputs[1:])
    if node.op == "Flatten":
        return int(node.attr("axis")) == 1
    if node.op in ("Softmax", "LogSoftmax", "LayerNormalization"):
        return axis_in(node, rank, -1 if node.op == "LayerNormalization" or opset >= 13 else 1) not in (0, None)
    if node.op == "BatchNormalization":
        return opset >= 7 and not node.attr("training_mode") and (rank or 0) > 1
    if node.op == "Transpose":
        return (node.attr("perm") or (1,))[0] == 0
    return is_product_of_rows(node)


def is_product_of_rows(node: Node) -> bool:
    """Whether it is a MatMul or Gemm with a constant matrix that treats rows of its first operand alike."""
    x, weight, bias = node.input(0), node.input(1), node.input(2)
    if x is None or weight is None or not weight.is_const or weight.rank != 2 or (x.rank or 0) < 2:
        return False
    if node.op == "Gemm":
        dims = bias.shape if bias is not None else ()
        return not node.attr("transA") and dims is not None and (len(dims) < 2 or dims[0] == 1)
    return node.op == "MatMul"


def _broadcasts_within(node: Node, inside: Sequence[Value]) -> bool:
    """Whether an operator of two operands keeps the first axis: both have it, or a constant has none, or one of 1."""
    ranks = [v.rank for v in node.inputs if v is not None]
    if len(ranks) != 2 or None in ranks or node.graph.opset() < 7:
        return False
    shapes = [v.shape or () for v in node.inputs if v is not None]
    most = max(len(shape) for shape in shapes)
    firsts = []
    for value, shape in zip(node.inputs, shapes, strict=True):
        if value in inside:
            if len(shape) != most or most == 0 or shape[0] is None:
                return False
            firsts.append(shape[0])
        elif len(shape) == most and shape[0] != 1:
            return False
    return bool(firsts) and len(set(firsts)) == 1 and (node.op != "PRelu" or node.inputs[0] in inside)


def priced(tower: Tower, first: int) -> Plan:
    """What it costs as it is, and as one lane of all inputs. first: the number of items where it is not known."""
    plan = Plan()
    for stage, _ in tower.stages:
        plan.apart += [_work(stage[0], 1, first)] * tower.lanes
        plan.together.append(_work(stage[0], tower.lanes, first))
    size = tower.lanes * estimate(tower.rows[0][0].shape, first)
    found = source_of(tower.rows[0])
    inside = set(tower.nodes)
    if found is not None and found[2] == 0:
        free = all(not v.outs and inside.issuperset(v.users) for v in tower.rows[0])
        if found[0] == GATHER:
            plan.views += 1
            plan.copies_apart += [(0, size / tower.lanes)] * (tower.lanes * free)
        else:
            plan.copies_apart += [(tower.lanes, size)] * free
    else:
        plan.copies_together.append((tower.lanes, size))
    for row in tower.exits():
        size = tower.lanes * estimate(tower.rows[row][0].shape, first)
        if concat_of(tower.rows[row], 0) is not None:
            plan.copies_apart.append((tower.lanes, size))
        else:
            plan.copies_together.append((tower.lanes, size))
            plan.views += 3 * computes_sizes(tower.rows[row][0], 0)
    return plan


def _work(node: Node, lanes: int, first: int) -> Work:
    weight = node.input(1)
    size = lanes * estimate(node.output.shape, first)
    if node.op not in _WEIGHTED or weight is None or weight.shape is None:
        return Work(elements=size, nodes=0 if _is_merged_by_runtime(node) else 1)
    weights = prod(d for d in weight.shape if isinstance(d, int))
    half = weight.dtype == _HALF
    if node.op in ("Gemm", "MatMul"):
        columns = weight.shape[0 if node.op == "Gemm" and node.attr("transB") else 1]
        return Work(rows=size / max(1, int(columns or 1)), weights=weights, half=half)
    channels = max(1, int(weight.shape[0] or 1))
    places = size / channels if node.op == "Conv" else lanes * estimate(operand(node).shape, first) / channels
    return Work(other=places * weights * 1.4e-5, weights=weights, half=half)


def _is_merged_by_runtime(node: Node) -> bool:
    """Activations behind a weighted operator, and the bias of a MatMul."""
    x = next((v for v in node.inputs if v is not None and not v.is_const), None)
    maker = x.producer if x is not None and is_single(x) else None
    if maker is None:
        return False
    return (node.op in UNARY and maker.op in _WEIGHTED) or (node.op == "Add" and maker.op == "MatMul")
