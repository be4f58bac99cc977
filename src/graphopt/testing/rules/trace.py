"""Which lines of a rule's code ran: new ones mean that a model is worth varying."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from graphopt.testing.rules.hints import is_rule

__all__ = ["Trace"]

Lines = frozenset[tuple[str, int]]


class Trace:
    """Runs a rule, or a pass, with its lines watched.

    item: what to run instead of the one given. lines: what ran since `start`.
    """

    def __init__(self, item: Any, files: frozenset[str]) -> None:
        self._files = files
        self._seen: set[tuple[str, int]] = set()
        self._is_rule = is_rule(item)
        self.item: Any = item
        if self._is_rule:
            self.item = dataclasses.replace(item, function=self._watched(item.function))

    def run(self, call: Callable[[], Any]) -> tuple[Any, Lines]:
        """The result of a call that runs the item, and the lines that ran in its files."""
        self._seen = set()
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
        if event == "line":
            self._seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line
