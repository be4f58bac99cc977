"""Decides what becomes integers: units, the border between the two worlds, and a scale for each tensor on this side.

The border is the cheapest cut: what each unit costs in floats and in integers, plus a QuantizeLinear for each float
tensor that integers are read from, plus a DequantizeLinear for each integer tensor that is read as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from onnx import TensorProto

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.ir import Graph, Node, Value, captures
from graphopt.passes.quantize._cut import Cut
from graphopt.passes.quantize._ort_forms import bounds_of
from graphopt.passes.quantize._qdq_forms import Form, Target, Unit
from graphopt.passes.quantize._scales import Scale, scale_between

MUST = 1e15  # as good as infinite, but a number
Refuse = Callable[[Node, str], None]
Chosen = Callable[[Node, bool], bool]


@dataclass
class Plan:
    """Of one scope. units: those that become integers, in order. floating: units that could, but do not pay."""

    units: list[Unit]
    floating: list[Unit]
    scales: dict[Value, Scale] = field(default_factory=dict)


def plan(
    graph: Graph, target: Target, ranges: Ranges, chosen: Chosen, refuse: Refuse, dtype: str, force: bool = False
) -> Plan:
    """chosen(node, anchor): whether a node may be quantized. force: every anchor is, whether that pays or not."""
    units = list(_units(graph, target, ranges, chosen, refuse))
    sides = _border(units, target, force)
    inside = [unit for unit, side in zip(units, sides, strict=True) if side]
    outside = [unit for unit, side in zip(units, sides, strict=True) if not side]
    for unit in outside:
        if unit.form.anchor:
            refuse(unit.root, "it does not pay here, by the model of cost: Q and DQ would take longer than it saves")
    return Plan(inside, outside, _scales(inside, ranges, dtype))


# -- units -------------------------------------------------------------------------------------------------------------


def _units(graph: Graph, target: Target, ranges: Ranges, chosen: Chosen, refuse: Refuse) -> Iterable[Unit]:
    taken: set[Node] = set()
    found: list[Unit] = []
    for node in reversed(graph.nodes):  # a Mul is seen before the Sigmoid that it may take with it
        if node in taken or node.op in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        unit = _unit(node, target, ranges, chosen, refuse)
        if unit is not None and not taken.intersection(unit.nodes):
            taken.update(unit.nodes)
            found.append(unit)
    return reversed(found)


def _unit(node: Node, target: Target, ranges: Ranges, chosen: Chosen, refuse: Refuse) -> Unit | None:
    act: Node | None = None
    root = node
    bounds = bounds_of(node)
    if bounds is not None:  # the activation of what is before it, if it is the only reader
        before = node.inputs[0].producer if node.inputs[0] is not None else None
        if before is not None and _alone(before, node) and bounds_of(before) is None and chosen(node, False):
            form = _form(before, target, chosen)
            if isinstance(form, tuple) and not form[0].shares:
                root, act = before, node
    form = _form(root, target, chosen)
    if isinstance(form, str):
        if form and root.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            refuse(root, form)
        return None
    made, inner = form
    low, high = made.clamps
    if act is not None:
        assert bounds is not None
        low, high = max(low, bounds[0]), min(high, bounds[1])
    unit = Unit(root, made, inner, act, (low, high), made.float_ns)
    reason = _untyped(unit) or _unranged(unit, ranges)
    if reason:
        if made.anchor:
            refuse(root, reason)
        return None
    return unit


def _form(node: Node, target: Target, chosen: Chosen) -> tuple[Form, tuple[Node, ...]] | str:
    inner = target.inner(node)
    form = target.form(node, inner)
    if isinstance(form, str):
        return form
    if not all(chosen(each, form.anchor) for each in (node, *inner)):
        return "kept float, as asked for" if form.anchor else ""
    return form, inner


def _alone(before: Node, node: Node) -> bool:
    """Whether `node` alone reads what `before` makes."""
    value = before.output
    return len(before.outputs) == 1 and list(value.users.items()) == [(node, 1)] and not value.outs


def _untyped(unit: Unit) -> str:
    if all(value.is_const for value in unit.inputs):
        return "it reads constants only"
    for value in (*unit.inputs, *unit.outputs):
        if value.dtype != TensorProto.FLOAT:
            return "not float32"
        if value.graph is not unit.root.graph and not value.is_const:
            return "it reads a value of an enclosing scope"
    return ""


def _unranged(unit: Unit, ranges: Ranges) -> str:
    missing = [v.name for v in unit.inputs if not v.is_const and _range(v, ranges) is None]
    if not unit.form.shares and not unit.form.float_out:
        missing += [value.name for value in unit.outputs if _range(value, ranges) is None]
    return f"no range is known of {missing[0]}: calibrate this model" if missing else ""


MOVES = frozenset(
    "Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather Expand Tile MaxPool Resize Pad Relu Clip".split()
)


def _range(value: Value, ranges: Ranges) -> TensorRange | None:
    """The range of a value, or of what it takes elements from."""
    while value.name not in ranges:
        node = value.producer
        if node is None or node.domain or node.op not in MOVES or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return ranges[value.name]


APART = frozenset(
    "ConvTranspose Gemm MatMul LSTM GRU RNN Shape Size If Loop Scan TopK NonMaxSuppression NonZero".split()
)


def exposed(graph: Graph) -> set[Node]:
    """Convolutions from which a value that the body of an If, Loop or Scan reads is made, by way of elements.

    ONNX Runtime 1.31 moves the Transposes around integer convolutions down such a way, and where that ends in a body,
    an assertion ends the process.
    """
    found: set[Node] = set()
    pending = [value for holder in graph.holders for value in captures(holder) if value.graph is graph]
    seen = set(pending)
    while pending:
        node = pending.pop().producer
        if node is None or node.op in APART:
            continue
        if node.op == "Conv":
            found.add(node)
            continue
        more = {value for value in node.inputs if value is not None and value.graph is graph} - seen
        seen |= more
        pending += more
    return found


# -- the border --------------------------------------------------------------------------------------------------------


def _border(units: list[Unit], target: Target, force: bool) -> list[bool]:
    cut = Cut()
    things = {}
    maker = {value: unit for unit in units for value in unit.outputs}
    for unit in units:
        floats = MUST if force and unit.form.anchor else unit.float_ns
        alone = 0.0 if unit.inputs[0] in maker else unit.form.lone_ns
        things[unit] = cut.add(floats, unit.form.int8_ns + alone)
    owner = {node: unit for unit in units for node in unit.nodes}
    readers: dict[Value, set[Unit]] = {}
    for unit in units:
        for value in unit.inputs:
            if not value.is_const:
                readers.setdefault(value, set()).add(unit)
        if unit.form.lone_ns and unit.inputs[0] in maker:
            cut.link(things[unit], things[maker[unit.inputs[0]]], unit.form.lone_ns)
    for value in {*maker, *readers}:
        _tensor(cut, value, maker.get(value), readers.get(value, set()), owner, things, target)
    return cut.sides()[: len(units)]  # they were the first to be added


def _tensor(
    cut: Cut,
    value: Value,
    unit: Unit | None,
    readers: set[Unit],
    owner: dict[Node, Unit],
    things: dict[Unit, int],
    target: Target,
) -> None:
    """Q where floats are made and some reader takes integers; DQ where integers are made and some reader floats."""
    quantize = target.quantize_ns(value)
    if readers:
        some = cut.add(0.0, 0.0 if unit is not None else quantize)
        for reader in readers:
            cut.link(things[reader], some, MUST)
        if unit is not None:
            cut.link(some, things[unit], quantize)
    if unit is None or unit.form.float_out:
        return
    back = target.dequantize_ns(value)
    floating = value.outs > 0 or any(owner.get(user) is None for user in value.users)
    if floating:
        cut.link(things[unit], _float(cut), back)
        return
    all_integers = cut.add(0.0, 0.0)
    cut.link(things[unit], all_integers, back)
    for reader in readers:
        cut.link(all_integers, things[reader], MUST)


def _float(cut: Cut) -> int:
    """A thing that is float whatever happens."""
    return cut.add(0.0, MUST)


# -- scales ------------------------------------------------------------------------------------------------------------


def _scales(units: list[Unit], ranges: Ranges, dtype: str) -> dict[Value, Scale]:
    groups = Groups()
    made = {value for unit in units for value in unit.outputs}
    readers: dict[Value, int] = {}
    for unit in units:
        for value in unit.inputs:
            readers[value] = readers.get(value, 0) + 1
    for unit in units:
        if unit.form.shares:
            for value in unit.outputs:
                groups.join(unit.inputs[0], value)
        elif unit.form.joins:
            for value in unit.inputs:
                if value in made and readers[value] == 1:  # nobody else would have it finer
                    groups.join(unit.output, value)
        for value in (*unit.inputs, *unit.outputs):
            groups.add(value)
    moved = {value for unit in units if unit.form.shares for value in unit.outputs}
    narrowed = _narrowed(units, ranges)
    scales: dict[Value, Scale] = {}
    for members in groups.all():
        found = [narrowed.get(v) or _ends(v, ranges) for v in members if v not in moved and not v.is_const]
        known = [ends for ends in found if ends is not None]
        if known:
            low, high = min(e[0] for e in known), max(e[1] for e in known)
            scale = scale_between(low, high, dtype)
            scales.update(dict.fromkeys(members, scale))
    return scales


def _ends(value: Value, ranges: Ranges) -> tuple[float, float] | None:
    found = _range(value, ranges)
    return None if found is None else (found.low, found.high)


def _narrowed(units: list[Unit], ranges: Ranges) -> dict[Value, tuple[float, float]]:
    """Ranges of values whose only readers do not tell all numbers apart."""
    narrowed: dict[Value, tuple[float, float]] = {}
    for unit in units:
        if unit.form.narrow is None:
            continue
        value = unit.inner[0].inputs[0] if unit.inner else unit.inputs[0]
        if value is None or value.outs or any(user not in unit.nodes for user in value.users):
            continue
        found = _range(value, ranges)
        if found is not None:
            low, high = unit.form.narrow(found)
            narrowed[value] = (low, max(low, high))
    return narrowed


class Groups:
    """Values that are to have one scale: disjoint sets."""

    def __init__(self) -> None:
        self._parent: dict[Value, Value] = {}

    def add(self, value: Value) -> None:
        """A value, in a group of its own so far."""
        self._parent.setdefault(value, value)

    def find(self, value: Value) -> Value:
        """The one that stands for the group."""
        self.add(value)
        while self._parent[value] is not value:
            self._parent[value] = self._parent[self._parent[value]]
            value = self._parent[value]
        return value

    def join(self, a: Value, b: Value) -> None:
        """One group of two."""
        self._parent[self.find(a)] = self.find(b)

    def all(self) -> list[list[Value]]:
        """The groups."""
        found: dict[Value, list[Value]] = {}
        for value in self._parent:
            found.setdefault(self.find(value), []).append(value)
        return list(found.values())
