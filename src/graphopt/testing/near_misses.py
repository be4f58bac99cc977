"""Models that a rule nearly matches, as a Hypothesis strategy: each of its guards just met, or just missed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
from hypothesis import assume
from hypothesis import strategies as st

from graphopt.testing.chooser import DrawChooser
from graphopt.testing.draft import DoesNotFit, Drawn
from graphopt.testing.rules.corpus import model_for
from graphopt.testing.rules.data import variants
from graphopt.testing.rules.hints import Hints, is_rule, of_item
from graphopt.testing.rules.run import runner
from graphopt.testing.rules.search import harmless
from graphopt.testing.synthesis import nudged

__all__ = ["near"]


def near(rule: Any, edits: int = 3) -> st.SearchStrategy[Drawn]:
    """Models with the rule's pattern in them and up to so many edits: a number changed, another reader, a constant that
    is an input, a body around it all. Shrinking takes edits away and makes the rest simple. They load and run.

    rule: a `Rule`, a pass (its models have a few operators, and what its code speaks of), or the name of a registered
    one.

    >>> from hypothesis import given
    >>> @given(near("eliminate-transpose"))
    ... def test_it(drawn):
    ...     conformance("eliminate-transpose", drawn.model, drawn.feeds)   # doctest: +SKIP
    """
    if isinstance(rule, str):
        from graphopt.passes import registry

        made: Any = registry.get(rule).make()
    else:
        made = rule
    hints = of_item(made)

    @st.composite
    def models(draw: Any) -> Drawn:
        return _draw(made, hints, edits, DrawChooser(draw))

    return models()


def _draw(item: Any, hints: Hints, edits: int, chooser: DrawChooser) -> Drawn:
    try:
        drawn = nudged(item, chooser, hints, edits) if is_rule(item) else model_for(item, chooser, hints)
    except DoesNotFit:
        assume(False)
        raise
    assume(_is_valid(drawn))
    if chooser.chance(50):
        kinds = variants(drawn.model, drawn.feeds, chooser.seed())
        drawn = replace(drawn, feeds=chooser.pick([data.feeds for data in kinds if data.kind != "extreme"]))
    harmless(drawn)
    assume(runner(drawn.model, drawn.feeds) is not None)
    return drawn


def _is_valid(drawn: Drawn) -> bool:
    try:
        onnx.checker.check_model(drawn.model)
    except onnx.checker.ValidationError:
        return False
    return True
