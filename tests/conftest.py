"""What all tests share: Hypothesis profiles, the real models, and skipping of what this machine cannot run."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The default run is reproducible; HYPOTHESIS_PROFILE=campaign searches anew each time, and longer.
settings.register_profile(
    "default", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "campaign", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

MODELS = Path(os.environ.get("GRAPHOPT_MODELS", "~/.cache/graphopt/models")).expanduser()

# What somebody measured with `graphopt machine` must not decide what tests see.
os.environ["GRAPHOPT_CACHE"] = str(Path(__file__).parent / "no-such-cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is no GPU or no TensorRT, saying which; $GRAPHOPT_SIMULATE plays both."""
    if os.environ.get("GRAPHOPT_SIMULATE"):
        return
    missing = "no NVIDIA GPU" if shutil.which("nvidia-smi") is None else ""
    if not missing and importlib.util.find_spec("tensorrt") is None:
        missing = "the tensorrt extra is not installed"
    if missing:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=missing))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `real_model` runs once for each model of $GRAPHOPT_MODELS, and carries the mark `models`."""
    if "real_model" not in metafunc.fixturenames:
        return
    paths = sorted(MODELS.rglob("*.onnx")) if MODELS.is_dir() else []
    parameters = [pytest.param(path, id=path.stem, marks=pytest.mark.models) for path in paths]
    if not parameters:
        reason = f"no models in {MODELS}; set GRAPHOPT_MODELS to a folder of .onnx files"
        parameters = [pytest.param(None, id="none", marks=[pytest.mark.models, pytest.mark.skip(reason=reason)])]
    metafunc.parametrize("real_model", parameters)


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator with a fixed seed."""
    return np.random.default_rng(0)
