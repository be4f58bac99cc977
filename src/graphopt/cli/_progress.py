"""Progress of work that takes over a second: a bar on a terminal, a plain line a stage elsewhere; on stderr."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from graphopt.cli._guard import note

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 1.0  # seconds of silence: quick work shows nothing at all


class ProgressLine:
    """A context manager that is called as ``progress(stage, done, total)``, from any thread.

    total <= 0: unknown, shown as a moving bar. Nothing appears in the first `delay` seconds (DELAY without one), nor
    when `quiet`.

    >>> with ProgressLine(quiet=True) as progress:
    ...     progress("verify", 1, 4)
    """

    def __init__(self, *, quiet: bool = False, delay: float | None = None) -> None:
        self._quiet = quiet
        self._lock = threading.RLock()
        self._timer = threading.Timer(DELAY if delay is None else delay, self._start)
        self._timer.daemon = True
        self._now = ("starting", 0, 0)
        self._started = self._closed = False
        self._printed = ""
        self._bar: Progress | None = None

    def __enter__(self) -> ProgressLine:
        if not self._quiet:
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    def begin(self, stage: str) -> None:
        """Tells the supervisor alone: stages are too many to show all."""
        note(stage)

    def __call__(self, stage: str, done: int, total: int) -> None:
        note(stage)
        with self._lock:
            self._now = (stage, done, total)
            if self._started and not self._closed:
                self._update()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._started = True
            if sys.stderr.isatty():
                self._bar = _bar()
                self._bar.start()
            self._update()

    def _update(self) -> None:
        stage, done, total = self._now
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.update(task, description=stage, completed=done, total=total if total > 0 else None)
        elif stage != self._printed:
            self._printed = stage
            count = f" ({done} of {total})" if total > 0 else ""
            print(f"graphopt: {stage}{count}", file=sys.stderr, flush=True)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    text = TextColumn("{task.description}", markup=False)
    bar = Progress(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True)
    bar.add_task("", total=None)
    return bar
