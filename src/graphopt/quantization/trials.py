"""Models that are tried: made, judged on the samples held out, timed against the user's fp32 model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.quantization.judge import Figures, Judge, Limit
from graphopt.quantization.recipes import Kitchen, Made, Recipe
from graphopt.quantization.report import Point
from graphopt.quantization.runs import Runner, race

__all__ = ["Lab", "Trial", "front_of"]

Progress = Callable[[str, int, int], None]
_LEVEL = 0.01  # of speed: less is not to be had by trading accuracy for it
TOGETHER = 2 << 30
"""Bytes of models that are loaded together to be timed."""


@dataclass
class Trial:
    """One model. recipe: None for those in float. kept: labels kept in float beyond the user's; regions: how many."""

    name: str
    path: str
    recipe: Recipe | None = None
    made: Made | None = None
    kept: tuple[str, ...] = ()
    regions: int = 0
    figures: Figures | None = None
    milliseconds: float | None = None
    speed: float | None = None
    allowed: bool = False
    why: str = ""

    @property
    def usable(self) -> bool:
        """Whether it could be emitted, as far as accuracy goes."""
        return self.allowed and not self.why

    def point(self, front: bool) -> Point:
        """As it is reported."""
        known = figures_of(self)
        return Point(
            self.name, self.milliseconds, self.speed,
            kept_float=self.regions, front=front, allowed=self.allowed, why=self.why, **known,
        )  # fmt: skip


@dataclass
class Lab:
    """Where trials are made. folder: for their files. original: path of the user's fp32 model. timed: whether speed can
    be measured here at all; for_size: whether it does not matter. deadline: by `time.monotonic`."""

    folder: Path
    original: str
    kitchen: Kitchen
    judge: Judge
    deadline: float
    timed: bool = True
    for_size: bool = False
    threads: int = 1
    progress: Progress = lambda stage, done, total: None
    trials: list[Trial] = field(default_factory=list)
    limit: Limit | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def add_float(self, name: str, model: ModelProto | str) -> Trial:
        """A model in float: no trial of the quantizer, but what is emitted where nothing is faster."""
        path = model if isinstance(model, str) else self.write(model)
        trial = Trial(name, path)
        self.trials.append(trial)
        self._judge(trial)
        return trial

    def add(self, recipe: Recipe, kept: Sequence[str] = (), regions: int = 0, name: str = "") -> Trial:
        """Makes and judges one; what goes wrong is in its `why`."""
        trial = Trial(name or recipe.name, "", recipe, kept=tuple(kept), regions=regions)
        self.trials.append(trial)
        try:
            trial.made = self.kitchen.make(recipe, kept)
        except GraphoptError as error:
            trial.why = str(error)
            return trial
        if not trial.made.is_quantized:
            trial.why = "nothing could be quantized in this way"
            return trial
        trial.path = self.write(trial.made.proto)
        trial.made.proto = ModelProto()  # it is in the file; many are tried, and memory is not for all of them
        self._judge(trial)
        return trial

    def _judge(self, trial: Trial) -> None:
        try:
            trial.figures = self.judge.figures(Runner(trial.path, threads=self.threads))
        except GraphoptError as error:
            trial.why = str(error)
            return
        if trial.figures.why and self.judge.metric is None:
            trial.why = trial.figures.why
        self.settle(trial)

    def settle(self, trial: Trial) -> None:
        """Whether it keeps the limit, once that is known."""
        if trial.recipe is None:
            trial.allowed = not trial.why
        elif self.limit is not None and trial.figures is not None:
            trial.allowed = self.limit.allows(trial.figures, self.judge.fp32)

    def time(self, trials: Sequence[Trial], seconds: float) -> None:
        """Their speeds, in turns with the user's model: what else the machine does falls on all of them alike. Where
        they do not fit into memory together, two at a time."""
        first = self.trials[0]
        first.speed = 1.0
        waiting = [t for t in trials if self.timed and t.path and not t.why and t is not first and t.speed is None]
        size = sum(os.path.getsize(t.path) for t in (first, *waiting))
        step = len(waiting) if size <= TOGETHER else 1
        for at in range(0, len(waiting), max(1, step)):
            self.progress("time", at, len(waiting))
            group = waiting[at : at + step]
            self._race(first, group, seconds * len(group) / len(waiting))

    def time_against(self, base: Trial, trial: Trial, seconds: float) -> None:
        """The speed of one that another was the start of: by how it does beside that."""
        if self.timed and trial.path and not trial.why and trial.speed is None:
            self._race(base, [trial], seconds)

    def _race(self, base: Trial, others: Sequence[Trial], seconds: float) -> None:
        running, runners = [base], [Runner(base.path, threads=self.threads)]
        for trial in others:
            try:
                runners.append(Runner(trial.path, threads=self.threads))
                running.append(trial)
            except GraphoptError as error:
                trial.why = str(error)
        found = race(runners, self.judge.feeds[0], seconds=seconds)
        for trial, (milliseconds, speed) in zip(running, found, strict=True):
            if trial is base:
                trial.milliseconds = trial.milliseconds or milliseconds
            else:
                trial.milliseconds, trial.speed = milliseconds, speed * (base.speed or 1.0)

    def write(self, model: ModelProto) -> str:
        """Into a file of its own."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.onnx"
        onnx.save(model, path)
        return str(path)

    def best(self) -> list[Trial]:
        """The usable ones, fastest first, of those that are level the most accurate. Without times, those nearest to
        what was asked for: quantized before float, in the order in which they were made."""
        usable = [trial for trial in self.trials if trial.usable and trial.path]
        if not self.timed or self.for_size:
            return sorted(usable, key=lambda trial: trial.recipe is None)
        ranked = sorted((t for t in usable if t.speed is not None), key=lambda t: -(t.speed or 0.0))
        level = [t for t in ranked if (t.speed or 0.0) >= (1 - _LEVEL) * (ranked[0].speed or 0.0)]
        level.sort(key=lambda t: t.figures.noise if t.figures is not None else math.inf)
        return [*level, *ranked[len(level) :]]


def front_of(trials: Sequence[Trial]) -> set[int]:
    """Which are on the Pareto front: no other is at least as fast and as near to fp32, and better in one."""
    known: list[tuple[int, float, float]] = [
        (place, trial.speed, trial.figures.noise)
        for place, trial in enumerate(trials)
        if trial.speed is not None and trial.figures is not None and not trial.why
    ]
    return {
        place
        for place, speed, noise in known
        if not any(s >= speed and n <= noise and (s > speed or n < noise) for _, s, n in known)
    }


def figures_of(trial: Trial) -> dict[str, Any]:
    """Accuracy as the report has it."""
    f = trial.figures
    return {} if f is None else {"sqnr_db": f.sqnr_db, "cosine": f.cosine, "top1": f.top1, "metric": f.metric}
