"""Why a rule did not even match at a node: an inner result is read elsewhere, or some part does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphopt.rewrite import Rule, RuleSet, match
from graphopt.rewrite.pattern import COMMUTATIVE, Const, Maybe, OneOf, Op, Pattern, Rest, equals

if TYPE_CHECKING:
    from graphopt.ir import Graph, Model, Node, Value


@dataclass(frozen=True)
class Miss:
    """How far a pattern got: number of operators that fit, and what did not."""

    fits: int
    why: str


def rules_of(name: str) -> list[Rule]:
    """The rules that a rule, rule set, preset or pipeline runs, each once. Raises UnknownPassError."""
    from graphopt.pipeline import Pipeline, Repeat

    found: dict[str, Rule] = {}
    pending: list[Any] = list(reversed(Pipeline.of(name).steps))
    while pending:
        step = pending.pop()
        if isinstance(step, Repeat):
            pending += reversed(step.steps)
        for rule in step.rules if isinstance(step, RuleSet) else [step] if isinstance(step, Rule) else []:
            found.setdefault(rule.name, rule)
    return list(found.values())


def shared_sites(model: Model, rules: Iterable[Rule]) -> Iterator[tuple[Rule, Node, str]]:
    """Sites where a pattern fits but for an inner result that something else reads, too."""
    loose = [(rule, pattern, _loosen(pattern)) for rule in rules for pattern in rule.patterns]
    for graph in model.scopes():
        fitting = [entry for entry in loose if _runs_here(entry[0], graph)]
        for node in graph:
            for rule, pattern, relaxed in fitting:
                if node.op in pattern.ops and match(pattern, node) is None:
                    found = match(relaxed, node)
                    if found is not None:
                        yield rule, node, _readers(found.nodes, node)
                        break


def misses(node: Node, rules: Iterable[Rule]) -> Iterator[tuple[Rule, str]]:
    """For each rule with a pattern rooted at the node's operator: what keeps it from matching, the nearest miss."""
    for rule in rules:
        patterns = [p for p in rule.patterns if node.op in p.ops and node.domain == p.domain]
        if not patterns:
            continue
        low, high = rule.opsets
        opset = node.graph.opset()
        if not low <= opset <= high:
            yield (
                rule,
                f"it is for opset {low if opset < low else high} and {'up' if opset < low else 'below'}, not {opset}",
            )
        elif all(match(pattern, node) is None for pattern in patterns):
            found = [miss for pattern in patterns if (miss := _miss(pattern, node)) is not None]
            if found:
                yield rule, max(found, key=lambda miss: miss.fits).why


def _runs_here(rule: Rule, graph: Graph) -> bool:
    return rule.opsets[0] <= graph.opset() <= rule.opsets[1]


def _loosen(pattern: Pattern) -> Any:
    """The pattern with all inner operators shared; recursion is as deep as the pattern."""
    if isinstance(pattern, Op):
        return replace(pattern, is_shared=True, operands=tuple(_loosen(operand) for operand in pattern.operands))
    if isinstance(pattern, OneOf):
        return OneOf(tuple(_loosen(option) for option in pattern.options))
    return Maybe(_loosen(pattern.inner)) if isinstance(pattern, Maybe) else pattern


def _readers(matched: dict[Node, Op], root: Node) -> str:
    """Which inner result is read by whom outside the match."""
    for node in matched:
        if node is root:
            continue
        if node.graph is not root.graph:
            return f"{_call(node)} is in the enclosing graph"
        for value in node.outputs:
            if value.outs:
                return f"the result of {_call(node)} is also a graph output"
            outside = [user for user in value.users if user not in matched]
            if outside:
                more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
                return f"the result of {_call(node)} is also read by {_call(outside[0])}{more}"
    return "an inner result is read elsewhere"


def _miss(pattern: Op, node: Node) -> Miss | None:
    """What does not fit below a node whose operator does, or None."""
    for index, value in enumerate(node.outputs):
        if not pattern.outputs and index != pattern.index and (value.users or value.outs):
            return Miss(0, f"output {index} of {_call(node)} is in use")
    operands = [operand for operand in pattern.operands if not isinstance(operand, Rest)]
    inputs = [*node.inputs, *[None] * (len(operands) - len(node.inputs))]
    if len(operands) == len(pattern.operands) and any(value is not None for value in inputs[len(operands) :]):
        return Miss(0, f"{_call(node)} has {len(node.inputs)} inputs, {len(operands)} at the most are expected")
    orders = [inputs]
    if pattern.commutes and len(operands) == 2 == len(node.inputs) and node.op in COMMUTATIVE:
        orders.append(inputs[::-1])
    found = [_first_miss(operands, order, node) for order in orders]
    if None in found:
        return None
    return max((miss for miss in found if miss is not None), key=lambda miss: miss.fits)


def _first_miss(operands: list[Pattern], values: list[Value | None], node: Node) -> Miss | None:
    fits = 1
    for index, (operand, value) in enumerate(zip(operands, values, strict=False)):
        miss = _operand(operand, value, f"input {index} of {_call(node)}")
        if miss is not None:
            return replace(miss, fits=miss.fits + fits)
        fits += isinstance(operand, Op)
    return None


def _operand(pattern: Pattern, value: Value | None, where: str) -> Miss | None:
    if isinstance(pattern, OneOf):
        found = [_operand(option, value, where) for option in pattern.options]
        return None if None in found or not found else max((m for m in found if m), key=lambda miss: miss.fits)
    if isinstance(pattern, Maybe):
        return None if value is None else _operand(pattern.inner, value, where)
    if value is None:
        return Miss(0, f"{where} is left out")
    if isinstance(pattern, Const):
        if not value.is_const:
            return Miss(0, f"{where} ({value.name}) is not constant")
        is_other = pattern.value is not None and not equals(value, pattern.value)
        return Miss(0, f"{where} ({value.name}) is not {pattern.value:g}") if is_other else None
    if isinstance(pattern, Op):
        wanted = " or ".join(sorted(pattern.ops))
        if value.producer is None:
            return Miss(0, f"{where} ({value.name}) comes from no operator, {wanted} is expected")
        if value.producer.op not in pattern.ops or value.producer.domain != pattern.domain:
            return Miss(0, f"{where} comes from {_call(value.producer)}, {wanted} is expected")
        return _miss(pattern, value.producer)
    return None


def _call(node: Node) -> str:
    return f"{node.op} {node.label!r}"
