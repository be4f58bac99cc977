"""Calibration on a Dask cluster: the samples are shared out, and the statistics merged, bit for bit as in one process.

Merging does not depend on who saw which sample (see `Collection`), so a shard that is lost with its worker is simply
run again by another. Files are read by the workers, which must see them under the same path; samples that Python makes
are sent. Results are merged in the samples' order, so that a cache always holds the first ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, NamedTuple

from graphopt import ir
from graphopt.calibration.collection import Collection, Plan
from graphopt.calibration.data import Listed
from graphopt.calibration.source import Indexed, Source
from graphopt.calibration.stages import BUDGET
from graphopt.errors import GraphoptError, OutputError
from graphopt.ir import Model

__all__ = ["collect_on"]

SHARDS = 4  # for each thread of a worker, so that the last ones end together
MOST = 64  # samples of a shard: what is lost with a worker
CHUNK = 16 << 20  # bytes of samples that are sent at a time
WAIT = 60.0  # seconds for a cluster to answer
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)  # one and the same from Python 3.11 on

Progress = Callable[[str, int, int], None]


class _Work(NamedTuple):
    """What every shard is run with."""

    plan: Plan
    threads: int
    budget: int


def collect_on(
    cluster: Any,
    model: Any,
    source: Source,
    plan: Plan,
    *,
    collection: Collection | None = None,
    progress: Progress | None = None,
    keep: Callable[[Collection], object] | None = None,
    threads: int = 1,
    budget: int = BUDGET,
) -> Collection:
    """What `graphopt.calibration.core.collect` collects, by the workers of a cluster.

    cluster: "local:N" for N processes on this machine, the address of a Dask scheduler ("tcp://HOST:PORT"), or a
    `distributed.Client`. model: a ModelProto, a path, a `graphopt.Model`; it is sent along. collection: of the first
    samples, to go on with. keep: called with the collection as it grows.
    threads: of each operator. Raises GraphoptError where there is no such cluster, where it loses worker after worker,
    and for samples that the model does not take.
    """
    found = Collection(plan) if collection is None else collection
    with ExitStack() as stack:
        client, is_local = stack.enter_context(_client(cluster))
        sent = stack.enter_context(_sent(client, model, is_local))
        slots = _slots(client)
        shards = _shards(source, found.samples, slots)
        work = _Work(plan, threads, budget)
        for part in _results(client, sent, work, shards, slots * 2, progress, source.size or 0, found.samples):
            found.merge(part)
            if keep is not None:
                keep(found)
    return found


# -- on a worker -------------------------------------------------------------------------------------------------------


def hold(content: str | bytes) -> str | bytes:
    """The model, as a result of its own: it is sent once, and made again where the worker that has it dies."""
    return content


def run_shard(sent: str | bytes, work: _Work, shard: Source, start: int) -> bytes | str:
    """Samples number `start` and following; the collection's bytes, or what to say to the user."""
    from graphopt.calibration.core import collect

    try:
        model = sent if isinstance(sent, str) else _parsed(sent)
        feeds = shard.since(0)
        found = collect(model, feeds, work.plan, start=start, threads=work.threads, budget=work.budget)
        return found.to_bytes()
    except GraphoptError as error:  # no accident that another worker could mend
        return str(error)


def _parsed(content: bytes) -> Model:
    from onnx import ModelProto

    return ir.from_proto(ModelProto.FromString(content))


# -- here --------------------------------------------------------------------------------------------------------------


def _slots(client: Any) -> int:
    """How many shards can run at a time. Raises GraphoptError where there are no workers."""
    try:
        client.wait_for_workers(1, timeout=WAIT)
    except _TIMEOUTS as error:
        address = client.scheduler.address
        raise GraphoptError(f"the Dask cluster at {address!r} has no workers; start some, or use local:N") from error
    return max(1, int(sum(client.nthreads().values())))


def _shards(source: Source, start: int, slots: int) -> Iterator[tuple[int, Source, int]]:
    """The number of the first sample, the samples, how many they are."""
    if isinstance(source, Indexed) and not isinstance(source, Listed):
        count = len(source.order)
        size = min(MOST, max(1, -(-(count - start) // (slots * SHARDS))))
        for first in range(start, count, size):
            stop = min(first + size, count)
            yield first, source.part(first, stop), stop - first
        return
    samples = source.since(start)
    size = 1
    while chunk := list(islice(samples, size)):
        yield start, Listed(chunk, source.inputs), len(chunk)
        start += len(chunk)
        each = max(1, sum(array.nbytes for feeds in chunk for array in feeds.values()) // len(chunk))
        size = max(1, min(MOST // 4, CHUNK // each))


def _results(
    client: Any,
    sent: Any,
    work: _Work,
    shards: Iterator[tuple[int, Source, int]],
    most: int,
    progress: Progress | None,
    total: int,
    done: int,
) -> Iterator[Collection]:
    """The shards' collections, in order. At most so many are under way or wait for an earlier one."""
    _, distributed = _dask()
    numbers: dict[Any, tuple[int, int]] = {}
    waiting: dict[int, Collection] = {}
    running = distributed.as_completed(loop=client.loop)
    submitted = merged = 0
    while True:
        if progress is not None:
            progress("calibrating", done, total)
        for first, shard, count in islice(shards, most - (submitted - merged)):
            future = client.submit(run_shard, sent, work, shard, first, pure=False)
            numbers[future] = submitted, count
            submitted += 1
            running.add(future)
        if submitted == merged:
            return
        future = next(running)
        number, count = numbers.pop(future)
        waiting[number] = _result(future)
        done += count
        while merged in waiting:
            yield waiting.pop(merged)
            merged += 1


def _result(future: Any) -> Collection:
    from concurrent.futures import CancelledError

    from distributed.scheduler import KilledWorker

    try:
        content = future.result()
    except (KilledWorker, CancelledError, OSError, *_TIMEOUTS) as error:
        what = str(error).split("\n")[0][:200]
        raise GraphoptError(f"the cluster lost its workers on the same samples again and again ({what})") from error
    if isinstance(content, str):
        raise GraphoptError(content)
    return Collection.from_bytes(content)


@contextmanager
def _sent(client: Any, model: Any, is_local: bool) -> Iterator[Any]:
    """The model where workers find it: in a file on this machine, or in the cluster's memory."""
    from graphopt import interop

    path = os.path.abspath(model) if isinstance(model, (str, os.PathLike)) else ""
    if is_local and path:
        yield path
        return
    model = interop.model_of(model, "calibrate")
    if is_local:
        with tempfile.TemporaryDirectory(prefix="graphopt-calibration-", ignore_cleanup_errors=True) as folder:
            path = os.path.join(folder, "model.onnx")
            ir.save(model, path)
            yield path
        return
    try:
        content = ir.to_proto(model, whole=True).SerializeToString()
    except OutputError as error:
        if not path:
            raise GraphoptError(
                "a model of 2 GiB or more is not sent: give its path, which workers must see"
            ) from error
        yield path
        return
    future = client.submit(hold, content, pure=False)
    del content
    yield future


@contextmanager
def _client(cluster: Any) -> Iterator[tuple[Any, bool]]:
    """A client of a cluster, and whether its workers share this machine's files."""
    local = re.fullmatch(r"local:([1-9]\d{0,3})", cluster) if isinstance(cluster, str) else None
    why = f"{cluster!r} is no cluster: give local:N, tcp://HOST:PORT, or a distributed.Client"
    if isinstance(cluster, str) and local is None and "://" not in cluster:
        raise GraphoptError(why)
    dask, distributed = _dask()
    with ExitStack() as stack:
        # Samples and models are large on purpose; Dask would warn of it.
        stack.enter_context(dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TiB"}))
        if isinstance(cluster, distributed.Client):
            yield cluster, False
            return
        if local is not None:
            started = distributed.LocalCluster(
                n_workers=int(local[1]), threads_per_worker=1, processes=True, dashboard_address=":0",
                silence_logs=logging.CRITICAL, memory_limit=None,
            )  # fmt: skip
            stack.enter_context(started)
            yield stack.enter_context(distributed.Client(started, timeout=WAIT, set_as_default=False)), True
            return
        if not isinstance(cluster, str):
            raise GraphoptError(why)
        try:
            client = distributed.Client(cluster, timeout=WAIT, set_as_default=False)
        except (OSError, ValueError, *_TIMEOUTS) as error:
            what = str(error).split("\n")[0][:200]
            raise GraphoptError(f"there is no Dask scheduler at {cluster!r} ({what})") from error
        yield stack.enter_context(client), False


def _dask() -> tuple[Any, Any]:
    """The modules. Raises GraphoptError where they are not installed."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise GraphoptError("a cluster needs Dask: pip install 'graphopt[distributed]'") from error
    return dask, distributed
