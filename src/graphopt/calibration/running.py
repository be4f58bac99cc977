"""Runs a model over samples and shows its inner tensors to observers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from itertools import chain
from typing import Any

import numpy as np

from graphopt.calibration.observers import Observer
from graphopt.calibration.stages import BUDGET, Stages
from graphopt.errors import GraphoptError
from graphopt.ir.external import shown

__all__ = ["observe"]

Progress = Callable[[str, int, int], None]


def observe(
    model: Any,
    feeds: Iterable[Mapping[str, Any]],
    observers: Mapping[str, Observer],
    *,
    progress: Progress | None = None,
    budget: int = BUDGET,
    threads: int = 1,
) -> int:
    """Runs the model on every sample and calls `update` of the observer of each tensor with its value, once a sample.

    model: a ModelProto, a path or a `graphopt.Model`. feeds: arrays by input name; read once, one at a time. observers:
    by the names of tensors of the main graph. progress: called with ("calibrating", done, total), total 0 where it is
    not known. budget: bytes of observed tensors that are in memory at once. threads: of one operator; with one, the
    values do not depend on the machine's load. Returns how many samples there were.

    Raises GraphoptError where a name is none of the main graph or a constant, the runtime does not load the model, or
    the model fails on a sample (naming it); what an observer raises is named and passed on likewise.

    >>> import numpy as np
    >>> from onnx import parser
    >>> from graphopt.calibration.observers import Extent
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Neg(x)  y = Relu(a) }')
    >>> seen = Extent()
    >>> observe(m, [{"x": np.float32([1, 2])}, {"x": np.float32([-3])}], {"a": seen}), seen.low, seen.high
    (2, -2.0, 3.0)
    """
    from graphopt import interop

    total = len(feeds) if isinstance(feeds, Sized) else 0
    samples = iter(feeds)
    first = next(samples, None)
    if first is None:
        return 0
    done = 0
    with Stages(interop.model_of(model, "run"), list(observers), first, budget=budget, threads=threads) as stages:
        for feed in chain((first,), samples):
            if progress is not None:
                progress("calibrating", done, total)
            try:
                for name, array in stages.run(feed):
                    _show(observers[name], name, array)
            except GraphoptError as error:
                raise type(error)(f"sample {done}: {error}") from error
            done += 1
    if progress is not None:
        progress("calibrating", done, total or done)
    return done


def _show(observer: Observer, name: str, array: np.ndarray) -> None:
    try:
        observer.update(array)
    except GraphoptError as error:
        raise type(error)(f"tensor {shown(name)}: {error}") from error
