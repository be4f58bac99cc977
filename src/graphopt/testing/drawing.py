"""Whole models from a Chooser: what `strategies.models` and `random_model` share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnx import defs

from graphopt.testing import spelling
from graphopt.testing.catalog import OPS
from graphopt.testing.chooser import Chooser, RandomChooser
from graphopt.testing.draft import Draft, Drawn, ir_version_for
from graphopt.testing.growth import Palette, body_grower, step

OPSETS = tuple(range(7, min(26, defs.onnx_opset_version()) + 1))


@dataclass(frozen=True)
class Spec:
    """What models are to be drawn; see `models` in graphopt.testing.strategies."""

    ops: tuple[str, ...] | None
    opsets: tuple[int, ...]
    max_nodes: int
    dtypes: frozenset[int]
    features: frozenset[str]

    @classmethod
    def of(
        cls,
        ops: Collection[str] | None = None,
        opsets: Sequence[int] = OPSETS,
        max_nodes: int = 12,
        dtypes: Collection[int] | None = None,
        features: Collection[str] | None = None,
    ) -> Spec:
        """Checks what is asked for. Raises ValueError."""
        known = {*spelling.FEATURES, *spelling.ON_DEMAND}
        strange = sorted(set(features or ()) - known)
        if strange:
            raise ValueError(f"no such feature: {', '.join(strange)}; there are {', '.join(sorted(known))}")
        if set(ops or ()) - set(OPS):
            raise ValueError(f"not in the catalog: {', '.join(sorted(set(ops or ()) - set(OPS)))}")
        if not set(opsets) or not set(opsets) <= set(OPSETS):
            raise ValueError(f"opsets are some of {OPSETS[0]} to {OPSETS[-1]}")
        if max_nodes < 1:
            raise ValueError("a model has a node at least")
        # The simplest first: one that every runtime knows.
        ordered = sorted(set(opsets), key=lambda opset: (abs(opset - 17), opset))
        return cls(
            None if ops is None else tuple(ops),
            tuple(ordered),
            max_nodes,
            frozenset(dtypes or ()),
            frozenset(spelling.FEATURES if features is None else features),
        )


_palettes: dict[tuple[int, tuple[str, ...] | None, bool, bool], Palette] = {}


def _palette(spec: Spec, opset: int) -> Palette:
    key = (opset, spec.ops, "control-flow" in spec.features, "functions" in spec.features)
    if key not in _palettes:
        _palettes[key] = Palette.of(opset, spec.ops, control=key[2], functions=key[3])
    return _palettes[key]


def draw_model(chooser: Chooser, spec: Spec) -> Drawn:
    """One model and its feeds."""
    opset = chooser.pick(spec.opsets)
    palette = _palette(spec, opset)
    draft = Draft(chooser, opset, ir_version=_ir_version(chooser, opset, spec))
    # The reference evaluator knows old opsets badly (Softmax by its newest definition, no DequantizeLinear of opset
    # 10), and has views of its own on infinities (Clip without bounds lets them through).
    draft.portable = not ("reference" in spec.features and opset >= 18 and chooser.chance(8))
    draft.dtypes, draft.features = spec.dtypes, spec.features - (set() if draft.portable else {"special-values"})
    draft.grower = body_grower(palette)
    while len(draft.nodes) < spec.max_nodes and chooser.together(lambda: _more(draft, palette)):
        pass
    if not draft.values:
        draft.input(1, (2,))
    return spelling.finish(draft, spec.features)


def _more(draft: Draft, palette: Palette) -> bool:
    """A step, unless that is enough."""
    if not draft.chooser.chance(80 if draft.nodes else 98):
        return False
    step(draft, palette)
    return True


def _ir_version(chooser: Chooser, opset: int, spec: Spec) -> int:
    usual = ir_version_for(opset)
    if "old-ir" in spec.features and chooser.chance(30 if opset < 9 else 2):
        return 3
    if chooser.chance(10):
        return chooser.integer(usual, 13)
    return usual


def random_model(
    seed: int,
    *,
    ops: Collection[str] | None = None,
    opsets: Sequence[int] = OPSETS,
    max_nodes: int = 12,
    dtypes: Collection[int] | None = None,
    features: Collection[str] | None = None,
) -> Drawn:
    """The model of a seed, without Hypothesis (which does not shrink it, then). The rest as `strategies.models`.

    >>> drawn = random_model(3, ops=["Relu", "Add"], max_nodes=4)
    >>> {node.op_type for node in drawn.model.graph.node} <= {"Add", "Relu", "Constant"}
    True
    """
    return draw_model(RandomChooser(seed), Spec.of(ops, opsets, max_nodes, dtypes, features))
