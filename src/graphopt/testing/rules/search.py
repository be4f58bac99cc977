"""The search for models on which a rule fires, refuses, and does neither: drawn from its pattern, then varied.

Each choice made on the way to a model is on a tape. A model on which the rule did something new (other lines of its
code ran, another reason was given, other operators came out) is kept, and played again with an entry changed or one
more edit. That meets the relations between numbers that rules ask for, and their near misses.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Drawn
from graphopt.testing.rules.apply import Applied, apply
from graphopt.testing.rules.hints import Hints, is_rule
from graphopt.testing.rules.infer import check_sane
from graphopt.testing.rules.numbers import arrays, nodes_of, tensors
from graphopt.testing.rules.tape import TapeChooser
from graphopt.testing.rules.trace import Trace
from graphopt.testing.rules.ways import Way, ways_of
from graphopt.testing.synthesis import edit

__all__ = ["Find", "Search", "check_model", "harmless"]

Make = Callable[[Chooser], Drawn]
_EDITS = 4  # at the most
_ATTEMPTS = 6  # at an edit that fits


@dataclass(frozen=True)
class Recipe:
    """How a model came about: the choices of its draft, and those of each edit after it."""

    tape: tuple[int, ...] = ()
    edits: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Find:
    """A model, and what the rule did with it; `way` is a number of `Search.ways`."""

    recipe: Recipe
    drawn: Drawn
    applied: Applied
    target: str
    is_new: bool
    way: int = 0


class Search:
    """Draws models for one rule or pass.

    make: draws a model from a Chooser (raises DoesNotFit). targets: what the rule may be run for. ways: how it is run,
    watched, and for what: a pass with its guards of cost off, too.
    """

    def __init__(self, item: Any, make: Make, hints: Hints, targets: list[str], seed: int) -> None:
        self.item, self.make, self.hints = item, make, hints
        self.random = random.Random(seed)
        traces = [(Trace(way.item, hints.files), way) for way in ways_of(item, hints)]
        self.ways: list[tuple[Trace, str, Way]] = [(trace, to, way) for trace, way in traces for to in targets]
        self.corpus: list[Find] = []
        self._seen: set[Any] = set()
        self._models: set[int] = set()

    def step(self) -> Find | None:
        """One more model; None where the choices led nowhere, or to a model seen before."""
        fresh = not self.corpus or self.random.random() < (0.5 if is_rule(self.item) else 0.7)
        recipe = Recipe() if fresh else self._varied(self.random.choice(self.corpus[-40:] + self.corpus[:10]).recipe)
        found = self.play(recipe, self.random.getrandbits(32))
        if found is None:
            return None
        key = hash(found.drawn.model.SerializeToString(deterministic=True))
        if key in self._models:
            return None
        self._models.add(key)
        if found.is_new or self.random.random() < 0.05:
            self.corpus.append(found)
        return found

    def play(self, recipe: Recipe, seed: int = 0) -> Find | None:
        """The model of a recipe (random choices where its tapes end), and what the rule does with it."""
        chooser = TapeChooser(seed, recipe.tape)
        try:
            drawn = self.make(chooser)
            tapes = []
            for tape in recipe.edits:
                for attempt in range(1 if tape else _ATTEMPTS):
                    nudge = TapeChooser(seed + attempt, tape)
                    with contextlib.suppress(DoesNotFit):
                        drawn = edit(drawn, nudge, self.hints)
                        tapes.append(tuple(nudge.tape))
                        break
        except DoesNotFit:
            return None
        harmless(drawn)
        return self.judge(Recipe(tuple(chooser.tape), tuple(tapes)), drawn, seed % len(self.ways))

    def judge(self, recipe: Recipe, drawn: Drawn, way: int) -> Find | None:
        """What the rule does with a model; None where the model is not valid."""
        trace, target, how = self.ways[way]
        try:
            check_sane(drawn.model)
            check_model(drawn.model)
            applied, lines = trace.run(lambda: apply(trace.item, drawn.model, target, how.fast_math))
        except (GraphoptError, DoesNotFit, onnx.checker.ValidationError):
            return None
        signs: set[Any] = {*lines, *(("refused", reason) for reason in applied.refused)}
        if applied.fired and applied.model is not None:
            ops = frozenset(node.op_type for node in nodes_of(drawn.model))
            signs |= {("fired", ops, _opset(drawn.model)), ("types", _types(drawn.model))}
            signs |= {(n.op_type, a.name, a.i) for n in nodes_of(drawn.model) for a in n.attribute}
            signs |= {("rank", len(t.dims)) for t in drawn.model.graph.initializer}
        is_new = bool(signs - self._seen)
        self._seen |= signs
        return Find(recipe, drawn, applied, target, is_new, way)

    def _varied(self, recipe: Recipe) -> Recipe:
        how = self.random.random()
        edits = list(recipe.edits)
        if how < 0.55 or not recipe.tape:
            edits = [*edits[-_EDITS + 1 :], ()]
            return Recipe(recipe.tape, tuple(edits))
        if how < 0.65 and edits:
            del edits[self.random.randrange(len(edits))]
            return Recipe(recipe.tape, tuple(edits))
        if how < 0.75 and edits:
            at = self.random.randrange(len(edits))
            edits[at] = edits[at][: self.random.randrange(len(edits[at]) + 1)]
            return Recipe(recipe.tape, tuple(edits))
        tape = list(recipe.tape)
        at = self.random.randrange(len(tape))
        tape[at] = self.random.choice([0, 1, tape[at] + 1, tape[at] + 2, self.random.getrandbits(16)])
        return Recipe(tuple(tape), recipe.edits)


def check_model(model: ModelProto) -> None:
    """onnx's checker, which asks for a rank that the format does not. Raises ValidationError."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        if "'shape' of 'type' is required" not in str(error):
            raise


def _opset(model: ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _types(model: ModelProto) -> tuple[frozenset[int], frozenset[int]]:
    """The types that go in, and those that are cast to."""
    inputs = frozenset(info.type.tensor_type.elem_type for info in model.graph.input)
    return inputs, frozenset(a.i for node in nodes_of(model) for a in node.attribute if a.name == "to")


def harmless(drawn: Drawn) -> None:
    """ONNX Runtime dies of the lowest integer divided by -1 (SIGFPE): without the lowest where integers are divided."""
    if not any(node.op_type in ("Div", "Mod") for node in nodes_of(drawn.model)):
        return
    import numpy as np

    from graphopt.testing.draft import to_tensor

    for name, array in drawn.feeds.items():
        if array.dtype.kind == "i" and array.dtype.name in _SIGNED and array.size:
            drawn.feeds[name] = np.maximum(array, np.iinfo(array.dtype).min + 1)
    for tensor in tensors(drawn.model):
        if onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name in _SIGNED:
            array = arrays(tensor)
            if array.size and array.min() == np.iinfo(array.dtype).min:
                higher = np.maximum(array, np.iinfo(array.dtype).min + 1)
                tensor.CopyFrom(to_tensor(higher, tensor.data_type, tensor.name))


_SIGNED = frozenset({"int8", "int16", "int32", "int64"})
