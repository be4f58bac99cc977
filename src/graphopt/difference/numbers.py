"""Where the values of two models part: both run on the same inputs, and compared value by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.ir import Model

__all__ = ["compare_values"]


def compare_values(a: Model, b: Model, inputs: Mapping[str, Any] | None, seed: int) -> list[dict[str, Any]]:
    """The values that both main graphs have by one name, in the order of the first: name, node, largest difference
    (absolute, and relative to the largest value), whether the shape differs. Both run as they are written."""
    from graphopt.verify.run import LoadError, RunError, Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source
    from graphopt.verify.window import capture

    sources = [Source.of(ir.to_proto(model, whole=True)) for model in (a, b)]
    try:
        if inputs is None:
            found = find_cases(sources[0], Session(sources[0]), seconds=10.0, seed=seed)
            if not found.cases:
                reasons = "; ".join(found.unchecked) or "none fit"
                raise GraphoptError(f"no inputs found that the first model runs on ({reasons}); give some")
            inputs = found.cases[0].feeds
        names = [
            name
            for name, value in a.graph.values.items()
            if value.producer is not None and not value.is_const and name in b.graph.values
            and b.graph.values[name].producer is not None and not b.graph.values[name].is_const
        ]  # fmt: skip
        ours, theirs = (capture(source, names, inputs) for source in sources)
    except (LoadError, RunError) as error:
        raise GraphoptError(f"the models cannot be compared: {error}") from error
    labels = {name: a.graph.values[name].producer for name in names}
    return [_row(name, getattr(labels[name], "label", ""), ours[name], theirs[name]) for name in names]


def _row(name: str, node: str, x: Any, y: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "node": node}
    if isinstance(x, (list, dict)) or isinstance(y, (list, dict)) or x is None or y is None:
        return {**row, "same": type(x) is type(y) and len(x or ()) == len(y or ())}
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape or x.dtype != y.dtype:
        return {**row, "same": False, "what": f"{x.dtype}{list(x.shape)} became {y.dtype}{list(y.shape)}"}
    if x.dtype.kind in "OUS":
        return {**row, "same": bool((x == y).all())}
    with np.errstate(all="ignore"):
        p, q = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(p) & np.isfinite(q)
        apart = np.where(finite, np.abs(p - q), np.where((p == q) | (np.isnan(p) & np.isnan(q)), 0.0, np.inf))
        scale = float(np.abs(np.where(finite, p, 0.0)).max(initial=0.0))
    most = float(apart.max(initial=0.0))
    return {**row, "same": most == 0.0, "max_abs": most, "max_rel": most / scale if scale else most}
