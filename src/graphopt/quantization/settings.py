"""The options of `quantize`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from graphopt.errors import GraphoptError
from graphopt.quantization.judge import Limit, Metric, metric_of
from graphopt.quantization.recipes import METHODS

__all__ = ["DATALESS", "Options", "Settings"]

PathLike = str | os.PathLike[str]
TARGETS = ("onnx", "onnxruntime", "tensorrt")
DATALESS = (
    "calibration needs data; without any, method 'dynamic' (int8 products, ranges found at run time) and method "
    "'weight-only' (smaller weights, float products) are possible"
)


class Options(TypedDict, total=False):
    """The same as keywords of `quantize`, for type checkers."""

    target: str
    method: str
    calibration: str
    max_loss: str | float | None
    metric: Any
    keep_float: str
    only: str
    samples: int | None
    ranges: Any
    seconds: float
    verify: str
    cluster: Any
    cache: PathLike | None
    threads: int
    pareto: bool
    layers: bool
    preprocess: Any
    batched: bool
    options: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What `quantize` was asked for; see there."""

    target: str = "onnxruntime"
    method: str = "auto"
    calibration: str = "minmax"
    max_loss: str | float | None = None
    metric: Any = None
    keep_float: str = ""
    only: str = ""
    samples: int | None = None
    ranges: Any = None
    seconds: float = 120.0
    verify: str = "numeric"
    cluster: Any = None
    cache: PathLike | None = None
    threads: int = 1
    pareto: bool = False
    layers: bool = False
    preprocess: Any = None
    batched: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """From keywords. Raises GraphoptError for one that there is not."""
        for name in options:
            if name not in cls.__dataclass_fields__:
                known = ", ".join(cls.__dataclass_fields__)
                raise GraphoptError(f"quantize has no option {name!r}; its options: {known}")
        return cls(**options)

    def check(self, has_data: bool) -> tuple[Metric | None, Limit | None]:
        """Everything that can be known to be wrong before any work. Returns the user's metric and the limit."""
        if self.target not in TARGETS:
            raise GraphoptError(f"unknown target {self.target!r}; choose one of {', '.join(TARGETS)}")
        if self.method not in METHODS:
            raise GraphoptError(f"unknown method {self.method!r}; choose one of {', '.join(METHODS)}")
        if self.verify not in ("off", "check", "numeric"):
            raise GraphoptError(f"unknown verify level {self.verify!r}; choose one of off, check, numeric")
        if self.seconds <= 0 or self.threads < 1:
            raise GraphoptError(f"seconds ({self.seconds}) and threads ({self.threads}) must be positive")
        if self.target == "tensorrt" and self.method in ("dynamic", "mixed"):
            raise GraphoptError("TensorRT has no dynamic quantization; choose method 'static' or 'weight-only'")
        if not has_data and self.ranges is None and self.method not in ("dynamic", "weight-only"):
            raise GraphoptError(DATALESS)
        metric = metric_of(self.metric)
        named = "metric" if metric is not None else self.metric
        limit = None if self.max_loss is None else Limit.parse(self.max_loss, named)
        if limit is None and named is not None and named != "sqnr":
            raise GraphoptError("a metric without max_loss decides nothing; say how much of it may be lost, as '0.5%'")
        return metric, limit
