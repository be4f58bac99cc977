"""Models aimed at a rule, as a Hypothesis strategy."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis.errors import NoSuchExample

from graphopt.errors import GraphoptError
from graphopt.passes import registry
from graphopt.testing import near
from graphopt.testing.rules.apply import apply
from graphopt.testing.rules.infer import inferred

QUIET = settings(
    max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def test_both_sides_of_the_guards_are_drawn() -> None:
    seen: Counter[str] = Counter()
    item = registry.get("compose-clips").make()

    @QUIET
    @given(near(item))
    def draw(drawn: object) -> None:
        model = drawn.model  # type: ignore[attr-defined]
        onnx.shape_inference.infer_shapes(model)
        done = apply(item, model, "onnx")
        seen["fired" if done.fired else "refused" if done.refused else "neither"] += 1

    draw()
    assert seen["fired"] > 5 and seen["refused"] + seen["neither"] > 5


def test_passes_get_what_they_act_on() -> None:
    seen: Counter[str] = Counter()
    item = registry.get("cse").make()

    @settings(QUIET, max_examples=200)
    @given(near(item))
    def draw(drawn: object) -> None:
        seen["fired" if apply(item, drawn.model, "onnx").fired else "not"] += 1  # type: ignore[attr-defined]

    draw()
    assert seen["fired"] > 5 and seen["not"] > 5


def test_names_will_do_and_failures_shrink() -> None:
    item = registry.get("eliminate-transpose").make()

    def fires(drawn: object) -> bool:
        try:
            return bool(apply(item, drawn.model, "onnx").fired)  # type: ignore[attr-defined]
        except GraphoptError:
            return False

    smallest = find(near("eliminate-transpose"), fires, settings=QUIET)
    assert [node.op_type for node in smallest.model.graph.node] == ["Transpose"]
    inferred(smallest.model)


def test_nothing_is_found_where_there_is_nothing() -> None:
    with pytest.raises(NoSuchExample):
        find(near("where-not"), lambda drawn: not drawn.model.graph.node, settings=QUIET)
