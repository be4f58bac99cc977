"""How fast engines are: by CUDA events, in turns, and layer by layer."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphopt.targets.tensorrt.engine import Engine

__all__ = ["EngineTime", "LayerTime", "compare_engines", "layer_times", "throughput", "time_engine"]

_WARM = 5  # runs before the first that counts: clocks rise, memory is taken


@dataclass
class EngineTime:
    """milliseconds: of a run on the device, median, without copies from and to host memory. p95: of it. wall: of a call
    from numpy to numpy, median. runs: how many."""

    milliseconds: float
    p95: float
    wall: float
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class LayerTime:
    """One layer of an engine. milliseconds: median over the runs. sources: nodes of the original model that it stands
    for, as far as its name tells."""

    name: str
    milliseconds: float
    sources: list[str] = field(default_factory=list)


def time_engine(engine: Engine, feeds: Mapping[str, Any], *, seconds: float = 2.0) -> EngineTime:
    """Times one engine by itself. feeds: arrays by input name. seconds: of measuring."""
    return _turns([engine], feeds, seconds)[0]


def compare_engines(
    a: Engine, b: Engine, feeds: Mapping[str, Any], *, seconds: float = 4.0
) -> tuple[EngineTime, EngineTime]:
    """Times two engines that take turns, run by run, so that clocks that fall slow both."""
    first, second = _turns([a, b], feeds, seconds)
    return first, second


def _turns(engines: Sequence[Engine], feeds: Mapping[str, Any], seconds: float) -> list[EngineTime]:
    for engine in engines:
        for _ in range(_WARM):
            engine.run(feeds)
    device: list[list[float]] = [[] for _ in engines]
    wall: list[list[float]] = [[] for _ in engines]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(device[0]) < _WARM:
        for place, engine in enumerate(engines):
            start = time.perf_counter()
            engine.run(feeds)
            wall[place].append(time.perf_counter() - start)
            device[place].append(engine.timed(feeds))
    return [
        EngineTime(1e3 * statistics.median(d), 1e3 * float(np.quantile(d, 0.95)), 1e3 * statistics.median(w), len(d))
        for d, w in zip(device, wall, strict=True)
    ]


def throughput(engine: Engine, feeds: Mapping[str, Any], *, seconds: float = 2.0) -> float:
    """Runs a second with all lanes of the engine busy, inputs and outputs on the device."""
    lanes = engine.lane_count
    runs = [engine.submit(feeds, on_device=True) for _ in range(lanes)]
    for run in runs:
        run.result()
    count, start = 0, time.perf_counter()
    pending = [engine.submit(feeds, on_device=True) for _ in range(lanes)]
    while time.perf_counter() - start < seconds or not count:
        pending.pop(0).result()
        count += 1
        pending.append(engine.submit(feeds, on_device=True))
    for run in pending:
        run.result()
        count += 1
    return count / (time.perf_counter() - start)


def layer_times(
    engine: Engine, feeds: Mapping[str, Any], sources: Mapping[str, Sequence[str]], *, runs: int = 20
) -> list[LayerTime]:
    """Times by layer, the dearest first. sources: node of the model that was built -> nodes of the original (see
    `graphopt.ir.provenance`). TensorRT names a fused layer by its nodes."""
    seen: dict[str, list[float]] = {}
    engine.run(feeds)
    for _ in range(runs):
        for name, milliseconds in engine.profiled(feeds).items():
            seen.setdefault(name, []).append(milliseconds)
    found = [LayerTime(name, statistics.median(times), _originals(name, sources)) for name, times in seen.items()]
    return sorted(found, key=lambda layer: -layer.milliseconds)


_BETWEEN = re.compile(r"\s\+\s|\.{3}|[\[\](){},]")


def _originals(layer: str, sources: Mapping[str, Sequence[str]]) -> list[str]:
    """Of "a + b", "PWN(PWN(a), b)" and "{ForeignNode[a...b]}", which names the first and the last of many.

    >>> _originals("PWN(PWN(/s), /m) + /c", {"/s": ["swish"], "/m": ["swish"], "/c": ["conv_3"]})
    ['swish', 'conv_3']
    """
    names: list[str] = []
    for part in _BETWEEN.split(layer):
        for name in sources.get(part.strip(), ()):
            if name not in names:
                names.append(name)
    return names
