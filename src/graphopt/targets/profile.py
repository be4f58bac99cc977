"""Where a model's time goes in ONNX Runtime, by the layers of the model that it was made from.

The runtime executes another graph than the file's: it fuses, renames, and puts in changes of layout. It can write that
graph out, and its profile names that graph's nodes; from there the names of tensors, which it mostly keeps, lead back
to the file's nodes, and the marks that rules leave (`graphopt.ir.provenance`) to the nodes of the original.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.targets._layers import Layers

__all__ = ["Layer", "Profile", "profile"]


@dataclass(frozen=True)
class Layer:
    """Time of the kernels that stand for the same original nodes.

    names: labels of original nodes; several where one kernel computes several. ops: operators that the runtime executed
    for them. milliseconds: of one run, the mean over runs. how: "name" where tensors' names lead there, "place" where
    a kernel that the runtime put in is counted with the one it serves, "unknown" for what could not be attributed.
    """

    names: tuple[str, ...]
    ops: tuple[str, ...]
    milliseconds: float
    how: str = "name"


@dataclass
class Profile:
    """layers: by time, longest first. milliseconds: of one run, all kernels. attributed: the share of it that has
    original names. inputs: shapes by name; runs: how many were measured."""

    model: str
    layers: list[Layer] = field(default_factory=list)
    milliseconds: float = 0.0
    attributed: float = 0.0
    inputs: dict[str, list[int]] = field(default_factory=dict)
    runs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "model": self.model,
            "milliseconds": self.milliseconds,
            "attributed": self.attributed,
            "runs": self.runs,
            "inputs": self.inputs,
            "layers": [
                {"names": list(each.names), "ops": list(each.ops), "milliseconds": each.milliseconds, "how": each.how}
                for each in self.layers
            ],
        }


def profile(
    model: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    runs: int = 20,
    threads: int = 1,
    seed: int = 0,
) -> Profile:
    """Runs a model with all of ONNX Runtime's optimizations, and says how long each original layer takes.

    model: a path. inputs: a feed dict; without, made as for verification (`seed`). runs: measured after a warm-up.
    threads: of one operator. Time inside the bodies of If, Loop and Scan counts for the nodes in there, what is left
    for the operator itself. Raises GraphoptError for a model that ONNX Runtime does not load or run.

    >>> import tempfile, onnx
    >>> from graphopt.demo import demo_model
    >>> file = tempfile.mkdtemp() + "/demo.onnx"
    >>> onnx.save(demo_model(), file)
    >>> found = profile(file, runs=2)
    >>> found.attributed > 0.95, found.milliseconds > 0
    (True, True)
    """
    import numpy as np

    from graphopt.ir import load

    path = os.fspath(model)
    feeds = dict(inputs) if inputs is not None else _made(path, seed)
    original = load(path)
    with tempfile.TemporaryDirectory(prefix="graphopt-profile-") as scratch:
        events, executed = _measure(path, feeds, runs, threads, Path(scratch))
    times = _self_times(events, runs)
    found = Layers(original, executed)
    groups: dict[tuple[str, ...], tuple[dict[str, None], float, str]] = {}
    for (name, op), milliseconds in times.items():
        names, how = found.of(name, op)
        ops, total, before = groups.get(names, ({}, 0.0, how))
        ops[op] = None
        groups[names] = ops, total + milliseconds, min(before, how)
    layers = [Layer(names, tuple(ops), total, how) for names, (ops, total, how) in groups.items()]
    layers.sort(key=lambda each: -each.milliseconds)
    whole = sum(each.milliseconds for each in layers)
    known = sum(each.milliseconds for each in layers if each.how != "unknown")
    shapes = {name: list(np.shape(value)) for name, value in feeds.items() if not isinstance(value, (list, tuple))}
    return Profile(os.path.basename(path), layers, whole, known / whole if whole else 1.0, shapes, runs)


def _made(path: str, seed: int) -> dict[str, Any]:
    from graphopt.verify.run import LoadError, Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    source = Source.of(path)
    try:
        found = find_cases(source, Session(source), seconds=10.0, seed=seed)
    except LoadError as error:
        raise GraphoptError(f"ONNX Runtime does not load {path!r}: {error}") from error
    finally:
        source.close()
    if not found.cases:
        reasons = "; ".join(found.unchecked) or "it has none that fit"
        raise GraphoptError(f"no inputs found on which {path!r} runs ({reasons}); give some with inputs")
    return dict(found.cases[0].feeds)


def _measure(
    path: str, feeds: Mapping[str, Any], runs: int, threads: int, scratch: Path
) -> tuple[list[dict[str, Any]], ModelProto]:
    """The events of the profile, and the graph that was executed."""
    import onnx
    import onnxruntime

    from graphopt.verify.run import one_line, to_runtime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "profile")
    options.optimized_model_filepath = str(scratch / "executed.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "executed.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = {name: to_runtime(value, wrap=False) for name, value in feeds.items()}
        for _ in range(runs + 1):
            session.run(None, given)
        file = session.end_profiling()
    except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
        raise GraphoptError(f"ONNX Runtime does not run {path!r}: {one_line(error)}") from error
    events = json.loads(Path(file).read_text(encoding="utf-8"))
    executed = onnx.load(str(scratch / "executed.onnx"), load_external_data=False)
    return events, executed


def _self_times(events: Sequence[Mapping[str, Any]], runs: int) -> dict[tuple[str, str], float]:
    """Milliseconds of one run by node name and operator, without what other nodes inside it take.

    The events of the first run, a warm-up, are left out. With one thread at a time, what happens inside of a node lies
    between its begin and its end.
    """
    kernels = [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")]
    whole = [e for e in events if e.get("cat") == "Session" and e["name"] == "model_run"]
    whole.sort(key=lambda e: float(e["ts"]))
    begin = float(whole[1]["ts"]) if len(whole) > 1 else 0.0
    kernels = [e for e in kernels if float(e["ts"]) >= begin]
    kernels.sort(key=lambda e: (float(e["ts"]), -float(e["dur"])))
    total: dict[tuple[str, str], float] = {}
    open_: list[tuple[float, tuple[str, str]]] = []
    for event in kernels:
        start, length = float(event["ts"]), float(event["dur"])
        key = str(event["name"]).removesuffix("_kernel_time"), str(event["args"].get("op_name", ""))
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            outer = open_[-1][1]
            total[outer] = total.get(outer, 0.0) - length
        total[key] = total.get(key, 0.0) + length
        open_.append((start + length, key))
    return {key: max(0.0, micro) / 1000 / runs for key, micro in total.items()}
