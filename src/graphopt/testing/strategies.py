"""Hypothesis strategies that draw ONNX models: valid, typed, with inputs to run them on.

    from hypothesis import given
    from graphopt.testing.strategies import models

    @given(models(opsets=range(13, 22)))
    def test_my_pass(drawn):
        conformance("my-pass", drawn.model, drawn.feeds)

Needs Hypothesis (`pip install "graphopt[test]"`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from hypothesis import strategies as st

from graphopt.testing.chooser import DrawChooser
from graphopt.testing.draft import Drawn
from graphopt.testing.drawing import OPSETS, Spec, draw_model
from graphopt.testing.spelling import FEATURES, ON_DEMAND

__all__ = ["FEATURES", "ON_DEMAND", "OPSETS", "Drawn", "arrays", "models"]


def models(
    *,
    ops: Collection[str] | None = None,
    opsets: Sequence[int] = OPSETS,
    max_nodes: int = 12,
    dtypes: Collection[int] | None = None,
    features: Collection[str] | None = None,
) -> st.SearchStrategy[Drawn]:
    """Models with feeds, that load and run in ONNX Runtime or, where it lacks something, in `onnx.reference`.

    ops: operators to draw from (default: the whole catalog, `graphopt.testing.catalog.OPS`; with a list, motifs are
    drawn that consist of these alone, and no functions). opsets: versions of the default domain, 7 to 26. max_nodes: no
    more steps once the main graph has that many nodes (a motif may go a few past it). dtypes: element types
    (TensorProto numbers) for data; operators that take none of them are not drawn. features: what models may have, of
    `FEATURES` (default: all of them) and `ON_DEMAND`. Raises ValueError for operators, opsets or features that are not
    there.

    Examples shrink to few nodes, small whole numbers, opset 17, fresh inputs and default attributes.

    >>> from hypothesis import find, settings
    >>> found = find(models(ops=["Relu", "Add"]), lambda d: any(n.op_type == "Add" for n in d.model.graph.node),
    ...              settings=settings(database=None, derandomize=True))
    >>> [node.op_type for node in found.model.graph.node]
    ['Add']
    """
    spec = Spec.of(ops, opsets, max_nodes, dtypes, features)
    return _models(spec)


@st.composite
def _models(draw: Callable[[Any], Any], spec: Spec) -> Drawn:
    return draw_model(DrawChooser(draw), spec)


@st.composite
def arrays(draw: Callable[[Any], Any], dtype: int, shape: Sequence[int], *, special: bool = True) -> Any:
    """Data of an element type (TensorProto number) and shape; `special`: with NaN, infinities, -0.0 and extremes.

    >>> arrays(1, (2, 3)).example().shape  # doctest: +SKIP
    (2, 3)
    """
    return DrawChooser(draw).array(dtype, shape, special=special)
