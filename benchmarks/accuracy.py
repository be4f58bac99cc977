"""The error of what is emitted against that of the original, both measured against the original in double precision.

    python benchmarks/accuracy.py --recipes path/to/models.json --json accuracy.json
    python benchmarks/accuracy.py --only yolo --targets onnxruntime --feeds 32

The truth is the original graph in float64 (`float64.py`). Against it: the original in ONNX Runtime with all
optimizations (and with none, for information), and what graphopt emits for each target, with all. On each output the
largest error relative to the largest value of the truth, and the root of the mean square of errors relative to that of
the truth, over all feeds. The ratio emitted/original is that of those errors, each taken as no smaller than the floor:
`FLOOR_RMS` units in the last place of the output's type, `FLOOR_MAX` for the largest error (where the original is
exact, a ratio says nothing). The largest error of a few feeds is chance: a model above the limit is given all `--feeds`
before it is judged. Ends with 1 if a ratio is above `--limit`.

What a Sigmoid gives has a scale of at least 1: the runtime computes it as a half plus something, to steps of 2^-25,
however small the result; which of these steps a value falls on is chance.

Outputs that are integers or truth values, and places that are not finite, are counted where they differ from the
truth, as they have no error to speak of; so are outputs of another shape (durations that were rounded, boxes kept).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_machine, find_models, geomean, load_recipes, models_dir, run_worker, write_json
from optimizers import PACKAGES

FLOOR_RMS = 1.0  # units in the last place, of the scale of the output
FLOOR_MAX = 2.0
_VIEWS = frozenset("Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Concat".split())
_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


class Tally:
    """What was seen of one output in one of the runs, over all feeds."""

    def __init__(self) -> None:
        self.largest = self.square = 0.0
        self.differs = self.shapes = 0

    def add(self, value: Any, truth: Any) -> tuple[float, float, int]:
        """Compares one value with the truth; the truth's own largest value, sum of squares and number of elements."""
        value, truth = np.asarray(value), np.asarray(truth)
        if value.shape != truth.shape:
            self.shapes += 1
            return 0.0, 0.0, 0
        if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
            self.differs += int(np.count_nonzero(value != truth))
            return 0.0, 0.0, 0
        value = value.astype(np.float64)
        finite = np.isfinite(value) & np.isfinite(truth)
        odd = ~finite & ~((value == truth) | (np.isnan(value) & np.isnan(truth)))
        self.differs += int(np.count_nonzero(odd))
        error, exact = np.abs(value - truth)[finite], truth[finite]
        if error.size:
            self.largest = max(self.largest, float(error.max()))
            self.square += float(np.square(error).sum())
        return float(np.abs(exact).max(initial=0.0)), float(np.square(exact).sum()), int(finite.sum())


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One model, in this process."""
    import onnx
    from float64 import Evaluator, Unsupported

    model = onnx.load(request["src"])
    runs = {"off": (request["src"], "ORT_DISABLE_ALL"), "original": (request["src"], "ORT_ENABLE_ALL")}
    runs.update({target: (path, "ORT_ENABLE_ALL") for target, path in request["emitted"].items()})
    try:
        exact = Evaluator(model)
        sessions = {name: _session(*run) for name, run in runs.items()}
        return _measured(request, exact, sessions, _of_sigmoids(model.graph))
    except Unsupported as error:
        return {"ok": False, "error": f"no double precision: {str(error)[:160]}"}
    except Exception as error:  # noqa: BLE001  the runtime's own words are the answer
        return {"ok": False, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"}


def _of_sigmoids(graph: Any) -> set[str]:
    """The outputs that are a Sigmoid's, seen through operators that only move values."""
    makers = {name: node for node in graph.node for name in node.output}
    found = set()
    for output in graph.output:
        pending, seen = [output.name], set()
        while pending:
            node = makers.get(pending.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if node.op_type == "Sigmoid":
                found.add(output.name)
            elif node.op_type in _VIEWS:
                pending.extend(node.input if node.op_type == "Concat" else node.input[:1])
    return found


def _session(path: str, level: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _measured(request: dict[str, Any], exact: Any, sessions: dict[str, Any], sigmoids: set[str]) -> dict[str, Any]:
    tallies: dict[str, dict[str, Tally]] = {}
    scales: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    began, count = time.monotonic(), 0
    for feeds in _feeds(request):
        if count >= 2 and time.monotonic() - began > request["seconds"]:
            so_far = _outputs(tallies, scales, kinds, sigmoids)
            if all(ratios(so_far, target)["ratio"] <= request["limit"] for target in request["emitted"]):
                break
        truth, count = exact.run(feeds), count + 1
        for run, session in sessions.items():
            for output, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
                if not isinstance(value, np.ndarray) or value.dtype == object:
                    continue
                kinds.setdefault(output.name, value.dtype.name)
                tally = tallies.setdefault(output.name, {}).setdefault(run, Tally())
                found = tally.add(value, truth[output.name])
                if run == "original":
                    old = scales.get(output.name, [0.0, 0.0, 0])
                    scales[output.name] = [max(old[0], found[0]), old[1] + found[1], old[2] + found[2]]
    outputs = _outputs(tallies, scales, kinds, sigmoids)
    return {"ok": True, "feeds": count, "seconds": time.monotonic() - began, "outputs": outputs}


def _outputs(
    tallies: dict[str, Any], scales: dict[str, Any], kinds: dict[str, str], sigmoids: set[str]
) -> dict[str, Any]:
    found = {}
    for name, each in tallies.items():
        largest, square, count = scales[name]
        scale = [max(1.0, largest), max(float(count), square), count] if name in sigmoids else scales[name]
        found[name] = _relative(each, scale, kinds[name])
    return found


def _feeds(request: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Inputs by the recipe, else those of the verification; never the same twice."""
    from graphopt.verify.run import Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    known, make = load_recipes(Path(request["recipes"])) if request["recipes"] else ({}, None)
    recipe, seen = known.get(Path(request["src"]).name), set[bytes]()
    source = Source.of(request["src"])
    for seed in range(request["feeds"]):
        if recipe is None:
            cases = find_cases(source, Session(source), seconds=10.0, seed=seed).cases
            if not cases:
                raise ValueError("no inputs found on which it runs")
            feeds = cases[0].feeds
        else:
            assert make is not None
            feeds = make(recipe, seed)
        digest = b"".join(np.asarray(feeds[name]).tobytes() for name in sorted(feeds))
        if digest not in seen:
            seen.add(digest)
            yield feeds


def _relative(tallies: dict[str, Tally], scale: list[float], kind: str) -> dict[str, Any]:
    """Errors of one output, relative to its scale."""
    largest, square, count = scale
    found: dict[str, Any] = {"type": kind, "scale": largest, "values": count, "runs": {}}
    for run, tally in tallies.items():
        maximum = tally.largest / largest if largest else tally.largest
        mean = float(np.sqrt(tally.square / square)) if square else tally.largest
        found["runs"][run] = {"max": maximum, "rms": mean, "differs": tally.differs, "shapes": tally.shapes}
    return found


def ratios(outputs: dict[str, Any], target: str) -> dict[str, Any]:
    """The worst ratio of a target's errors to the original's, over all outputs, and which output that is (of several
    the one with the largest errors)."""
    worst: tuple[float, float, str, str] = (0.0, 0.0, "", "")
    for name, output in outputs.items():
        epsilon = _EPSILON.get(output["type"])
        if epsilon is None:
            continue
        for kind, ulps in (("max", FLOOR_MAX), ("rms", FLOOR_RMS)):
            ours, theirs = (max(output["runs"][run][kind], ulps * epsilon) for run in (target, "original"))
            worst = max(worst, (ours / theirs, ours, name, kind))
    ratio, _, name, kind = worst
    return {"ratio": ratio if name else 1.0, "output": name, "measure": kind}


def counted(outputs: dict[str, Any], run: str) -> int:
    """Discrete or infinite values that differ from the truth, and outputs of another shape."""
    return sum(output["runs"][run]["differs"] + output["runs"][run]["shapes"] for output in outputs.values())


def gather(src: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Emits a model for each target, and measures it in a fresh process."""
    targets = args.targets.split(",")
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        emitted = {target: str(Path(scratch, f"{target}.onnx")) for target in targets}
        for target, dst in emitted.items():
            options = {"passes": args.passes, "target": target}
            request = {"tool": "graphopt", "src": str(src), "dst": dst, "options": options}
            answer = run_worker("optimizers.py", request, args.timeout)
            if not answer["ok"]:
                return {"ok": False, "error": f"{target}: {answer['error']}"}
        request = {"src": str(src), "emitted": emitted, "recipes": args.recipes and str(Path(args.recipes).resolve())}
        request |= {"feeds": args.feeds, "seconds": args.seconds, "limit": args.limit}
        found = run_worker("accuracy.py", request, args.timeout, threads=args.threads)
    if found["ok"]:
        found["targets"] = {target: ratios(found["outputs"], target) for target in targets}
        found["counted"] = {run: counted(found["outputs"], run) for run in ("off", "original", *targets)}
    return found


def summarize(results: dict[str, Any], targets: list[str], limit: float) -> dict[str, Any]:
    good = {name: run for name, run in results.items() if run["ok"]}
    summary: dict[str, Any] = {"models": len(good), "not_measured": sorted(set(results) - set(good)), "targets": {}}
    for target in targets:
        each = {name: run["targets"][target]["ratio"] for name, run in good.items()}
        summary["targets"][target] = {
            "geomean": geomean(each.values()),
            "worst": max(each.values(), default=1.0),
            "above": sorted(name for name, ratio in each.items() if ratio > limit),
        }
    return summary


def print_table(results: dict[str, Any], targets: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Error against float64: largest / root mean square, relative to the output's scale")
    table.add_column("model")
    for heading in ("feeds", "no optimization", "original", *(f"{t} ratio" for t in targets), "differing values"):
        table.add_column(heading, justify="right")
    for name, run in results.items():
        if not run["ok"]:
            table.add_row(name, "-", run["error"][:100])
            continue
        first = max((run["targets"][target] for target in targets), key=lambda found: found["ratio"])
        output = run["outputs"].get(first["output"])
        cells = [_errors(output, side) for side in ("off", "original")]
        cells += [_target(output, run["targets"][target], target) for target in targets]
        some = any(run["counted"].values())
        differing = " ".join(f"{side} {count}" for side, count in run["counted"].items()) if some else ""
        table.add_row(name, str(run["feeds"]), *cells, differing)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _errors(output: dict[str, Any] | None, run: str) -> str:
    return "" if output is None else "{max:.1e} / {rms:.1e}".format(**output["runs"][run])


def _target(output: dict[str, Any] | None, found: dict[str, Any], target: str) -> str:
    return "" if output is None else f"{_errors(output, target)}  {found['ratio']:.2f}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", default=str(models_dir()), help="folder of .onnx files (default: %(default)s)")
    add("--only", default="", help="only models whose name contains one of these, comma-separated")
    add("--recipes", default="", help="JSON list of {file, feeds}, with a feeds.py beside it")
    add("--passes", default="default", help="graphopt's passes (default: %(default)s)")
    add("--targets", default="onnx,onnxruntime", help="graphopt's targets, comma-separated (default: %(default)s)")
    add("--feeds", type=int, default=32, help="feeds of a model, at most (default: %(default)s)")
    add("--seconds", type=float, default=5, help="after which a model gets no more than two (default: %(default)s)")
    add("--limit", type=float, default=2, help="ratio that no model may exceed (default: %(default)s)")
    add("--threads", type=int, default=1, help="of the double-precision products (default: %(default)s)")
    add("--timeout", type=float, default=600, help="seconds for one model (default: %(default)s)")
    add("--json", help="write everything to this file")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    folder, targets = Path(args.models).expanduser().resolve(), args.targets.split(",")
    results: dict[str, Any] = {}
    for src in find_models(folder, args.only):
        name = src.relative_to(folder).with_suffix("").as_posix()
        results[name] = found = gather(src, args)
        shown = " ".join(f"{t} {found['targets'][t]['ratio']:.2f}" for t in targets) if found["ok"] else found["error"]
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
    summary = summarize(results, targets, args.limit)
    print_table(results, targets)
    for target, found in summary["targets"].items():
        print(f"{target}: {summary['models']} models, geomean {found['geomean']:.3f}, worst {found['worst']:.2f}, "
              f"above {args.limit:g}: {', '.join(found['above']) or 'none'}")  # fmt: skip
    options = {key: value for key, value in vars(args).items() if key != "json"}
    data = {"machine": describe_machine(PACKAGES), "options": options, "summary": summary, "results": results}
    write_json(args.json, data)
    return int(any(found["above"] for found in summary["targets"].values()))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        asked = json.loads(sys.argv[1])
        Path(asked["result"]).write_text(json.dumps(measure(asked)))
    else:
        sys.exit(main())
