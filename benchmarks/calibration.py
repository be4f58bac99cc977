"""Calibration's memory and CPU time beside plain inference and ONNX Runtime's calibrators, and whether ranges agree.

    python benchmarks/calibration.py resnet50.onnx --samples 512
    python benchmarks/calibration.py resnet50.onnx --samples 16 --methods minmax,percentile,entropy --bins 128

Every run is a process of its own, with one thread, on samples made from the same seeds (normal floats, small integers,
dynamic dims as `--dynamic`). CPU is user plus system seconds from the model's file to the ranges, imports before it not
counted; memory is the peak resident size of the process. "plain" loads the model with ONNX Runtime's defaults and runs
it on the samples; "as written" does so with optimizations off. ONNX Runtime's calibrators keep all inner tensors of all
samples in memory, so they run on few (`--theirs 8,24`) and are scaled by the difference. Ranges are compared on the
larger of these numbers, in bins of ONNX Runtime's histograms.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_machine, run_worker, write_json

MEGABYTE = 1 << 20
PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def inputs_of(path: str, dynamic: int) -> list[tuple[str, str, list[int]]]:
    """Names, numpy types and shapes of what the file wants to be fed."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or dynamic for dim in kind.shape.dim]
        if value.name not in weights:
            found.append((value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape))
    return found


def feeds(request: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Samples by seed."""
    for seed in range(request["samples"]):
        rng = np.random.default_rng(seed)
        yield {name: _values(rng, dtype, shape) for name, dtype, shape in request["inputs"]}


def _values(rng: np.random.Generator, dtype: Any, shape: list[int]) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def run_plain(request: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if request["tool"] == "as written":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    for feed in feeds(request):
        session.run(None, feed)
    return {}


def run_graphopt(request: dict[str, Any]) -> dict[str, Any]:
    from graphopt.calibration.core import calibrate

    options = {"bins": request["bins"]} if request["method"] == "entropy" else {}
    data = feeds(request)
    found = calibrate(request["model"], data, method=request["method"], **options)
    return {name: [each.low, each.high, each.minimum, each.maximum] for name, each in found.items()}


class Reader:
    """Samples as ONNX Runtime's calibrators want them."""

    def __init__(self, samples: Iterator[dict[str, np.ndarray]]) -> None:
        self.samples = samples

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.samples, None)


def run_onnxruntime(request: dict[str, Any]) -> dict[str, Any]:
    import contextlib
    import io

    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    options = {"num_bins": request["bins"]} if request["method"] == "entropy" else {}
    with contextlib.redirect_stdout(io.StringIO()):
        made = create_calibrator(
            request["model"], None, "augmented.onnx", methods[request["method"]], extra_options=options
        )
        made.collect_data(Reader(feeds(request)))
        found = made.compute_data().data
    return {name: [float(np.ravel(edge)[0]) for edge in each.range_value] for name, each in found.items()}


TOOLS = {"plain": run_plain, "as written": run_plain, "graphopt": run_graphopt, "onnxruntime": run_onnxruntime}


def work(request: dict[str, Any]) -> None:
    """What a process of its own does."""
    import onnx  # noqa: F401
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    if request["tool"] == "graphopt":
        import graphopt.calibration.core
        import graphopt.subgraphs.extract
        import graphopt.verify.run  # noqa: F401
    elif request["tool"] == "onnxruntime":
        import onnxruntime.quantization
    before = cpu_seconds()
    ranges = TOOLS[request["tool"]](request)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer = {"ok": True, "cpu": cpu_seconds() - before, "peak": peak, "ranges": ranges}
    Path(request["result"]).write_text(json.dumps(answer))


def differences(ours: dict[str, Any], theirs: dict[str, Any], method: str, bins: int) -> dict[str, Any]:
    """How far apart ranges are, in bins of ONNX Runtime's histograms; for min-max, how many differ at all."""
    found = []
    for name in ours.keys() & theirs.keys():
        low, high, minimum, maximum = ours[name]
        largest = max(abs(minimum), abs(maximum))
        width = 2 * largest / bins if method == "entropy" else largest / 2048
        apart = max(abs(low - theirs[name][0]), abs(high - theirs[name][1]))
        found.append(0.0 if apart == 0 else apart / width if method != "minmax" and width else np.inf)
    within = sum(apart <= 1.0001 for apart in found)  # their edges are in single precision
    return {"tensors": len(found), "within_a_bin": within, "equal": found.count(0.0), "most": max(found, default=0.0),
            "only_theirs": len(theirs.keys() - ours.keys()), "only_ours": len(ours.keys() - theirs.keys())}  # fmt: skip


def measure(args: argparse.Namespace, tool: str, method: str, samples: int) -> dict[str, Any]:
    """One process."""
    request = {"tool": tool, "model": args.model, "method": method, "samples": samples, "bins": args.bins,
               "inputs": args.inputs}  # fmt: skip
    answer = run_worker("calibration.py", request, args.timeout)
    if not answer["ok"]:
        print(f"{tool} {method} {samples} fails: {answer['error']}", file=sys.stderr)
        if tool == "onnxruntime":
            return {"cpu": np.nan, "peak": np.nan, "ranges": {}, "error": answer["error"]}
        raise SystemExit(1)
    print(f"{tool} {method} {samples}: {answer['cpu']:.2f} s, {answer['peak'] / MEGABYTE:.0f} MB", file=sys.stderr)
    return answer


def row(args: argparse.Namespace, method: str, plain: dict[str, Any], theirs: list[int]) -> dict[str, Any]:
    """A method: ours on all samples, theirs scaled from few, and ranges on these few."""
    ours = measure(args, "graphopt", method, args.samples)
    few, more = (measure(args, "onnxruntime", method, samples) for samples in theirs)
    same = measure(args, "graphopt", method, theirs[-1]) if theirs[-1] != args.samples else ours
    each = (more["cpu"] - few["cpu"]) / (theirs[1] - theirs[0])
    scaled = more["cpu"] + each * (args.samples - theirs[1])
    return {
        "method": method,
        "cpu": ours["cpu"],
        "peak": ours["peak"],
        "peak_to_plain": ours["peak"] / plain["peak"],
        "theirs_cpu": scaled,
        "theirs_peak": more["peak"],
        "times_as_fast": scaled / ours["cpu"],
        "agreement": differences(same["ranges"], more["ranges"], method, args.bins),
    }


def print_table(data: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{Path(data['model']).name}, {data['samples']} samples, 1 thread")
    for heading in ("method", "CPU s", "peak MB", "of plain", "ORT CPU s", "ORT peak MB", "times as fast", "ranges"):
        table.add_column(heading, justify="left" if heading in ("method", "ranges") else "right", no_wrap=True)
    for name in ("plain", "as written"):
        run = data[name]
        table.add_row(name, f"{run['cpu']:.1f}", f"{run['peak'] / MEGABYTE:.0f}", *[""] * 5)
    for each in data["rows"]:
        found = each["agreement"]
        said = f"{found['equal']} equal" if each["method"] == "minmax" else f"{found['within_a_bin']} within a bin"
        table.add_row(
            each["method"],
            f"{each['cpu']:.1f}",
            f"{each['peak'] / MEGABYTE:.0f}",
            f"{each['peak_to_plain']:.2f}",
            f"{each['theirs_cpu']:.1f}",
            f"{each['theirs_peak'] / MEGABYTE:.0f}",
            f"{each['times_as_fast']:.2f}",
            f"{said} of {found['tensors']}, at most {found['most']:.2f} apart" if found["tensors"] else "ORT fails",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    few, more = data["theirs"]
    print(f"ORT's CPU is scaled from {few} and {more} samples; its peak is that with {more}.")


def main() -> None:
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        work(json.loads(sys.argv[1]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("--samples", type=int, default=64, help="samples to calibrate with (default: %(default)s)")
    parser.add_argument("--methods", default="minmax,percentile,entropy", help="default: %(default)s")
    parser.add_argument("--bins", type=int, default=128, help="of the entropy search (default: %(default)s)")
    parser.add_argument("--theirs", default="8,24", help="samples of ONNX Runtime's runs (default: %(default)s)")
    parser.add_argument("--dynamic", type=int, default=1, help="size of dynamic dims (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one run (default: %(default)s)")
    parser.add_argument("--json", help="write everything to this file")
    args = parser.parse_args()
    args.model = str(Path(args.model).resolve())
    args.inputs = inputs_of(args.model, args.dynamic)
    theirs = [int(number) for number in args.theirs.split(",")]
    data: dict[str, Any] = {"machine": describe_machine(PACKAGES), "model": args.model, "samples": args.samples}
    data["theirs"] = theirs
    data["plain"] = measure(args, "plain", "", args.samples)
    data["as written"] = measure(args, "as written", "", args.samples)
    data["rows"] = [row(args, method, data["plain"], theirs) for method in args.methods.split(",")]
    print_table(data)
    write_json(args.json, data)


if __name__ == "__main__":
    main()
