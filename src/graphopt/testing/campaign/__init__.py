"""Campaigns: many models through many passes, with a verdict for each.

>>> from graphopt.testing import run_campaign
>>> report = run_campaign(["fuse"], match="^test_relu$", jobs=0)
>>> report.cases, report.ok
(3, True)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.testing.backend import KINDS, VARIANTS, BackendCase, backend_cases
from graphopt.testing.campaign.findings import FAULTS, VERDICTS, CampaignReport, Finding

__all__ = [
    "FAULTS",
    "VERDICTS",
    "CampaignReport",
    "Finding",
    "model_cases",
    "pass_files",
    "run_campaign",
    "subjects_of",
]

Progress = Callable[[int, int, CampaignReport], None]
_EACH = "each"


def run_campaign(
    passes: Sequence[str] = ("default", "fuse", "cleanup", _EACH),
    *,
    models: str | os.PathLike[str] | None = None,
    kinds: Iterable[str] = KINDS,
    variants: Iterable[str] = VARIANTS,
    match: str = "",
    sample: int = 1,
    load: Iterable[str | os.PathLike[str]] = (),
    target: str = "onnx",
    jobs: int | None = None,
    timeout: float = 120.0,
    seconds: float = 20.0,
    progress: Progress | None = None,
) -> CampaignReport:
    """Runs passes on onnx's backend cases, or on a folder of models, and compares every result with its original.

    Each pass alone is given each model. What it returns has to be valid, with the interface of the original, to compute
    the same (as written, and with the optimizations of ONNX Runtime), and to keep what `conformance` checks.

    passes: names, pipelines without a comma, or "each" for every registered pass, rule, rule set and preset. models: a
    folder of `.onnx` files, or one file, instead of the backend cases; kinds, variants, match: see `backend_cases`;
    match goes for file names, too. sample: take every n-th case. load: files of passes, or folders of them. target: as
    in `optimize`. jobs: processes, as many as there are processors by default; 0 stays in this one, which a crash then
    takes down. timeout: seconds for each pass on each model and each run. seconds: for one numeric judgement beyond
    plain rounding, or on a model whose inputs have to be made. progress: called with (cases done, cases, the report so
    far).

    Raises UnknownPassError, PassError, GraphoptError for an unknown kind or variant, or when no case is left.
    """
    start = time.monotonic()
    files = pass_files(load)
    names = subjects_of(passes, files)
    cases = list(model_cases(models, match)) if models is not None else list(backend_cases(kinds, variants, match))
    cases = cases[:: max(1, sample)]
    if not cases:
        raise GraphoptError("no case is left to run; widen `match`, `kinds` or `variants`")
    from graphopt.testing.campaign.examine import Settings
    from graphopt.testing.campaign.pool import examine_all

    what = "onnx's backend cases" if models is None else f"models of {os.fspath(models)}"
    report = CampaignReport(f"{what} for {target}", names, len(cases), machine=_machine())
    settings = Settings(tuple(names), tuple(files), target, seconds)

    def done(count: int) -> None:
        if progress is not None:
            progress(count, len(cases), report)

    for findings in examine_all(cases, settings, _processes(jobs), timeout, done):
        report.add(findings)
    report.seconds = time.monotonic() - start
    return report


def subjects_of(passes: Iterable[str], load: Iterable[str] = ()) -> list[str]:
    """The names of passes with "each" spelled out, each once. load: files to load first. Raises as `run_campaign`."""
    from graphopt.passes import registry
    from graphopt.passes.loading import load_file
    from graphopt.pipeline import Pipeline

    for file in load:
        load_file(file)
    found: dict[str, None] = {}
    for name in passes:
        found.update(dict.fromkeys(registry.names() if name == _EACH else [name]))
    for name in found:
        Pipeline.of(name)
    return list(found)


def pass_files(load: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Files of passes and presets, with folders searched for them."""
    found: list[str] = []
    for item in map(Path, load):
        inside = sorted([*item.rglob("*.py"), *item.rglob("*.toml")]) if item.is_dir() else [item]
        found += [str(path) for path in inside]
    return found


def model_cases(folder: str | os.PathLike[str], match: str = "") -> list[BackendCase]:
    """A case for each `.onnx` file of a folder, or for one file, smallest first; inputs will be made."""
    import re

    root = Path(folder)
    paths = sorted(root.rglob("*.onnx"), key=lambda path: (path.stat().st_size, path.name)) if root.is_dir() else [root]
    return [
        BackendCase(path.stem, "file", b"", (), "", path=str(path)) for path in paths if re.search(match, path.stem)
    ]


def _processes(jobs: int | None) -> int:
    if jobs is not None:
        return jobs
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available is not None else os.cpu_count() or 1


def _machine() -> dict[str, str]:
    from importlib.metadata import version

    packages = {name: version(name) for name in ("onnx", "onnxruntime", "numpy")}
    return {"python": sys.version.split()[0], **packages}
