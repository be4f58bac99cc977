"""Which lines of a rule's code ran: new ones mean that a model is worth varying. And whether it comes to an end."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from graphopt.testing.rules.hints import is_rule

__all__ = ["SECONDS", "Endless", "Trace"]

Lines = frozenset[tuple[str, int]]
SECONDS = 10.0  # of processor time, for one run on a small model


class Endless(BaseException):
    """A rule or pass took longer than it may. (Not an Exception, which it could catch itself.)"""


class Trace:
    """Runs a rule, or a pass, with its lines watched, and ends it when it takes too long.

    item: what to run instead of the one given. lines: what ran since `start`.
    """

    def __init__(self, item: Any, files: frozenset[str]) -> None:
        self._files = files
        self._seen: set[tuple[str, int]] = set()
        self._end = 0.0
        self._is_rule = is_rule(item)
        self.item: Any = item
        if self._is_rule:
            self.item = dataclasses.replace(item, function=self._watched(item.function))

    def run(self, call: Callable[[], Any]) -> tuple[Any, Lines]:
        """The result of a call that runs the item, and the lines that ran in its files. Raises Endless after `SECONDS`
        at the next line of the rule's or pass's own files."""
        self._seen = set()
        self._end = time.thread_time() + SECONDS
        result = call() if self._is_rule else self._watched(call)()
        return result, frozenset(self._seen)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        files, enter = self._files, self._enter

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = sys.gettrace()
            if before is not None or not files:  # a debugger, or coverage
                return function(*args, **kwargs)
            sys.settrace(enter)
            try:
                return function(*args, **kwargs)
            finally:
                sys.settrace(before)

        return watched

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":  # nothing is raised elsewhere: Python drops what finalizers raise, and the tracing with it
            if time.thread_time() > self._end:
                raise Endless
            self._seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line
