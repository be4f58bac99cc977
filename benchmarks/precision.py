"""float16 on real models: no infinity or NaN where the original has none, what stays float32, and what it costs.

    python benchmarks/precision.py --recipes path/to/models.json --json precision.json
    python benchmarks/precision.py --models folder --only bert,resnet --no-ranges

Each model is calibrated on two samples, converted, and run on two others: as it is written, and with all optimizations
of ONNX Runtime, whose CPU provider computes float16 in float32 wherever it has no kernel. No speed is measured: a CPU
gains nothing. Ends with 1 if a model has an infinity or NaN too many as it is written, or changes when converted again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_machine, find_models, models_dir, run_worker, write_json

PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    run = {name: found for name, found in results.items() if found["ok"]}
    changed = {name: found for name, found in run.items() if found["halves"]}
    kept = sorted(found["sqnr"] for found in changed.values() if "sqnr" in found)
    shares = [found["halves"] / (found["halves"] + found["floats"]) for found in changed.values()]
    return {
        "models": len(run),
        "failed": {name: found["error"] for name, found in results.items() if not found["ok"]},
        "changed": len(changed),
        "share": float(np.median(shares)) if shares else None,
        "size": float(np.median([found["size"] for found in changed.values()])) if changed else None,
        "sqnr": [float(np.percentile(kept, part)) for part in (0, 10, 50, 90)] if kept else None,
        "overflow": sorted(name for name, found in run.items() if found["bad"]),
        "overflow_optimized": sorted(name for name, found in run.items() if found["bad_optimized"]),
        "unsettled": sorted(name for name, found in run.items() if not found["settled"]),
    }


def print_table(results: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="converted to float16")
    for heading in ("model", "nodes", "stay", "casts", "float16", "size", "dB", "dB, optimized", "error", ""):
        table.add_column(heading, justify="left" if heading in ("model", "") else "right")
    for name, found in sorted(results.items()):
        if not found["ok"]:
            table.add_row(name, *[""] * 8, found["error"][:60])
            continue
        share = found["halves"] / max(1, found["halves"] + found["floats"])
        cells = [f"{found['nodes']}", f"{found['stay']}", f"{found['casts']}", f"{share:.0%}", f"{found['size']:.2f}"]
        cells += [f"{found[key]:.1f}" if key in found else "" for key in ("sqnr", "sqnr_optimized")]
        cells += [f"{found['error']:.1e}" if "error" in found else ""]
        table.add_row(name, *cells, "overflows" if found["bad"] else "")
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    for key, value in summary.items():
        print(f"{key}: {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=models_dir(), help="folder of .onnx files")
    parser.add_argument("--recipes", default="", help="a JSON list of input recipes; without, inputs are made")
    parser.add_argument("--only", default="", help="comma-separated parts of file names")
    parser.add_argument("--to", default="float16", choices=("float16", "bfloat16"))
    parser.add_argument("--no-ranges", action="store_true", help="convert without calibration")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one model")
    parser.add_argument("--json", help="write all figures to this file")
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for path in find_models(args.models, args.only):
        recipes = str(Path(args.recipes).resolve()) if args.recipes else ""
        request = {"src": str(path), "recipes": recipes, "ranges": not args.no_ranges, "to": args.to}
        results[path.stem] = run_worker("halving.py", request, args.timeout)
        print(f"{path.stem}: {results[path.stem].get('error') if not results[path.stem]['ok'] else 'done'}", flush=True)
    summary = summarize(results)
    print_table(results, summary)
    write_json(args.json, {"machine": describe_machine(PACKAGES), "summary": summary, "models": results})
    return 1 if summary["overflow"] or summary["unsettled"] else 0


if __name__ == "__main__":
    sys.exit(main())
