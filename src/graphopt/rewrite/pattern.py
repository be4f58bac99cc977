"""Patterns: immutable trees that look like the expressions they match.

    P.Relu(P.Add(P.MatMul("x", const("W")), const("b")).as_("add"))

A string matches any value and binds it (the same name twice: the same value); `const` a constant; a number a constant
with that one value; `maybe` an input that may be left out; `one_of` alternatives; `rest` all further inputs; None an
input that is left out. Operands of commutative operators match in either order. Inner nodes must have no reader outside
the match unless they are `.shared()`: the engine sees to it, and that outputs not matched are not in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from graphopt.ir import Node, Value

COMMUTATIVE = frozenset(
    "Add And BitwiseAnd BitwiseOr BitwiseXor Equal Max Mean Min Mul Or Sum Xor".split()  # when they have two operands
)

FEW = 8  # readers that the inner node of a pattern can have at the most
Key = tuple[str, str]  # domain, operator


@dataclass(frozen=True)
class Pattern:
    """Base of all patterns."""


@dataclass(frozen=True)
class AnyValue(Pattern):
    """Any value, bound to a name."""

    name: str


@dataclass(frozen=True)
class Const(Pattern):
    """A constant, bound to a name; with `value`, one element equal to it (after rounding to the constant's dtype)."""

    name: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Maybe(Pattern):
    """An input that may be left out; its name is then bound to None."""

    inner: Pattern


@dataclass(frozen=True)
class Rest(Pattern):
    """All further inputs, bound to a name as a tuple."""

    name: str


@dataclass(frozen=True)
class OneOf(Pattern):
    """The first alternative that leads to a match of the whole."""

    options: tuple[Pattern, ...]


@dataclass(frozen=True)
class Op(Pattern):
    """A node with one of these operators, matched through one of its outputs.

    outputs: names to bind further outputs to; without, further outputs must not be in use.
    """

    ops: frozenset[str]
    operands: tuple[Pattern, ...] = ()
    domain: str = ""
    name: str = ""
    index: int = 0
    is_shared: bool = False
    outputs: tuple[str, ...] = ()
    commutes: bool = True

    def as_(self, name: str) -> Op:
        """Binds the node to a name."""
        return replace(self, name=name)

    def shared(self) -> Op:
        """Lets the node have readers outside the match: it stays where it is."""
        return replace(self, is_shared=True)

    def ordered(self) -> Op:
        """Operands match only in the order written."""
        return replace(self, commutes=False)

    def out(self, index: int) -> Op:
        """Matches through another output than the first."""
        return replace(self, index=index)

    def binding(self, *names: str) -> Op:
        """Binds the node's outputs; those further outputs may then be in use."""
        return replace(self, outputs=names)

    @cached_property
    def needs(self) -> tuple[tuple[int, frozenset[str]], ...]:
        """What must lie right below: input slots and the operators that may produce them."""
        constant = frozenset({"Constant"})
        below = ((i, p.ops if isinstance(p, Op) else constant) for i, p in enumerate(self.operands) if _is_solid(p))
        return tuple(below)

    def roots(self) -> Iterator[Key]:
        """What its own node can be: domain and operator."""
        for op in sorted(self.ops):
            yield self.domain, op


def _is_solid(pattern: Pattern) -> bool:
    return isinstance(pattern, (Op, Const))


class _Maker:
    """`P.Conv("x", ...)`; `P.op("Mul", "Div")(...)` for several operators; `P.of("com.microsoft").Gelu(...)`."""

    def __init__(self, domain: str = ""):
        self._domain = domain

    def of(self, domain: str) -> _Maker:
        return _Maker(domain)

    def op(self, *ops: str) -> _Call:
        return _Call(frozenset(ops), self._domain)

    def __getattr__(self, op: str) -> _Call:
        if op.startswith("_"):
            raise AttributeError(op)
        return _Call(frozenset({op}), self._domain)


@dataclass(frozen=True)
class _Call:
    ops: frozenset[str]
    domain: str

    def __call__(self, *operands: Any) -> Op:
        return Op(self.ops, tuple(as_pattern(item) for item in operands), self.domain)


P = _Maker()


def const(name: str = "", value: float | None = None) -> Const:
    """A constant operand."""
    return Const(name, value)


def maybe(inner: Any) -> Maybe:
    """An operand that may be left out."""
    return Maybe(as_pattern(inner))


def one_of(*options: Any) -> OneOf:
    """Alternatives, tried in order."""
    return OneOf(tuple(as_pattern(option) for option in options))


def rest(name: str) -> Rest:
    """All further operands."""
    return Rest(name)


def as_pattern(item: Any) -> Pattern:
    """Strings, numbers and None as patterns. Raises TypeError for anything else that is no pattern."""
    if isinstance(item, Pattern):
        return item
    if isinstance(item, str):
        return AnyValue(item)
    if isinstance(item, (int, float)):
        return Const("", float(item))
    if item is None:
        return Maybe(OneOf(()))
    raise TypeError(f"{item!r} is no pattern: use a name, a number, None, const(), maybe(), one_of(), rest() or P.Op()")


def depth(pattern: Pattern) -> int:
    """How many operators lie on the longest path from the root."""
    if isinstance(pattern, Op):
        return 1 + max((depth(p) for p in pattern.operands), default=0)
    if isinstance(pattern, OneOf):
        return max((depth(p) for p in pattern.options), default=0)
    return depth(pattern.inner) if isinstance(pattern, Maybe) else 0


def width(pattern: Pattern) -> int:
    """How many readers an inner node can have: as often as it stands in the pattern; a shared one any number, of which
    the engine looks at a few."""
    places: Counter[int] = Counter()
    pending: list[Pattern] = [pattern]
    while pending:
        item = pending.pop()
        if isinstance(item, Op):
            places[id(item)] += FEW if item.is_shared else 1
            pending += item.operands
        elif isinstance(item, OneOf):
            pending += item.options
        elif isinstance(item, Maybe):
            pending.append(item.inner)
    return min(FEW, max(places.values(), default=1))


class Match:
    """Where a pattern matched. Bound values and nodes are attributes: `m.x`, `m.conv`; `root` and all `nodes` too."""

    def __init__(self, root: Node, bound: dict[str, Any], nodes: dict[Node, Op]):
        self.root, self.nodes = root, nodes
        self._bound = bound

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_bound"][name]
        except KeyError:
            raise AttributeError(f"the pattern binds no {name!r}") from None

    def get(self, name: str) -> Any:
        """What a name is bound to, or None where the alternative taken does not bind it."""
        return self._bound.get(name)

    @property
    def interior(self) -> list[Node]:
        """The matched nodes that go away: all but the shared ones."""
        return [node for node, op in self.nodes.items() if not op.is_shared]


def match(pattern: Op, root: Node) -> Match | None:
    """The first match of a pattern at a node, or None."""
    if pattern.needs and not _plausible(pattern, root):
        return None
    state = _State(root, {}, {})
    if not _node(pattern, root, state):
        return None
    orders = _orders(pattern, root)
    found = _solve(orders[0], state) if len(orders) == 1 else _first(orders, state)
    return Match(root, found.bound, found.nodes) if found is not None else None


def _plausible(pattern: Op, node: Node) -> bool:
    """Early reject, by the operators right below: most nodes that have the right operator fail here."""
    inputs = node.inputs
    for slot, ops in pattern.needs:
        if slot >= len(inputs):
            return False
        if not _made_by(inputs[slot], ops) and not (_swaps(pattern, node) and _made_by(inputs[1 - slot], ops)):
            return False
    return True


def _swaps(pattern: Op, node: Node) -> bool:
    """Whether the two operands may match in either order."""
    return len(node.inputs) == 2 == len(pattern.operands) and pattern.commutes and node.op in COMMUTATIVE


def _made_by(value: Value | None, ops: frozenset[str]) -> bool:
    if value is None:
        return False
    producer = value.producer
    return producer.op in ops if producer is not None else value.tensor is not None and "Constant" in ops


class _State:
    __slots__ = ("bound", "nodes", "root")

    def __init__(self, root: Node, bound: dict[str, Any], nodes: dict[Node, Op]):
        self.root, self.bound, self.nodes = root, bound, nodes

    def copy(self) -> _State:
        return _State(self.root, dict(self.bound), dict(self.nodes))

    def bind(self, name: str, item: Any) -> bool:
        if name:
            if name in self.bound:
                return self.bound[name] is item
            self.bound[name] = item
        return True


def _solve(agenda: Any, state: _State) -> _State | None:
    """Matches everything on the agenda (a linked list, so that alternatives share its end), trying alternatives in
    order; the recursion is as deep as the pattern."""
    while agenda is not None:
        pattern, item, agenda = agenda
        if isinstance(pattern, Op):
            if item is None or item.producer is None or item.index != pattern.index:
                return None
            node = item.producer
            if node.op not in pattern.ops or not _plausible(pattern, node) or not _node(pattern, node, state):
                return None
            orders = _orders(pattern, node)
            if len(orders) == 1:
                agenda = _append(orders[0], agenda)
                continue
            return _first((_append(order, agenda) for order in orders), state)
        if isinstance(pattern, OneOf):
            rest_ = agenda
            return _first(((option, item, rest_) for option in pattern.options), state)
        if isinstance(pattern, Maybe) and item is not None:
            agenda = (pattern.inner, item, agenda)
        elif not _leaf(pattern, item, state):
            return None
    return state if _closed(state) else None


def _first(agendas: Any, state: _State) -> _State | None:
    for agenda in agendas:
        found = _solve(agenda, state.copy())
        if found is not None:
            return found
    return None


def _append(front: Any, back: Any) -> Any:
    items = []
    while front is not None:
        pattern, item, front = front
        items.append((pattern, item))
    for pattern, item in reversed(items):
        back = (pattern, item, back)
    return back


def _node(pattern: Op, node: Node, state: _State) -> bool:
    """Operator, domain and outputs fit; binds the node."""
    if node in state.nodes:
        return state.nodes[node] is pattern
    if node.op not in pattern.ops or node.domain != pattern.domain:
        return False
    if node.graph.in_function and node.has_references:
        return False
    for index, value in enumerate(node.outputs):
        if pattern.outputs:
            if index < len(pattern.outputs) and not state.bind(pattern.outputs[index], value):
                return False
        elif index != pattern.index and (value.users or value.outs):
            return False
    state.nodes[node] = pattern
    return state.bind(pattern.name, node)


def _orders(pattern: Op, node: Node) -> list[Any]:
    """The ways to put operands to inputs, each as an agenda; none where their numbers do not fit."""
    inputs, operands = node.inputs, pattern.operands
    if operands and isinstance(operands[-1], Rest):
        fixed = len(operands) - 1
        given: list[Any] = [*inputs[:fixed], *[None] * (fixed - len(inputs)), tuple(inputs[fixed:])]
    else:
        given = [*inputs, *[None] * (len(operands) - len(inputs))]
        if any(value is not None for value in given[len(operands) :]):
            return []
    if not _swaps(pattern, node) or isinstance(operands[1], Rest):
        return [_agenda(operands, given)]
    needs, orders = pattern.needs, []
    if all(_made_by(inputs[slot], ops) for slot, ops in needs):  # else this order cannot match
        orders.append(_agenda(operands, given))
    if all(_made_by(inputs[1 - slot], ops) for slot, ops in needs):
        orders.append(_agenda(operands, given[::-1]))
    return orders


def _agenda(operands: tuple[Pattern, ...], given: list[Any]) -> Any:
    agenda: Any = None
    for pattern, item in zip(reversed(operands), reversed(given[: len(operands)]), strict=True):
        agenda = (pattern, item, agenda)
    return agenda


def _leaf(pattern: Pattern, item: Any, state: _State) -> bool:
    if isinstance(pattern, Maybe):  # left out
        return _absent(pattern.inner, state)
    if isinstance(pattern, Rest):
        return state.bind(pattern.name, item)
    if item is None:
        return False
    if isinstance(pattern, Const):
        if not item.is_const or (pattern.value is not None and not equals(item, pattern.value)):
            return False
        return state.bind(pattern.name, item)
    return isinstance(pattern, AnyValue) and state.bind(pattern.name, item)


def _absent(inner: Pattern, state: _State) -> bool:
    name = getattr(inner, "name", "")
    return state.bind(name, None)


def _closed(state: _State) -> bool:
    """No inner node is read from outside the match, and all stand in the root's own graph."""
    root = state.root
    for node, pattern in state.nodes.items():
        if node is root:
            continue
        if node.graph is not root.graph:
            return False
        if pattern.is_shared:
            continue
        for value in node.outputs:
            if value.outs or any(user not in state.nodes or state.nodes[user].is_shared for user in value.users):
                return False
    return True


def equals(value: Value, number: float) -> bool:
    """Whether a constant has one element, and that is `number` rounded to the constant's dtype."""
    shape = value.shape
    if shape is None or any(dim != 1 for dim in shape):
        return False
    array = value.numpy()
    if array.dtype == object or array.dtype == np.bool_:
        return False
    if array.dtype.kind in "iu":  # rounding would make 0 of 0.5, and 255 of -1
        return bool(array.item() == number)
    with np.errstate(all="ignore"):
        return bool(array.reshape(())[()] == np.asarray(number).astype(array.dtype))
