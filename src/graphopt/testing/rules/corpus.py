"""Models for passes, which have no pattern: a few operators, with what passes look for put in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx
from onnx import helper

from graphopt.testing import catalog
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn, Var
from graphopt.testing.drawing import Spec, draw_model
from graphopt.testing.rules import bodies
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.lanes import lanes
from graphopt.testing.rules.numbers import nodes_of
from graphopt.testing.rules.siblings import WEIGHTED, siblings
from graphopt.testing.rules.surroundings import CHANGES, alone_in_a_body, constant_input, in_a_body, not_constant
from graphopt.testing.rules.twins import TWINS, twins
from graphopt.testing.synthesis import FIRST, LAST

__all__ = ["model_for"]

_SIZES = ("Shape", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Mul", "Add", "Sub", "Div", "Size")
_RESHAPES = ("Reshape", "Expand", "ConstantOfShape", "Range", "Tile")


def model_for(item: Any, chooser: Chooser, hints: Hints) -> Drawn:
    """A model of one to five operators, some of them those that the pass's code mentions, with repetitions, constants,
    computations of shapes, bodies and functions. Raises DoesNotFit."""
    if {"Loop", "If"} & set(hints.ops) and chooser.chance(40):
        return _edited(_with_body(chooser, hints), chooser, hints)
    if {"Concat", "Split"} <= set(hints.ops) and chooser.chance(60):
        return _edited(lanes(chooser, hints), chooser, hints, twin=False)
    if chooser.chance(40 if len(set(WEIGHTED) & set(hints.ops)) > 1 else 6):
        return _edited(siblings(chooser, hints), chooser, hints, twin=False)
    if chooser.chance(40):
        return _edited(twins(chooser, hints), chooser, hints, twin=False)
    if chooser.chance(40):
        return _edited(draw_model(chooser, Spec.of(max_nodes=chooser.integer(1, 5))), chooser, hints)
    draft = Draft(chooser, chooser.pick([17, 13, 21, 11, 9, 18, 7, 12, 10, 8, 15, LAST, FIRST]))
    known = set(catalog.available(draft.opset))
    mentioned = [op for op in hints.ops if op in known] or sorted(known)
    made: list[Var] = []
    for _ in range(chooser.integer(1, 3)):
        how = chooser.integer(0, 9)
        op = chooser.pick(
            mentioned if how < 6 else [op for op in _options() if op in known] if how < 8 else sorted(known)
        )
        given = {0: chooser.pick(made)} if made and chooser.chance(60) else {}
        constant = frozenset(range(8)) if chooser.chance(35) else frozenset()
        made += _attempt(draft, op, given, constant)
    if made and chooser.chance(35):
        made += _sizes(draft, chooser, made)
    if not made:
        raise DoesNotFit("nothing fits")
    return _edited(draft.finish(), chooser, hints)


def _with_body(chooser: Chooser, hints: Hints) -> Drawn:
    """An If or a Loop, with values that it carries, makes and captures."""
    draft = Draft(chooser, chooser.pick([17, 13, 11, 21]))
    for var in bodies.BODIES[chooser.pick(["Loop", "If"])](draft, {}, chooser.chance(30), hints.ops):
        draft.output(var)
    return draft.finish()


@lru_cache(maxsize=1)
def _options() -> list[str]:
    """Operators with optional inputs side by side."""
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    found = []
    for op in sorted(catalog.OPS):
        versions = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == op and s.domain == ""]
        if any(sum(item.option == optional for item in s.inputs) > 1 for s in versions):
            found.append(op)
    return found


def _edited(drawn: Drawn, chooser: Chooser, hints: Hints, twin: bool = True) -> Drawn:
    changes = [chooser.pick(TWINS)] if twin and chooser.chance(40) else []
    changes += [chooser.pick(_CHANGES) for _ in range(chooser.integer(0, 3))]
    for change in changes:
        copy = Drawn(onnx.ModelProto(), dict(drawn.feeds))
        copy.model.CopyFrom(drawn.model)
        try:
            change(copy, chooser, hints)
        except (DoesNotFit, ArithmeticError, LookupError, MemoryError, ValueError, TypeError, AttributeError):
            continue
        drawn = copy
    return drawn


def _attempt(draft: Draft, op: str, given: dict[int, Var], constant: frozenset[int]) -> list[Var]:
    for operands in (given, {}):
        try:
            return catalog.apply(draft, op, operands, const_slots=constant)
        except DoesNotFit:
            continue
    return []


def _sizes(draft: Draft, chooser: Chooser, made: list[Var]) -> list[Var]:
    """Computations on the shape of a value, and a value of that shape."""
    source = chooser.pick(made)
    found = _attempt(draft, "Shape", {0: source}, frozenset())
    for _ in range(chooser.integer(0, 3)):
        if not found:
            return []
        op = chooser.pick(_SIZES[1:])
        found += _attempt(draft, op, {0: chooser.pick(found)}, frozenset({1, 2, 3}))
    if found and chooser.chance(70):
        op = chooser.pick(_RESHAPES)
        slot = 0 if op in ("ConstantOfShape", "Range") else 1
        given = {slot: found[-1]} if slot == 0 else {0: source, 1: found[-1]}
        found += _attempt(draft, op, given, frozenset())
    return found


def _unused(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node's result is read by nothing."""
    names = [name for node in drawn.model.graph.node for name in node.output if name]
    if not names:
        raise DoesNotFit("no value")
    name = chooser.pick(names)
    drawn.model.graph.node.append(helper.make_node("Identity", [name], [f"{name}_unused"]))


def _random(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Random numbers, maybe twice of one kind."""
    op = chooser.pick(["RandomUniform", "RandomNormal"])
    for number in range(chooser.integer(1, 2)):
        name = f"random_{len(drawn.model.graph.node)}_{number}"
        drawn.model.graph.node.append(helper.make_node(op, [], [name], shape=[2, 3], dtype=1))
        drawn.model.graph.node.append(helper.make_node("Neg", [name], [f"{name}_out"]))
        drawn.model.graph.output.append(helper.make_tensor_value_info(f"{name}_out", 1, [2, 3]))


def _named(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Nodes have names, some of them the same."""
    for number, node in enumerate(nodes_of(drawn.model)):
        node.name = chooser.pick([f"node_{number}", "node", ""])


_CHANGES = (
    *CHANGES, constant_input, not_constant, in_a_body, alone_in_a_body, *TWINS, _unused, _named, _random,
)  # fmt: skip
