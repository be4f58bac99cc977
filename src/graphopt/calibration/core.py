"""Calibration: from a model and data to the ranges of its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from graphopt.analysis.ranges import Ranges
from graphopt.calibration.collection import Collection, Plan
from graphopt.calibration.first import First
from graphopt.calibration.methods import check_method
from graphopt.calibration.stages import BUDGET, Stages
from graphopt.calibration.tapping import plan_of
from graphopt.errors import GraphoptError
from graphopt.ir import Model
from graphopt.ir.wire import join

__all__ = ["calibrate", "collect", "model_digest"]

Progress = Callable[[str, int, int], None]
Feeds = Mapping[str, Any]


def calibrate(
    model: Any,
    data: Any,
    *,
    method: str = "minmax",
    tensors: str | Iterable[str] | None = None,
    per_channel: bool | Iterable[str] | Mapping[str, int] = False,
    samples: int | None = None,
    preprocess: Any = None,
    batched: bool = False,
    cache: Any = None,
    cluster: Any = None,
    progress: Progress | None = None,
    threads: int = 1,
    budget: int = BUDGET,
    **options: Any,
) -> Ranges:
    """The ranges of a model's floating-point tensors on representative data.

    model: a ModelProto, a path, a `graphopt.Model` or another library's object. data, samples, preprocess, batched: see
    `graphopt.calibration.data.feeds_of`. method: "minmax", "moving-average" (of the samples' minima and maxima, in
    their order), "percentile", "entropy", "mse" (least squared quantization error), or "auto" (of all these, for each
    tensor, the range with which the operators that read it err least). options: `percentile=99.999` and what else
    `graphopt.calibration.methods.Options` has. tensors: names or glob patterns; all of the main graph without.
    per_channel: also minimum, maximum and mean by channel (see `plan_of`). cache: a file that is written on the way,
    and from which a run that was stopped goes on. cluster: "local:N" or the address of a Dask scheduler. progress:
    called with ("calibrating", done, total), total 0 where it is not known. threads: of one operator; ranges of runs
    with the same number are the same bit for bit, however samples are shared out. budget: bytes of inner tensors in
    memory at a time.

    Statistics are kept, samples are not. What has no range (tensors inside the bodies of If, Loop and Scan; inner ones
    with infinite values, such as masks) is in `notes` of the result. Raises GraphoptError for data that the model does
    not take, before any work, and, naming tensor and sample, for NaN in any tensor and for infinite values in inputs,
    outputs and the tensors that were asked for.

    >>> import numpy as np
    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Neg(x)  y = Relu(a) }')
    >>> found = calibrate(m, [{"x": np.float32([1, 2])}, {"x": np.float32([-3])}])
    >>> found["a"].low, found["a"].high, found.samples
    (-2.0, 3.0, 2)
    """
    from graphopt import interop
    from graphopt.calibration.data import feeds_of

    check_method(method, options)
    loaded = interop.model_of(model, "calibrate")
    first = First(feeds_of(data, loaded, preprocess=preprocess, batched=batched, samples=samples))
    plan = plan_of(loaded, method, tensors, per_channel)
    how: dict[str, Any] = {"progress": progress, "threads": threads, "budget": budget}
    found = _collected(model, loaded, first, plan, cache, cluster, dict(how))
    if not found.samples:
        raise GraphoptError("the calibration data is empty; it needs at least one sample")
    if method != "auto":
        return found.ranges(method, **options)
    from graphopt.calibration.auto import choose

    return choose(loaded, first.samples(), found, **how, **options)


def collect(
    model: Any,
    feeds: Iterable[Feeds],
    plan: Plan,
    *,
    start: int = 0,
    collection: Collection | None = None,
    progress: Progress | None = None,
    total: int = 0,
    keep: Callable[[Collection], object] | None = None,
    threads: int = 1,
    budget: int = BUDGET,
) -> Collection:
    """Runs the model on samples and collects what the plan says.

    feeds: samples number `start` and following. collection: to go on with; otherwise a new one. What it has seen is not
    run again. keep: called with it after each sample. Raises GraphoptError as `calibrate`.
    """
    from graphopt import interop

    found = Collection(plan) if collection is None else collection
    samples = iter(feeds)
    first = next(samples, None)
    if first is None:
        return found
    with Stages(interop.model_of(model, "calibrate"), plan.tensors, first, budget=budget, threads=threads) as stages:
        for number, feed in enumerate(chain((first,), samples), start):
            if number in found.seen:
                continue
            if progress is not None:
                progress("calibrating", found.samples, total)
            found.begin(number)
            _sample(stages, feed, found, number)
            if keep is not None:
                keep(found)
    if progress is not None:
        progress("calibrating", found.samples, total or found.samples)
    return found


def model_digest(model: Model) -> str:
    """SHA-256 of a model with its weights, wherever they are stored."""
    # Large payloads are tokens in the proto, other ones in every process: the file's own bytes are what stays.
    pieces, _ = join(model.commit().SerializeToString(deterministic=True), model.store.blobs)
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    for graph in model.scopes():
        for value in graph.initializers.values():
            if value.tensor is not None and value.tensor.is_external:
                found.update(value.tensor.raw() or b"")
    model.store.forget_pages()
    return found.hexdigest()


def _sample(stages: Stages, feed: Feeds, found: Collection, number: int) -> None:
    try:
        for name, array in stages.run(feed):
            found.update(name, array)
    except GraphoptError as error:
        if f"in sample {number}" in str(error):
            raise
        raise type(error)(f"sample {number}: {error}") from error


def _collected(
    model: Any, loaded: Model, first: First, plan: Plan, cache: Any, cluster: Any, how: dict[str, Any]
) -> Collection:
    """From the cache, from here, or from a cluster. how: progress, threads, budget."""
    source = first.source
    kept: Any = None
    found: Collection | None = None
    if cache is not None:
        from graphopt.calibration.cache import open_cache

        chosen = hashlib.sha256(f"{plan} {how['threads']}".encode()).hexdigest()
        key = {"model": model_digest(loaded), "data": source.digest(), "method, tensors or threads": chosen}
        kept = open_cache(cache, key)
        found = kept.collection
        if kept.finished and found is not None:
            return found
        how["keep"] = kept.keep
    if cluster is not None:
        from graphopt.calibration.cluster import collect_on

        found = collect_on(cluster, model, source, plan, collection=found, **how)
    else:
        seen = found.seen if found is not None else set()
        start = next(number for number in range(len(seen) + 1) if number not in seen)
        total = source.size or 0
        found = collect(loaded, first.since(start), plan, start=start, collection=found, total=total, **how)
    if kept is not None:
        kept.finish(found)
    return found
