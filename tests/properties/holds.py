"""What must hold of a drawn model whatever runs on it, and a count of what was seen."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from graphopt.testing import conformance
from graphopt.testing.draft import Drawn
from graphopt.verify.run import LoadError, RunError, Session
from graphopt.verify.source import Source

SEED = int(os.environ.get("GRAPHOPT_SEED", "20260"))  # of the campaign; part n of it runs with this number plus n


class Tally(Counter[str]):
    """How many models were run, changed, compared, or (as not even the original runs) only looked at."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in sorted(self.items()))

    def conforms(self, subject: Any, drawn: Drawn) -> None:
        """Raises ConformanceError, listing what a pass broke. A model that no runtime runs is left out, and counted."""
        self["models"] += 1
        try:
            Session(Source.of(drawn.model)).run(drawn.feeds)
        except (LoadError, RunError):
            self["that did not run"] += 1
            return
        outcome = conformance(subject, drawn.model, drawn.feeds)
        if outcome.changed:
            self["changed"] += 1
        if outcome.verification is not None:
            self[outcome.verification.status] += 1


def search(strategy: Any, check: Callable[[Drawn], None], models: int, number: int) -> None:
    """Draws so many models from a seed of their own, and raises for the smallest that fails."""

    @seed(number)
    @settings(
        max_examples=models,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.target, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def examine(drawn: Drawn) -> None:
        check(drawn)

    examine()
