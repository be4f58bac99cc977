"""Quantization side by side: graphopt.quantize and ONNX Runtime's own quantizer, on the same calibration data.

    python benchmarks/quantization.py --recipes path/to/models.json --json quantization.json
    python benchmarks/quantization.py --models folder --recipes folder/models.json --only resnet,bert --samples 32

For each model: its latency as it was against that of each result (ONNX Runtime with all of its own optimizations, one
thread, interleaved, as in latency.py), and how far the outputs are from the original's on samples that neither of them
has seen (signal to quantization noise in dB, of the worst output; higher is closer). Samples are made by the recipes,
with other seeds for calibration and for judging.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_machine, find_models, geomean, load_recipes, models_dir, run_worker, write_json
from quantizers import feeds_in

PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")
TOOLS = ("graphopt", "onnxruntime")


def write_samples(folder: Path, recipe: list[dict[str, Any]], make_feeds: Any, seeds: range) -> Path:
    folder.mkdir()
    for seed in seeds:
        np.savez(folder / f"{seed:06}.npz", **make_feeds(recipe, seed=seed))
    return folder


def outputs_of(path: Path, samples: Path) -> Iterator[list[np.ndarray]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for feed in feeds_in(str(samples)):
        yield session.run(None, feed)


def sqnr(reference: Path, other: Path, samples: Path) -> float | None:
    """Signal to quantization noise in dB over all samples, of the float output that lost most; None without any."""
    totals: dict[int, list[float]] = {}
    for ours, theirs in zip(outputs_of(reference, samples), outputs_of(other, samples), strict=True):
        for place, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            if not isinstance(left, np.ndarray) or left.dtype.kind != "f" or not left.size:
                continue
            if left.shape != right.shape:
                return float("-inf")
            a, b = left.astype(np.float64), right.astype(np.float64)
            total = totals.setdefault(place, [0.0, 0.0])
            total[0] += float(np.sum(a * a))
            total[1] += float(np.sum((a - b) ** 2))
    found = [10 * np.log10(signal / noise) if noise else 200.0 for signal, noise in totals.values() if signal]
    return float(min(found)) if found else None


def judge(src: Path, made: Path, samples: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Speed and distance of one result."""
    from graphopt.errors import GraphoptError
    from graphopt.targets.latency import compare_latency

    feed = next(feeds_in(str(samples)))
    try:
        found = compare_latency(
            src, made, feed, threads=args.threads, seconds=args.seconds, repeats=args.repeats, timeout=args.timeout
        )
        return {"speed": found.ratio, "interval": list(found.interval), "sqnr": sqnr(src, made, samples)}
    except (GraphoptError, RuntimeError) as error:
        return {"error": str(error).splitlines()[0][:160]}


def measure(src: Path, recipe: list[dict[str, Any]], make_feeds: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Both quantizers on one model."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        data = write_samples(Path(scratch, "calibration"), recipe, make_feeds, range(1000, 1000 + args.samples))
        held = write_samples(Path(scratch, "held"), recipe, make_feeds, range(9000, 9000 + args.judge))
        for tool in args.tools.split(","):
            made = Path(scratch, f"{tool}.onnx")
            ours = {"calibration": args.method, "seconds": args.search}
            options = ours if tool == "graphopt" else {"method": _PEER_METHODS[args.method]}
            request = {"tool": tool, "src": str(src), "dst": str(made), "data": str(data), "options": options}
            answer = run_worker("quantizers.py", request, args.timeout)
            found[tool] = {**answer, **(judge(src, made, held, args) if answer["ok"] else {})}
    return found


_PEER_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ours = {name: run["graphopt"] for name, run in results.items() if "speed" in run.get("graphopt", {})}
    both = {name: run for name, run in results.items() if name in ours and "speed" in run.get("onnxruntime", {})}
    return {
        "models": len(ours),
        "failed": sorted(set(results) - set(ours)),
        "speed": geomean(run["speed"] for run in ours.values()),
        "slower": sorted(name for name, run in ours.items() if run["interval"][1] < 1),
        "peer_failed": sorted(set(ours) - set(both)),
        "peer_speed": geomean(run["onnxruntime"]["speed"] for run in both.values()),
        "over_peer": geomean(run["graphopt"]["speed"] / run["onnxruntime"]["speed"] for run in both.values()),
        "less_accurate": sorted(name for name, run in both.items() if _worse(run["graphopt"], run["onnxruntime"])),
    }


def _worse(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours["sqnr"] is not None and theirs["sqnr"] is not None and ours["sqnr"] < theirs["sqnr"] - 0.1


def print_table(results: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="speed against the fp32 original, and dB kept on samples not seen")
    for heading in ("model", "graphopt", "95 %", "dB", "onnxruntime", "dB", "ratio", ""):
        table.add_column(heading, justify="left" if heading in ("model", "") else "right")
    for name, run in sorted(results.items()):
        ours, theirs = run.get("graphopt", {}), run.get("onnxruntime", {})
        ratio = f"{ours['speed'] / theirs['speed']:.2f}" if "speed" in ours and "speed" in theirs else ""
        interval = "{:.2f} to {:.2f}".format(*ours["interval"]) if "speed" in ours else ""
        chosen = "; ".join(ours.get("said", []))
        said = ours.get("error") or theirs.get("error") or "; ".join(theirs.get("said", []))
        cells = (_number(ours, "speed"), interval, _number(ours, "sqnr"), _number(theirs, "speed"))
        table.add_row(name, *cells, _number(theirs, "sqnr"), ratio, f"{chosen} | {said}"[:80])
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    print(
        f"{summary['models']} models: geomean {summary['speed']:.2f} of fp32, {summary['over_peer']:.2f} times "
        f"onnxruntime's ({summary['peer_speed']:.2f}; fails on {len(summary['peer_failed'])}); slower than fp32: "
        f"{', '.join(summary['slower']) or 'none'}; less accurate than onnxruntime's: "
        f"{', '.join(summary['less_accurate']) or 'none'}; failed: {', '.join(summary['failed']) or 'none'}"
    )


def _number(run: dict[str, Any], key: str) -> str:
    value = run.get(key)
    return "fails" if "speed" not in run else "" if value is None else f"{value:.{2 if key == 'speed' else 1}f}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", default=str(models_dir()), help="folder of .onnx files (default: %(default)s)")
    add("--only", default="", help="only models whose name contains one of these, comma-separated")
    add("--recipes", required=True, help="JSON list of {file, feeds}, with a feeds.py beside it")
    add("--tools", default=",".join(TOOLS), help="which quantizers (default: %(default)s)")
    add("--method", choices=list(_PEER_METHODS), default="minmax", help="of calibration (default: %(default)s)")
    add("--samples", type=int, default=16, help="for calibration (default: %(default)s)")
    add("--judge", type=int, default=8, help="samples to judge on (default: %(default)s)")
    add("--search", type=float, default=60, help="seconds that graphopt searches (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of ONNX Runtime (default: %(default)s)")
    add("--seconds", type=float, default=2, help="seconds of measuring in a repeat (default: %(default)s)")
    add("--repeats", type=int, default=3, help="fresh processes a model (default: %(default)s)")
    add("--timeout", type=float, default=900, help="seconds for one quantizer, one repeat (default: %(default)s)")
    add("--json", help="write everything to this file")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    known, make_feeds = load_recipes(Path(args.recipes))
    results: dict[str, dict[str, Any]] = {}
    for src in find_models(Path(args.models).expanduser().resolve(), args.only):
        if src.name in known:
            results[src.stem] = measure(src, known[src.name], make_feeds, args)
            for tool, run in results[src.stem].items():
                shown = f"speed {_number(run, 'speed')}, {_number(run, 'sqnr')} dB {run.get('error', '')}"
                print(f"{src.stem}, {tool}: {shown}", file=sys.stderr, flush=True)
    summary = summarize(results)
    print_table(results, summary)
    options = {key: value for key, value in vars(args).items() if key != "json"}
    machine = describe_machine(PACKAGES)
    write_json(args.json, {"machine": machine, "options": options, "summary": summary, "results": results})


if __name__ == "__main__":
    main()
