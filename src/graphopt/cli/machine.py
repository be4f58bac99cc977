"""``graphopt machine``: measure this machine for the model of cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, JsonOpt, QuietOpt
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError, OutputError

if TYPE_CHECKING:
    from graphopt.analysis.cost import Machine


def machine(
    show_only: Annotated[bool, typer.Option("--show", help="Show what is in use, and measure nothing.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Remove what was measured.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="Of measuring.")] = 3.0,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Measure how fast kernels are on this machine.

    Passes decide by it what pays, and inspect estimates times by it. Takes a few seconds, on one thread; keep the
    machine idle. The result is kept in $GRAPHOPT_CACHE, else ~/.cache/graphopt, and holds for this processor and
    version of ONNX Runtime. Without it the figures hold that graphopt ships, so that output is the same on every
    machine.

    \b
    Examples:
      graphopt machine
      graphopt machine --show
      graphopt machine --forget
    """
    from graphopt.analysis.cost import machine_for, saved

    if show_only and forget:
        raise GraphoptError("--show and --forget are two different things to do; give one of them")
    try:
        if forget:
            path = saved.forget()
            _tell(quiet, json, {"removed": None if path is None else str(path)}, _forgotten(path))
            return 0
        if show_only:
            found, path = machine_for("onnxruntime"), None
        else:
            found = _measure(seconds, quiet or json)
            path = saved.save(found)
    except OSError as error:
        reason = error.strerror or error
        where = f"cannot change {str(saved.folder())!r}"
        raise OutputError(f"{where}: {reason}; set GRAPHOPT_CACHE to another folder") from error
    written = [] if path is None else [f"\nwritten to {path}"]
    _tell(quiet, json, found.to_dict(), _head(found), _table(found), *written)
    return 0


def _measure(seconds: float, quiet: bool) -> Machine:
    from graphopt.targets.measure import measure

    with ProgressLine(quiet=quiet) as progress:
        return measure(seconds=seconds, progress=progress)


def _tell(quiet: bool, json: bool, facts: dict[str, Any], *page: Any) -> None:
    if json:
        show_json(facts)
    elif not quiet:
        show(*page)


def _forgotten(path: object) -> str:
    return "nothing was measured: the shipped figures are in use" if path is None else f"removed {path}"


def _head(machine: Machine) -> str:
    return (
        f"{machine.name} ({machine.source})\n"
        f"{machine.overhead * 1e9:.0f} ns to start a node, {machine.bandwidth / 1e9:.0f} GB/s from caches, "
        f"{machine.memory_bandwidth / 1e9:.0f} GB/s from memory, blocks of {machine.widths[0]} channels\n"
    )


def _table(machine: Machine) -> Any:
    """Every kind of kernel, with the shipped figure beside the measured one."""
    from rich.table import Table

    from graphopt.analysis.cost import ORT_CPU

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kernel")
    for name in ("ps a unit", "shipped", "ratio"):
        table.add_column(name, justify="right")
    for kind, value in machine.seconds.items():
        shipped = ORT_CPU.seconds_of(kind)
        table.add_row(kind, f"{value * 1e12:.3g}", f"{shipped * 1e12:.3g}", f"{value / shipped:.2f}")
    return table
