"""What the benchmarks share: where models are, how they are counted and fed, and the statistics over them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def models_dir() -> Path:
    """The folder of models: `$GRAPHOPT_MODELS`, else `~/.cache/graphopt/models`."""
    return Path(os.environ.get("GRAPHOPT_MODELS", "~/.cache/graphopt/models")).expanduser()


def find_models(folder: Path, only: str = "") -> list[Path]:
    """All `.onnx` files under `folder`, smallest first; `only` (`a,b`) keeps those with a part of it in their name."""
    wanted = [part for part in only.split(",") if part]
    found = [p for p in folder.rglob("*.onnx") if not wanted or any(w in p.stem for w in wanted)]
    if not found:
        raise SystemExit(f"no .onnx file in {folder}" + (f" matches {only!r}" if wanted else ""))
    return sorted(found, key=lambda p: (p.stat().st_size, p.name))


def count_ops(path: Path) -> dict[str, int]:
    """How many nodes of each operator (`domain::Name` outside the standard domain) the model at `path` has, those of
    subgraph and function bodies included."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    pending = [model.graph.node, *(function.node for function in model.functions)]
    counts: Counter[str] = Counter()
    while pending:
        for node in pending.pop():
            counts[node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"] += 1
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append(attribute.g.node)
                elif attribute.type == onnx.AttributeProto.GRAPHS:
                    pending.extend(graph.node for graph in attribute.graphs)
    return dict(counts)


def count_nodes(path: Path) -> dict[str, int]:
    """Nodes of the model at `path`: `top` level of the main graph, `all` with subgraph and function bodies, and
    `compute`, which is `all` without Constant (some tools keep constants as nodes, others as initializers)."""
    import onnx

    counts = count_ops(path)
    total = sum(counts.values())
    top = len(onnx.load(str(path), load_external_data=False).graph.node)
    return {"top": top, "all": total, "compute": total - counts.get("Constant", 0)}


def geomean(values: Iterable[float]) -> float:
    """The geometric mean; nan of nothing."""
    logs = [math.log(v) for v in values if v > 0]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


def run_worker(script: str, request: dict[str, Any], timeout: float, threads: int = 1) -> dict[str, Any]:
    """Run `script` of this folder in a fresh interpreter on `request` (JSON) and return what it wrote to
    `request["result"]`, or `{"ok": False, "error": one line}`."""
    environment = {**os.environ, **SINGLE_THREAD, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        result = Path(scratch, "result.json")
        command = [sys.executable, "-W", "ignore", str(HERE / script), json.dumps({**request, "result": str(result)})]
        try:
            done = subprocess.run(
                command,
                check=False,
                env=environment,
                timeout=timeout,
                capture_output=True,
                text=True,
                errors="replace",
                cwd=scratch,
            )
        except subprocess.TimeoutExpired:
            return {"ok": False, "error": f"more than {timeout:.0f} s"}
        if result.exists():
            answer: dict[str, Any] = json.loads(result.read_text())
            return answer
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"ok": False, "error": f"exit code {done.returncode}: {last[:200]}"}


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """The machine and the versions behind a run, for its JSON."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        cpu = names[0] if names else cpu
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def load_recipes(path: Path) -> tuple[dict[str, list[dict[str, Any]]], Callable[..., dict[str, Any]]]:
    """Input recipes by model file name from the manifest at `path` (a JSON list of objects with `file`, `feeds`), and
    the `make_feeds(recipe, seed)` of the `feeds.py` beside it, which turns a recipe into arrays by input name."""
    feeds = path.with_name("feeds.py")
    spec = importlib.util.spec_from_file_location("graphopt_bench_feeds", feeds)
    if spec is None or spec.loader is None or not feeds.exists():
        raise SystemExit(f"{feeds} is missing: it must define make_feeds(recipe, seed)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {entry["file"]: entry["feeds"] for entry in json.loads(path.read_text())}, module.make_feeds


def write_json(path: str | None, data: dict[str, Any]) -> None:
    """Write `data` to `path`, if one is given."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(data, indent=1) + "\n")
