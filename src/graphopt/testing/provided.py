"""Passes that need calibrated ranges get them here, from the very model that they are tested on."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError

__all__ = ["provided"]


def provided(pass_: Any, model: ModelProto, feeds: Any = None) -> Any:
    """The pass (or whatever a pipeline is made of), with ranges where it needs them and has none; as it is, else.

    model: which is calibrated, on `feeds` (a dict or a list of them), or on inputs that suit it. None where it cannot
    be calibrated, as it does not run, or gives NaN.
    """
    from graphopt.pipeline import Pipeline

    pipeline = Pipeline.of(pass_)
    if not any(_lacks(step) for step in pipeline.steps):
        return pass_
    try:
        ranges = _ranges(model, feeds)
    except GraphoptError:
        return None
    return Pipeline(tuple(dataclasses.replace(s, ranges=ranges) if _lacks(s) else s for s in pipeline.steps))


def _lacks(step: Any) -> bool:
    return bool(getattr(step, "needs_ranges", False)) and isinstance(step.ranges, str) and not step.ranges


def _ranges(model: ModelProto, feeds: Any) -> Any:
    from graphopt.calibration.core import calibrate
    from graphopt.verify import Reference

    if feeds is None:
        with Reference(model) as reference:
            feeds = [case.feeds for case in reference.found.cases[:2]]
    given = [feeds] if isinstance(feeds, dict) else list(feeds)
    if not given:
        raise GraphoptError("no inputs were found on which the model runs")
    found = calibrate(model, given, per_channel=True)
    if not found:
        raise GraphoptError("the model has no tensor with a range")
    return found
