"""Examinations in processes of their own: what takes one down, or hangs, is a verdict and not the end of the run."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from graphopt.testing.backend import BackendCase
from graphopt.testing.campaign.examine import Examiner, Settings
from graphopt.testing.campaign.findings import Finding

__all__ = ["examine_all"]

_STAGE = 200  # characters


@dataclass
class _Job:
    """A case with the passes that have no verdict yet, and what is known to take the process down."""

    case: BackendCase
    subjects: list[str]
    known: frozenset[str] = frozenset()


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    stage: Any  # shared: what it is at
    since: Any  # shared: since when, by time.monotonic
    errors: Any  # the file that its standard error goes to
    job: _Job | None = None


def examine_all(
    cases: Sequence[BackendCase], settings: Settings, jobs: int, timeout: float, done: Callable[[int], None]
) -> Iterator[list[Finding]]:
    """The findings on all cases, in the order in which they come. jobs: processes, 0 for none but this one. timeout:
    seconds for each stage (one pass on one model, one run of a model). done: called with how many cases are done."""
    if jobs == 0:
        examiner = Examiner(settings, lambda _: None)
        for number, case in enumerate(cases, 1):
            yield list(examiner.examine(case, settings.subjects, frozenset()))
            done(number)
        return
    yield from _Pool(settings, timeout, done).run(cases, jobs)


class _Pool:
    def __init__(self, settings: Settings, timeout: float, done: Callable[[int], None]) -> None:
        self.settings, self.timeout, self.done = settings, timeout, done
        self.context = multiprocessing.get_context("spawn")
        self.waiting: deque[_Job] = deque()
        self.finished = 0

    def run(self, cases: Sequence[BackendCase], jobs: int) -> Iterator[list[Finding]]:
        self.waiting.extend(_Job(case, list(self.settings.subjects)) for case in cases)
        workers = [self._start() for _ in range(min(jobs, len(cases)))]
        try:
            for worker in workers:
                self._feed(worker)
            while any(worker.job for worker in workers):
                ready = wait([worker.pipe for worker in workers if worker.job], timeout=1.0)
                for number, worker in enumerate(workers):
                    if worker.job is None:
                        continue
                    if worker.pipe in ready:
                        found = self._receive(worker)
                    elif time.monotonic() - worker.since.value > self.timeout:
                        found = None
                    else:
                        continue
                    if found is None:
                        yield self._lost(worker)
                        workers[number] = worker = self._start()
                        self._feed(worker)
                    elif found:
                        yield found
        finally:
            for worker in workers:
                self._stop(worker)
                worker.errors.close()

    def _start(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        stage, since = self.context.RawArray(ctypes.c_char, _STAGE), self.context.RawValue(ctypes.c_double, 0.0)
        errors = tempfile.NamedTemporaryFile(prefix="graphopt-campaign-")  # noqa: SIM115 - closed with the worker
        process = self.context.Process(
            target=_work, args=(theirs, stage, since, self.settings, errors.name), daemon=True
        )
        since.value = time.monotonic()
        process.start()
        theirs.close()
        return _Worker(process, ours, stage, since, errors)

    def _feed(self, worker: _Worker) -> None:
        worker.job = self.waiting.popleft() if self.waiting else None
        if worker.job is not None:
            worker.since.value = time.monotonic() + 30.0  # it may still be starting
            worker.pipe.send(worker.job)

    def _receive(self, worker: _Worker) -> list[Finding] | None:
        """Findings; an empty list where there is nothing to tell; None when the worker is gone."""
        try:
            found = worker.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(found, str):
            raise RuntimeError(f"the campaign itself failed on {worker.job and worker.job.case}:\n{found}")
        assert worker.job is not None
        if found is None:  # the case is done
            self.finished += 1
            self.done(self.finished)
            self._feed(worker)
            return []
        names = {finding.subject for finding in found}
        worker.job.subjects = [name for name in worker.job.subjects if name not in names]
        return list(found)

    def _lost(self, worker: _Worker) -> list[Finding]:
        """The worker died or hangs: a verdict on what it was at; the rest of its case waits for another worker."""
        job, (action, _, name) = worker.job, worker.stage.value.decode(errors="replace").partition(" ")
        assert job is not None
        late = worker.process.is_alive() and time.monotonic() - worker.since.value > self.timeout
        self._stop(worker)
        how = f"takes more than {self.timeout:.0f} s" if late else _last_words(worker)
        worker.errors.close()
        if action in ("original", "checker") and action not in job.known:
            self.waiting.appendleft(replace(job, known=job.known | {action}))
            return []
        verdict, who = _BLAME.get(action, ("crash", f"{action or 'the start'} of the result"))
        lost = [name] if name in job.subjects else job.subjects  # else nothing can be said of the whole case
        rest = [each for each in job.subjects if each not in lost]
        if rest:
            self.waiting.appendleft(replace(job, subjects=rest))
        else:
            self.finished += 1
            self.done(self.finished)
        case = job.case
        return [Finding(str(case), case.kind, case.variant, each, verdict, f"{who} {how}", True) for each in lost]

    @staticmethod
    def _stop(worker: _Worker) -> None:
        if worker.job is not None:
            worker.process.kill()
        else:
            try:
                worker.pipe.send(None)
            except OSError:
                worker.process.kill()
        worker.process.join(10)
        worker.pipe.close()
        worker.job = None


# What the worker was at when it was lost -> the verdict, and who is to blame.
_BLAME = {
    "pass": ("crash", "the pass"),
    "again": ("contract", "a second run of the pass"),
    "written": ("crash", "the runtime, running the result as written,"),
    "optimized": ("runtime", "the runtime, optimizing the result,"),
    "judging": ("runtime", "the runtime, optimizing original and result,"),
}


def _last_words(worker: _Worker) -> str:
    """How a process ended, with the last line that it wrote to standard error."""
    code = worker.process.exitcode or 0
    with open(worker.errors.name, errors="replace") as file:
        last = [line.strip() for line in file if line.strip()][-1:]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"ends the process ({': '.join([how, *(line[:200] for line in last)])})"


def _work(pipe: Connection, stage: Any, since: Any, settings: Settings, errors: str) -> None:
    """A worker's life: jobs come in, findings go out, one list for a case, and at once what is no mere "ok"."""
    import traceback

    _quietly(errors)

    def tell(what: str) -> None:
        stage.value = what.encode()[: _STAGE - 1]
        since.value = time.monotonic()

    try:
        examiner = Examiner(settings, tell)
        while (job := pipe.recv()) is not None:
            held: list[Finding] = []
            for finding in examiner.examine(job.case, job.subjects, job.known):
                held.append(finding)
                if len(held) >= 16:
                    pipe.send(held)
                    held = []
            pipe.send(held)
            pipe.send(None)
    except Exception:  # noqa: BLE001 - told to the parent, which raises
        pipe.send(traceback.format_exc())


def _quietly(errors: str) -> None:
    """Standard error into a file, where a native crash leaves its last words; no core files."""
    handle = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 2)
    sys.stderr = os.fdopen(handle, "w")
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
