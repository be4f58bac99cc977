"""What is known of one model's sizes: the expressions behind dims that inference has no name for, and the elements of
small integer tensors. `lists` and `dims` fill it, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onnx import TensorProto

from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.operands import LONGEST
from graphopt.analysis.sizes.poly import Size
from graphopt.analysis.sizes.terms import MARK, Terms
from graphopt.ir import Dim, Graph, Model, Node, Value

Items = tuple[Size | None, ...]
NONZERO = "nonzero"  # the fact of a model: input symbols that are at least 1 wherever it can be run
_OF_SHAPES = ("EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size")
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

    def __init__(self, model: Model, nonempty: bool = False) -> None:
        self.lists: dict[Value, List] = {}
        self.shapes: dict[Value, tuple[Size, ...]] = {}  # of values for which inference found no shape
        self.defined: dict[str, Size] = {}  # symbols that inference made up -> what they stand for
        self.spelled: dict[Size, str] = {}  # the first of those symbols for each size
        self.given: set[str] = set()  # symbols of graph inputs: these stay as they are
        self.least: dict[Size, tuple[Size, Size]] = {}  # the smaller of two sizes -> the two
        self.terms = Terms()
        self.opaque = self.terms.opaque
        self.claims: list[tuple[Node, frozenset[str]]] = []  # nodes of the main graph that fail if one of these is 0
        for graph in model.scopes(functions=False):
            for value in graph.inputs:
                self.given.update(dim for dim in value.shape or () if isinstance(dim, str))
        self.terms.positive.update(self.given if nonempty else model.facts.get(NONZERO, ()))

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
        symbols = {name for size in sizes for name in poly.symbols_of(size)}
        return all(name in self.given or (name[0] == MARK and not name.startswith(f"{MARK}dim.")) for name in symbols)

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

    def name(self, dim: str | None, value: Value, axis: int) -> str:
        """The symbol of a dim: inference's, or one of its own."""
        if dim is not None:
            return dim
        ((symbols, _),) = self.opaque("dim", value, axis).terms
        return symbols[0]

    def is_defined(self, value: Value) -> bool:
        """Whether there is nothing left to be said of its dims."""
        shape = value.shape
        if shape is None:
            return value in self.shapes
        for dim in shape:
            if not isinstance(dim, int) and dim not in self.given and dim not in self.defined:
                return False
        return True

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
            if name not in self.defined and name not in poly.symbols_of(size):
                self.defined[name] = size
                if dim is not None:
                    self.spelled.setdefault(size, name)

    def claim(self, node: Node, symbols: set[str]) -> None:
        """Notes that a node fails where one of these symbols is 0."""
        if not symbols <= self.terms.positive:
            self.claims.append((node, frozenset(symbols)))

    def settle_claims(self, model: Model) -> bool:
        """Takes the inputs' symbols to be at least 1 that nodes ask to be: those that every call of the model runs.
        Returns whether more would be known if it was all done again. It stays so: a rewrite may only accept more, but
        need not be right for it."""
        claims = [(node, names) for node, names in self.claims if node.alive and not names <= self.terms.positive]
        if not claims:
            return False
        needed = _needed(model.graph)
        inputs = {dim for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, str)}
        found = {name for node, names in claims if node in needed for name in names if name in inputs}
        known: set[str] = model.facts.setdefault(NONZERO, set())
        if found <= known:
            return False
        known |= found
        self.terms.positive |= found
        return not found.isdisjoint(self.terms.wanted)

    def note(self, value: Value, found: List | None) -> None:
        """Notes the elements of a value; what overflows is not known."""
        if found is not None and len(found.items) <= LONGEST:
            bits = 31 if value.dtype == TensorProto.INT32 else 63
            items = tuple(None if isinstance(i, int) and not -(1 << bits) <= i < 1 << bits else i for i in found.items)
            self.lists[value] = List(items, found.is_scalar)


def _needed(graph: Graph) -> set[Node]:
    """The nodes of the main graph whose results its outputs are computed of. Not what a node is asked the shape of, nor
    what only a body reads: a runtime may leave that out."""
    found: set[Node] = set()
    pending: list[Value | None] = list(graph.outputs)
    while pending:
        value = pending.pop()
        node = None if value is None else value.producer
        if node is not None and node not in found:
            found.add(node)
            if node.op not in _OF_SHAPES or node.domain:
                pending += node.inputs
    return found


def product(sizes: Sequence[Size]) -> Size:
    """Of all sizes; 1 for none."""
    total: Size = 1
    for size in sizes:
        total = poly.multiply(total, size)
    return total
