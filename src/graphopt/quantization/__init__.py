"""Quantization driven by measurement: `graphopt.quantize`, its report, and its checks; see docs/quantization.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.quantization.check import Verdict as Verdict
    from graphopt.quantization.check import runtime_agrees as runtime_agrees
    from graphopt.quantization.core import quantize as quantize
    from graphopt.quantization.core import quantize_file as quantize_file
    from graphopt.quantization.layers import layer_losses as layer_losses
    from graphopt.quantization.report import QuantizationReport as QuantizationReport
    from graphopt.quantization.tables import plot as plot

_HOME = {
    "QuantizationReport": "report",
    "Verdict": "check",
    "layer_losses": "layers",
    "plot": "tables",
    "quantize": "core",
    "quantize_file": "core",
    "runtime_agrees": "check",
}
__all__ = ["QuantizationReport", "Verdict", "layer_losses", "plot", "quantize", "quantize_file", "runtime_agrees"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
