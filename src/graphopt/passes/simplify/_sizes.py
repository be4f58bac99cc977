"""What integer tensors of shape computations hold, element by element, as far as it follows from the shapes.

`Facts` goes through a graph in order: for each small integer or bool tensor it knows a `List` of sizes (None for an
element that is not known), in terms of the inputs' symbols where `_dims` found out what inference's own stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from onnx import TensorProto

from graphopt.ir import Dim, Node, Tensor, Value
from graphopt.passes.simplify import _poly as poly
from graphopt.passes.simplify._facts import LONGEST, option
from graphopt.passes.simplify._poly import Poly, Size

Items = tuple[Size | None, ...]
KINDS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


class List(NamedTuple):
    """The elements of a tensor of rank 0 (is_scalar, one element) or 1; bools are 0 and 1."""

    items: Items
    is_scalar: bool

    @property
    def known(self) -> tuple[Size, ...] | None:
        """All elements, where all are known."""
        found = tuple(item for item in self.items if item is not None)
        return found if len(found) == len(self.items) else None

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """All elements, where all are numbers."""
        found = tuple(item for item in self.items if isinstance(item, int))
        return found if len(found) == len(self.items) else None


class Facts:
    """Everything known so far of one model. nonempty: the symbols of its inputs stand for sizes of at least 1."""

    def __init__(self, nonempty: bool = False) -> None:
        self.nonempty = nonempty
        self.lists: dict[Value, List] = {}
        self.shapes: dict[Value, tuple[Size, ...]] = {}  # of values for which inference found no shape
        self.defined: dict[str, Size] = {}  # symbols that inference made up -> what they stand for
        self.spelled: dict[Size, str] = {}  # the first of those symbols for each size
        self.given: set[str] = set()  # symbols of graph inputs: these stay as they are
        self.least: dict[Size, tuple[Size, Size]] = {}  # symbols for the smaller of two sizes -> the two
        self._opaque: dict[Any, Poly] = {}

    def of(self, value: Value | None) -> List | None:
        """The elements of a value, if anything is known of them."""
        if value is None:
            return None
        found = self.lists.get(value)
        if found is None and value.is_const and value.dtype in KINDS and value.rank in (0, 1):
            array = value.numpy()
            if array.size <= LONGEST:
                found = self.lists[value] = List(tuple(map(int, array.reshape(-1).tolist())), array.ndim == 0)
        return found

    def dims(self, value: Value | None) -> tuple[Size, ...] | None:
        """A value's shape; a dim of which nothing is known is a symbol of its own."""
        if value is None:
            return None
        if value.shape is None:
            return self.shapes.get(value)
        return tuple(self.dim(dim, value, axis) for axis, dim in enumerate(value.shape))

    def is_settled(self, value: Value) -> bool:
        """Whether each dim is a number, or made of the inputs' symbols and of what operators are known to make of
        them: then inference can say no more."""
        sizes = self.dims(value)
        if sizes is None:
            return False
        symbols = {name for size in sizes if isinstance(size, Poly) for product, _ in size.terms for name in product}
        return all(name in self.given or (name[0] == "\0" and not name.startswith("\0dim.")) for name in symbols)

    def rank(self, value: Value) -> int | None:
        """How many dims a value has."""
        shape = self.shapes.get(value) if value.shape is None else value.shape
        return None if shape is None else len(shape)

    def dim(self, dim: Dim, value: Value, axis: int) -> Size:
        """One dim of a value's shape."""
        if isinstance(dim, int):
            return dim
        name = self.name(dim, value, axis)
        known = self.defined.get(name)
        return known if known is not None else poly.symbol(name)

    def is_positive(self, size: Size) -> bool:
        """Certainly at least 1."""
        if poly.is_positive(size) or not self.nonempty or not isinstance(size, Poly):
            return poly.is_positive(size)
        return all(factor > 0 and self.given.issuperset(symbols) for symbols, factor in size.terms)

    def opaque(self, *key: Any) -> Poly:
        """The symbol for what cannot be written as a polynomial: the same for equal keys, and at least 0."""
        found = self._opaque.get(key)
        if found is None:
            found = self._opaque[key] = poly.symbol(f"\0{key[0]}.{len(self._opaque)}")
        return found

    def name(self, dim: str | None, value: Value, axis: int) -> str:
        """The symbol of a dim: inference's, or one of its own."""
        if dim is not None:
            return dim
        ((symbols, _),) = self.opaque("dim", value, axis).terms
        return symbols[0]

    def define(self, value: Value, sizes: Sequence[Size | None] | None) -> None:
        """Notes what the dims of a value are, where inference has no name for them, or one of its own."""
        shape = value.shape
        if sizes is None or (shape is not None and len(sizes) != len(shape)):
            return
        if shape is None:
            self.shapes[value] = tuple(
                self.opaque("dim", value, axis) if size is None else size for axis, size in enumerate(sizes)
            )
            return
        for axis, (dim, size) in enumerate(zip(shape, sizes, strict=True)):
            if isinstance(dim, int) or size is None or dim in self.given:
                continue
            name = self.name(dim, value, axis)
            if name not in self.defined and not _mentions(size, name) and size != poly.symbol(name):
                self.defined[name] = size
                if dim is not None:
                    self.spelled.setdefault(size, name)

    def visit(self, node: Node) -> None:
        """Takes in what a node makes. Nodes come in topological order."""
        rule = _LISTS.get(node.op)
        if rule is None or node.domain or node.output.dtype not in KINDS:
            return
        try:
            found = rule(node, self)
        except poly.TooLarge:
            return
        if found is not None and len(found.items) <= LONGEST:
            bits = 31 if node.output.dtype == TensorProto.INT32 else 63
            items = tuple(None if isinstance(i, int) and not -(1 << bits) <= i < 1 << bits else i for i in found.items)
            self.lists[node.output] = List(items, found.is_scalar)  # what overflows is not known


def _mentions(size: Size, name: str) -> bool:
    return isinstance(size, Poly) and any(name in symbols for symbols, _ in size.terms)


def product(sizes: Sequence[Size]) -> Size:
    """Of all sizes; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = poly.multiply(total, size)
    return total


def _shape(node: Node, facts: Facts) -> List | None:
    dims = facts.dims(node.input(0))
    if dims is None:
        return None
    start, end = node.attr("start", 0), node.attr("end", None)
    return List(dims[slice(start, end)], False)


def _size(node: Node, facts: Facts) -> List | None:
    dims = facts.dims(node.input(0))
    return None if dims is None else List((product(dims),), True)


def _same(node: Node, facts: Facts) -> List | None:
    return facts.of(node.input(0))


def _cast(node: Node, facts: Facts) -> List | None:
    given, dtype = facts.of(node.input(0)), node.attr("to")
    if given is None or dtype == TensorProto.INT64:
        return given
    return List(tuple(_converted(item, dtype) for item in given.items), given.is_scalar)


def _converted(item: Size | None, dtype: int) -> Size | None:
    if item is None or dtype == TensorProto.INT32:
        return None if isinstance(item, int) and not -(2**31) <= item < 2**31 else item
    order = poly.compare(item, 0)
    return None if order is None else abs(order)


def _gather(node: Node, facts: Facts) -> List | None:
    given, index = facts.of(node.input(0)), facts.of(node.input(1))
    if given is None or index is None or given.is_scalar or index.numbers is None or node.attr("axis") not in (0, -1):
        return None
    count = len(given.items)
    if any(not -count <= i < count for i in index.numbers):
        return None
    return List(tuple(given.items[i] for i in index.numbers), index.is_scalar)


def _slice(node: Node, facts: Facts) -> List | None:
    given = facts.of(node.input(0))
    starts, ends, steps = (option(node, name, slot) for name, slot in (("starts", 1), ("ends", 2), ("steps", 4)))
    if given is None or given.is_scalar or not starts or not ends or steps is None or len(starts) != 1:
        return None
    step = steps[0] if steps else 1
    start = max(starts[0], -len(given.items))  # else Python's slices stop at the borders in the same way
    return List(given.items[start : ends[0] : step], False) if step else None


def _concat(node: Node, facts: Facts) -> List | None:
    parts = [facts.of(value) for value in node.inputs]
    items: list[Size | None] = []
    for part, value in zip(parts, node.inputs, strict=True):
        if part is not None:
            items += part.items
        else:
            unknown = _unknown(value, facts)
            if unknown is None:
                return None
            items += unknown.items
    return List(tuple(items), False)


def _unsqueeze(node: Node, facts: Facts) -> List | None:
    given = facts.of(node.input(0))
    axes = option(node, "axes", 1)
    return List(given.items, False) if given is not None and given.is_scalar and axes in ((0,), (-1,)) else None


def _squeeze(node: Node, facts: Facts) -> List | None:
    given = facts.of(node.input(0))
    if given is None or given.is_scalar or len(given.items) != 1 or option(node, "axes", 1) not in ((), (0,), (-1,)):
        return None
    if facts.rank(node.output) != 0:
        return None
    return List(given.items, True)


def _reshape(node: Node, facts: Facts) -> List | None:
    given = facts.of(node.input(0))
    rank = facts.rank(node.output)
    if given is None or rank not in (0, 1):
        return None
    return List(given.items, rank == 0)


def _binary(compute: Callable[[Size, Size], Size | None]) -> Callable[[Node, Facts], List | None]:
    def rule(node: Node, facts: Facts) -> List | None:
        lists = _broadcast([facts.of(value) for value in node.inputs])
        if lists is None or len(lists) < 2:
            return None
        items = lists[0].items
        for other in lists[1:]:
            items = tuple(_apply(compute, a, b) for a, b in zip(items, other.items, strict=True))
        return List(items, lists[0].is_scalar)

    return rule


def _apply(compute: Callable[[Size, Size], Size | None], a: Size | None, b: Size | None) -> Size | None:
    return None if a is None or b is None else compute(a, b)


def _broadcast(lists: Sequence[List | None]) -> list[List] | None:
    """All to one length; None where any is unknown or they do not fit."""
    known = [item for item in lists if item is not None]
    if not known or len(known) != len(lists):
        return None
    is_scalar = all(item.is_scalar for item in known)
    length = 1
    for item in known:
        if len(item.items) != 1:
            if length not in (1, len(item.items)):
                return None
            length = len(item.items)
    return [List(item.items * length if len(item.items) == 1 else item.items, is_scalar) for item in known]


def _divide(node: Node, facts: Facts) -> List | None:
    return _binary(lambda a, b: quotient(a, b, facts))(node, facts)


def quotient(a: Size, b: Size, facts: Facts) -> Size | None:
    """a / b, rounded towards 0."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if b == 0:
        return None
    exact = poly.divide(a, b)
    if exact is not None:
        return exact  # where a symbol in the divisor is 0 the operator has no result
    if poly.is_natural(a) and poly.is_positive(b):
        return facts.opaque("floor", a, b)
    return None


def _extreme(sign: int) -> Callable[[Size, Size], Size | None]:
    def choose(a: Size, b: Size) -> Size | None:
        order = poly.compare(a, b)
        return None if order is None else (a if order * sign >= 0 else b)

    return choose


def _test(*orders: int) -> Callable[[Size, Size], Size | None]:
    def test(a: Size, b: Size) -> Size | None:
        order = poly.compare(a, b)
        return None if order is None else int(order in orders)

    return test


def _not(node: Node, facts: Facts) -> List | None:
    given = facts.of(node.input(0))
    if given is None:
        return None
    return List(tuple(1 - item if isinstance(item, int) else None for item in given.items), given.is_scalar)


def _where(node: Node, facts: Facts) -> List | None:
    condition = facts.of(node.input(0))
    sides = [facts.of(value) for value in node.inputs[1:]]
    if condition is None:
        return None
    sides = [side or _unknown(value, facts) for side, value in zip(sides, node.inputs[1:], strict=True)]
    lists = _broadcast([condition, *sides])
    if lists is None:
        return None
    chosen = [_choose(c, x, y) for c, x, y in zip(*(item.items for item in lists), strict=True)]
    return List(tuple(chosen), lists[0].is_scalar)


def _choose(condition: Size | None, x: Size | None, y: Size | None) -> Size | None:
    if x is not None and x == y:
        return x
    return x if condition == 1 else y if condition == 0 else None


def _unknown(value: Value | None, facts: Facts) -> List | None:
    """A list of nothing known, of the right length."""
    dims = facts.dims(value)
    if dims is None or len(dims) > 1:
        return None
    if not dims:
        return List((None,), True)
    return List((None,) * dims[0], False) if isinstance(dims[0], int) and dims[0] <= LONGEST else None


def _filled(node: Node, facts: Facts) -> List | None:
    target = facts.of(node.input(0))
    if target is None or target.numbers is None or len(target.items) > 1:
        return None
    count = prod(target.numbers)
    given = node.attr("value")
    if count > LONGEST or count < 0:
        return None
    number = 0 if given is None else int(Tensor(given, node.graph.model.store).numpy().reshape(-1)[0])
    return List((number,) * count, not target.items)


def _expanded(node: Node, facts: Facts) -> List | None:
    given, target = facts.of(node.input(0)), facts.of(node.input(1))
    if given is None or target is None or target.numbers is None or len(target.items) != 1:
        return None
    count = target.numbers[0]
    if len(given.items) == 1 and 0 <= count <= LONGEST:
        return List(given.items * count, False)
    return List(given.items, False) if count in (1, len(given.items)) else None


def _reduced(combine: Callable[[Size, Size], Size | None], start: int) -> Callable[[Node, Facts], List | None]:
    def rule(node: Node, facts: Facts) -> List | None:
        given = facts.of(node.input(0))
        if given is None or given.known is None or option(node, "axes", 1) not in ((), (0,), (-1,)):
            return None
        if node.attr("noop_with_empty_axes") or given.is_scalar:
            return None
        total: Size | None = start
        for item in given.known:
            total = None if total is None else combine(total, item)
        return List((total,), not node.attr("keepdims"))

    return rule


_LISTS: dict[str, Callable[[Node, Facts], List | None]] = {
    "Abs": lambda node, facts: _natural(facts.of(node.input(0))),
    "Add": _binary(poly.add),
    "And": _binary(lambda a, b: 0 if 0 in (a, b) else (1 if a == b == 1 else None)),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Equal": _binary(_test(0)),
    "Expand": _expanded,
    "Gather": _gather,
    "Greater": _binary(_test(1)),
    "GreaterOrEqual": _binary(_test(0, 1)),
    "Identity": _same,
    "Less": _binary(_test(-1)),
    "LessOrEqual": _binary(_test(-1, 0)),
    "Max": _binary(_extreme(1)),
    "Min": _binary(_extreme(-1)),
    "Mul": _binary(poly.multiply),
    "Not": _not,
    "Or": _binary(lambda a, b: 1 if 1 in (a, b) else (0 if a == b == 0 else None)),
    "ReduceProd": _reduced(poly.multiply, 1),
    "ReduceSum": _reduced(poly.add, 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _binary(poly.subtract),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}


def _natural(given: List | None) -> List | None:
    return given if given is not None and all(i is not None and poly.is_natural(i) for i in given.items) else None
