"""What each region costs and gains: the error at the outputs when it alone is quantized, and its time in both forms.

Errors are measured, not modelled: each region (or group of neighbours, where time is short) is quantized alone, with
the ranges of the one calibration, and run on a few of the samples held out. Independent errors add up in power: those
of several regions are foreseen as the sum of their noise-to-signal ratios. What is chosen by that is then measured as a
whole. Times come from ONNX Runtime's profile of the float and of the quantized model, whose kernels are
led back to the nodes of the user's file (`graphopt.targets.profile`), and from there to regions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.errors import GraphoptError
from graphopt.quantization.recipes import Recipe
from graphopt.quantization.regions import Region, grouped
from graphopt.quantization.runs import Runner
from graphopt.quantization.trials import Lab, Trial

__all__ = ["Costs", "Sensitivity", "cheapest", "costs_of", "sensitivity_of"]

SAMPLES = 2
"""Samples on which a region alone is judged."""
TURNS = 3
"""Profiles of each model."""
_LEAST_GAIN = 1e-6  # ms: a region that saves no time has none to lose


@dataclass(frozen=True)
class Sensitivity:
    """regions: as measured, neighbours joined where time was short. noise: for each, the noise power over the signal
    power at the worst output; None where it could not be had."""

    regions: list[Region]
    noise: list[float | None]


@dataclass(frozen=True)
class Costs:
    """Milliseconds of each region in the float and in the quantized model."""

    float_ms: list[float]
    int8_ms: list[float]

    def saved(self, place: int) -> float:
        """What a region gains; negative where it is slower in int8."""
        return self.float_ms[place] - self.int8_ms[place]


def sensitivity_of(lab: Lab, recipe: Recipe, regions: Sequence[Region], seconds: float) -> Sensitivity:
    """Quantizes each region alone and looks at the outputs; in so many seconds, about."""
    started = time.monotonic()
    noise: dict[int, float | None] = {}
    if regions:
        noise[0] = _alone(lab, recipe, regions[0])
    each = max(1e-3, time.monotonic() - started)
    most = max(4, int(seconds / each))
    if len(regions) > most:
        regions, noise = grouped(regions, most), {}
    for place, region in enumerate(regions):
        lab.progress("sensitivity of regions", place, len(regions))
        if place not in noise:
            noise[place] = _alone(lab, recipe, region)
    return Sensitivity(list(regions), [noise[place] for place in range(len(regions))])


def _alone(lab: Lab, recipe: Recipe, region: Region) -> float | None:
    try:
        made = lab.kitchen.alone(recipe, region.labels)
        if not made.is_quantized:
            return 0.0
        run = Runner(made.proto, threads=lab.threads)
        return lab.judge.figures(run, most=SAMPLES, with_metric=False).noise
    except GraphoptError:
        return None


def costs_of(lab: Lab, plain: Trial, quantized: Trial, regions: Sequence[Region]) -> Costs | None:
    """The times of regions, by the profiles of two models, taken in turns; None where they cannot be had.

    What other work on the machine adds is kept out as far as can be: each region has the least of what it took, and the
    sums are brought into the proportion that the two models were timed at, side by side."""
    from graphopt.targets.profile import profile

    found: list[list[list[float]]] = [[], []]
    for turn in range(TURNS):
        lab.progress("time of regions", turn, TURNS)
        for side, trial in enumerate((plain, quantized)):
            runs = max(2, min(8, int(500 / max(0.1, trial.milliseconds or 100.0))))
            try:
                layers = profile(trial.path, lab.judge.feeds[0], runs=runs, threads=lab.threads).layers
            except GraphoptError:
                return None
            found[side].append(_by_region({tuple(each.names): each.milliseconds for each in layers}, regions))
    before, after = ([min(times) for times in zip(*side, strict=True)] for side in found)
    if plain.speed and quantized.speed and sum(before) and sum(after):
        factor = (sum(before) / sum(after)) / (quantized.speed / plain.speed)
        after = [factor * each for each in after]
    return Costs(before, after)


def _by_region(times: Mapping[tuple[str, ...], float], regions: Sequence[Region]) -> list[float]:
    """What a kernel takes is shared out evenly among the regions of the nodes that it stands for."""
    homes: dict[str, list[int]] = {}
    for place, region in enumerate(regions):
        for name in region.origins:
            homes.setdefault(name, []).append(place)
    total = [0.0] * len(regions)
    for names, milliseconds in times.items():
        places = [place for name in names for place in homes.get(name, ())]
        for place in places:
            total[place] += milliseconds / len(places)
    return total


def cheapest(noise: Sequence[float], gains: Sequence[float], budget: float) -> frozenset[int]:
    """Which regions to give back to float, so that the noise of the others adds up to no more than the budget, and as
    little time as can be is lost: the dearest in noise for their time first, and then those taken back that fit after
    all.

    >>> sorted(cheapest([5.0, 1.0, 3.0], [1.0, 1.0, 1.0], 4.0))
    [0]
    >>> sorted(cheapest([5.0, 1.0, 3.0], [1.0, 9.0, 1.0], 3.5))
    [0, 2]
    """
    order = sorted(range(len(noise)), key=lambda place: noise[place] / max(_LEAST_GAIN, gains[place]), reverse=True)
    rest, kept = sum(noise), dict.fromkeys(range(0))
    for place in order:
        if rest <= budget:
            break
        kept[place] = None
        rest -= noise[place]
    for place in sorted(kept, key=gains.__getitem__, reverse=True):
        if rest + noise[place] <= budget:
            del kept[place]
            rest += noise[place]
    return frozenset(kept)
