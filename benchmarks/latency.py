"""Latency in ONNX Runtime, all its own optimizations on: each model as it was against what an optimizer made of it.

    python benchmarks/latency.py --recipes path/to/models.json --json latency.json
    python benchmarks/latency.py --tool onnxslim --only yolo --threads 4

Measured as `graphopt bench` does (`graphopt.targets.latency`): both sessions live in one fresh process and take turns,
run by run; a repeat is another process. Inputs: by the recipes (a JSON list of {file, feeds} with a feeds.py beside
it), else those that graphopt.verify makes up. Also reported: the ratio's 95 % interval, the time to load each,
memory at the peak, and the nodes that the runtime executes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import describe_machine, find_models, geomean, load_recipes, models_dir, run_worker, write_json
from optimizers import PACKAGES, TOOLS


def make_inputs(src: Path, recipes: str) -> dict[str, Any] | None:
    """Inputs by name as the recipes say; None where there is none for this model."""
    if not recipes:
        return None
    known, make_feeds = load_recipes(Path(recipes))
    recipe = known.get(src.name)
    return None if recipe is None else make_feeds(recipe)


def emit(src: Path, dst: Path, args: argparse.Namespace) -> str:
    """Optimize `src` into `dst`; returns what went wrong, or nothing."""
    options = {"passes": args.passes, "target": args.target} if args.tool == "graphopt" else {}
    request = {"tool": args.tool, "src": str(src), "dst": str(dst), "options": options}
    answer = run_worker("optimizers.py", request, args.timeout)
    return "" if answer["ok"] else str(answer["error"])


def compare(src: Path, dst: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All repeats of one model."""
    from graphopt.errors import GraphoptError
    from graphopt.targets.latency import compare_latency

    try:
        found = compare_latency(
            src,
            dst,
            make_inputs(src, args.recipes),
            threads=args.threads,
            seconds=args.seconds,
            min_runs=args.min_runs,
            repeats=args.repeats,
            timeout=args.timeout,
        )
    except GraphoptError as error:
        return {"ok": False, "error": str(error)}
    return {"ok": True, **found.to_dict()}


def print_table(results: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ONNX Runtime latency, original : emitted (above 1: emitted is faster)")
    table.add_column("model")
    for heading in ("original ms", "emitted ms", "ratio", "95 %", "load ratio", "memory ratio", "nodes executed"):
        table.add_column(heading, justify="right")
    for name, run in sorted(results.items(), key=lambda item: item[1].get("ratio", 0)):
        if not run["ok"]:
            table.add_row(name, "failed", "", "", run["error"][:60])
            continue
        a, b = run["a"], run["b"]
        interval = "{:.3f} to {:.3f}".format(*run["interval"])
        times = f"{a['milliseconds']:.3f}", f"{b['milliseconds']:.3f}", f"{run['ratio']:.3f}"
        memory = f"{a['peak_bytes'] / max(1, b['peak_bytes']):.2f}"
        table.add_row(name, *times, interval, f"{run['load_ratio']:.2f}", memory, f"{a['nodes']} to {b['nodes']}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(
        f"{summary['models']} models: geomean {summary['geomean']:.3f} (load {summary['load_geomean']:.3f}), "
        f"1.05 or more: {summary['faster']}, under 0.97: {summary['slower']}, "
        f"more nodes executed: {summary['more_nodes']}, failed: {summary['failed']}"
    )


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    good = [run for run in results.values() if run["ok"]]
    return {
        "models": len(good),
        "failed": len(results) - len(good),
        "geomean": geomean(run["ratio"] for run in good),
        "load_geomean": geomean(run["load_ratio"] for run in good),
        "faster": sum(run["ratio"] >= 1.05 for run in good),
        "slower": sum(run["ratio"] < 0.97 for run in good),
        "more_nodes": sum((run["b"]["nodes"] or 0) > (run["a"]["nodes"] or 0) for run in good),
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
