"""Which model to emit: the fastest that keeps the limit.

First whole models, one for each way to quantize. Then the fastest of them with regions back in float, where int8 takes
longer than float by the profiles; and where it breaks the limit, with the regions in float that cost most accuracy for
the time they save, as few of them as will do. Whatever is chosen was measured as a whole, in accuracy and in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.quantization.judge import Limit
from graphopt.quantization.recipes import Recipe
from graphopt.quantization.regions import Region, regions_of
from graphopt.quantization.report import RegionReport
from graphopt.quantization.sensitivity import Costs, Sensitivity, cheapest, costs_of, sensitivity_of
from graphopt.quantization.trials import Lab, Trial

__all__ = ["FLOOR", "Search"]

FLOOR = 10.0
"""dB of SQNR below which nothing is emitted unless that is asked for: the outputs are mostly noise."""
_PROBES = 7  # whole models made to find how much must stay float
_SECONDS = 2.0  # to time two models side by side
_CLEARLY = 1.1  # times longer than in float: what is less may be chance
_WORTH = 0.01  # share of the whole time that giving regions back to float must promise


@dataclass
class Search:
    """One search. lab: with the float models tried already. pareto: measure points along the front, too."""

    lab: Lab
    recipes: Sequence[Recipe]
    limit: Limit | None
    pareto: bool = False
    regions: list[Region] = field(default_factory=list)
    sensitivity: Sensitivity | None = None
    costs: Costs | None = None
    notes: list[str] = field(default_factory=list)

    def run(self) -> list[Trial]:
        """All that can be emitted, the best first."""
        lab = self.lab
        for place, recipe in enumerate(self.recipes):
            lab.progress(f"try {recipe.name}", place, len(self.recipes))
            trial = lab.add(recipe)
            better = lab.kitchen.improved(recipe)
            if better is not None and not trial.why:
                self._keep_better(trial, lab.add(better))
        lab.limit = self.limit or self._default_limit()
        for trial in lab.trials:
            lab.settle(trial)
        self._time_all()
        base = self._base()
        if base is None or base.recipe is None or (lab.for_size and base.allowed and not self.pareto):
            return lab.best()
        self.regions = regions_of(lab.kitchen.model)
        if lab.timed and not lab.for_size and lab.left > 0:
            base = self._where_it_pays(base)
        if lab.left > 0 and len(self.regions) > 1 and (self.pareto or not base.allowed):
            self._give_back(base)
        elif not base.allowed and lab.left <= 0:
            self.notes.append("there was no time to look for regions to keep in float; give more seconds")
        return lab.best()

    def _keep_better(self, plain: Trial, other: Trial) -> None:
        """Of two that take the same time, the one with less error."""
        if other.why or plain.figures is None or other.figures is None:
            return
        first, second = (plain, other) if plain.figures.noise <= other.figures.noise else (other, plain)
        second.why = f"as fast as {first.name!r}, less accurate"

    def _default_limit(self) -> Limit:
        """Without one from the user: no more error than static quantization of everything, and not mere noise."""
        whole = next((t for t in self.lab.trials if t.recipe is not None and t.recipe.is_everything), None)
        plain = whole.figures.sqnr_db if whole is not None and whole.figures is not None else -math.inf
        return Limit("sqnr", max(FLOOR, plain) if math.isfinite(plain) else FLOOR)

    def _time_all(self) -> None:
        lab = self.lab
        lab.time(lab.trials, min(12.0, max(2.0, lab.left / 8)))

    def _base(self) -> Trial | None:
        """The quantized model to start from: the fastest, whether it keeps the limit or not."""
        quantized = [t for t in self.lab.trials if t.recipe is not None and t.made is not None and not t.why]
        return max(quantized, key=lambda t: t.speed or 0.0, default=None)

    def _plain(self) -> Trial:
        """The optimized model in float."""
        return next(t for t in reversed(self.lab.trials) if t.recipe is None and not t.why)

    def _where_it_pays(self, base: Trial) -> Trial:
        """Gives back to float what is slower in int8, as long as that makes the whole faster."""
        lab = self.lab
        kept: set[int] = set()
        for _ in range(3):
            costs = costs_of(lab, self._plain(), base, self.regions)
            if costs is None:
                break
            if self.costs is None:
                self.costs = costs
            places = range(len(self.regions))
            slower = {place for place in places if costs.int8_ms[place] > _CLEARLY * costs.float_ms[place]} - kept
            if -sum(costs.saved(place) for place in slower) < _WORTH * sum(costs.float_ms) or lab.left <= 0:
                break
            assert base.recipe is not None
            trial = self._without(base.recipe, kept | slower, "where it pays")
            lab.time_against(base, trial, _SECONDS)
            if trial.why or (trial.speed or 0.0) <= (base.speed or 0.0):
                break
            base, kept = trial, kept | slower
        return base

    def _without(self, recipe: Recipe, places: set[int], how: str = "") -> Trial:
        labels = [label for place in sorted(places) for label in self.regions[place].labels]
        name = f"{recipe.name}, {how or f'{len(places)} regions'}" + (
            f" ({len(places)} in float)" if how else " in float"
        )
        known = next((trial for trial in self.lab.trials if trial.name == name), None)
        return known or self.lab.add(recipe, labels, len(places), name)

    def _give_back(self, base: Trial) -> None:
        """Keeps the regions in float that cost most accuracy for their time, as few as the limit asks for."""
        lab = self.lab
        assert base.recipe is not None and base.made is not None
        methods, fixed = base.made.methods, set(base.kept)
        open_ = [r for r in self.regions if any(methods.get(a, "float") != "float" for a in r.anchors)]
        open_ = [region for region in open_ if not fixed.issuperset(region.labels)]
        found = sensitivity_of(lab, base.recipe, open_, max(1.0, lab.left / 2))
        costs = costs_of(lab, self._plain(), base, found.regions) if lab.timed else None
        self.sensitivity, self.regions, self.costs = found, found.regions, costs
        if not any(found.noise):
            self.notes.append("no region alone can be made to lose less")
            return
        budgets = self._budgets(base)
        if not base.allowed:
            self._fit(base, budgets)
        if self.pareto:
            for budget in [budgets[1] * share for share in (0.5, 0.25, 0.1, 0.03, 0.01)]:
                if lab.left > 0:
                    self._within(base, budget)
        for trial in lab.trials:
            if lab.left > 0 or trial.usable:
                lab.time_against(base, trial, _SECONDS)

    def _budgets(self, base: Trial) -> tuple[float, float]:
        """The noise that the limit allows, in the currency of regions (their sum is not quite what they make together),
        and the sum of all."""
        total = sum(noise or 0.0 for noise in self.sensitivity.noise) if self.sensitivity is not None else 0.0
        actual = base.figures.noise if base.figures is not None else math.inf
        limit = self.lab.limit
        if limit is not None and limit.kind == "sqnr" and 0 < actual < math.inf:
            return total * 10 ** (-limit.value / 10) / actual, total
        return total / 8, total

    def _fit(self, base: Trial, budgets: tuple[float, float]) -> None:
        """The largest budget of noise with which the limit is kept: by bisection over whole models, in steps of
        powers, begun where the sum foresees it."""
        budget, total = min(budgets[0], 0.9 * budgets[1]), budgets[1]
        low, high = 0.0, total  # low: kept, as far as is known (all in float); high: broken
        for probe in range(_PROBES):
            if self.lab.left <= 0:
                break
            self.lab.progress("how much in float", probe, _PROBES)
            trial = self._within(base, budget)
            low, high = (budget, high) if trial.usable else (low, budget)
            if low and high / low < 1.3:
                break
            budget = math.sqrt(low * high) if low else high / 4

    def _within(self, base: Trial, budget: float) -> Trial:
        """The model whose regions make no more noise than the budget, by their sum."""
        assert base.recipe is not None and self.sensitivity is not None
        noise = [0.0 if n is None else n for n in self.sensitivity.noise]
        gains = [1.0 if self.costs is None else self.costs.saved(place) for place in range(len(noise))]
        places = cheapest(noise, gains, budget)
        labels = [label for place in sorted(places) for label in self.regions[place].labels]
        kept = (*base.kept, *labels)
        known = next((t for t in self.lab.trials if t.recipe == base.recipe and t.kept == kept), None)
        count = base.regions + len(places)
        name = f"{base.recipe.name}, {count} region{'s' if count != 1 else ''} in float"
        taken = sum(t.name.startswith(name) for t in self.lab.trials)
        return known or self.lab.add(base.recipe, kept, count, f"{name} ({taken + 1})" if taken else name)

    def reports(self, chosen: Trial) -> list[RegionReport]:
        """What was found of each region."""
        kept = set(chosen.kept)
        found = []
        for place, region in enumerate(self.regions):
            noise = self.sensitivity.noise[place] if self.sensitivity is not None else None
            times = self.costs
            before = None if times is None else times.float_ms[place]
            after = None if times is None else times.int8_ms[place]
            if noise is None and before is None:
                continue
            alone = bool(kept) and kept.issuperset(region.labels)
            found.append(RegionReport(region.name, region.anchors, before, after, _decibels(noise), alone))
        return found


def _decibels(noise: float | None) -> float | None:
    if noise is None:
        return None
    return math.inf if noise == 0 else -math.inf if noise == math.inf else -10 * math.log10(noise)
