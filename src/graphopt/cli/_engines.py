"""What ``bench`` does with TensorRT plans."""

from __future__ import annotations

from collections.abc import Mapping
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.cli._ui import show, show_json

if TYPE_CHECKING:
    from graphopt.targets.tensorrt import Engine

__all__ = ["bench_plans", "feeds_of"]


def feeds_of(engine: Engine, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers in the usual shapes of the first profile: normal ones, and zeros for whole numbers."""
    rng = np.random.default_rng(seed)
    profile = engine.profiles[0]
    feeds = {}
    for name, port in engine.inputs.items():
        shape = profile.shapes[name].opt if name in profile.shapes else tuple(abs(size) for size in port.shape)
        whole = port.dtype.kind in "iub"
        feeds[name] = np.zeros(shape, port.dtype) if whole else rng.standard_normal(shape).astype(port.dtype)
    return feeds


def bench_plans(
    a: Path, b: Path, feeds: Mapping[str, Any] | None, seconds: float, *, lanes: int, graphs: bool, layers: bool,
    quiet: bool, json: bool,
) -> int:  # fmt: skip
    """Times two engines in turns, and prints the times, runs a second with `lanes`, and layers."""
    from graphopt.targets.tensorrt import Engine
    from graphopt.targets.tensorrt.timing import compare_engines, layer_times, throughput

    with Engine(a, lanes=lanes, graphs=graphs) as first, Engine(b, lanes=lanes, graphs=graphs) as second:
        given = feeds_of(first) if feeds is None else dict(feeds)
        times = compare_engines(first, second, given, seconds=seconds)
        rates = [throughput(engine, given, seconds=seconds / 4) for engine in (first, second)]
        found: dict[str, Any] = {
            "ratio": times[0].milliseconds / times[1].milliseconds,
            "a": {**times[0].to_dict(), "runs_per_second": rates[0]},
            "b": {**times[1].to_dict(), "runs_per_second": rates[1]},
            "lanes": lanes, "graphs": graphs, "device": first.device_name,
            "inputs": {name: list(np.shape(value)) for name, value in given.items()},
        }  # fmt: skip
        if layers:
            found["layers"] = [vars(layer) for layer in layer_times(second, given, _sources_of(b))]
    if json:
        show_json(found)
    elif quiet:
        show(f"{found['ratio']:.3f}")
    else:
        show(_table(found))
    return 0


def _sources_of(plan: Path) -> dict[str, list[str]]:
    """What the file beside a plan says of its layers, if there is one."""
    try:
        found = loads(Path(f"{plan}.json").read_text(encoding="utf-8"))["layers"]
        return {str(name): list(map(str, names)) for name, names in found.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _table(found: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("A", "B", "A : B"):
        table.add_column(heading, justify="right")
    a, b = found["a"], found["b"]
    table.add_row(
        "on the device", f"{a['milliseconds']:.3f} ms", f"{b['milliseconds']:.3f} ms", f"{found['ratio']:.3f}"
    )
    table.add_row("95 % below", f"{a['p95']:.3f} ms", f"{b['p95']:.3f} ms", f"{a['p95'] / b['p95']:.3f}")
    table.add_row("from numpy to numpy", f"{a['wall']:.3f} ms", f"{b['wall']:.3f} ms", f"{a['wall'] / b['wall']:.3f}")
    rates = (a["runs_per_second"], b["runs_per_second"])
    table.add_row(
        f"runs a second, {found['lanes']} lanes", f"{rates[0]:.0f}", f"{rates[1]:.0f}", f"{rates[0] / rates[1]:.3f}"
    )
    for layer in found.get("layers", ()):
        whose = ", ".join(layer["sources"][:3]) or layer["name"]
        table.add_row(f"  {whose[:60]}", "", f"{layer['milliseconds']:.3f} ms", "")
    return table
