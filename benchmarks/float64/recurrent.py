"""RNN, GRU and LSTM, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from float64.node import Array, Node, Unsupported, sigmoid

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Sigmoid": sigmoid, "Tanh": np.tanh, "Relu": lambda x: np.maximum(x, 0),
}  # fmt: skip
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def recurrent(
    node: Node,
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    lengths: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    peepholes: Array | None = None,
) -> tuple[Array, ...]:
    """RNN, GRU and LSTM."""
    if peepholes is not None or {"clip", "input_forget", "layout", "activation_alpha"} & {
        name for name, value in node.attrs.items() if value not in (0, 0.0)
    }:
        raise Unsupported(f"{node.op} with peepholes, clip, coupled gates or another layout")
    directions, hidden = r.shape[0], r.shape[2]
    names = [n.decode() for n in node.attrs.get("activations", [])] or _DEFAULTS[node.op] * directions
    if any(name not in _ACTIVATIONS for name in names):
        raise Unsupported(f"{node.op} with {', '.join(names)}")
    each = len(names) // directions
    b = np.zeros((directions, 2 * _GATES[node.op] * hidden)) if b is None else b
    lengths = np.full(x.shape[1], x.shape[0]) if lengths is None else lengths
    zero = np.zeros((directions, x.shape[1], hidden))
    outputs, last = [], []
    for d in range(directions):
        backward = node.text("direction", "forward") == "reverse" or d == 1
        functions = [_ACTIVATIONS[name] for name in names[d * each : (d + 1) * each]]
        start = tuple((zero if state is None else state)[d] for state in (h0, c0))
        inputs = _turned(x, lengths) if backward else x
        y, state = _one_direction(node, inputs, (w[d], r[d], b[d]), lengths, start, functions)
        outputs.append(_turned(y, lengths) if backward else y)
        last.append(state)
    states = [np.stack(kind) for kind in zip(*last, strict=True)]
    return (np.stack(outputs, 1), *states)[: len(node.outputs)]


def _one_direction(
    node: Node, x: Array, weights: tuple[Array, ...], lengths: Array, start: Any, functions: list[Any]
) -> tuple[Array, tuple[Array, Array]]:
    w, r, b = weights
    (h, c), (wb, rb) = start, np.split(b, 2)
    f, g, k = (*functions, *functions, *functions)[:3]
    y = np.zeros((x.shape[0], *h.shape))
    inputs = x @ w.T + wb
    for t in range(x.shape[0]):
        if node.op == "LSTM":
            i, o, forget, new = np.split(inputs[t] + h @ r.T + rb, 4, -1)
            cell = f(forget) * c + f(i) * g(new)
            state = f(o) * k(cell)
        elif node.op == "GRU":
            xz, xr, xh = np.split(inputs[t], 3, -1)
            (wz, wr, wh), (bz, br, bh) = np.split(r, 3), np.split(rb, 3)
            z, reset = f(xz + h @ wz.T + bz), f(xr + h @ wr.T + br)
            inner = reset * (h @ wh.T + bh) if node.attrs.get("linear_before_reset", 0) else (reset * h) @ wh.T + bh
            cell, state = c, (1 - z) * g(xh + inner) + z * h
        else:
            cell, state = c, f(inputs[t] + h @ r.T + rb)
        live = (t < lengths)[:, None]
        h, c = np.where(live, state, h), np.where(live, cell, c)
        y[t] = np.where(live, h, 0)
    return y, (h, c)


def _turned(x: Array, lengths: Array) -> Array:
    """Each sequence backwards, in its own length; what is behind stays."""
    steps = np.arange(x.shape[0])[:, None]
    places = np.where(steps < lengths, lengths - 1 - steps, steps)
    return np.asarray(np.take_along_axis(x, places[:, :, None], 0))
