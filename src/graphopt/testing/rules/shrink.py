"""A counterexample made small: fewer edits, simpler choices, as long as the rule stays wrong."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.testing.rules.search import Find, Recipe, Search

__all__ = ["shrink"]

MOST = 120  # models tried


def shrink(search: Search, found: Find, is_wrong: Callable[[Find], bool]) -> Find:
    """The simplest variation of a find that is still wrong."""
    left = MOST
    best = found
    while left > 0:
        for recipe in _simpler(best.recipe):
            left -= 1
            if left <= 0:
                break
            other = search.play(recipe, found.way)
            if other is not None and _size(other) < _size(best) and is_wrong(other):
                best = other
                break
        else:
            break
    return best


def _size(found: Find) -> tuple[int, ...]:
    model = found.drawn.model
    elements = sum(array.size for array in found.drawn.feeds.values())
    return (
        len(model.graph.node) + sum(len(f.node) for f in model.functions) + len(found.recipe.edits),
        len(model.graph.input) + len(model.graph.output) + len(model.functions),
        elements,
        sum(found.recipe.tape),
    )


def _simpler(recipe: Recipe) -> list[Recipe]:
    """Without an edit; with a choice at its simplest, or halfway there; the largest steps first."""
    found = [Recipe(recipe.tape, recipe.edits[:at] + recipe.edits[at + 1 :]) for at in range(len(recipe.edits))]
    tape = recipe.tape
    for length in (16, 8, 4, 2, 1):
        for at in range(0, len(tape), length):
            part = tape[at : at + length]
            if any(part):
                found.append(Recipe((*tape[:at], *[0] * len(part), *tape[at + length :]), recipe.edits))
    return found
