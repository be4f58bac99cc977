"""A part with what a real run of the whole put into it and got out of it: an extract that tests itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.ir import Model
from graphopt.ir.external import shown
from graphopt.subgraphs.extract import extract_region
from graphopt.subgraphs.folder import check_new, new_folder
from graphopt.subgraphs.instance import CALL
from graphopt.subgraphs.region import Region
from graphopt.subgraphs.tap import caught

__all__ = ["captured", "write_extract"]


def captured(
    region: Region, inputs: Mapping[str, Any] | None = None, *, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What enters a region and what leaves it in a run of the whole model, by name.

    inputs: of the whole model; without, such as suit it are made (`seed`). ONNX Runtime runs it as it is written.
    Of a region in a body the first iteration is taken, of one in a function the first call. Raises GraphoptError where
    that is not run on these inputs, where no inputs are found that the model runs on, and OutputError for a model of
    2 GiB or more.
    """
    from graphopt.verify.run import LoadError, RunError

    try:
        feeds = inputs if inputs is not None else _made(_whole(region.graph.model), seed)
        wanted = list(dict.fromkeys((*region.inputs, *region.outputs)))
        values = caught(region.graph, wanted, feeds)
    except (LoadError, RunError) as error:
        raise GraphoptError(f"the model does not run on these inputs: {error}") from error
    given = {value.name: values[value.name] for value in region.inputs if value.name in values}
    expected = {value.name: values[value.name] for value in region.outputs}
    for name, value in expected.items():
        if np.size(value) == 0 and region.graph.owner is not None:
            raise GraphoptError(f"{shown(name)} is in a branch that is not taken on these inputs; give others")
    return given, expected


def _whole(model: Model) -> ModelProto:
    """The model that a run begins with: that of the call, where this is the body of a function."""
    while CALL in model.facts:
        model = model.facts[CALL].graph.model
    return ir.to_proto(model, whole=True)


def _made(proto: ModelProto, seed: int) -> Mapping[str, Any]:
    from graphopt.verify.run import Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    source = Source.of(proto)
    found = find_cases(source, Session(source), seconds=10.0, seed=seed)
    if not found.cases:
        reasons = "; ".join(found.unchecked) or "none fit"
        raise GraphoptError(f"no inputs found that the model runs on ({reasons}); give some with --data")
    feeds: Mapping[str, Any] = found.cases[0].feeds
    return feeds


def write_extract(
    region: Region, folder: str | os.PathLike[str], inputs: Mapping[str, Any] | None = None, *, seed: int = 0
) -> Path:
    """Writes a region with captured values into a new folder, which appears whole or not at all.

    Files: part.onnx, inputs.npz, expected.npz and replay.py, which needs numpy and onnxruntime only and exits with 1
    where the part does not compute what the whole did. Raises as `captured`, and OutputError where the folder is there
    already or cannot be written.
    """
    from graphopt.verify.script import REPLAY
    from graphopt.verify.storage import save_values

    target = Path(folder)
    check_new(target)
    given, expected = captured(region, inputs, seed=seed)
    part = extract_region(region)
    with new_folder(target) as made:
        ir.save(part, made / "part.onnx")
        save_values(made / "inputs.npz", given)
        save_values(made / "expected.npz", expected)
        (made / "replay.py").write_text(REPLAY, encoding="utf-8")
    return target
