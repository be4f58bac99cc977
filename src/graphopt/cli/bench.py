"""``graphopt bench A B``: which of two models is faster in ONNX Runtime?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, InputsOpt, JsonOpt, QuietOpt, load_inputs
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.targets.latency import Latency

First = Annotated[Path, typer.Argument(metavar="A", help="The model to start from.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="The model to compare with it.", show_default=False)]


def bench(
    a: First,
    b: Second,
    inputs: InputsOpt = None,
    threads: Annotated[int, typer.Option("--threads", "-t", min=1, help="Threads of an operator.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="Of measuring in each process.")] = 2.0,
    repeats: Annotated[int, typer.Option("--repeats", "-n", min=1, help="Fresh processes.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    lanes: Annotated[int, typer.Option("--lanes", min=1, help="Of engines: runs under way at a time.")] = 1,
    graphs: Annotated[bool, typer.Option("--graphs", help="Of engines: run as CUDA graphs.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Of engines: the layers of B, the dearest first.")] = False,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Time two models, or two TensorRT engines, in turns.

    Models run in ONNX Runtime, engines (FILE.plan) on the GPU.

    Both run with all the runtime's own optimizations, in turns and in fresh processes, on the same inputs: those of
    --inputs, else inputs that suit A. Shown are medians, the ratio with its 95 % interval, the time to load, the memory
    that each adds at its peak, and the nodes that the runtime executes.

    \b
    Examples:
      graphopt bench model.onnx model.opt.onnx
      graphopt bench model.onnx model.opt.onnx -i sample.npz --threads 4 --json
      graphopt bench original.plan model.plan --lanes 2 --layers
    """
    from graphopt.targets.latency import compare_latency

    for path in (a, b):
        if not path.is_file():
            raise GraphoptError(f"model {str(path)!r} does not exist; check the path")
    feeds = load_inputs(inputs)
    if feeds is not None and len(feeds) > 1:
        raise GraphoptError("--inputs is given more than once; models are timed on one set of inputs")
    if a.suffix == b.suffix == ".plan":
        from graphopt.cli._engines import bench_plans

        given = feeds[0] if feeds else None
        return bench_plans(a, b, given, seconds, lanes=lanes, graphs=graphs, layers=layers, quiet=quiet, json=json)
    with ProgressLine(quiet=quiet or json) as progress:
        latency = compare_latency(
            a, b, feeds[0] if feeds else None, threads=threads, seconds=seconds, repeats=repeats, seed=seed,
            progress=progress,
        )  # fmt: skip
    if json:
        show_json(latency.to_dict())
    elif quiet:
        show(f"{latency.ratio:.3f}")
    else:
        show(_table(latency))
        show(_summary(latency))
    return 0


def _table(latency: Latency) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("A", "B", "A : B"):
        table.add_column(heading, justify="right")
    a, b = latency.a, latency.b
    table.add_row("run", f"{a.milliseconds:.3f} ms", f"{b.milliseconds:.3f} ms", f"{latency.ratio:.3f}")
    table.add_row("load", f"{a.load_milliseconds:.1f} ms", f"{b.load_milliseconds:.1f} ms", f"{latency.load_ratio:.2f}")
    mega = [f"{side.peak_bytes / 2**20:.1f} MiB" for side in (a, b)]
    table.add_row("memory", *mega, f"{a.peak_bytes / max(1, b.peak_bytes):.2f}")
    if a.nodes is not None and b.nodes is not None:
        table.add_row("nodes executed", str(a.nodes), str(b.nodes), f"{a.nodes / max(1, b.nodes):.2f}")
    return table


def _summary(latency: Latency) -> str:
    low, high = latency.interval
    what = {"faster": "B is faster", "slower": "B is slower", "the same": "no difference beyond chance"}[
        latency.verdict
    ]
    shapes = ", ".join(f"{name} {shape}" for name, shape in latency.inputs.items())
    threads = f"{latency.threads} thread" + ("" if latency.threads == 1 else "s")
    turns = f"{latency.turns} turns in {len(latency.repeats)} processes, {threads}"
    return f"{what}: {latency.ratio:.3f} times (95 %: {low:.3f} to {high:.3f}), {turns}, on {shapes or 'no input'}"
