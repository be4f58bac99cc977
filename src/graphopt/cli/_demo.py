"""``graphopt fuse --demo``: before, after, and the latency of both in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from graphopt.cli._ui import show

if TYPE_CHECKING:
    from onnx import ModelProto
    from rich.console import RenderableType

ROUNDS = 100  # timed runs of each model, alternating, after WARMUP untimed ones
WARMUP = 5
BATCH = 4


def show_demo(before: ModelProto, after: ModelProto, tell: Callable[[], None]) -> None:
    """Print operator counts of both models, what `tell` prints (passes and verdict), and the latencies."""
    from rich.text import Text

    show(Text("the demo network, before and after", style="bold"), _counts(before, after))
    show("")
    tell()
    old, new = latency(before, after)
    show("")
    show(
        Text("ONNX Runtime, all of its own optimizations on, 1 thread", style="bold"),
        f"before {1e3 * old:.3f} ms, after {1e3 * new:.3f} ms: {old / new:.2f}x "
        f"(batch {BATCH}, median of {ROUNDS}, interleaved)",
    )


def latency(before: ModelProto, after: ModelProto) -> tuple[float, float]:
    """Median seconds of one run of each, runs alternating so that both see the same machine."""
    from graphopt.demo import demo_inputs

    feeds = demo_inputs(BATCH, 0)
    sessions = [_session(before), _session(after)]
    times: list[list[float]] = [[], []]
    for number in range(WARMUP + ROUNDS):
        for session, taken in zip(sessions, times, strict=True):
            start = perf_counter()
            session.run(None, feeds)
            if number >= WARMUP:
                taken.append(perf_counter() - start)
    return median(times[0]), median(times[1])


def _session(model: ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _counts(before: ModelProto, after: ModelProto) -> RenderableType:
    from rich.table import Table

    counts = [operators(before), operators(after)]
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("operator", footer="all")
    table.add_column("before", justify="right", footer=str(sum(counts[0].values())))
    table.add_column("after", justify="right", footer=str(sum(counts[1].values())))
    for op in sorted(counts[0] | counts[1], key=lambda op: (-counts[0][op], op)):
        table.add_row(op, str(counts[0][op]), str(counts[1][op] or "-"))
    return table


def operators(model: ModelProto) -> Counter[str]:
    """Nodes by operator, bodies and functions included."""
    from graphopt.ir import from_proto

    return Counter(node.op for graph in from_proto(model).scopes() for node in graph)
