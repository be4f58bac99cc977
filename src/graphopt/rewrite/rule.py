"""Rules: a pattern, a function that builds the replacement or refuses, and the sets that they add up to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node, Value
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.context import Context
from graphopt.rewrite.pattern import Key, Match, OneOf, Op, Pattern, depth, width


@dataclass(frozen=True)
class Refusal:
    """Why a rule leaves a site alone, in words for the user."""

    reason: str


def refuse(reason: str) -> Refusal:
    """What a rule returns where a precondition does not hold or cannot be proved."""
    return Refusal(reason)


Outcome = Value | tuple[Value, ...] | Refusal | None
Function = Callable[[Match, Builder], Outcome]


@dataclass(frozen=True)
class Rule:
    """A rewrite: where `pattern` matches, its root's outputs become what `function` returns.

    Returning None means that this is no site of the rule after all; a `Refusal` is put on record. opsets: the lowest
    and highest version of the default domain that the rule is right for. targets: empty for all. measure: what gets
    smaller with each use, so that the rule set ends ("nodes", "bytes", "flops", "order"). opt_in: not part of the rule
    set of its folder, only run when named.
    """

    name: str
    patterns: tuple[Op, ...]
    function: Function = field(repr=False)
    opsets: tuple[int, int] = (1, 1 << 30)
    targets: frozenset[str] = frozenset()
    measure: str = "nodes"
    doc: str = field(default="", repr=False, compare=False)
    opt_in: bool = False

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        return RuleSet((self,)) + other

    def run(self, model: Model, ctx: Context) -> None:
        """Applies this rule alone, everywhere it matches."""
        RuleSet((self,), self.name).run(model, ctx)

    def __str__(self) -> str:
        return self.name


def rule(
    name: str,
    *patterns: Pattern,
    opset: str = ">=1",
    targets: Iterable[str] = (),
    measure: str = "nodes",
    opt_in: bool = False,
) -> Callable[[Function], Rule]:
    """Makes a rule of a function.

    opset: ">=9", "<13" or ">=7,<13" of the default domain. The rule's documentation is the function's docstring, or its
    module's.

    >>> from graphopt.rewrite import P, rule
    >>> @rule("double-negation", P.Neg(P.Neg("x")))
    ... def double_negation(m, new):
    ...     return m.x
    >>> double_negation.name
    'double-negation'
    """
    roots: list[Op] = []
    for pattern in patterns:
        roots += _alternatives(pattern, name)

    def make(function: Function) -> Rule:
        doc = inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or ""
        return Rule(name, tuple(roots), function, _opsets(opset), frozenset(targets), measure, doc, opt_in)

    return make


def _alternatives(pattern: Pattern, name: str) -> list[Op]:
    options = pattern.options if isinstance(pattern, OneOf) else (pattern,)
    for option in options:
        if not isinstance(option, Op):
            raise TypeError(f"rule {name!r}: the root of a pattern must be an operator, not {option!r}")
    return [option for option in options if isinstance(option, Op)]


def _opsets(text: str) -> tuple[int, int]:
    low, high = 1, 1 << 30
    for part in text.split(","):
        part = part.strip()
        if part.startswith(">="):
            low = int(part[2:])
        elif part.startswith("<"):
            high = int(part[1:]) - 1
        else:
            raise ValueError(f"opset condition {text!r}: write '>=9', '<13' or '>=7,<13'")
    return low, high


@dataclass(frozen=True)
class RuleSet:
    """Rules that are applied together until none fires. Adds up with `+`; is a pass."""

    rules: tuple[Rule, ...] = ()
    name: str = ""

    def __add__(self, other: Rule | RuleSet) -> RuleSet:
        if not isinstance(other, (Rule, RuleSet)):
            return NotImplemented
        more = other.rules if isinstance(other, RuleSet) else (other,)
        return RuleSet((*self.rules, *(r for r in more if r not in self.rules)))

    def __str__(self) -> str:
        return self.name or "+".join(r.name for r in self.rules)

    @cached_property
    def depth(self) -> int:
        """How many operators the deepest pattern spans."""
        return max((depth(p) for r in self.rules for p in r.patterns), default=0)

    @cached_property
    def width(self) -> int:
        """How many readers an inner node of a pattern can have."""
        return max((width(p) for r in self.rules for p in r.patterns), default=1)

    @cached_property
    def _tables(self) -> dict[tuple[str, int], dict[Key, list[tuple[Rule, Op]]]]:
        return {}

    def index(self, target: str, opset: int) -> dict[Key, list[tuple[Rule, Op]]]:
        """The rules that can fire, by the operator at their root. The table is kept: it is not to be changed."""
        table = self._tables.get((target, opset))
        if table is None:
            table = self._tables[target, opset] = self._index(target, opset)
        return table

    def _index(self, target: str, opset: int) -> dict[Key, list[tuple[Rule, Op]]]:
        table: dict[Key, list[tuple[Rule, Op]]] = {}
        for item in self.rules:
            if not item.opsets[0] <= opset <= item.opsets[1] or (item.targets and target not in item.targets):
                continue
            for pattern in item.patterns:
                for key in pattern.roots():
                    table.setdefault(key, []).append((item, pattern))
        return table

    def run(self, model: Model, ctx: Context) -> None:
        """Applies the rules everywhere until none fires."""
        from graphopt.rewrite.driver import drive

        drive(self, model, ctx)


def as_outputs(outcome: Any, root: Node, name: str) -> tuple[Value, ...]:
    """What a rule returned, as one value for each output in use. Raises GraphoptError where it does not fit."""
    values = outcome if isinstance(outcome, tuple) else (outcome,)
    needed = [i for i, v in enumerate(root.outputs) if v.users or v.outs]
    if not all(isinstance(v, Value) for v in values) or (needed and needed[-1] >= len(values)):
        raise GraphoptError(f"rule {name!r} must return a value for each output of {root!r}, or refuse(...)")
    return values
