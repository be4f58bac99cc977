"""graphopt: an optimizing compiler for ONNX graphs.

>>> import graphopt
>>> small = graphopt.optimize("model.onnx")                     # doctest: +SKIP
>>> report = graphopt.optimize_file("model.onnx", "model.opt.onnx")  # doctest: +SKIP

The public names below load on first use: importing graphopt imports onnx and numpy, nothing else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.analysis.ranges import Ranges as Ranges
    from graphopt.api import fuse as fuse
    from graphopt.api import optimize as optimize
    from graphopt.api import optimize_file as optimize_file
    from graphopt.bisection import Blame as Blame
    from graphopt.bisection import bisect as bisect
    from graphopt.calibration.core import calibrate as calibrate
    from graphopt.difference import Diff as Diff
    from graphopt.difference import diff as diff
    from graphopt.errors import ExternalDataError as ExternalDataError
    from graphopt.errors import GraphoptError as GraphoptError
    from graphopt.errors import ModelError as ModelError
    from graphopt.errors import OutputError as OutputError
    from graphopt.errors import PassError as PassError
    from graphopt.errors import PipelineSyntaxError as PipelineSyntaxError
    from graphopt.errors import RewriteCycle as RewriteCycle
    from graphopt.errors import UnknownPassError as UnknownPassError
    from graphopt.errors import VerificationError as VerificationError
    from graphopt.ir import Model as Model
    from graphopt.ir import load as load
    from graphopt.ir import save as save
    from graphopt.passes import Pass as Pass
    from graphopt.pipeline import Pipeline as Pipeline
    from graphopt.quantization.core import quantize as quantize
    from graphopt.quantization.core import quantize_file as quantize_file
    from graphopt.report import Report as Report
    from graphopt.rewrite import RuleSet as RuleSet
    from graphopt.rewrite import refuse as refuse
    from graphopt.rewrite.rule import rule as rule
    from graphopt.subgraphs.chain import Chain as Chain
    from graphopt.subgraphs.compose import compose as compose
    from graphopt.subgraphs.extract import extract as extract
    from graphopt.subgraphs.extract import extract_file as extract_file
    from graphopt.subgraphs.partition import partition as partition
    from graphopt.subgraphs.preprocess import preprocess as preprocess
    from graphopt.subgraphs.replace import replace as replace
    from graphopt.targets.profile import profile as profile
    from graphopt.verify import VerificationReport as VerificationReport
    from graphopt.verify import verify as verify

__version__ = "0.1.0"

# Where each public name lives.
_HOME = {
    "Blame": "bisection",
    "Chain": "subgraphs.chain",
    "Diff": "difference",
    "ExternalDataError": "errors",
    "GraphoptError": "errors",
    "Model": "ir",
    "ModelError": "errors",
    "OutputError": "errors",
    "Pass": "passes",
    "PassError": "errors",
    "Pipeline": "pipeline",
    "PipelineSyntaxError": "errors",
    "Ranges": "analysis.ranges",
    "Report": "report",
    "RewriteCycle": "errors",
    "RuleSet": "rewrite",
    "UnknownPassError": "errors",
    "VerificationError": "errors",
    "VerificationReport": "verify",
    "bisect": "bisection",
    "calibrate": "calibration.core",
    "compose": "subgraphs.compose",
    "diff": "difference",
    "extract": "subgraphs.extract",
    "extract_file": "subgraphs.extract",
    "fuse": "api",
    "load": "ir",
    "optimize": "api",
    "optimize_file": "api",
    "partition": "subgraphs.partition",
    "preprocess": "subgraphs.preprocess",
    "profile": "targets.profile",
    "quantize": "quantization.core",
    "quantize_file": "quantization.core",
    "refuse": "rewrite",
    "replace": "subgraphs.replace",
    "rule": "rewrite",
    "save": "ir",
    "verify": "verify",
}
__all__ = [
    "Blame",
    "Chain",
    "Diff",
    "ExternalDataError",
    "GraphoptError",
    "Model",
    "ModelError",
    "OutputError",
    "Pass",
    "PassError",
    "Pipeline",
    "PipelineSyntaxError",
    "Ranges",
    "Report",
    "RewriteCycle",
    "RuleSet",
    "UnknownPassError",
    "VerificationError",
    "VerificationReport",
    "__version__",
    "bisect",
    "calibrate",
    "compose",
    "diff",
    "extract",
    "extract_file",
    "fuse",
    "load",
    "optimize",
    "optimize_file",
    "partition",
    "preprocess",
    "profile",
    "quantize",
    "quantize_file",
    "refuse",
    "replace",
    "rule",
    "save",
    "verify",
]


class _CallableModule(ModuleType):
    """`graphopt.verify` is a package (``from graphopt.verify import Budget``) and its main function, too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.verify(*args, **kwargs)


class _Package(ModuleType):
    """This package: makes `graphopt.verify` callable at the moment the import system binds it here."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "verify" and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{home}")
    if name == home:
        return module
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
