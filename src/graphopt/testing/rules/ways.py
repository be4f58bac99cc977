"""Ways to run a rule or a pass: as it is, and with guards off that keep it from acting on small models, or from what
only infinities tell apart."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from graphopt.testing.rules.hints import Hints, is_rule

__all__ = ["Way", "variants_of", "ways_of"]

_LIFT = "at_any_size"  # what a module with guards of cost calls the context manager that turns them off


@dataclass(frozen=True)
class Way:
    """item: the rule or pass. step: how a pipeline spells it. fast_math: run on models for which only finite values
    count (the pass fast-math), and judged so."""

    item: Any
    step: str
    fast_math: bool = False


def ways_of(item: Any, hints: Hints) -> list[Way]:
    """A rule or pass as it is; without its guards of cost; and with fast_math, if it says that this allows more."""
    variants = variants_of(item)
    found = [Way(each, str(each)) for each in variants]
    if any("fast_math=True" in reason for reason in hints.reasons):
        found.append(Way(variants[-1], f"fast-math,{variants[-1]}", fast_math=True))
    return found


def variants_of(item: Any) -> list[Any]:
    """A rule or pass as it is and, if it has any, without guards of cost: a pass says by `checked_as` which options
    turn them off; a rule has them from a module with an `at_any_size()`."""
    options = getattr(item, "checked_as", None)
    if options:
        return [item, dataclasses.replace(item, **options)]
    lift = _lift(item) if is_rule(item) else None
    return [item] if lift is None else [item, dataclasses.replace(item, function=_lifted(item.function, lift))]


def _lift(item: Any) -> Callable[[], AbstractContextManager[None]] | None:
    """The context manager of the module that one of the rule's helpers is from."""
    scope = getattr(inspect.unwrap(item.function), "__globals__", {})
    homes = {getattr(value, "__module__", None) for value in list(scope.values()) if callable(value)}
    return next((getattr(sys.modules[h], _LIFT) for h in sorted(filter(None, homes)) if _has(h)), None)


def _has(home: str) -> bool:
    return home in sys.modules and hasattr(sys.modules[home], _LIFT)


def _lifted(function: Callable[..., Any], lift: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def lifted(*args: Any, **kwargs: Any) -> Any:
        with lift():
            return function(*args, **kwargs)

    return lifted
