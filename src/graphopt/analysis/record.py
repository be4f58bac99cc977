"""What each rewrite claims, taken down before names move: the old values, the new ones, and the nodes that make both.

A claim is a pair of values: "who read a reads b from now on, and they are equal". Every value gets an identity that
outlives the edits: the original's values in the main graph their own name, which stays with what it stands for; all
others a made-up one. So each claim can be checked later against the original's own values, whatever other rewrites did
before or after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from onnx import NodeProto

from graphopt.ir import Graph, Model, NDArray, Node, Tensor, Value
from graphopt.ir.node import Shape

PREFIX = "graphopt:"  # of identities that are no name of the original's


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant value: a tensor, or the array of a Constant node that spells it in another way."""

    tensor: Tensor | None
    array: NDArray | None = None

    def numpy(self) -> NDArray:
        """The values, read-only."""
        if self.tensor is not None:
            return self.tensor.numpy()
        assert self.array is not None
        return self.array

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dims."""
        return self.tensor.shape if self.tensor is not None else self.numpy().shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def dtype(self) -> int | str:
        """Something that is the same for equal types."""
        return self.tensor.dtype if self.tensor is not None else self.numpy().dtype.name

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.tensor.nbytes if self.tensor is not None else int(self.numpy().nbytes)


@dataclass(eq=False)
class Site:
    """One rewrite.

    index: place in the run. name: the first value that it replaces. pairs: identities of the values that it claims to
    be equal, old and new. old: the nodes that it replaces, with identities for names. labels: their names. place:
    "main", "body", "function", or "model" where a whole model was taken over. claims: False where the pass made none,
    so that nothing can be said of the site alone.
    """

    index: int
    rule: str
    pass_name: str
    name: str
    pairs: list[tuple[str, str]]
    old: list[NodeProto]
    labels: tuple[str, ...] = ()
    place: str = "main"
    claims: bool = True


@dataclass(eq=False)
class Chapter:
    """The sites between two reloads of a model.

    base: what their identities refer to; None for the original itself. steps: the node that makes a value that is not
    in the base, constants, types: by identity. opaque: values made by nodes with bodies.
    """

    base: Model | None
    main: Graph
    names: dict[Graph, frozenset[str]]
    opsets: dict[str, int]
    sites: list[Site] = field(default_factory=list)
    steps: dict[str, NodeProto] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    types: dict[str, tuple[int | None, Shape | None]] = field(default_factory=dict)
    ids: dict[Value, str] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)


@dataclass
class _Pending:
    pairs: list[tuple[str, str]]
    old: list[NodeProto]
    name: str
    rewired: dict[int, Value]
    heirs: dict[Value, str] = field(default_factory=dict)


class Recorder:
    """Takes down the claims of one run on a model."""

    def __init__(self, model: Model):
        self.model = model
        self.chapters: list[Chapter] = []
        self._pending: _Pending | None = None
        self._makers: list[Node] = []
        self._count = 0
        self.now = self._begin(None)

    def _begin(self, base: Model | None) -> Chapter:
        names = {graph: frozenset(graph.values) for graph in self.model.scopes()}
        self.now = Chapter(base, self.model.graph, names, self.model.opsets)
        self.chapters.append(self.now)
        return self.now

    @property
    def sites(self) -> list[Site]:
        """All sites, in order."""
        return [site for chapter in self.chapters for site in chapter.sites]

    def _follow(self) -> bool:
        """Begins a chapter where another proto was taken over: what was known of its values is void then."""
        if self.model.graph is self.now.main:
            return False
        self._begin(self.model.clone())
        return True

    def claim(self, pairs: Iterable[tuple[Value, Value | Tensor]], nodes: Iterable[Node]) -> None:
        """Called before a change; see `Context.claim`."""
        self._follow()
        pending = self._pending = _Pending([], [], "", {})
        for old, new in pairs:
            pending.name = pending.name or old.name
            left, right = self._name(old), ""
            if new is old:
                pending.rewired[len(pending.pairs)] = old
            elif isinstance(new, Tensor):
                right = self._fresh()
                self.now.constants[right] = Constant(new)
                pending.heirs[old] = right  # if the value itself becomes that constant
            else:
                right = self._name(new)
                if right.startswith(PREFIX) and right not in self.now.constants and not left.startswith(PREFIX):
                    pending.heirs[new] = left
            pending.pairs.append((left, right))
        pending.old += [self._step(node) for node in nodes]
        self._settle()

    def close(self, rule: str, pass_name: str, labels: Sequence[str], graph: Graph, index: int) -> None:
        """Called when the change is on record."""
        claims = self._pending is not None
        pending, self._pending = self._pending or _Pending([], [], "", {}), None
        place = "function" if graph.in_function else "body" if graph.parent is not None else "main"
        if self._follow():
            pending, place, claims = _Pending([], [], "", {}), "model", False
        site = Site(index, rule, pass_name, pending.name, pending.pairs, pending.old, tuple(labels), place, claims)
        for value, name in pending.heirs.items():  # what comes later is checked against the original's values
            if name not in self.now.constants or value.is_const:
                self.now.ids[value] = name
        for number, value in pending.rewired.items():
            self._rewire(site, number, value)
        self.now.sites.append(site)

    def _rewire(self, site: Site, number: int, value: Value) -> None:
        """A node that stays, but reads something else now: its outputs, as they are made from now on, are new."""
        node = value.producer
        assert node is not None
        step = self._step(node)
        self._settle()
        place = list(step.output).index(site.pairs[number][0])
        step.output[:] = [self._fresh() if out else "" for out in step.output]
        self.now.steps.update((out, step) for out in step.output if out)
        site.pairs[number] = (site.pairs[number][0], step.output[place])

    def _fresh(self) -> str:
        self._count += 1
        return f"{PREFIX}{self._count}"

    def _name(self, value: Value) -> str:
        """The identity of a value."""
        chapter = self.now
        found = chapter.ids.get(value)
        if found is not None:
            if found in chapter.types and value.shape is not None:
                chapter.types[found] = (value.dtype, value.shape)  # more may be known by now
            return found
        names = chapter.names.get(value.graph)
        known = names is not None and value.name in names  # going by its name: it stays with what it stands for
        name = value.name if known and value.graph is chapter.main else self._fresh()
        chapter.ids[value] = name
        if value.is_const:
            chapter.constants[name] = _constant(value)
            return name
        chapter.types[name] = (value.dtype, value.shape)
        if not known and value.producer is not None:
            self._makers.append(value.producer)
        return name

    def _settle(self) -> None:
        """Takes down the nodes that make the values which were met for the first time."""
        done: set[Node] = set()
        while self._makers:
            node = self._makers.pop()
            if node not in done:
                done.add(node)
                step = self._step(node)
                self.now.steps.update((out, step) for out in step.output if out)

    def _step(self, node: Node) -> NodeProto:
        """The node as it is now, with identities for names."""
        proto = node.proto
        step = NodeProto(op_type=node.op, domain=node.domain, overload=proto.overload)
        step.attribute.extend(proto.attribute)
        step.input.extend([self._name(value) if value is not None else "" for value in node.inputs])
        step.output.extend([self._name(value) if value.name else "" for value in node.outputs])
        if node.subgraphs or node.has_references:
            self.now.opaque.update(out for out in step.output if out)
        return step


def _constant(value: Value) -> Constant:
    node = value.producer
    if value.tensor is not None:
        return Constant(value.tensor)
    if node is not None and "value" in node.attributes:
        return Constant(Tensor(node.attributes["value"].t, node.graph.model.store))
    return Constant(None, value.numpy())
