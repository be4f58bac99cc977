"""onnx's own backend cases, as they are and with constant inputs, through the passes; see docs/campaigns.md.

A sample runs by default. `-m campaign` runs all of them through everything, and real models where there are any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.testing import CampaignReport, run_campaign

ROOT = Path(__file__).parents[2]
MODELS = Path(os.environ.get("GRAPHOPT_MODELS", "~/.cache/graphopt/models")).expanduser()


def explain(report: CampaignReport) -> str:
    lines = [f"{f.verdict}: {f.subject} on {f.case}: {f.why}" for f in report.faults]
    return "\n".join([report.summary(), *lines])


def test_a_sample_of_the_cases_through_the_presets() -> None:
    report = run_campaign(["default", "fuse"], sample=20, jobs=2)
    assert report.ok, explain(report)
    assert report.cases > 300
    assert report.total("skipped") < report.total("ok") / 50


def test_results_do_not_depend_on_the_process(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "graphopt.testing.campaign",
            "--kinds",
            "simple,pytorch-operator",
            "--jobs",
            "0",
        ]
        command += ["--passes", "default", "--json", str(tmp_path / seed)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        data = json.loads((tmp_path / seed).read_text())
        found.append(data["fingerprints"])
        assert data["changed"]["default"] > 20
    assert found[0] == found[1]


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_every_case_through_every_pass() -> None:
    report = run_campaign(load=[ROOT / "passes"])
    assert report.ok, explain(report)
    assert report.cases > 6500


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_every_case_for_other_targets(target: str) -> None:
    report = run_campaign(["default"], target=target)
    assert report.ok, explain(report)


@pytest.mark.campaign
@pytest.mark.models
@pytest.mark.timeout(14400)
@pytest.mark.skipif(
    not MODELS.is_dir(), reason=f"no models in {MODELS}; set GRAPHOPT_MODELS to a folder of .onnx files"
)
def test_real_models_through_every_pass() -> None:
    report = run_campaign(models=MODELS, load=[ROOT / "passes"], timeout=600.0)
    assert report.ok, explain(report)
