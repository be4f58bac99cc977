"""Checks in processes of their own: on several cores, and so that a runtime that dies takes one rule's check along."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from graphopt.testing.rules.check import Progress, check_rules, find
from graphopt.testing.rules.result import RuleCheck

__all__ = ["Plan", "check_all"]

_ATTEMPTS, _STRIDE = 3, 1_000_003  # at a check that ended its process, with seeds this far apart


@dataclass(frozen=True)
class Plan:
    """What to do with each rule. load: files of passes to load first."""

    instances: int
    seed: int
    targets: tuple[str, ...] | None = None
    load: tuple[str, ...] = ()


def check_all(names: Sequence[str], plan: Plan, jobs: int, progress: Progress | None = None) -> list[RuleCheck]:
    """Checks registered rules and passes by name, `jobs` at a time, in the order of the names.

    With one job everything runs in this process. Else a check that ends its process (onnx and ONNX Runtime die of some
    models that are not valid) is run again with other seeds; if that ends the same way, it is reported as a failure.
    """
    if jobs <= 1 or len(names) < 2:
        return check_rules(names, instances=plan.instances, seed=plan.seed, targets=plan.targets, progress=progress)
    found: dict[str, RuleCheck] = {}
    left = list(names)
    while left:
        watch = None if progress is None else partial(_count, progress, len(found), len(names))
        ended = _round(left, plan, min(jobs, len(left)), watch)
        found.update(ended)
        left = [name for name in left if name not in found]
        for name in left[: jobs + 1]:  # those that were at work when a process ended, if one did
            found[name] = _alone(name, plan)
        left = left[jobs + 1 :]
    return [found[name] for name in names]


def _count(progress: Progress, before: int, total: int, name: str, done: int) -> None:
    progress(name, before + done, total)


def _alone(name: str, plan: Plan) -> RuleCheck:
    from graphopt.passes import registry

    for attempt in range(_ATTEMPTS):
        found = _round([name], replace(plan, seed=plan.seed + _STRIDE * attempt), 1, None)
        if found:
            return found[name]
    return RuleCheck(name, registry.get(name).kind, crash="its check ends the process, whatever the seed")


def _round(
    names: Sequence[str], plan: Plan, workers: int, watch: Callable[[str, int], None] | None
) -> dict[str, RuleCheck]:
    """The checks that came to an end before a worker died, if one did."""
    found: dict[str, RuleCheck] = {}
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_prepare, initargs=(plan.load,))
    try:
        pending: dict[Future[RuleCheck], str] = {pool.submit(_one, name, plan): name for name in names}
        while pending:
            if watch is not None:
                watch(next(iter(pending.values())), len(found))
            ready, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in ready:
                name = pending.pop(future)
                found[name] = future.result()
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return found


def _prepare(load: Sequence[str]) -> None:
    from graphopt.passes.loading import load_file

    for file in load:
        load_file(Path(file))


def _one(name: str, plan: Plan) -> RuleCheck:
    return check_rules([name], instances=plan.instances, seed=plan.seed, targets=plan.targets)[0]


def cores() -> int:
    """How many processes are worth while."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def names_of(rules: Sequence[str]) -> list[str]:
    """The rules and passes that names stand for; all registered ones without. Raises UnknownPassError."""
    return [str(item) for item in find(list(rules) or None)]
