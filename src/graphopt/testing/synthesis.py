"""Models made from a rule's pattern: the expressions that it should match, and others that it just should not.

The tree of a pattern is built from its leaves up. Each operator is completed by the catalog, which draws whatever the
pattern leaves open: further operands, attributes, shapes, types. What a rule demands beyond its pattern is between the
lines of its code; its operators, words and numbers (`Hints`) are used as operands' producers, as readers of the result,
and as values. Then numbers and surroundings are nudged, so that guards are just met and just missed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphopt.testing import catalog
from graphopt.testing.catalog.call import slots_of
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn, Var
from graphopt.testing.rules import bodies
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.infer import inferred, loads
from graphopt.testing.rules.numbers import NUDGES, level
from graphopt.testing.rules.surroundings import CHANGES
from graphopt.testing.rules.wholes import WHOLES, nudge_rows

if TYPE_CHECKING:
    from graphopt.rewrite import Rule

__all__ = ["LAST", "edit", "instance", "nudged", "opsets_of"]

Pattern = Any  # of graphopt.rewrite.pattern, told apart by the names of their classes

FIRST, LAST = 7, 26  # opsets that models are made for
_DTYPES = (
    TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32,
)  # fmt: skip


def instance(rule: Rule, chooser: Chooser, hints: Hints) -> Drawn:
    """A model in which the rule's pattern stands, as far as the catalog can make it. Raises DoesNotFit where the
    choices made cannot be completed: try others."""
    pattern = chooser.pick(rule.patterns)
    draft = Draft(chooser, chooser.pick(opsets_of(pattern, rule.opsets)))
    if chooser.chance(45):
        draft.dtypes = frozenset({chooser.pick(_DTYPES)})
    maker = _Maker(draft, hints, pattern)
    made = maker.node(pattern)
    for var in made:
        maker.use(var)
    for var in maker.shared:
        if chooser.chance(30):
            draft.output(var)
    if not draft.outputs:
        draft.output(made[0])
    drawn = draft.finish()
    for name in maker.free:
        if chooser.chance(85):
            _given(drawn, name)
    if chooser.chance(25):
        level(drawn, chooser, hints)
    elif chooser.chance(10):
        with contextlib.suppress(DoesNotFit):
            nudge_rows(drawn, chooser, hints)
    return drawn


def _given(drawn: Drawn, name: str) -> None:
    """Makes an input of an initializer: what the pattern leaves open should vary from run to run."""
    graph = drawn.model.graph
    tensor = next((t for t in graph.initializer if t.name == name), None)
    if tensor is None or name in {info.name for info in graph.input}:
        return
    graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    drawn.feeds[name] = np.asarray(onnx.numpy_helper.to_array(tensor))
    kept = [t for t in graph.initializer if t.name != name]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def edit(drawn: Drawn, chooser: Chooser, hints: Hints) -> Drawn:
    """A copy of a model with one number or one thing of its surroundings changed. Raises DoesNotFit."""
    model = onnx.ModelProto()
    model.CopyFrom(drawn.model)
    copy = Drawn(model, dict(drawn.feeds))
    change = chooser.pick(_EDITS)
    try:
        change(copy, chooser, hints)
    except (ArithmeticError, LookupError, MemoryError, ValueError, TypeError, AttributeError) as error:
        raise DoesNotFit(str(error)) from error
    _forget_shapes(copy)
    return copy


_EDITS: tuple[Any, ...] = (*NUDGES, *WHOLES, *CHANGES)


def nudged(rule: Rule, chooser: Chooser, hints: Hints, most: int = 3) -> Drawn:
    """An instance with up to `most` edits. Raises DoesNotFit."""
    drawn = instance(rule, chooser, hints)
    for _ in range(chooser.integer(0, most)):
        with contextlib.suppress(DoesNotFit):
            drawn = edit(drawn, chooser, hints)
    return drawn


def _forget_shapes(drawn: Drawn) -> None:
    """Outputs get the types that onnx infers for them, without sizes. Raises DoesNotFit where it finds the model
    contradictory."""
    model = drawn.model
    try:
        found = inferred(model, strict=True)
    except DoesNotFit as error:  # runtimes take one element of any shape for Range's scalars
        if "op_type:Range" not in str(error) or not loads(model):
            raise
        found = inferred(model)
    for info, other in zip(model.graph.output, found.graph.output, strict=True):
        if other.type.WhichOneof("value") == "tensor_type" and other.type.tensor_type.elem_type:
            info.type.CopyFrom(other.type)
            for dim in info.type.tensor_type.shape.dim:
                dim.Clear()


def opsets_of(pattern: Pattern, bounds: tuple[int, int]) -> list[int]:
    """Opsets at which some operator of a pattern has a version of its own, and the borders of the range."""
    low, high = max(FIRST, bounds[0]), min(LAST, bounds[1], onnx.defs.onnx_opset_version())
    found = {low, high, min(high, max(low, 17))}
    first = low  # the opset that has all operators, alternatives aside
    pending: list[Pattern] = [pattern]
    while pending:
        item = pending.pop()
        if _is(item, "Op"):
            pending += item.operands
            versions = [_versions()[op] for op in item.ops if not item.domain and op in _versions()]
            found.update(v for each in versions for v in each if low <= v <= high)
            first = max(first, min((min(each) for each in versions), default=low))
        elif _is(item, "OneOf"):
            pending += item.options
        elif _is(item, "Maybe"):
            pending.append(item.inner)
    return sorted({max(v, min(first, high)) for v in found}, key=lambda v: (v != 17, v))


@lru_cache(maxsize=1)
def _versions() -> dict[str, list[int]]:
    """The opsets that changed each operator."""
    found: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema.since_version)
    return found


def _is(pattern: Pattern, *kinds: str) -> bool:
    return type(pattern).__name__ in kinds


class _Maker:
    """One pattern becoming nodes of a draft."""

    def __init__(self, draft: Draft, hints: Hints, pattern: Pattern) -> None:
        self.draft, self.chooser, self.hints = draft, draft.chooser, hints
        self.bound: dict[str, Var | None] = {}
        self.made: dict[int, list[Var]] = {}
        self.last: dict[str, onnx.NodeProto | None] = {}  # by operator
        self.shared: list[Var] = []
        self.free: list[str] = []  # constants that the catalog chose where the pattern takes any value
        self.repeated = {name for name, count in _names(pattern).items() if count > 1}
        self.mentioned = [op for op in hints.ops if op in catalog.OPS]

    def node(self, pattern: Pattern) -> list[Var]:
        """The outputs of a node that matches."""
        if id(pattern) in self.made:
            return self.made[id(pattern)]
        op = self.chooser.pick(self._available(pattern))
        operands = _flat(pattern.operands, self.chooser)
        if op in _commutative() and pattern.commutes and len(operands) == 2 and self.chooser.chance(40):
            operands = operands[::-1]
        given: dict[int, Var] = {}
        constant: set[int] = set()
        omitted: set[int] = set()
        numbers: list[tuple[int, Pattern]] = []
        for slot, item in sorted(enumerate(operands), key=lambda pair: not _is(pair[1], "Op")):
            # what is below first: a value that stands there, too, is then the same one
            if item is None:
                omitted.add(slot)
            elif _is(item, "Op"):
                below = self._below(item, op, slot)
                if item.index >= len(below):
                    raise DoesNotFit(f"{op} has too few outputs")
                given[slot] = below[item.index]
            elif _is(item, "Const") and item.value is not None:
                numbers.append((slot, item))
            elif _is(item, "Rest"):
                self._rest(slot, given, constant)
            elif _is(item, "AnyValue") and item.name not in self.bound and _occurs(item.name, operands) > 1:
                given[slot] = self.bound[item.name] = self._value(op, slot)
            else:
                self._leaf(slot, item, given, constant)
        for slot, item in numbers:
            given[slot] = self._number(item, given)
        if not any(_is(item, "Rest") for item in operands) and self.chooser.chance(85):
            omitted.update(self._beyond(op, len(operands)))
        outputs = self._call(op, pattern, given, constant, omitted)
        self._bind(operands, outputs, constant)
        self.made[id(pattern)] = outputs
        if pattern.is_shared:
            self.shared += outputs[:1]
        return outputs

    def _beyond(self, op: str, count: int) -> list[int]:
        """Optional slots after so many: a node with more inputs than the pattern has operands does not match."""
        try:
            slots = slots_of(op, self.draft.opset)
        except DoesNotFit:
            return []
        return [slot for slot in range(count, len(slots)) if slots[slot][2]]

    def _value(self, op: str, slot: int) -> Var:
        """A value for two slots of one node."""
        before, types = self.draft.dtypes, _types_of(op, slot, self.draft.opset)
        self.draft.dtypes = (types & before or types) if before else types
        try:
            return catalog.apply(self.draft, "Identity")[0]
        finally:
            self.draft.dtypes = before

    def _below(self, item: Pattern, op: str, slot: int) -> list[Var]:
        """The outputs of a node below another one, of types that this one takes."""
        before, types = self.draft.dtypes, _types_of(op, slot, self.draft.opset)
        if types and TensorProto.FLOAT not in types and any(_keeps_type(op, self.draft.opset) for op in item.ops):
            self.draft.dtypes = types
        try:
            return self.node(item)
        finally:
            self.draft.dtypes = before

    def _available(self, pattern: Pattern) -> list[str]:
        found = [op for op in sorted(pattern.ops) if pattern.domain or _has(op, self.draft.opset)]
        if not found:
            raise DoesNotFit(f"opset {self.draft.opset} has none of {', '.join(sorted(pattern.ops))}")
        return found

    def _leaf(self, slot: int, item: Pattern, given: dict[int, Var], constant: set[int]) -> None:
        name = getattr(item, "name", "")
        known = self.bound.get(name)
        if known is not None:
            given[slot] = known
        elif _is(item, "Const"):
            constant.add(slot)
        elif name in self.repeated and given:
            first = next(iter(given.values()))
            if first.shape is None:
                raise DoesNotFit("the shape is not known")
            given[slot] = self.draft.input(first.dtype, first.shape)
        elif self.mentioned and self.chooser.chance(20):
            given[slot] = self.chooser.pick(self._produced())
        elif self.draft.values and self.chooser.chance(8):
            given[slot] = self.chooser.pick(self.draft.values)
        elif self.chooser.chance(12):
            constant.add(slot)
        if slot in given and name:
            self.bound[name] = given[slot]

    def _produced(self) -> list[Var]:
        """The outputs of an operator that the rule's code mentions."""
        op = self.chooser.pick(self.mentioned)
        if not _has(op, self.draft.opset):
            raise DoesNotFit(f"opset {self.draft.opset} has no {op}")
        return catalog.apply(self.draft, op)

    def _rest(self, slot: int, given: dict[int, Var], constant: set[int]) -> None:
        """All further operands: what the catalog makes up, constants, or the outputs of one operator in order."""
        how = self.chooser.integer(0, 3)
        if how == 1:
            constant.update(range(slot, slot + 8))
        elif how == 2 and self.mentioned:
            for number, var in enumerate(self._produced()):
                given[slot + number] = var
        elif how == 3 and self.draft.values and self.chooser.chance(50):
            given[slot] = self.chooser.pick(self.draft.values[-4:])

    def _number(self, item: Pattern, given: dict[int, Var]) -> Var:
        dtype = next((var.dtype for var in given.values()), TensorProto.FLOAT)
        shape = self.chooser.pick([(), (1,), (1, 1)])
        return self.draft.constant(np.full(shape, item.value), dtype)

    def _call(
        self, op: str, pattern: Pattern, given: dict[int, Var], constant: set[int], omitted: set[int]
    ) -> list[Var]:
        if op in bodies.BODIES:
            return bodies.BODIES[op](self.draft, given, 0 in constant, self.hints.ops)
        if pattern.domain or op not in catalog.OPS:
            return _generic(self.draft, op, pattern.domain, given, constant)
        n_out = None
        most = onnx.defs.get_schema(op, self.draft.opset).max_output
        if pattern.outputs and most > 1 and self.chooser.chance(30):
            n_out = self.chooser.integer(1, min(3, most))
        attrs: dict[str, Any] = {}
        if op == "Cast" and self.chooser.chance(60):  # to a type that is there, or a common one
            attrs["to"] = self.chooser.pick([var.dtype for var in self.draft.values[-3:]] + [1, 7, 6, 9, 10, 11, 3, 2])
        slots, omit = frozenset(constant), frozenset(omitted)
        if op in self.last and self.chooser.chance(45):  # with some of the parameters of another node like it
            with contextlib.suppress(DoesNotFit):
                more, same = self._like(self.last[op], constant - set(given))
                return catalog.apply(
                    self.draft,
                    op,
                    {**given, **more},
                    attrs={**same, **attrs},
                    const_slots=slots,
                    omit=omit,
                    n_out=n_out,
                )
        outputs = catalog.apply(self.draft, op, given, attrs=attrs, const_slots=slots, omit=omit, n_out=n_out)
        self.last[op] = next((n for n in reversed(self.draft.nodes) if outputs and outputs[0].name in n.output), None)
        return outputs

    def _like(self, node: onnx.NodeProto | None, slots: set[int]) -> tuple[dict[int, Var], dict[str, Any]]:
        """All or some of the constants in these slots of a node, and of its attributes."""
        if node is None:
            return {}, {}
        constants = {var.name: var for var in self.draft.values if var.const is not None}
        found = {
            s: constants[node.input[s]] for s in sorted(slots) if s < len(node.input) and node.input[s] in constants
        }
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type != onnx.AttributeProto.GRAPH}
        percent = self.chooser.pick([100, 60])
        given = {slot: self._copied(var) for slot, var in found.items() if self.chooser.chance(percent)}
        return given, {name: _text(value) for name, value in attrs.items() if self.chooser.chance(percent)}

    def _copied(self, var: Var) -> Var:
        """A constant, or another one of the same data."""
        return self.draft.constant(var.const, var.dtype) if self.chooser.chance(50) else var

    def _bind(self, operands: Sequence[Pattern], outputs: list[Var], constant: set[int]) -> None:
        """Names the operands that the catalog made up."""
        if not outputs:
            raise DoesNotFit("no output")
        node = next(n for n in reversed(self.draft.nodes) if outputs[0].name in n.output)
        by_name = {var.name: var for var in self.draft.values}
        for slot, item in enumerate(operands):
            name = getattr(item, "name", "") if _is(item, "AnyValue", "Const") else ""
            if name and name not in self.bound:
                var = by_name.get(node.input[slot]) if slot < len(node.input) else None
                self.bound[name] = var
                free = _is(item, "AnyValue") and slot not in constant and var is not None and var.const is not None
                if free and var is not None and (slot == 0 or var.dtype != TensorProto.INT64):
                    self.free.append(var.name)

    def use(self, var: Var) -> None:
        """Something reads the result: the caller, or another operator that the rule's code mentions."""
        readers = [op for op in self.mentioned if _has(op, self.draft.opset)]
        if readers and self.chooser.chance(40):
            op, slot = self.chooser.pick(readers), self.chooser.integer(0, 1)
            try:
                for out in catalog.apply(self.draft, op, {slot: var})[:1]:
                    self.draft.output(out)
                if self.chooser.chance(60):
                    return
            except DoesNotFit:
                pass
        if self.chooser.chance(60):
            self.draft.output(var)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _occurs(name: str, operands: Sequence[Pattern | None]) -> int:
    return sum(_is(item, "AnyValue") and getattr(item, "name", "") == name for item in operands if item is not None)


def _commutative() -> frozenset[str]:
    from graphopt.rewrite.pattern import COMMUTATIVE

    return COMMUTATIVE


def _types_of(op: str, slot: int, opset: int) -> frozenset[int]:
    """What an operator takes in a slot; nothing where that is not known."""
    try:
        slots = slots_of(op, opset)
    except DoesNotFit:
        return frozenset()
    return frozenset(slots[min(slot, len(slots) - 1)][1]) if slots else frozenset()


@lru_cache(maxsize=4096)
def _keeps_type(op: str, opset: int) -> bool:
    """Whether an operator's result has the type of its first operand."""
    try:
        schema = onnx.defs.get_schema(op, opset)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.inputs) and schema.outputs[0].type_str == schema.inputs[0].type_str


@lru_cache(maxsize=4096)
def _has(op: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(op, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


def _names(pattern: Pattern) -> Counter[str]:
    """How often each name stands in one reading of a pattern."""
    if _is(pattern, "Op"):
        total: Counter[str] = Counter()
        for operand in pattern.operands:
            total += _names(operand)
        return total
    if _is(pattern, "OneOf"):
        return max((_names(option) for option in pattern.options), key=lambda c: sum(c.values()), default=Counter())
    if _is(pattern, "Maybe"):
        return _names(pattern.inner)
    name = getattr(pattern, "name", "")
    return Counter([name] if name else [])


def _flat(operands: Sequence[Pattern], chooser: Chooser) -> list[Pattern]:
    """Operands with every alternative and option decided; None for what is left out."""
    found: list[Pattern] = []
    for operand in operands:
        item = operand
        while _is(item, "Maybe", "OneOf"):
            if _is(item, "Maybe"):
                item = None if chooser.chance(40) else item.inner
            else:
                item = chooser.pick(item.options) if item.options else None
        found.append(item)
    return found


def _generic(draft: Draft, op: str, domain: str, given: dict[int, Var], constant: set[int]) -> list[Var]:
    """An operator that the catalog does not know: operands like the first one, one output."""
    if domain and domain not in draft.opsets:
        draft.opsets[domain] = 1
    first = given.get(0) or draft.input(TensorProto.FLOAT, (2, 3))
    if first.shape is None:
        raise DoesNotFit("the shape is not known")
    last = max([0, *given, *(slot for slot in constant if slot < 3)])
    operands: list[Var | None] = []
    for slot in range(last + 1):
        var = given.get(slot)
        if var is None and slot:
            data = draft.chooser.array(first.dtype, first.shape, special=False)
            var = draft.constant(data, first.dtype) if slot in constant else draft.input(first.dtype, first.shape)
        operands.append(var or first)
    try:
        return draft.node(op, operands, domain=domain)
    except onnx.checker.ValidationError as error:
        raise DoesNotFit(str(error)) from error
