"""The differences between two models: interface, operators, attributes, wiring, constants, and numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.difference.match import Matching, match_models
from graphopt.ir import Model, Node, Value
from graphopt.ir.provenance import origin_of

__all__ = ["Change", "Diff", "diff"]

Source = ModelProto | str | os.PathLike[str] | Model


@dataclass(frozen=True)
class Change:
    """One difference. kind: "removed", "added", "made" (by rules, from `sources`), "changed", "constant". node: the
    label of the node (or name of the constant) in the second model, or in the first where it was removed. what: in
    words."""

    kind: str
    node: str
    op: str = ""
    what: str = ""
    sources: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()


@dataclass
class Diff:
    """interface: differences in inputs, outputs, opsets, in words. changes: see `Change`. same: number of nodes that
    are the same. operators: operator -> (count in the first, in the second), where they differ. values: inner values by
    name with their largest difference, in the order of the first model, where numbers were asked for."""

    interface: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    same: int = 0
    operators: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: list[dict[str, Any]] | None = None

    @property
    def is_same(self) -> bool:
        """Whether nothing differs in structure."""
        return not self.interface and not self.changes

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        rows = [{key: value for key, value in vars(change).items() if value} for change in self.changes]
        found: dict[str, Any] = {"same": self.same, "interface": self.interface, "operators": self.operators}
        found["changes"] = rows
        if self.values is not None:
            found["values"] = self.values
        return found


def diff(
    a: Source, b: Source, *, numeric: bool = False, inputs: Mapping[str, Any] | None = None, seed: int = 0
) -> Diff:
    """What is different in the second model.

    a, b: paths, `ModelProto`s or Models. Nodes are matched by provenance (what rules of graphopt made says from what),
    by name, by the names of outputs, and by what they compute. numeric: also run both on the same `inputs` (made from
    the first model without; `seed`) and compare the values that both have by the same name: where do they part?

    Raises ModelError for what is no model, GraphoptError where no inputs are found or one of the models does not run.

    >>> from onnx import parser
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    >>> a, b = parser.parse_model(head + '{ y = Elu <alpha = 1.0> (x) }'), parser.parse_model(head + '{ y = Relu(x) }')
    >>> [(c.kind, c.op) for c in diff(a, b).changes]
    [('removed', 'Elu'), ('added', 'Relu')]
    """
    from graphopt.subgraphs.extract import model_of

    first, second = model_of(a), model_of(b)
    found = Diff(interface=list(_interface(first, second)))
    matching = match_models(first, second)
    found.changes += _structure(matching)
    found.changes += _constants(first, second)
    changed = {change.node for change in found.changes if change.kind == "changed"}
    found.same = sum(node.label not in changed for node in matching.pairs.values())
    counts = [_operators(model) for model in (first, second)]
    names = sorted(op for op in {*counts[0], *counts[1]} if counts[0][op] != counts[1][op])
    found.operators = {op: (counts[0][op], counts[1][op]) for op in names}
    if numeric:
        from graphopt.difference.numbers import compare_values

        found.values = compare_values(first, second, inputs, seed)
    return found


def _operators(model: Model) -> Counter[str]:
    return Counter(f"{n.domain}::{n.op}" if n.domain else n.op for graph in model.scopes() for n in graph)


def _interface(a: Model, b: Model) -> Iterator[str]:
    for kind in ("input", "output"):
        ours, theirs = ({info.name: info.type for info in getattr(m.proto.graph, kind)} for m in (a, b))
        for name in ours.keys() - theirs.keys():
            yield f"{kind} {name!r} is gone"
        for name in theirs.keys() - ours.keys():
            yield f"{kind} {name!r} is new"
        for name, kind_ in ours.items():
            if name in theirs and theirs[name] != kind_:
                yield f"{kind} {name!r} has another type or shape"
        if list(ours) != list(theirs) and set(ours) == set(theirs):
            yield f"the {kind}s are in another order"
    for domain in sorted({*a.opsets, *b.opsets}):
        versions = a.opsets.get(domain), b.opsets.get(domain)
        if versions[0] != versions[1]:
            yield f"operator set {domain or 'ai.onnx'}: {versions[0] or 'none'} became {versions[1] or 'none'}"


def _structure(found: Matching) -> Iterator[Change]:
    for node in found.removed:
        yield Change("removed", node.label, node.op)
    for node, sources in found.made.items():
        origin = origin_of(node)
        yield Change("made", node.label, node.op, "", tuple(n.label for n in sources), origin.rules)
    for node in found.added:
        yield Change("added", node.label, node.op)
    twins = {other: mine for mine, other in found.pairs.items()}
    for mine, other in found.pairs.items():
        what = [*_attributes(mine, other), *_operands(mine, other, twins)]
        if what:
            yield Change("changed", other.label, other.op, "; ".join(what))


def _attributes(mine: Node, other: Node) -> Iterator[str]:
    if mine.subgraphs or other.subgraphs:
        return  # their nodes are compared one by one
    for name in sorted({*mine.attributes, *other.attributes}):
        old, new = mine.attr(name), other.attr(name)
        if isinstance(old, np.ndarray) or isinstance(new, np.ndarray) or hasattr(old, "SerializeToString"):
            if mine.attributes.get(name) != other.attributes.get(name):
                yield f"attribute {name} is another"
        elif old != new:
            yield f"attribute {name}: {old!r} became {new!r}"


def _operands(mine: Node, other: Node, twins: Mapping[Node, Node]) -> Iterator[str]:
    if len(mine.inputs) != len(other.inputs):
        yield f"{len(mine.inputs)} inputs became {len(other.inputs)}"
    for slot, (old, new) in enumerate(zip(mine.inputs, other.inputs, strict=False)):
        if not _is_same(old, new, twins):
            yield f"input {slot}: {_name(old)} became {_name(new)}"


def _is_same(old: Value | None, new: Value | None, twins: Mapping[Node, Node]) -> bool:
    if old is None or new is None:
        return old is new
    if old.name == new.name or (old.is_const and new.is_const):  # constants are compared by themselves
        return True
    return old.producer is not None and new.producer is not None and twins.get(new.producer) is old.producer


def _name(value: Value | None) -> str:
    return "nothing" if value is None else repr(value.name)


def _constants(a: Model, b: Model) -> Iterator[Change]:
    """Constants that both have by the same name, and that do not hold the same."""
    theirs = {name: value for graph in b.scopes() for name, value in graph.values.items() if value.is_const}
    for graph in a.scopes():
        for name, value in graph.values.items():
            other = theirs.get(name) if value.is_const else None
            what = _difference(value, other) if other is not None else ""
            if what:
                yield Change("constant", name, "", what)


def _difference(old: Value, new: Value) -> str:
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"{_type(old)} became {_type(new)}"
    x, y = old.numpy(), new.numpy()
    if x.dtype.kind in "OUS":
        return "" if x.tolist() == y.tolist() else "other texts"
    if x.tobytes() == y.tobytes():
        return ""
    with np.errstate(all="ignore"):
        apart = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return f"other values, apart by up to {np.nanmax(apart, initial=0.0):.3g}"


def _type(value: Value) -> str:
    from graphopt.ir import dtypes

    return f"{dtypes.name(value.dtype or 0)}{list(value.shape or ())}"
