"""For tests of passes, graphopt's own and users'.

>>> from graphopt.testing import conformance   # in a test of your pass:
>>> conformance("dead-code", "model.onnx")     # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphopt.testing.conformance import ConformanceError, Outcome, conformance

if TYPE_CHECKING:
    from graphopt.testing.backend import BackendCase as BackendCase
    from graphopt.testing.backend import backend_cases as backend_cases
    from graphopt.testing.campaign import CampaignReport as CampaignReport
    from graphopt.testing.campaign import run_campaign as run_campaign
    from graphopt.testing.drawing import random_model as random_model
    from graphopt.testing.near_misses import near as near
    from graphopt.testing.rules import Counterexample as Counterexample
    from graphopt.testing.rules import RuleCheck as RuleCheck
    from graphopt.testing.rules import check_rules as check_rules
    from graphopt.testing.strategies import models as models

# Where the other names live. They load on first use: some need packages that only tests have.
_HOME = {
    "Counterexample": "rules",
    "RuleCheck": "rules",
    "check_rules": "rules",
    "models": "strategies",
    "near": "near_misses",
    "random_model": "drawing",
    "BackendCase": "backend",
    "CampaignReport": "campaign",
    "backend_cases": "backend",
    "run_campaign": "campaign",
}
__all__ = [
    "BackendCase",
    "CampaignReport",
    "ConformanceError",
    "Counterexample",
    "Outcome",
    "RuleCheck",
    "backend_cases",
    "check_rules",
    "conformance",
    "models",
    "near",
    "random_model",
    "run_campaign",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
