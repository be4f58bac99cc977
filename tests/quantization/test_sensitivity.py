from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.quantization.judge import Figures
from graphopt.quantization.regions import Region
from graphopt.quantization.sensitivity import _by_region, cheapest
from graphopt.quantization.trials import Lab, Trial, front_of


def test_the_budget_is_kept_at_least_cost():
    noise, gains = [8.0, 4.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    assert cheapest(noise, gains, 15.0) == frozenset()
    assert cheapest(noise, gains, 7.0) == {0}
    assert cheapest(noise, gains, 3.0) == {0, 1}
    assert cheapest(noise, gains, 0.0) == {0, 1, 2, 3}


def test_what_fits_after_all_is_taken_back():
    # By price the small one goes first, but once the large one is gone it need not.
    assert cheapest([1.0, 10.0], [0.01, 1.0], 1.0) == {1}


@pytest.mark.parametrize("seed", range(20))
def test_any_budget_is_kept(seed):
    rng = np.random.default_rng(seed)
    noise, gains = rng.exponential(size=12).tolist(), rng.normal(size=12).tolist()
    for budget in (0.0, 0.5, 2.0, 20.0):
        kept = cheapest(noise, gains, budget)
        assert sum(each for place, each in enumerate(noise) if place not in kept) <= budget + 1e-9


def test_time_goes_to_the_regions_of_the_original_nodes():
    regions = [Region(("a",), ("a", "r"), frozenset({"a", "r"})), Region(("b",), ("b",), frozenset({"b"}))]
    times = {("a", "r"): 2.0, ("b",): 1.0, ("r", "b"): 4.0, ("QuantizeLinear q",): 8.0}
    assert _by_region(times, regions) == [4.0, 3.0]


def test_the_front_has_what_nothing_else_beats():
    def trial(name, speed, sqnr, why=""):
        return Trial(name, "", figures=Figures(sqnr, 1.0), speed=speed, why=why)

    trials = [
        trial("fp32", 1.0, float("inf")), trial("slow", 0.9, 50.0), trial("fast", 3.0, 20.0), trial("worse", 3.0, 19.0),
        trial("middle", 2.0, 30.0), trial("failed", 9.0, 90.0, "it fails"),
    ]  # fmt: skip
    assert {trials[place].name for place in front_of(trials)} == {"fp32", "fast", "middle"}


def test_of_those_that_are_level_the_most_accurate_is_first():
    def trial(speed, sqnr):
        return Trial(f"{speed}", "file", figures=Figures(sqnr, 1.0), speed=speed, allowed=True)

    lab = Lab(
        Path(), "", None, None, 0.0, trials=[trial(2.0, 20.0), trial(1.99, 30.0), trial(1.5, 40.0), trial(1.0, 50.0)]
    )
    assert [each.name for each in lab.best()] == ["1.99", "2.0", "1.5", "1.0"]
