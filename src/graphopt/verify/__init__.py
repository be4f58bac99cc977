"""Verification: does the emitted model compute what the original computes?

>>> from graphopt.verify import Budget, verify
>>> report = verify("model.onnx", "model.opt.onnx", budget=Budget(seconds=20))  # doctest: +SKIP
>>> report.status, report.unchecked  # doctest: +SKIP
('passed', [])

It rests on onnx, numpy and (loaded on first use) onnxruntime, and not on the code that it verifies: of graphopt's IR it
takes the table of element types alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.verify.bisect import Bisection as Bisection
    from graphopt.verify.bisect import bisect as bisect
    from graphopt.verify.core import Reference as Reference
    from graphopt.verify.core import verify as verify
    from graphopt.verify.interface import interface_differences as interface_differences
    from graphopt.verify.report import Budget as Budget
    from graphopt.verify.report import OutputCheck as OutputCheck
    from graphopt.verify.report import Run as Run
    from graphopt.verify.report import RuntimeFault as RuntimeFault
    from graphopt.verify.report import VerificationReport as VerificationReport
    from graphopt.verify.repro import write_repro as write_repro

_HOME = {
    "Bisection": "bisect",
    "Budget": "report",
    "OutputCheck": "report",
    "Reference": "core",
    "Run": "report",
    "RuntimeFault": "report",
    "VerificationReport": "report",
    "bisect": "bisect",
    "interface_differences": "interface",
    "verify": "core",
    "write_repro": "repro",
}
__all__ = [
    "Bisection",
    "Budget",
    "OutputCheck",
    "Reference",
    "Run",
    "RuntimeFault",
    "VerificationReport",
    "bisect",
    "interface_differences",
    "verify",
    "write_repro",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # also over the submodule of the same name that the import has just bound here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
