"""Operators written out, in whatever spelling: what ONNX Runtime, or a pass that comes later, makes one operator of.

A product is looked at as a whole: however its factors, quotients and constants are arranged, GELU is x (1 + erf(x /
sqrt 2)) and a half; HardSwish x, clip(x + 3, 0, 6) and a sixth; SiLU x and sigmoid(x); Mish x and tanh(softplus(x)).
A normalization is a quotient by something computed from a mean of squares, with its scale and shift.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.runtime_fusion.region import (
    Region,
    all_read_in,
    inner,
    near,
    number,
    only_reader,
    operands,
    ordered,
)
from graphopt.ir import Node, Value

AFFINE = frozenset(("Add", "Div", "Mul", "Sub"))
NORMS = frozenset(("Pow", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSumSquare", "Sqrt"))
REACH = 3  # operators between a norm and the quotient that it enters, and of scale and shift behind that
_MOST = 12  # nodes of a product


@dataclass
class Product:
    """A tree of Mul and Div whose inner values nothing else reads.

    above, below: the live factors, and those divided by. constant: the product of the constant ones; None where one
    is no single number. nodes: of the tree.
    """

    above: list[Value]
    below: list[Value]
    constant: float | None
    nodes: list[Node]


@dataclass(frozen=True)
class Gate:
    """What x is multiplied by. constant: the factor that belongs to it."""

    kernel: str
    x: Value
    constant: float
    nodes: tuple[Node, ...]
    needs_x: bool = True


def region_with(node: Node) -> Region | None:
    """The operator written out that a node with a constant is part of."""
    reader: Node | None = node
    for _ in range(_MOST):
        if reader is None or reader.domain or len(reader.outputs) != 1:
            break
        found = activation(reader)
        if found is not None and node in found.nodes:
            return found
        reader = only_reader(reader.output)
    return normalization(node)


def activation(root: Node) -> Region | None:
    """The activation that a Mul or Div is the end of."""
    if root.op not in ("Mul", "Div") or root.domain:
        return None
    product = flatten(root)
    if product is None or product.below or product.constant is None or len(product.above) > 2:
        return None
    for place, value in enumerate(product.above):
        rest = product.above[:place] + product.above[place + 1 :]
        for gate in gates(value):
            alone = not rest and not gate.needs_x
            if (alone or rest == [gate.x]) and near(product.constant, gate.constant):
                kernel = "HardSigmoid" if alone else gate.kernel
                curve = next((node for node in gate.nodes if node.op not in AFFINE), root)
                return Region(kernel, ordered([*gate.nodes, *reversed(product.nodes)], root), curve)
    return None


def flatten(root: Node) -> Product | None:
    """All factors of a product or quotient."""
    found = Product([], [], 1.0, [])
    pending: list[tuple[Node, bool]] = [(root, False)]
    while pending:
        node, inverted = pending.pop()
        found.nodes.append(node)
        if len(found.nodes) > _MOST:
            return None
        for slot, value in enumerate(node.inputs[:2]):
            if value is None:
                return None
            turned = inverted != (node.op == "Div" and slot == 1)
            deeper = inner(value, "Mul", "Div")
            if deeper is not None:
                pending.append((deeper, turned))
            elif value.is_const:
                found.constant = _times(found.constant, number(value), turned)
            else:
                (found.below if turned else found.above).append(value)
    return found


def _times(constant: float | None, factor: float | None, inverted: bool) -> float | None:
    if constant is None or not factor or (inverted and abs(factor) < 1e-30):
        return None
    return constant / factor if inverted else constant * factor


def gates(value: Value) -> list[Gate]:
    """The readings of a value as a gate."""
    found = [_one_more(value), _sigmoid(value), _mish(value), _clipped(value)]
    return [gate for gate in found if gate is not None]


def _one_more(value: Value) -> Gate | None:
    """1 + erf(c x), 1 + tanh(polynomial of x), and their halves."""
    node = inner(value, "Add")
    if node is None:
        return None
    live, const = operands(node)
    nodes: tuple[Node, ...]
    halved = inner(live, "Mul", "Div")
    if near(number(const), 0.5) and halved is not None:
        curve, factor = operands(halved)
        if not near(number(factor), 0.5 if halved.op == "Mul" else 2.0):
            return None
        nodes, constant = (halved, node), 1.0
    elif near(number(const), 1.0):
        curve, nodes, constant = live, (node,), 0.5
    else:
        return None
    made = inner(curve, "Erf", "Tanh")
    if made is None or made.inputs[0] is None:
        return None
    if made.op == "Erf":
        scaled = inner(made.inputs[0], "Mul", "Div")
        x, factor = operands(scaled) if scaled is not None else (None, None)
        if scaled is None or x is None or number(factor) is None:
            return Gate("Gelu", made.inputs[0], constant, (made, *nodes))
        return Gate("Gelu", x, constant, (scaled, made, *nodes))
    inside, x = _polynomial(made)
    return None if x is None else Gate("FastGelu", x, constant, (*inside, made, *nodes))


def _polynomial(tanh: Node) -> tuple[list[Node], Value | None]:
    """The nodes of a polynomial of one value, and that value: all that comes from outside."""
    nodes, leaves, pending = [tanh], dict[Value, None](), [tanh.inputs[0]]
    while pending and len(nodes) <= _MOST:
        value = pending.pop()
        node = None if value is None else value.producer
        if value is None:
            return [], None
        inside = node is not None and node.op in ("Add", "Mul", "Pow") and not node.domain
        if node is None or not inside or not all_read_in(value, nodes):
            leaves[value] = None
        elif node not in nodes:
            nodes.append(node)
            pending += [operand for operand in node.inputs if operand is not None and not operand.is_const]
    return nodes[:0:-1], next(iter(leaves)) if len(leaves) == 1 else None


def _sigmoid(value: Value) -> Gate | None:
    """sigmoid(x) and sigmoid(c x)."""
    node = inner(value, "Sigmoid")
    if node is None or node.inputs[0] is None:
        return None
    scaled = inner(node.inputs[0], "Mul")
    x, factor = operands(scaled) if scaled is not None else (None, None)
    if scaled is not None and x is not None and number(factor):
        return Gate("QuickGelu", x, 1.0, (scaled, node))
    return Gate("QuickGelu", node.inputs[0], 1.0, (node,))


def _mish(value: Value) -> Gate | None:
    """tanh(softplus(x))"""
    node = inner(value, "Tanh")
    softplus = None if node is None else inner(node.inputs[0], "Softplus")
    if node is None or softplus is None or softplus.inputs[0] is None:
        return None
    return Gate("Mish", softplus.inputs[0], 1.0, (softplus, node))


def _clipped(value: Value) -> Gate | None:
    """clip(x + 3, 0, 6), in its spellings; and any clamp of it to these two numbers."""
    nodes: list[Node] = []
    bounds: set[float] = set()
    current: Value | None = value
    for _ in range(REACH):
        node = inner(current, "Clip", "Max", "Min", "Relu")
        if node is None:
            break
        nodes.append(node)
        bounds |= {0.0} if node.op == "Relu" else _bounds(node)
        live = [operand for operand in node.inputs if operand is not None and not operand.is_const]
        current = live[0] if len(live) == 1 else None
    line = inner(current, "Add", "Sub")
    if line is None or not nodes or bounds != {0.0, 6.0}:
        return None
    x, shift = operands(line)
    if x is None or not near(number(shift), 3.0 if line.op == "Add" else -3.0):
        return None
    return Gate("HardSwish", x, 1 / 6, (line, *reversed(nodes)), needs_x=False)


def _bounds(node: Node) -> set[float]:
    given = {node.attr("min", None), node.attr("max", None)} if node.op == "Clip" else set()
    found = {number(value) for value in node.inputs[1:] if value is not None and value.is_const}
    if node.op in ("Max", "Min"):
        found |= {number(value) for value in node.inputs[:1] if value is not None and value.is_const}
    return {float(bound) for bound in given | found if bound is not None}


def normalization(node: Node) -> Region | None:
    """The normalization whose scale or shift an operator with a constant is."""
    steps: list[Node] = []
    current: Node | None = node
    for _ in range(REACH + 1):
        if current is None or current.op not in AFFINE or current.domain:
            return None
        live = [value for value in current.inputs if value is not None and not value.is_const]
        if len(live) == len(current.inputs):
            break
        steps.append(current)
        current = live[0].producer if live else None
    if current is None or current.op not in ("Div", "Mul") or not steps or current in steps:
        return None
    above = _above(current)
    if not any(item.op in NORMS for item in above):
        return None
    return Region("LayerNormalization", ordered([*reversed(above), current, *reversed(steps)], node), current)


def _above(node: Node) -> list[Node]:
    """What a node is computed from, within reach, nearest first."""
    level, found = [node], []
    for _ in range(REACH):
        level = [v.producer for item in level for v in item.inputs[:2] if v is not None and v.producer is not None]
        found += level
    return found
