"""The one way in which rules ask about shapes, symbolic ones included. Every answer is certain, or "not known"."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.analysis.sizes import dims, lists, poly
from graphopt.analysis.sizes.facts import Facts, Items, product
from graphopt.analysis.sizes.poly import Size, TooLarge
from graphopt.analysis.sizes.prove import Prover
from graphopt.ir import Dim, Model, Node, Value


class Shapes:
    """What is known of the shapes of a model; get it by `shapes_of`, each time anew.

    Sizes are `int` where they are numbers, else expressions in the symbols of the model's inputs (`Size`), and None
    stands for what is not known. A symbol is one size everywhere, at least 0; different symbols may be equal, but are
    never said to be. An input's dim stays the symbol that it is. What is asked of None is answered as not known.

    Nodes are looked at when something is asked for that depends on them, once. Rewrites keep what values hold, so that
    nothing is forgotten over them; after a new inference everything is.

    >>> from onnx import parser
    >>> from graphopt.analysis.shapes import ensure_types, shapes_of
    >>> model = Model(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N, 6] x) => (float[a, b] z) '
    ...     '<int64[2] s = {-1, 3}> { y = Reshape(x, s)  z = Concat<axis = 0>(y, y) }'))
    >>> ensure_types(model)
    >>> shapes, (x, y, z) = shapes_of(model), (model.graph.values[name] for name in "xyz")
    >>> shapes.dims(z), shapes.divisible(shapes.dim(z, 0), 4), shapes.at_least(shapes.dim(z, 0), 1)
    ((4*N, 3), True, False)
    >>> shapes.equal(shapes.count(z), shapes.product(shapes.count(x), 2)), shapes.same_shape(y, z)
    (True, False)
    """

    def __init__(self, facts: Facts, visited: set[Node] | None = None):
        self.facts = facts
        self._visited = set[Node]() if visited is None else visited
        self._prover = Prover(facts.terms)

    # -- values --------------------------------------------------------------------------------------------------------

    def dims(self, value: Value | None) -> tuple[Size, ...] | None:
        """A value's shape; None where the rank is not known. A dim of which nothing is known is a symbol of its own."""
        if value is None:
            return None
        shape, given = value.shape, self.facts.given
        if shape is None or not all(isinstance(dim, int) or dim in given for dim in shape):
            self._look_at(value)
        return self.facts.dims(value)

    def dim(self, value: Value | None, axis: int) -> Size | None:
        """One dim, at an axis that may count from the end; None where the rank is not known or there is none."""
        sizes = self.dims(value)
        return None if sizes is None or not -len(sizes) <= axis < len(sizes) else sizes[axis]

    def count(self, value: Value | None) -> Size | None:
        """The number of elements."""
        sizes = self.dims(value)
        return None if sizes is None else self.product(*sizes)

    def elements(self, value: Value | None) -> Items | None:
        """What a small tensor of int32, int64 or bool (0 and 1) of rank 0 or 1 holds; None for any other."""
        if value is None:
            return None
        if not value.is_const:
            self._look_at(value)
        found = self.facts.of(value)
        return None if found is None else found.items

    def numbers(self, value: Value | None) -> tuple[int, ...] | None:
        """The shape in numbers; None where any dim may differ from call to call."""
        sizes = self.dims(value)
        found = tuple([size for size in sizes or () if isinstance(size, int)])
        return None if sizes is None or len(found) != len(sizes) else found

    def may_be_same(self, a: Value, b: Value) -> bool:
        """Whether two values could have the same shape, at a glance: False where rank or a number differs."""
        one, other = a.shape, b.shape
        if one is None or other is None:
            return True
        return len(one) == len(other) and not _differ(zip(one, other, strict=True))

    def same_shape(self, a: Value, b: Value) -> bool:
        """Whether two values certainly have the same shape."""
        if a is b:
            return a.shape is not None or self.dims(a) is not None
        if not self.may_be_same(a, b):
            return False
        if a.shape is not None and a.shape == b.shape and None not in a.shape:
            return True
        first, second = self.dims(a), self.dims(b)
        return first is not None and second is not None and self.all_equal(first, second)

    def fits_into(self, value: Value, into: Value) -> bool:
        """Whether broadcasting `value` against `into` certainly leaves the shape of `into` as it is."""
        small, large = value.shape, into.shape
        if small == ():
            return True
        if small is not None and large is not None:
            if len(small) > len(large):
                return False
            pairs = [(a, b) for a, b in zip(small[::-1], large[::-1], strict=False) if a != 1 and (a is None or a != b)]
            if not pairs or _differ(pairs):
                return not pairs
        first, second = self.dims(value), self.dims(into)
        if first is None or second is None or len(first) > len(second):
            return False
        return all(a == 1 or self.equal(a, b) for a, b in zip(first[::-1], second[::-1], strict=False))

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def known(self, size: Size | None) -> int | None:
        """The size where it is the same number in every call, else None."""
        return size if isinstance(size, int) else None

    def equal(self, a: Size | None, b: Size | None) -> bool:
        """Whether two sizes are certainly equal."""
        if a is None or b is None:
            return False
        if a == b or (isinstance(a, int) and isinstance(b, int)):
            return a == b
        try:
            return self._prover.is_zero(poly.subtract(a, b))
        except TooLarge:
            return False

    def all_equal(self, a: Items, b: Items) -> bool:
        """Whether there are as many of both, and each is certainly equal to its partner."""
        return len(a) == len(b) and all(map(self.equal, a, b))

    def at_least(self, size: Size | None, n: int) -> bool:
        """Whether a size is certainly n or more."""
        return size is not None and self._prover.is_at_least(size, n)

    def at_most(self, size: Size | None, n: int) -> bool:
        """Whether a size is certainly n or less."""
        return size is not None and self.at_least(poly.multiply(size, -1), -n)

    def positive(self, size: Size | None) -> bool:
        """Whether a size is certainly not 0 (nor, for what is no dim, below)."""
        return self.at_least(size, 1)

    def divisible(self, size: Size | None, by: int) -> bool:
        """Whether a size is certainly a multiple of `by`; 0 is one. Raises ValueError where `by` is not above 0."""
        if by < 1:
            raise ValueError(f"divisible by {by}? It must be above 0")
        return size is not None and self._prover.is_divisible(size, by)

    def product(self, *sizes: Size | None) -> Size | None:
        """Of all sizes; 1 of none; None where one is not known, or it would be too long to work with."""
        known = [size for size in sizes if size is not None]
        try:
            return product(known) if len(known) == len(sizes) else None
        except TooLarge:
            return None

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look_at(self, value: Value) -> None:
        """Takes in the nodes that a value depends on: those of which something can be known, each once, first those
        that it reads."""
        visited, facts = self._visited, self.facts
        if value.graph.in_function or not _matters(value, visited):
            return
        pending = [value.producer]
        while pending:
            node = pending[-1]
            before = () if node is None or node in visited else [v for v in node.inputs if _matters(v, visited)]
            if before:
                pending += [v.producer for v in before if v is not None]
                continue
            pending.pop()
            if node is not None and node not in visited:
                visited.add(node)
                dims.visit(node, facts)
                lists.visit(node, facts)


def _differ(pairs: Iterable[tuple[Dim, Dim]]) -> bool:
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


def _matters(value: Value | None, visited: set[Node]) -> bool:
    """Whether looking at what makes it can say more of a value."""
    node = None if value is None else value.producer
    if node is None or value is None or node in visited:
        return False
    if lists.has_rule(node):
        return True
    shape = value.shape
    return dims.has_rule(node) and (shape is None or not all(isinstance(dim, int) for dim in shape))


def shapes_of(item: Model | Value | Node) -> Shapes:
    """What is known of the shapes of an item's model.

    Types must have been inferred (`ensure_types`), as they have where rules run.
    """
    model = item.graph.model
    key = model.facts.get("inferences"), model.facts.get("news")
    held = model.facts.get("shapes")
    if held is None or held[0] != key:
        held = model.facts["shapes"] = key, Shapes(Facts(model))
    found: Shapes = held[1]
    return found


def keep(model: Model, facts: Facts, visited: set[Node]) -> None:
    """Lets what was found out elsewhere, of these nodes, be what `shapes_of` answers from."""
    key = model.facts.get("inferences"), model.facts.get("news")
    model.facts["shapes"] = key, Shapes(facts, visited)
