"""One measurement in a fresh process: `python -m graphopt.targets._worker REQUEST.json` (see `latency`).

The request names what to measure, the models, the folder of inputs, and where the answer goes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

WARM_UP = 3  # runs of each session before any is timed
MOST = 5000  # timed runs of each


def main() -> None:
    """Answers the request that the command line names."""
    request = json.loads(Path(sys.argv[1]).read_text())
    answer = {"times": times, "memory": memory, "nodes": nodes}[request["what"]](request)
    Path(request["answer"]).write_text(json.dumps(answer))


def session(path: str, threads: int, saved: str = "") -> Any:
    """An ONNX Runtime session with all its optimizations; what it runs is written to `saved`, if that is given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if saved:
        options.optimized_model_filepath = saved
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def start_runtime() -> None:
    """Has ONNX Runtime set itself up, so that the first of two sessions does not pay for it."""
    import onnxruntime
    from onnx import parser

    tiny = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}')
    onnxruntime.InferenceSession(tiny.SerializeToString(), providers=["CPUExecutionProvider"])


def times(request: dict[str, Any]) -> dict[str, Any]:
    """Both models in this process, run by run in turns: the seconds of every run, and of creating each session."""
    paths = list(request["models"])
    order = (1, 0) if request["swap"] else (0, 1)
    start_runtime()
    sessions, loads = [None, None], [0.0, 0.0]
    for side in order:
        start = time.perf_counter()
        sessions[side] = session(paths[side], request["threads"])
        loads[side] = time.perf_counter() - start
    from graphopt.targets._feeds import read_feeds

    feeds = read_feeds(Path(request["inputs"]))
    runs = [_runner(made, feeds) for made in sessions]
    for _ in range(WARM_UP):
        for side in order:
            runs[side]()
    taken: list[list[float]] = [[], []]
    deadline = time.perf_counter() + request["seconds"]
    while len(taken[0]) < request["min_runs"] or (time.perf_counter() < deadline and len(taken[0]) < MOST):
        order = order[::-1]
        for side in order:
            start = time.perf_counter()
            runs[side]()
            taken[side].append(time.perf_counter() - start)
    return {"seconds": taken, "medians": [statistics.median(side) for side in taken], "load": loads}


def _runner(made: Any, feeds: dict[str, Any]) -> Any:
    """Runs the session once. Tensors are handed over before, so that only the run is timed."""
    import onnxruntime

    names = [value.name for value in made.get_outputs()]
    known = {value.name for value in made.get_inputs()} | {v.name for v in made.get_overridable_initializers()}
    given = {name: value for name, value in feeds.items() if name in known}
    if all(isinstance(value, onnxruntime.OrtValue) for value in given.values()):
        return lambda: made.run_with_ort_values(names, given)
    plain = {name: value.numpy() if isinstance(value, onnxruntime.OrtValue) else value for name, value in given.items()}
    return lambda: made.run(names, plain)


def memory(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes that loading and running one model adds to the process at its peak."""
    from graphopt.targets._feeds import read_feeds

    start_runtime()
    feeds = read_feeds(Path(request["inputs"]))
    before = _peak(forget=True)
    run = _runner(session(request["models"][0], request["threads"]), feeds)
    for _ in range(WARM_UP):
        run()
    return {"bytes": _peak() - before}


def _peak(forget: bool = False) -> int:
    """The most bytes that this process has had resident. forget: from now on (Linux alone can)."""
    import resource

    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def nodes(request: dict[str, Any]) -> dict[str, Any]:
    """Nodes that ONNX Runtime executes, of each model: counted in the graph that it saves once it has optimized."""
    import onnx

    from graphopt.targets._feeds import count_nodes

    counts = []
    for place, path in enumerate(request["models"]):
        saved = str(Path(request["answer"]).with_name(f"saved{place}.onnx"))
        session(path, 1, saved)
        counts.append(count_nodes(onnx.load(saved, load_external_data=False)))
    return {"nodes": counts}


if __name__ == "__main__":
    main()
