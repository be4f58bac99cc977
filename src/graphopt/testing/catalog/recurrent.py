"""RNN, GRU and LSTM."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import Call, plain
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def _recurrent(c: Call) -> None:
    direction = c.attr("direction", None, "forward", "reverse", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    layout = c.attrs.get("layout", 0)  # ONNX Runtime runs 0 alone
    if c.given(0) is None:
        c.make(
            0, (c.chooser.pick((2, 1, 3)), c.chooser.pick((1, 2)), c.chooser.pick((2, 3))), plain, (TensorProto.FLOAT,)
        )
    x = c.any(0, (3,))
    if x.dtype != TensorProto.FLOAT or layout:
        raise DoesNotFit("no kernel")
    length, batch, size = c.shape(0)
    w = c.given(1)
    hidden = c.attrs.get("hidden_size") or (c.shape(2)[-1] if c.given(2) is not None else 0)
    hidden = hidden or (c.shape(1)[1] // _GATES[c.op] if w is not None else 0) or c.chooser.pick((2, 1, 3))
    c.attrs["hidden_size"] = hidden
    rows = _GATES[c.op] * hidden
    c.exact(1, (directions, rows, size), plain)
    c.exact(2, (directions, rows, hidden), plain)
    if c.wants(3):
        c.exact(3, (directions, 2 * rows), plain)
    if c.wants(4, 20):
        c.parameter(4, np.array([c.chooser.integer(1, length) for _ in range(batch)], np.int32))
    if c.wants(5, 40):
        c.exact(
            5,
            (directions, batch, hidden),
            lambda chooser, dtype, shape: np.zeros(shape) if chooser.chance(50) else plain(chooser, dtype, shape),
        )
    if c.op == "LSTM":
        if c.wants(6, 40):
            c.exact(6, (directions, batch, hidden), plain)
        if c.wants(7, 15):
            c.exact(7, (directions, 3 * hidden), plain)
    c.attr("linear_before_reset", None, 1)
    c.attr("clip", None, None, None, 3.0)
    if c.n_out is None:
        every = [True, True, True][: 3 if c.op == "LSTM" else 2]
        c.n_out = c.chooser.pick((every, [False, True], [True], every))


ENTRIES = [Entry(op, _recurrent) for op in _GATES]
