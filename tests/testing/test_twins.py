"""Nodes and constants that are there twice, with one difference: what passes that merge or fold must tell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest

from graphopt.errors import GraphoptError
from graphopt.testing.chooser import RandomChooser
from graphopt.testing.draft import DoesNotFit, Drawn
from graphopt.testing.rules import twins
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.numbers import arrays, nodes_of
from graphopt.testing.rules.run import runner
from graphopt.testing.rules.search import check_model

MODELS = 60


def drawn(ops: list[str] | None = None) -> Iterator[Drawn]:
    for seed in range(3 * MODELS):
        try:
            yield twins.twins(RandomChooser(seed), Hints(ops=ops or []))
        except (DoesNotFit, ValueError):
            continue


@pytest.fixture(scope="module")
def models() -> list[Drawn]:
    return [*drawn()][:MODELS]


def test_they_are_valid_and_most_run(models: list[Drawn]) -> None:
    runs = 0
    for each in models:
        check_model(each.model)
        try:
            runs += runner(each.model, each.feeds) is not None
        except GraphoptError:
            continue
    assert len(models) == MODELS and runs > 0.7 * MODELS


def pairs(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Nodes and their twins, whose outputs have longer names."""
    nodes = list(nodes_of(model))
    for one in nodes:
        for other in nodes:
            names = [name.removesuffix("_then") for name in one.output if name]
            made = [name for name in other.output if name]
            if one.op_type != other.op_type or not made or len(names) != len(made):
                continue
            if all(m in (f"{n}_twin", f"{n}_else", f"{n}_inside") for n, m in zip(names, made, strict=True)):
                yield one, other


def test_every_difference_is_among_them() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for each in drawn():
        for one, other in pairs(each.model):
            place = "beside" if other.output[0].endswith("_twin") else "branch"
            given = [list(filter(None, node.input)) for node in (one, other)]
            if list(one.input) != list(other.input):
                seen["slots" if given[0] == given[1] else "operands", place] += 1
            elif sorted(map(str, one.attribute)) != sorted(map(str, other.attribute)):
                seen["attributes", place] += 1
            else:
                seen["none", place] += 1
    assert set(seen) >= {(what, where) for what in ("slots", "attributes", "none") for where in ("beside", "branch")}
    assert ("operands", "beside") in seen


def test_operators_that_the_code_mentions_are_preferred() -> None:
    ops = Counter(each.model.graph.node[0].op_type for each in drawn(["LeakyRelu"]) if each.model.graph.node)
    assert ops.most_common(1)[0][0] == "LeakyRelu"


def kept(change: Callable[..., None], test: Callable[[Drawn], bool]) -> int:
    count = 0
    for seed in range(MODELS):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) '
            "<float[2] c = {1, 2}> { y = Mul(x, c) }"
        )
        each = Drawn(model, {"x": arrays(model.graph.initializer[0])})
        change(each, RandomChooser(seed), Hints())
        onnx.checker.check_model(each.model)
        assert runner(each.model, each.feeds) is not None
        count += test(each)
    return count


def signs(each: Drawn) -> bool:
    """Whether two constants differ in the sign of a zero alone, and something shows it."""
    first, second, *_ = [arrays(t) for t in each.model.graph.initializer]
    same = first.shape == second.shape and first.dtype == second.dtype and bool((first == second).all())
    return (
        same and first.tobytes() != second.tobytes() and any(n.op_type == "Reciprocal" for n in each.model.graph.node)
    )


def test_constants_differ_in_the_sign_of_a_zero() -> None:
    assert kept(twins.twin_constant, signs) > 3


def test_defaults_alone_feed_a_node() -> None:
    def overridable(each: Drawn) -> bool:
        listed: Any = {info.name for info in each.model.graph.input}
        return not each.feeds and bool({t.name for t in each.model.graph.initializer} & listed)

    assert kept(twins.overridable_operands, overridable) > 3
