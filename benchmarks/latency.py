"""Latency in ONNX Runtime, all its own optimizations on: each model as it was against what an optimizer made of it.

    python benchmarks/latency.py --recipes path/to/models.json --json latency.json
    python benchmarks/latency.py --tool onnxslim --only yolo --threads 4

Both sessions live in one fresh process and take turns, run by run; a repeat is another process. Per model: the median
time of a run in each repeat, the ratio original : emitted (above 1 the emitted one is faster) of each repeat, and the
median of those. Inputs: by the recipes (a JSON list of {file, feeds} with a feeds.py beside it), else those that
graphopt.verify makes up. Also reported: the time to create each session, and the largest difference of any output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import describe_machine, find_models, geomean, load_recipes, models_dir, run_worker, write_json
from optimizers import PACKAGES, TOOLS

WARM_UP = 3  # runs of each session before any is timed
SEARCH_SECONDS = 10.0  # for inputs, where no recipe gives them


def session(path: str, threads: int) -> tuple[Any, float]:
    """An ONNX Runtime session with every optimization on, and the seconds that creating it took."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    start = time.perf_counter()
    made = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return made, time.perf_counter() - start


def start_runtime() -> None:
    """Make ONNX Runtime set itself up, so that the first of the two sessions does not pay for it."""
    import onnxruntime as ort
    from onnx import parser

    tiny = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}')
    ort.InferenceSession(tiny.SerializeToString(), providers=["CPUExecutionProvider"])


def make_inputs(request: dict[str, Any]) -> dict[str, Any]:
    """Inputs by name for the original model."""
    if request["recipes"]:
        recipes, make_feeds = load_recipes(Path(request["recipes"]))
        recipe = recipes.get(Path(request["original"]).name)
        if recipe is not None:
            return make_feeds(recipe)
    from graphopt.verify.run import Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    source = Source.of(request["original"])
    found = find_cases(source, Session(source), seconds=SEARCH_SECONDS)
    if not found.cases:
        raise SystemExit(f"no inputs found that it runs on: {'; '.join(found.unchecked)}")
    return found.cases[0].feeds


def largest_difference(before: list[Any], after: list[Any]) -> float | None:
    """The largest absolute difference over all numeric outputs; None when there is nothing to compare."""
    import numpy as np

    worst = None
    for x, y in zip(before, after, strict=True):
        if isinstance(x, np.ndarray) and x.dtype.kind in "biuf" and x.size and x.shape == y.shape:
            difference = float(np.nanmax(np.abs(x.astype(np.float64) - y.astype(np.float64))))
            worst = difference if worst is None else max(worst, difference)
    return worst


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One repeat: both models in this process, in turns, for `seconds` in all but at least `min_runs` of each."""
    paths = request["original"], request["emitted"]
    if request["swap"]:
        paths = paths[1], paths[0]
    start_runtime()
    sessions = [session(path, request["threads"]) for path in paths]
    feeds = make_inputs(request)
    outputs = [made.run(None, feeds) for made, _ in sessions]
    for made, _ in sessions * (WARM_UP - 1):
        made.run(None, feeds)
    times: tuple[list[float], list[float]] = ([], [])
    deadline = time.perf_counter() + request["seconds"]
    while len(times[0]) < request["min_runs"] or (time.perf_counter() < deadline and len(times[0]) < 2000):
        for (made, _), record in zip(sessions, times, strict=True):
            start = time.perf_counter()
            made.run(None, feeds)
            record.append(time.perf_counter() - start)
    medians = [statistics.median(record) for record in times]
    loads = [seconds for _, seconds in sessions]
    if request["swap"]:
        medians.reverse()
        loads.reverse()
    difference = largest_difference(*outputs)
    return {"ok": True, "seconds": medians, "load": loads, "runs": len(times[0]), "difference": difference}


def emit(src: Path, dst: Path, args: argparse.Namespace) -> str:
    """Optimize `src` into `dst`; returns what went wrong, or nothing."""
    options = {"passes": args.passes, "target": args.target} if args.tool == "graphopt" else {}
    request = {"tool": args.tool, "src": str(src), "dst": str(dst), "options": options}
    answer = run_worker("optimizers.py", request, args.timeout)
    return "" if answer["ok"] else str(answer["error"])


def compare(src: Path, dst: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All repeats of one model."""
    request = {
        "original": str(src),
        "emitted": str(dst),
        "recipes": str(Path(args.recipes).resolve()) if args.recipes else "",
        "threads": args.threads,
        "seconds": args.seconds,
        "min_runs": args.min_runs,
    }
    repeats = []
    for index in range(args.repeats):
        repeat = run_worker("latency.py", {**request, "swap": index % 2 == 1}, args.timeout, args.threads)
        if not repeat["ok"]:
            return repeat
        repeats.append(repeat)
    ratios = [before / after for before, after in (repeat["seconds"] for repeat in repeats)]
    differences = [repeat["difference"] for repeat in repeats if repeat["difference"] is not None]
    return {
        "ok": True,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "original_ms": 1e3 * statistics.median(repeat["seconds"][0] for repeat in repeats),
        "emitted_ms": 1e3 * statistics.median(repeat["seconds"][1] for repeat in repeats),
        "load_ratio": statistics.median(repeat["load"][0] / repeat["load"][1] for repeat in repeats),
        "difference": max(differences, default=None),
    }


def print_table(results: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ONNX Runtime latency, original : emitted (above 1: emitted is faster)")
    table.add_column("model")
    for heading in ("original ms", "emitted ms", "ratio", "of the repeats", "load ratio", "max difference"):
        table.add_column(heading, justify="right")
    for name, run in sorted(results.items(), key=lambda item: item[1].get("ratio", 0)):
        if not run["ok"]:
            table.add_row(name, "failed", "", "", run["error"][:60], "", "")
            continue
        spread = f"{min(run['ratios']):.2f} to {max(run['ratios']):.2f}"
        difference = "-" if run["difference"] is None else f"{run['difference']:.1e}"
        times = f"{run['original_ms']:.3f}", f"{run['emitted_ms']:.3f}", f"{run['ratio']:.3f}"
        table.add_row(name, *times, spread, f"{run['load_ratio']:.2f}", difference)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(
        f"{summary['models']} models: geomean {summary['geomean']:.3f} (load {summary['load_geomean']:.3f}), "
        f"faster by over 3 %: {summary['faster']}, slower by over 3 %: {summary['slower']}, failed: {summary['failed']}"
    )


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    good = [run for run in results.values() if run["ok"]]
    return {
        "models": len(good),
        "failed": len(results) - len(good),
        "geomean": geomean(run["ratio"] for run in good),
        "load_geomean": geomean(run["load_ratio"] for run in good),
        "faster": sum(run["ratio"] > 1.03 for run in good),
        "slower": sum(run["ratio"] < 1 / 1.03 for run in good),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", default=str(models_dir()), help="folder of .onnx files (default: %(default)s)")
    add("--only", default="", help="only models whose name contains one of these, comma-separated")
    add("--recipes", default="", help="JSON list of {file, feeds}, with a feeds.py beside it")
    add("--tool", choices=list(TOOLS), default="graphopt", help="the optimizer (default: %(default)s)")
    add("--emitted", default="", help="folder of models already optimized, named as the originals")
    add("--passes", default="default", help="graphopt's passes (default: %(default)s)")
    add("--target", default="onnx", help="graphopt's target (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of ONNX Runtime (default: %(default)s)")
    add("--seconds", type=float, default=2, help="seconds of measuring in a repeat (default: %(default)s)")
    add("--min-runs", type=int, default=7, help="runs of each model in a repeat, at least (default: %(default)s)")
    add("--repeats", type=int, default=3, help="fresh processes a model (default: %(default)s)")
    add("--timeout", type=float, default=300, help="seconds for optimizing, and for one repeat (default: %(default)s)")
    add("--json", help="write everything to this file")
    return parser.parse_args()


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):  # a repeat, started by run_worker
        request = json.loads(sys.argv[1])
        Path(request["result"]).write_text(json.dumps(measure(request)))
        return
    args = parse_arguments()
    folder = Path(args.models).expanduser().resolve()
    results: dict[str, dict[str, Any]] = {}
    for src in find_models(folder, args.only):
        name = src.relative_to(folder).with_suffix("").as_posix()
        with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
            dst = Path(args.emitted, f"{name}.onnx").resolve() if args.emitted else Path(scratch, "emitted.onnx")
            error = "" if args.emitted else emit(src, dst, args)
            results[name] = {"ok": False, "error": error} if error else compare(src, dst, args)
        shown = f"{results[name]['ratio']:.3f}" if results[name]["ok"] else f"failed: {results[name]['error']}"
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
    summary = summarize(results)
    print_table(results, summary)
    machine = describe_machine(PACKAGES)
    options = {key: value for key, value in vars(args).items() if key != "json"}
    write_json(args.json, {"machine": machine, "options": options, "summary": summary, "results": results})


if __name__ == "__main__":
    main()
