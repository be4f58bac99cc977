"""What integer tensors of shape computations hold, element by element, as far as it follows from the shapes.

For each small integer or bool tensor there is a `List` of sizes (None for an element that is not known), in terms of
the inputs' symbols where `dims` found out what inference's own stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from onnx import TensorProto

from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.facts import KINDS, Facts, List, product
from graphopt.analysis.sizes.operands import LONGEST, option
from graphopt.analysis.sizes.poly import Size
from graphopt.ir import Node, Tensor, Value

Rule = Callable[[Node, Facts], List | None]
Compute = Callable[[Size, Size, Facts], Size | None]


def visit(node: Node, facts: Facts) -> None:
    """Takes in what a node makes. Nodes come in topological order."""
    rule, several = _LISTS.get(node.op), _SEVERAL.get(node.op)
    if (rule is None and several is None) or node.domain or node.output.dtype not in KINDS:
        return
    try:
        if rule is not None:
            facts.note(node.output, rule(node, facts))
        if several is not None:
            for value, found in zip(node.outputs, several(node, facts) or (), strict=False):
                facts.note(value, found)
    except poly.TooLarge:
        return


def has_rule(node: Node) -> bool:
    """Whether anything can be known of the integers that a node makes."""
    return (node.op in _LISTS or node.op in _SEVERAL) and not node.domain and node.output.dtype in KINDS


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
    if dtype == TensorProto.INT32:
        return given
    orders = [None if item is None else facts.terms.compare(item, 0) for item in given.items]
    return List(tuple([None if order is None else abs(order) for order in orders]), given.is_scalar)


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
    starts, ends, steps = (_numbers(node, n, slot, facts) for n, slot in (("starts", 1), ("ends", 2), ("steps", 4)))
    if given is None or given.is_scalar or not starts or not ends or steps is None or len(starts) != 1:
        return None
    step = steps[0] if steps else 1
    start = max(starts[0], -len(given.items))  # else Python's slices stop at the borders in the same way
    return List(given.items[start : ends[0] : step], False) if step else None


def _numbers(node: Node, name: str, slot: int, facts: Facts) -> tuple[int, ...] | None:
    """A list of integers, given as attribute or input, that may be computed; () where it is left out."""
    found = option(node, name, slot)
    given = None if found is not None else facts.of(node.input(slot))
    return given.numbers if given is not None else found


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


def _binary(compute: Callable[[Size, Size], Size | None]) -> Rule:
    return _combined(lambda a, b, _: compute(a, b))


def _combined(compute: Compute) -> Rule:
    def rule(node: Node, facts: Facts) -> List | None:
        lists = _broadcast([facts.of(value) for value in node.inputs])
        if lists is None:
            return None
        items = lists[0].items
        for other in lists[1:]:
            pairs = zip(items, other.items, strict=True)
            items = tuple([None if a is None or b is None else compute(a, b, facts) for a, b in pairs])
        return List(items, lists[0].is_scalar)

    return rule


def _each(compute: Callable[[Size, Facts], Size | None]) -> Rule:
    def rule(node: Node, facts: Facts) -> List | None:
        given = facts.of(node.input(0))
        if given is None:
            return None
        items = [None if item is None else compute(item, facts) for item in given.items]
        return List(tuple(items), given.is_scalar)

    return rule


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


def quotient(a: Size, b: Size, facts: Facts) -> Size | None:
    """a / b, rounded towards 0."""
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    exact = poly.divide(a, b)
    return exact if exact is not None else facts.terms.floor(a, b)  # where b is 0 at run time there is no result


def _remainder(node: Node, facts: Facts) -> List | None:
    return None if node.attr("fmod") else _combined(_left_over)(node, facts)


def _left_over(a: Size, b: Size, facts: Facts) -> Size | None:
    if isinstance(a, int) and isinstance(b, int) and b:
        return a % b  # with the sign of b, as ONNX has it
    return facts.terms.mod(a, b)


def _absolute(item: Size, facts: Facts) -> Size | None:
    if facts.terms.is_natural(item):
        return item
    negative = poly.multiply(item, -1)
    return negative if facts.terms.is_natural(negative) else None


def _test(*orders: int) -> Rule:
    def test(a: Size, b: Size, facts: Facts) -> Size | None:
        order = facts.terms.compare(a, b)
        return None if order is None else int(order in orders)

    return _combined(test)


def _where(node: Node, facts: Facts) -> List | None:
    lists = _broadcast([facts.of(value) or _unknown(value, facts) for value in node.inputs])
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


def _reduced(combine: Compute, start: int | None = None) -> Rule:
    """start: what is made of no elements, where there is such a thing."""

    def rule(node: Node, facts: Facts) -> List | None:
        given = facts.of(node.input(0))
        if given is None or given.known is None or option(node, "axes", 1) not in ((), (0,), (-1,)):
            return None
        if node.attr("noop_with_empty_axes") or given.is_scalar:
            return None
        total: Size | None = start
        for place, item in enumerate(given.known):
            total = item if start is None and not place else None if total is None else combine(total, item, facts)
        return None if total is None else List((total,), not node.attr("keepdims"))

    return rule


def _range(node: Node, facts: Facts) -> List | None:
    """Range(n, n + 3, 1) == [n, n + 1, n + 2]: a symbolic start is no obstacle where the count is a number."""
    start, limit, step = (facts.of(value) for value in node.inputs)
    if start is None or limit is None or step is None or not step.numbers or not step.numbers[0]:
        return None
    first, last, by = start.items[0], limit.items[0], step.numbers[0]
    span = None if first is None or last is None else poly.subtract(last, first)
    if first is None or not isinstance(span, int) or -(-span // by) > LONGEST:
        return None
    return List(tuple([poly.add(first, offset) for offset in range(0, span, by)]), False)


def _tiled(node: Node, facts: Facts) -> List | None:
    given, repeats = facts.of(node.input(0)), facts.of(node.input(1))
    if given is None or given.is_scalar or repeats is None or repeats.numbers is None or len(repeats.numbers) != 1:
        return None
    count = repeats.numbers[0]
    return List(given.items * count, False) if 0 <= len(given.items) * count <= LONGEST else None


def _split(node: Node, facts: Facts) -> list[List] | None:
    given, parts = facts.of(node.input(0)), len(node.outputs)
    sizes = option(node, "split", 1)
    if given is None or given.is_scalar or sizes is None or node.attr("axis") not in (0, -1):
        return None
    if not sizes:
        if len(given.items) % parts:
            return None
        sizes = (len(given.items) // parts,) * parts
    if len(sizes) != parts or min(sizes) < 0 or sum(sizes) != len(given.items):
        return None
    ends = [sum(sizes[: index + 1]) for index in range(parts)]
    return [List(given.items[end - size : end], False) for size, end in zip(sizes, ends, strict=True)]


_SEVERAL: dict[str, Callable[[Node, Facts], list[List] | None]] = {"Split": _split}
_LISTS: dict[str, Callable[[Node, Facts], List | None]] = {
    "Abs": _each(_absolute),
    "Add": _binary(poly.add),
    "And": _binary(lambda a, b: 0 if 0 in (a, b) else (1 if a == b == 1 else None)),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _combined(quotient),
    "Equal": _test(0),
    "Expand": _expanded,
    "Gather": _gather,
    "Greater": _test(1),
    "GreaterOrEqual": _test(0, 1),
    "Identity": _same,
    "Less": _test(-1),
    "LessOrEqual": _test(-1, 0),
    "Max": _combined(lambda a, b, facts: facts.terms.greatest(a, b)),
    "Min": _combined(lambda a, b, facts: facts.terms.least(a, b)),
    "Mod": _remainder,
    "Mul": _binary(poly.multiply),
    "Neg": _each(lambda item, _: poly.multiply(item, -1)),
    "Not": _each(lambda item, _: 1 - item if isinstance(item, int) else None),
    "Or": _binary(lambda a, b: 1 if 1 in (a, b) else (0 if a == b == 0 else None)),
    "Range": _range,
    "ReduceMax": _reduced(lambda a, b, facts: facts.terms.greatest(a, b)),
    "ReduceMin": _reduced(lambda a, b, facts: facts.terms.least(a, b)),
    "ReduceProd": _reduced(lambda a, b, _: poly.multiply(a, b), 1),
    "ReduceSum": _reduced(lambda a, b, _: poly.add(a, b), 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _binary(poly.subtract),
    "Tile": _tiled,
    "Transpose": _same,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _test(-1, 1),
}
