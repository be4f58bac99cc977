"""Rules under `fast_math=True`."""

from __future__ import annotations

from typing import Any

import onnx

from graphopt.report import Report

from .. import util


def apply(model: onnx.ModelProto, *passes: Any, target: str = "onnx") -> tuple[onnx.ModelProto, Report]:
    """As `util.apply`, after the pass fast-math."""
    return util.apply(model, "fast-math", *passes, target=target)
