"""Compile time, memory and node counts of graphopt beside the other optimizers.

    python benchmarks/compile.py --rounds 3 --json results.json
    python benchmarks/compile.py --models none --synthetic 540,2160,8640,10000,100000 --weight-gb 1.5
    python benchmarks/compile.py --nodes --recipes path/to/models.json

Every run is one tool on one model in a fresh process; tools take turns on a model, and who begins turns too. CPU is
user plus system seconds of all threads from the file to the written file; modules are imported before (reported
separately). Extra memory is the peak resident size (VmHWM, mapped file pages included) above that after the imports.
Medians over the rounds. With --nodes only the nodes of the results are compared, with what is right of the peers.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import count_nodes, describe_machine, find_models, geomean, models_dir, run_worker, write_json
from optimizers import DEFAULT_TOOLS, PACKAGES, TOOLS

REFERENCE = "onnxsim"
PEERS = ("onnxsim", "onnxoptimizer", "onnxslim", "onnxscript")
MEGABYTE = 1e6
MEMORY_FLOOR = 1 * MEGABYTE  # below this, differences in memory are noise of the allocator

Results = dict[str, dict[str, dict[str, Any]]]  # model -> tool -> median measurements


def collect(models: dict[str, Path], tools: list[str], args: argparse.Namespace) -> Results:
    """Run everything, round robin, and reduce the rounds."""
    rounds, options = args.rounds, {"passes": args.passes, "target": args.target}
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {name: {tool: [] for tool in tools} for name in models}
    for turn in range(rounds):
        for position, (name, path) in enumerate(models.items()):
            first = (turn + position) % len(tools)
            for tool in tools[first:] + tools[:first]:
                earlier = runs[name][tool]
                if earlier and not earlier[0]["ok"]:
                    continue  # it failed on these bytes before: no need to wait for it again
                with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
                    request = {
                        "tool": tool,
                        "src": str(path),
                        "dst": f"{folder}/out.onnx",
                        "check": args.check and turn == 0,
                        "recipes": args.recipes if turn == 0 else "",
                        "options": options if tool == "graphopt" else {},
                    }
                    earlier.append(run_worker("optimizers.py", request, args.timeout))
            done = " ".join(_brief(tool, runs[name][tool][-1]) for tool in tools)
            print(f"[{turn + 1}/{rounds}] {name}: {done}", file=sys.stderr, flush=True)
    return {name: {tool: _median(all_runs) for tool, all_runs in row.items()} for name, row in runs.items()}


def _brief(tool: str, run: dict[str, Any]) -> str:
    return f"{tool} {run['cpu']:.3f}" if run["ok"] else f"{tool} failed"


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    failed = next((run for run in runs if not run["ok"]), None)
    if failed:
        return failed
    medians = {key: statistics.median(run[key] for run in runs) for key in ("cpu", "wall", "import_cpu", "peak")}
    return {**runs[0], **medians, "rounds": len(runs)}


def summarize(results: Results, originals: dict[str, dict[str, int]], tools: list[str], count: str) -> dict[str, Any]:
    """Per tool: failures, and geometric means over the models that it got through; ratios are to the reference, over
    the models that both got through."""
    summary: dict[str, Any] = {}
    for tool in tools:
        ok = {name: row[tool] for name, row in results.items() if row[tool]["ok"]}
        reference = {name: row[REFERENCE] for name, row in results.items() if row.get(REFERENCE, {}).get("ok")}
        both = [(run, reference[name]) for name, run in ok.items() if name in reference]
        sizes = [(run["nodes"][count], originals[name][count]) for name, run in ok.items()]
        summary[tool] = {
            "ok": len(ok),
            "failed": sorted(set(results) - set(ok)),
            "does_not_load": sorted(name for name, run in ok.items() if run.get("load_error")),
            "cpu_geomean": geomean(run["cpu"] for run in ok.values()),
            "cpu_total": sum(run["cpu"] for run in ok.values()),
            "import_cpu_median": statistics.median(run["import_cpu"] for run in ok.values()) if ok else None,
            "cpu_ratio": geomean(run["cpu"] / other["cpu"] for run, other in both),
            "wall_ratio": geomean(run["wall"] / other["wall"] for run, other in both),
            "peak_ratio": geomean(max(run["peak"], MEMORY_FLOOR) / max(o["peak"], MEMORY_FLOOR) for run, o in both),
            "peak_max_mb": max((run["peak"] for run in ok.values()), default=0) / MEGABYTE,
            "nodes_left": geomean(after / before for after, before in sizes if before),
        }
    if "graphopt" in tools:
        summary["graphopt"]["nodes_at_most_best_peer"] = nodes_share(results, originals, count)
    return summary


def nodes_share(results: Results, originals: dict[str, dict[str, int]], count: str) -> dict[str, Any]:
    """Where graphopt leaves no more nodes than the best of its peers: of those that got through, to a model that (as
    far as that was checked) loads and computes the same."""
    share, compared, more = 0, 0, {}
    for name, row in results.items():
        sound = {tool: row[tool] for tool in PEERS if row.get(tool, {}).get("ok") and not row[tool].get("wrong")}
        loaded = {tool: run for tool, run in sound.items() if not run.get("load_error")}
        peers = {tool: run["nodes"][count] for tool, run in (loaded or sound).items()}
        if not peers:
            continue
        compared += 1
        best = min(peers, key=lambda tool: peers[tool])
        ours = row["graphopt"]["nodes"][count] if row["graphopt"]["ok"] else None
        if ours is not None and ours <= peers[best]:
            share += 1
        else:
            difference = Counter(row["graphopt"].get("ops", {}))
            difference.subtract(row[best]["ops"])
            operators = {op: times for op, times in difference.items() if times}
            found = {"original": originals[name][count], "ours": ours, **peers}
            more[name] = {**found, "best": best, "operators": operators}
    return {"models": share, "of": compared, "share": share / compared if compared else None, "more_nodes": more}


def print_models(data: dict[str, Any], tools: list[str], count: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"CPU seconds, nodes ({count}), extra MB")
    table.add_column("model", no_wrap=True)
    table.add_column("nodes", justify="right")
    for tool in tools:
        table.add_column(tool, justify="right", no_wrap=True)
    for name, row in data["results"].items():
        cells = []
        for tool in tools:
            run = row[tool]
            ok = run["ok"]
            cells.append(f"{run['cpu']:.3f} {run['nodes'][count]} {run['peak'] / MEGABYTE:.0f}" if ok else "failed")
        table.add_row(name, str(data["originals"][name][count]), *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_summary(data: dict[str, Any], tools: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(data['results'])} models, geometric means; ratios to {REFERENCE}")
    headings = "ok failed cpu_s cpu_total_s cpu_ratio wall_ratio memory_ratio max_extra_MB nodes_left import_s"
    table.add_column("tool")
    for heading in headings.split():
        table.add_column(heading.replace("_", " "), justify="right")
    for tool in tools:
        s = data["summary"][tool]
        figures = [s["cpu_geomean"], s["cpu_total"], s["cpu_ratio"], s["wall_ratio"], s["peak_ratio"]]
        cells = [f"{figures[0]:.4f}", *(f"{figure:.2f}" for figure in figures[1:])]
        cells += [f"{s['peak_max_mb']:.0f}", f"{s['nodes_left']:.3f}", f"{s['import_cpu_median'] or 0:.2f}"]
        table.add_row(tool, str(s["ok"]), str(len(s["failed"])), *cells)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for tool, word in itertools.product(tools, ("failed", "does_not_load")):
        if data["summary"][tool][word]:
            console.print(f"{tool} {word.replace('_', ' ')}: {', '.join(data['summary'][tool][word])}")
    print_nodes(data, tools)


def print_nodes(data: dict[str, Any], tools: list[str]) -> None:
    best = data["summary"].get("graphopt", {}).get("nodes_at_most_best_peer")
    if not best or not best["of"]:
        return
    peers = ", ".join(tool for tool in PEERS if tool in tools)
    print(f"graphopt leaves no more nodes than the best of {peers} on {best['models']} of {best['of']} models", end=" ")
    print(f"({best['share']:.1%}); more on:" if best["more_nodes"] else f"({best['share']:.1%})")
    for name, found in best["more_nodes"].items():
        counts = " ".join(f"{tool} {found[tool]}" for tool in PEERS if tool in found)
        changed = sorted(found["operators"].items(), key=lambda item: -item[1])
        operators = " ".join(f"{count:+d} {op}" for op, count in changed)
        print(f"  {name}: {found['ours']} of {found['original']}; {counts}; to {found['best']}: {operators}")
    for tool in tools:
        wrong = {name: row[tool]["wrong"] for name, row in data["results"].items() if row[tool].get("wrong")}
        failed = {name: row[tool]["error"] for name, row in data["results"].items() if not row[tool]["ok"]}
        for name, why in (failed | wrong).items():
            print(f"  {tool} {'fails on' if name in failed else 'breaks'} {name}: {why[:100]}")


def print_growth(data: dict[str, Any], sizes: list[int], tools: list[str]) -> None:
    """How CPU time grows from each synthetic size to the next."""
    for (smaller, larger), tool in itertools.product(itertools.pairwise(sizes), tools):
        low, high = (data["results"][f"transformer-{size}"][tool] for size in (smaller, larger))
        if low["ok"] and high["ok"]:
            print(f"{tool}: {smaller} to {larger} nodes: {high['cpu'] / low['cpu']:.1f} times the CPU time")


def gather_models(args: argparse.Namespace, sizes: list[int], scratch: Path) -> dict[str, Path]:
    """The models to run by name, generated ones included."""
    models: dict[str, Path] = {}
    if args.models != "none":
        folder = Path(args.models).expanduser().resolve()
        found = find_models(folder, args.only)
        models.update((path.relative_to(folder).with_suffix("").as_posix(), path) for path in found)
    if sizes:
        import onnx
        from synthetic import transformer

        for size in sizes:
            name = f"transformer-{size}"
            models[name] = scratch / f"{name}.onnx"
            onnx.save(transformer(size), models[name])
    if args.weight_gb:
        from synthetic import write_big_weight

        name = f"weight-{args.weight_gb:g}gb"
        models[name] = scratch / f"{name}.onnx"
        write_big_weight(models[name], args.weight_gb)
    return models


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", default=str(models_dir()), help="folder of .onnx files, or 'none' (default: %(default)s)")
    add("--only", default="", help="only models whose name contains one of these, comma-separated")
    add("--tools", default=",".join(DEFAULT_TOOLS), help=f"comma-separated, of: {', '.join(TOOLS)}")
    add("--rounds", type=int, default=3, help="runs of each tool on each model (default: %(default)s)")
    add("--synthetic", default="", help="also transformers of these many nodes: 540,2160,8640,10000,100000")
    add("--weight-gb", type=float, default=0, help="also a model with one weight of this size in the file")
    add("--count", choices=("all", "top", "compute"), default="all", help="nodes to compare (the JSON has the three)")
    add("--timeout", type=float, default=120, help="seconds for one run (default: %(default)s)")
    add("--check", action="store_true", help="also say which outputs ONNX Runtime does not load")
    add("--recipes", default="", help="JSON list of {file, feeds}: also say which outputs are wrong on such a feed")
    add("--nodes", action="store_true", help="only compare nodes: graphopt and four peers, one round, with --check")
    add("--passes", default="default", help="graphopt's passes (default: %(default)s)")
    add("--target", default="onnx", help="graphopt's target (default: %(default)s)")
    add("--json", help="write everything to this file")
    args = parser.parse_args()
    args.recipes = args.recipes and str(Path(args.recipes).resolve())
    if args.nodes:
        args.tools, args.rounds, args.check = ",".join(("graphopt", *PEERS)), 1, True
    unknown = [tool for tool in args.tools.split(",") if tool not in TOOLS]
    if unknown:
        parser.error(f"unknown tool {unknown[0]!r}; known: {', '.join(TOOLS)}")
    return args


def main() -> None:
    args = parse_arguments()
    tools = args.tools.split(",")
    sizes = sorted(int(size) for size in args.synthetic.split(",") if size)
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        models = gather_models(args, sizes, Path(scratch))
        originals = {name: count_nodes(path) for name, path in models.items()}
        results = collect(models, tools, args)
    data = {
        "machine": describe_machine(PACKAGES),
        "rounds": args.rounds,
        "seconds": time.time() - started,
        "summary": summarize(results, originals, tools, args.count),
        "originals": originals,
        "results": results,
    }
    if args.nodes:
        print_nodes(data, tools)
    else:
        print_models(data, tools, args.count)
        print_summary(data, tools)
        print_growth(data, sizes, tools)
    write_json(args.json, data)


if __name__ == "__main__":
    main()
