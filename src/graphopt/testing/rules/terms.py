"""How large the terms are that a model's outputs are sums of: what rounding errors are multiples of.

Where terms cancel (3 w - 3 w), the result says nothing of the errors on the way to it. So inputs and constants are
moved by a millionth of themselves, each by another one: the results then move by about a millionth of the terms (the
componentwise condition number; N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 1.6).
Where they jump instead, as Floor does, that is no measure of anything, and not used.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.testing.draft import to_tensor
from graphopt.testing.rules.judge import difference, flat, is_float
from graphopt.testing.rules.numbers import arrays, tensors
from graphopt.testing.rules.run import Feeds, Runner

__all__ = ["terms"]

_DRAWS = 3
_STEPS = {"float64": (1e-6, 1e-7), "float32": (1e-3, 1e-4)}  # relative, by the precision that the model runs in
_SMOOTH = 2.0  # how much the two steps' results may differ


def terms(model: ModelProto, feeds: Feeds, precision: str = "float64", reference: bool = False) -> list[float]:
    """For each output of a model the magnitude of the terms in its elements; 0 where that cannot be said.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (double[2] x) => (double[1] y) '
    ...                        '<double[2,1] w = {1.0, 1.0}> { y = MatMul(x, w) }')
    >>> [found] = terms(m, {"x": np.array([-3.0, 3.0])})
    >>> 1 < found < 12
    True
    """
    moves: list[list[float]] = []
    try:
        expected = list(flat(Runner(model, reference)(feeds)))
        for step in _STEPS[precision]:
            found = [0.0] * len(expected)
            for draw in range(_DRAWS):
                for at, (a, b) in enumerate(zip(expected, _moved(model, feeds, step, draw, reference), strict=True)):
                    change = difference(a, b)
                    found[at] = max(found[at], np.inf if change.broken else change.largest / step)
            moves.append(found)
    except (GraphoptError, ValueError):
        return []
    return [max(a, b) if max(a, b) <= _SMOOTH * min(a, b) < np.inf else 0.0 for a, b in zip(*moves, strict=True)]


def _moved(model: ModelProto, feeds: Feeds, step: float, draw: int, reference: bool) -> list[object]:
    """The outputs after a small change of everything that goes in."""
    rng = np.random.default_rng(draw)
    other = ModelProto()
    other.CopyFrom(model)
    for tensor in tensors(other):
        data = arrays(tensor)
        if is_float(data):
            tensor.CopyFrom(to_tensor(_near(data, step, rng), tensor.data_type, tensor.name))
    near = {name: _near(array, step, rng) if is_float(array) else array for name, array in feeds.items()}
    return list(flat(Runner(other, reference)(near)))


def _near(array: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        return np.asarray((wide * (1 + step * rng.uniform(-1, 1, array.shape))).astype(array.dtype))
