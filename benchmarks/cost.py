"""How good the model of cost is: against what ONNX Runtime executes, and how long that takes.

    python benchmarks/cost.py fusion                                      # every model
    python benchmarks/cost.py time --recipes models.json --only squeezenet,yolo,bert
    python benchmarks/cost.py fusion time --json cost.json

fusion: the kernels that `graphopt.analysis.runtime_fusion` predicts, counted by operator, against those in the graph
that ONNX Runtime saves after its own optimizations. The agreement of a model is 1 - |differences| / |both together|.
time: the estimated time of each kernel against its median in ONNX Runtime's profile of a run (one thread, all
optimizations). Reported are Spearman's rank correlation over the kernels that can be told apart by name, their share
of the measured time, and the estimated total over the measured one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import describe_machine, find_models, load_recipes, models_dir, write_json

PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")
RUNS = 15


def session(path: Path, **settings: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bound(path: Path, feeds: dict[str, Any] | None) -> Any:
    """The model with the sizes of these inputs, and all shapes that follow."""
    from graphopt import ir
    from graphopt.analysis.shapes import infer

    if feeds is None:
        model = ir.load(path)
    else:
        proto = onnx.load(str(path))
        for info in proto.graph.input:
            dims = info.type.tensor_type.shape.dim
            for dim, size in zip(dims, np.shape(feeds.get(info.name, 0)), strict=False):
                dim.dim_value = size
        model = ir.from_proto(proto)
    infer(model)
    return model


def label(domain: str, op: str) -> str:
    return f"{domain}::{op}" if domain else op


def executed(path: Path) -> Counter[str]:
    """Nodes by operator in the graph that ONNX Runtime saves, bodies included."""
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        saved = Path(scratch, "saved.onnx")
        session(path, optimized_model_filepath=str(saved))
        pending, found = [onnx.load(str(saved)).graph.node], Counter[str]()
    while pending:
        for node in pending.pop():
            found[label(node.domain, node.op_type)] += 1
            pending += [a.g.node for a in node.attribute if a.HasField("g")]
            pending += [graph.node for a in node.attribute for graph in a.graphs]
    return found


def compare_kernels(path: Path) -> dict[str, Any]:
    from graphopt.analysis.cost import kernel_costs

    true = executed(path)
    found = Counter(label(cost.region.domain, cost.region.kernel) for cost in kernel_costs(bound(path, None)))
    wrong = sum((found - true).values()) + sum((true - found).values())
    return {
        "executed": sum(true.values()),
        "predicted": sum(found.values()),
        "agreement": 1 - wrong / max(1, sum(true.values()) + sum(found.values())),
        "differences": {op: found[op] - true[op] for op in sorted(found | true) if found[op] != true[op]},
    }


def profiled(path: Path, feeds: dict[str, Any]) -> dict[tuple[str, str], float]:
    """(operator, name) -> seconds in a run, the median of `RUNS`."""
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        made = session(path, enable_profiling=True, profile_file_prefix=str(Path(scratch, "profile")))
        known = {value.name for value in made.get_inputs()}
        for _ in range(RUNS + 3):
            made.run(None, {name: value for name, value in feeds.items() if name in known})
        events = json.loads(Path(made.end_profiling()).read_text())
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(1e-6 * event["dur"])
    return {key: statistics.median(values[3:]) for key, values in taken.items() if len(values) == RUNS + 3}


def compare_times(path: Path, feeds: dict[str, Any], machine: Any) -> dict[str, Any]:
    from graphopt.analysis.cost import kernel_costs

    measured = profiled(path, feeds)
    by_name = {plain(name): (key, seconds) for key, seconds in measured.items() for name in [key[1]]}
    pairs, total = [], 0.0
    for cost in kernel_costs(bound(path, feeds), None, machine):
        total += cost.seconds
        names = {name for node in cost.region.nodes for name in (node.name, *(v.name for v in node.outputs)) if name}
        hit = next((by_name.pop(plain(name)) for name in sorted(names) if plain(name) in by_name), None)
        if hit is not None and cost.known:
            pairs.append((cost.seconds, hit[1]))
    everything = sum(measured.values())
    return {
        "kernels": len(measured),
        "matched": len(pairs),
        "share": sum(seconds for _, seconds in pairs) / everything,
        "rank": spearman(pairs),
        "measured_seconds": everything,
        "total": total / everything,
        "pairs": pairs,
    }


def plain(name: str) -> str:
    """A name without what ONNX Runtime adds to it."""
    return re.sub(r"(/\w*Fusion\w*/?|_nchwc|_token_\d+|_fused\b.*)+$", "", name)


def spearman(pairs: list[tuple[float, float]]) -> float:
    """Rank correlation; ties share their mean rank (C. Spearman, 1904)."""
    if len(pairs) < 3:
        return float("nan")
    ranks = []
    for values in np.array(pairs).T:
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="*", choices=[[], "fusion", "time"], help="what to compare (default: both)")
    add("--models", default=str(models_dir()), help="folder of .onnx files (default: %(default)s)")
    add("--only", default="", help="only models whose name contains one of these, comma-separated")
    add("--recipes", default="", help="JSON list of {file, feeds}, with a feeds.py beside it")
    add("--json", help="write everything to this file")
    return parser.parse_args()


def make_feeds(path: Path, recipes: str) -> dict[str, Any]:
    if recipes:
        known, make = load_recipes(Path(recipes))
        return dict(make(known[path.name]))
    from graphopt.verify.run import Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    source = Source.of(str(path))
    cases = find_cases(source, Session(source), seconds=10.0, seed=0).cases
    return dict(cases[0].feeds)


def main() -> None:
    args = parse_arguments()
    from graphopt.analysis.cost import machine_for

    parts, machine = args.parts or ["fusion", "time"], machine_for("onnxruntime")
    results: dict[str, dict[str, Any]] = {}
    for path in find_models(Path(args.models).expanduser(), args.only):
        found: dict[str, Any] = {}
        try:
            if "fusion" in parts:
                found["fusion"] = compare_kernels(path)
            if "time" in parts:
                found["time"] = compare_times(path, make_feeds(path, args.recipes), machine)
        except Exception as error:  # noqa: BLE001 - one model that does not run must not end the others
            said = " ".join(str(error).split())[:100] or type(error).__name__
            print(f"{path.stem}: failed: {said}", file=sys.stderr)
            continue
        results[path.stem] = found
        print(f"{path.stem:32} " + " ".join(_line(part, found[part]) for part in found), flush=True)
    _summarize(results, machine)
    options = {key: value for key, value in vars(args).items() if key != "json"}
    facts = {"machine": describe_machine(PACKAGES), "options": options, "results": results}
    write_json(args.json, facts)


def _line(part: str, found: dict[str, Any]) -> str:
    if part == "fusion":
        worst = sorted(found["differences"].items(), key=lambda item: -abs(item[1]))[:3]
        said = ", ".join(f"{op.split('::')[-1]} {count:+}" for op, count in worst)
        count = f"kernels {found['executed']:5} predicted {found['predicted']:5}"
        return f"{count} agreement {found['agreement']:.3f} {said}"
    return (
        f"kernels {found['kernels']:5} matched {found['matched']:5} ({100 * found['share']:3.0f} % of time) "
        f"rank {found['rank']:.3f} estimated/measured {found['total']:.2f}"
    )


def _summarize(results: dict[str, dict[str, Any]], machine: Any) -> None:
    fusion = [found["fusion"] for found in results.values() if "fusion" in found]
    times = [found["time"] for found in results.values() if "time" in found]
    if fusion:
        agreement = [found["agreement"] for found in fusion]
        close = sum(abs(found["executed"] - found["predicted"]) <= 0.05 * found["executed"] for found in fusion)
        print(
            f"{len(fusion)} models: agreement median {statistics.median(agreement):.3f}, "
            f"mean {statistics.fmean(agreement):.3f}; number of kernels within 5 %: {close}"
        )
    if times:
        pooled = [pair for found in times for pair in found["pairs"]]
        ranks = [found["rank"] for found in times if found["rank"] == found["rank"]]
        print(
            f"{len(times)} models, {len(pooled)} kernels, by {machine.name} ({machine.source}): rank correlation "
            f"median {statistics.median(ranks):.3f}, all kernels together {spearman(pooled):.3f}; "
            f"estimated/measured median {statistics.median(found['total'] for found in times):.2f}"
        )


if __name__ == "__main__":
    main()
