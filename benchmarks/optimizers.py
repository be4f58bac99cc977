"""Each optimizer as one function from file to file, and the worker that runs one of them in a fresh process.

`optimizers.py REQUEST` (JSON: tool, src, dst, result; optional check, recipes, options) is started by other scripts.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Optimizer = Callable[[str, str], object]


def _graphopt(passes: str = "default", target: str = "onnx") -> Optimizer:
    import importlib
    import pkgutil

    import onnxruntime  # noqa: F401  constant folding may use it

    import graphopt

    # graphopt loads its rooms when first used; here that belongs to the import, as it does for the others.
    for room in ("ir", "analysis", "rewrite", "passes"):
        package = importlib.import_module(f"graphopt.{room}")
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    for name in ("pipeline", "report", "api"):
        importlib.import_module(f"graphopt.{name}")
    return lambda src, dst: graphopt.optimize_file(src, dst, passes, target=target, verify="off")


def _onnxsim() -> Optimizer:
    import onnxsim

    # From path to path is its leaner way: it reads and writes in C++ (onnx.load and save cost it up to twice the CPU
    # time). The threshold keeps weights in the file, as everybody else does.
    return lambda src, dst: onnxsim.simplify(src, output_path=dst, external_data_threshold="1.9GB")


def _onnxsim_proto() -> Optimizer:
    import onnx
    import onnxsim

    return lambda src, dst: onnx.save(onnxsim.simplify(onnx.load(src))[0], dst)


def _onnxslim() -> Optimizer:
    import onnx
    import onnxruntime  # noqa: F401  its shape inference and folding may use it
    import onnxslim

    # Not slim(src, dst), which also counts and prints a summary.
    return lambda src, dst: onnx.save(onnxslim.slim(src), dst)


def _onnxoptimizer() -> Optimizer:
    import onnx
    import onnxoptimizer

    return lambda src, dst: onnx.save(onnxoptimizer.optimize(onnx.load(src)), dst)


def _onnxscript() -> Optimizer:
    import onnx_ir
    import onnxscript.optimizer

    def run(src: str, dst: str) -> None:
        model = onnx_ir.load(src)
        onnxscript.optimizer.optimize_ir(model)
        onnx_ir.save(model, dst)

    return run


def _onnxruntime(level: str) -> Optimizer:
    import onnxruntime as ort

    def run(src: str, dst: str) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = dst
        ort.InferenceSession(src, options, providers=["CPUExecutionProvider"])

    return run


TOOLS: dict[str, Callable[..., Optimizer]] = {
    "graphopt": _graphopt,
    "onnxsim": _onnxsim,
    "onnxsim-proto": _onnxsim_proto,
    "onnxoptimizer": _onnxoptimizer,
    "onnxslim": _onnxslim,
    "onnxscript": _onnxscript,
    "ort-basic": lambda: _onnxruntime("ORT_ENABLE_BASIC"),
    "ort-all": lambda: _onnxruntime("ORT_ENABLE_ALL"),
}
DEFAULT_TOOLS = [name for name in TOOLS if name != "onnxsim-proto"]
PACKAGES = [
    "graphopt",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "onnxslim",
    "onnxoptimizer",
    "onnxscript",
    "onnx_ir",
    "numpy",
    "protobuf",
]


def cpu_seconds() -> float:
    """User and system seconds of this process, all its threads, and its finished children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def memory_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process; without /proc, ru_maxrss for either."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> bool:
    """Forget VmHWM so far; False where the kernel does not allow it (then the peak of the imports may hide ours)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def ort_loads(path: str) -> str:
    """Empty if ONNX Runtime makes a session of the model at `path`, else the first line of what it says."""
    try:
        _session(path)
    except Exception as error:  # noqa: BLE001  whatever the runtime raises is the answer
        return str(error).splitlines()[0][:200]
    return ""


def ort_differs(src: str, dst: str, recipes: str) -> str:
    """Empty if both models give the same in ONNX Runtime on one feed by the recipe (to a hundredth of the output's
    scale), or the original does not run; else what is wrong with the other."""
    import numpy as np
    from common import load_recipes

    known, make_feeds = load_recipes(Path(recipes))
    recipe = known.get(Path(src).name)
    if recipe is None:
        return ""
    try:
        feeds = make_feeds(recipe)
        before = _session(src).run(None, feeds)
    except Exception:  # noqa: BLE001  then there is nothing to compare with
        return ""
    try:
        after = _session(dst).run(None, feeds)
    except Exception as error:  # noqa: BLE001  whatever the runtime raises is the answer
        return str(error).splitlines()[0][:200]
    if len(before) != len(after):
        return f"{len(before)} outputs became {len(after)}"
    for number, (a, b) in enumerate(zip(before, after, strict=True)):
        if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
            continue
        if np.shape(a) != np.shape(b):
            return f"output {number}: shape {list(np.shape(a))} became {list(np.shape(b))}"
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if x.size and not np.allclose(x, y, 0, 0.01 * float(np.abs(x).max()), equal_nan=True):
            return f"output {number}: other values"
    return ""


def _session(path: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(
    tool: str, src: str, dst: str, check: bool, options: dict[str, str], recipes: str = ""
) -> dict[str, object]:
    """Import the tool, run it once from `src` to `dst`, and say what each of the two cost."""
    optimize = TOOLS[tool](**options)
    gc.collect()
    import_cpu = cpu_seconds()
    exact = reset_peak()
    baseline = memory_bytes("VmRSS")
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        optimize(src, dst)
    except BaseException as error:  # noqa: BLE001  a crash is a result; sys.exit is no Exception
        return {"ok": False, "error": f"{type(error).__name__}: {str(error).strip()[:200]}"}
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    peak = memory_bytes("VmHWM")
    if not os.path.exists(dst):
        return {"ok": False, "error": "wrote nothing"}
    from common import count_nodes, count_ops  # after the measurement: they parse the whole output

    answer: dict[str, object] = {
        "ok": True,
        "cpu": cpu,
        "wall": wall,
        "import_cpu": import_cpu,
        "peak": max(0, peak - baseline),
        "peak_exact": exact,
        "nodes": count_nodes(Path(dst)),
        "ops": count_ops(Path(dst)),
        "bytes": os.path.getsize(dst),
    }
    if check:
        answer["load_error"] = ort_loads(dst)
    if recipes:
        answer["wrong"] = ort_differs(src, dst, recipes)
    return answer


def main() -> None:
    request = json.loads(sys.argv[1])
    check, options = request.get("check", False), request.get("options", {})
    recipes = request.get("recipes", "")
    answer = measure(request["tool"], request["src"], request["dst"], check, options, recipes)
    Path(request["result"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
