"""Counterexamples in folders: models, inputs, and a script."""

from __future__ import annotations

import re
from pathlib import Path

from graphopt.errors import GraphoptError, OutputError
from graphopt.testing.rules.result import Counterexample, RuleCheck

__all__ = ["save_counterexamples"]

_SCRIPT = '''"""Runs {rule} on before.onnx. Needs graphopt{files}."""

import pathlib

import numpy as np
import onnx

import graphopt
from graphopt.passes.loading import load_file

here = pathlib.Path(__file__).parent
for file in {load!r}:
    load_file(file)
feeds = dict(np.load(here / "inputs.npz", allow_pickle=False))
model = onnx.load(here / "before.onnx")
print(graphopt.optimize(model, {rule!r}, target={target!r}, inputs=feeds))
'''


def save_counterexamples(check: RuleCheck, folder: Path, load: tuple[str, ...] = ()) -> list[Path]:
    """Writes each counterexample of a check into `folder`/RULE-NUMBER; returns these folders.

    Each holds before.onnx, after.onnx, inputs.npz, a script that runs both in ONNX Runtime (repro.py), and one that
    runs the rule again (rule.py). Raises OutputError.
    """
    return [_save(check, number, each, folder, load) for number, each in enumerate(check.wrong)]


def _save(check: RuleCheck, number: int, found: Counterexample, folder: Path, load: tuple[str, ...]) -> Path:
    from graphopt.verify.repro import Story, write_repro
    from graphopt.verify.storage import save_values

    stem = re.sub(r"[^\w.-]+", "_", check.rule)
    target = folder / f"{stem}-{number}"
    script = _SCRIPT.format(
        rule=found.step or check.rule, load=load, target=found.target, files=" and the files it loads" if load else ""
    )
    try:
        target.mkdir(parents=True, exist_ok=True)
        if found.rewritten is not None:
            try:
                story = Story(check.rule, (), found.why)
                write_repro(target, found.model, found.rewritten, found.feeds, story=story, seconds=3.0)
            except GraphoptError:  # one of the two does not even load: that is the point
                (target / "after.onnx").write_bytes(found.rewritten.SerializeToString())
        if not (target / "before.onnx").exists():
            (target / "before.onnx").write_bytes(found.model.SerializeToString())
        if not (target / "inputs.npz").exists():
            save_values(target / "inputs.npz", found.feeds)
        (target / "rule.py").write_text(script, encoding="utf-8")
        (target / "why.txt").write_text(f"{found}\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: the counterexample cannot be written ({error.strerror or error})") from error
    return target
