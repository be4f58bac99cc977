"""What checking every rewrite by itself costs: `verify="rewrites"` beside `"numeric"` and `"off"`.

    python benchmarks/validation.py --rounds 3 --json validation.json
    python benchmarks/validation.py --only yolo,bert

Every model has a process of its own, in which the levels take turns after one run of each that is not counted. CPU is
user plus system seconds of all threads, from the path to the optimized proto. Medians over the rounds.

`ratio` is the whole at "rewrites" over the whole at "numeric"; `checks` the seconds of the checks of single rewrites
over those of the passes alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import describe_machine, find_models, geomean, models_dir, run_worker, write_json

LEVELS = ("off", "numeric", "rewrites")
PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")
LIMIT = 1.3  # what the ratio should not exceed


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One model, in this process."""
    import graphopt

    cpu: dict[str, list[float]] = {level: [] for level in LEVELS}
    wall: dict[str, list[float]] = {level: [] for level in LEVELS}
    reports: dict[str, Any] = {}
    for turn in range(request["rounds"] + 1):
        for level in LEVELS:
            gc.collect()
            start, clock = time.process_time(), time.perf_counter()
            _, reports[level] = graphopt.optimize(request["src"], verify=level, with_report=True)
            if turn:
                cpu[level].append(time.process_time() - start)
                wall[level].append(time.perf_counter() - clock)
    report = reports["rewrites"]
    checked = report.validation
    return {
        "ok": True,
        "cpu": {level: statistics.median(times) for level, times in cpu.items()},
        "wall": {level: statistics.median(times) for level, times in wall.items()},
        "check_seconds": checked.seconds,
        "sites": checked.sites,
        "exact": checked.exact,
        "replayed": checked.replayed,
        "sampled": checked.sampled,
        "samples": checked.samples,
        "unchecked": {why: len(sites) for why, sites in checked.unchecked.items()},
        "not_sampled": {why: len(sites) for why, sites in checked.not_sampled.items()},
        "reverted": [vars(item) for item in report.reverted],
        "status": report.verification.status,
    }


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures over the models that were measured."""
    rows = {name: row for name, row in results.items() if row["ok"]}
    ratios = {name: row["cpu"]["rewrites"] / row["cpu"]["numeric"] for name, row in rows.items()}
    totals = {
        key: sum(row[key] for row in rows.values()) for key in ("sites", "exact", "replayed", "sampled", "samples")
    }
    claimed = totals["sites"] - totals["exact"]
    worst = max(ratios, key=lambda name: ratios[name], default="")
    return {
        "models": len(rows),
        "failed": sorted(set(results) - set(rows)),
        "ratio_geomean": geomean(ratios.values()),
        "ratio_of_sums": sum(r["cpu"]["rewrites"] for r in rows.values())
        / sum(r["cpu"]["numeric"] for r in rows.values())
        if rows
        else None,
        "ratio_max": [worst, ratios.get(worst)],
        "within_limit": sum(ratio <= LIMIT for ratio in ratios.values()),
        "checks_to_passes": geomean(max(r["check_seconds"], 1e-4) / r["cpu"]["off"] for r in rows.values()),
        **totals,
        "replayed_share_of_claims": totals["replayed"] / claimed if claimed else None,
        "reverted": sum(len(row["reverted"]) for row in rows.values()),
    }


def show(results: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    """The table and the sums on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="CPU seconds; rewrites that hold exactly, were replayed, were sampled")
    for heading in ("model", *LEVELS, "ratio", "sites", "exact", "replayed", "sampled", "unchecked", "reverted"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for name, row in results.items():
        if not row["ok"]:
            table.add_row(name, row["error"])
            continue
        times = [row["cpu"][level] for level in LEVELS]
        counts = [row[key] for key in ("sites", "exact", "replayed", "sampled")]
        counts += [sum(row["unchecked"].values()), len(row["reverted"])]
        table.add_row(name, *(f"{t:.3f}" for t in times), f"{times[2] / times[1]:.2f}", *map(str, counts))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print_json(data=summary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=models_dir(), help="folder of .onnx files")
    parser.add_argument("--only", default="", help="parts of file names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one model")
    parser.add_argument("--json", help="write everything there")
    options = parser.parse_args()
    results = {}
    for path in find_models(options.models, options.only):
        request = {"src": str(path), "rounds": options.rounds}
        results[path.stem] = row = run_worker("validation.py", request, options.timeout)
        ratio = f"{row['cpu']['rewrites'] / row['cpu']['numeric']:.2f}" if row["ok"] else row["error"]
        print(f"{path.stem}: {ratio}", file=sys.stderr, flush=True)
    summary = summarize(results)
    show(results, summary)
    write_json(options.json, {"machine": describe_machine(PACKAGES), "results": results, "summary": summary})


def worker(request: dict[str, Any]) -> None:
    """What `run_worker` starts."""
    try:
        answer = measure(request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the table says so
        answer = {"ok": False, "error": f"{type(error).__name__}: {error}"[:200]}
    Path(request["result"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        worker(json.loads(sys.argv[1]))
    else:
        main()
