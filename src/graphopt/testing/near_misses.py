"""Models that a rule nearly matches, as a Hypothesis strategy: each of its guards just met, or just missed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
from hypothesis import assume
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.testing.chooser import DrawChooser
from graphopt.testing.draft import DoesNotFit, Drawn
from graphopt.testing.rules.apply import apply
from graphopt.testing.rules.corpus import model_for
from graphopt.testing.rules.data import variants
from graphopt.testing.rules.hints import Hints, is_rule, of_item
from graphopt.testing.rules.infer import check_sane
from graphopt.testing.rules.run import runner
from graphopt.testing.rules.search import check_model, harmless
from graphopt.testing.rules.ways import variants_of
from graphopt.testing.synthesis import nudged

__all__ = ["near"]


def near(rule: Any, edits: int = 3) -> st.SearchStrategy[Drawn]:
    """Models with the rule's pattern in them and up to so many edits: a number changed, another reader, a constant that
    is an input, a body around it all. In half of them it was tried several times until the rule fires. Shrinking takes
    edits away and makes the rest simple. They load and run.

    rule: a `Rule`, a pass, or the name of a registered one. The models of a pass have a few operators, those that its
    code speaks of, and twins: nodes, constants and defaults that are nearly the same.

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


_MOST = 12  # models looked at for one on which the rule fires


def _draw(item: Any, hints: Hints, edits: int, chooser: DrawChooser) -> Drawn:
    """Any model made for the rule, or else the first of several on which it fires."""
    drawn: Drawn | None = None
    for _ in range(_MOST if chooser.chance(50) else 1):
        found = chooser.together(lambda: _one(item, hints, edits, chooser))
        drawn = found or drawn
        if found is not None and _fires(item, found):
            break
    assume(drawn is not None)
    assert drawn is not None
    if chooser.chance(50):
        kinds = {each.kind: each.feeds for each in variants(drawn.model, drawn.feeds, chooser.seed())}
        kinds.pop("extreme", None)
        if len(kinds) > 1:
            del kinds["ordinary"]  # what was drawn mostly is
        kind = "overriding" if "overriding" in kinds and chooser.chance(50) else chooser.pick([*kinds])
        drawn = replace(drawn, feeds=kinds[kind])
    harmless(drawn)
    assume(runner(drawn.model, drawn.feeds) is not None)
    return drawn


def _one(item: Any, hints: Hints, edits: int, chooser: DrawChooser) -> Drawn | None:
    """One model; None where the choices led nowhere."""
    try:
        drawn = nudged(item, chooser, hints, edits) if is_rule(item) else model_for(item, chooser, hints)
        check_sane(drawn.model)
        check_model(drawn.model)
    except (DoesNotFit, onnx.checker.ValidationError):
        return None
    return drawn


def _fires(item: Any, drawn: Drawn) -> bool:
    target = min(item.targets) if is_rule(item) and item.targets - {"onnx"} == item.targets != frozenset() else "onnx"
    try:
        return any(apply(each, drawn.model, target).fired for each in variants_of(item))
    except GraphoptError:
        return False
