"""How much faster one model runs than another in ONNX Runtime, with all the runtime's own optimizations on.

The two live in one fresh process and take turns, run by run, so that a machine that slows down slows both; a repeat is
another process, in which they are loaded in the other order. The ratio is the median of what each turn gives. Its
interval (95 %) is a percentile bootstrap over repeats, and over turns within them (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 8 and 13): turns of one process share its memory layout.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

__all__ = ["Latency", "Side", "compare_latency"]

_RESAMPLES = 1000
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Side:
    """One of the two models. milliseconds: of a run, median. load_milliseconds: to create the session, median.
    peak_bytes: what loading and running it adds to a process at its peak. nodes: that the runtime executes, those of
    bodies included, constants not; None where its graph cannot be saved."""

    path: str
    milliseconds: float
    load_milliseconds: float
    peak_bytes: int
    nodes: int | None


@dataclass
class Latency:
    """Two models side by side.

    ratio: time of a over time of b: above 1, b is faster. interval: of the ratio, 95 %. repeats: the ratio in each
    process. load_ratio: the same for creating the session. turns: timed runs of each model. threads: of an operator.
    inputs: name -> shape of what they ran on.
    """

    a: Side
    b: Side
    ratio: float
    interval: tuple[float, float]
    repeats: list[float]
    load_ratio: float
    turns: int
    threads: int
    inputs: dict[str, list[int]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """ "faster", "slower" (b, by what is beyond chance) or "the same"."""
        low, high = self.interval
        return "faster" if low > 1 else "slower" if high < 1 else "the same"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "interval": list(self.interval), "verdict": self.verdict}


def compare_latency(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    threads: int = 1,
    seconds: float = 2.0,
    min_runs: int = 7,
    repeats: int = 3,
    seed: int = 0,
    timeout: float = 600.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Latency:
    """Times the models in the files a and b on the same inputs.

    inputs: a feed dict; made from the model a, as for verification, where it is None. threads: of one operator.
    seconds: of measuring in each of the `repeats` processes, but at least `min_runs` turns. timeout: seconds for one
    process. Raises GraphoptError for inputs that a does not run on, and for a model that cannot be loaded.

    >>> import tempfile, onnx
    >>> from graphopt.demo import demo_model
    >>> file = tempfile.mkdtemp() + "/demo.onnx"
    >>> onnx.save(demo_model(), file)
    >>> latency = compare_latency(file, file, seconds=0.01, repeats=2)
    >>> 0.2 < latency.ratio < 5, latency.a.nodes == latency.b.nodes
    (True, True)
    """
    paths = [os.path.abspath(path) for path in (a, b)]
    tell = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch:
        tell("inputs", 0, 0)
        shapes = _prepare(paths[0], inputs, Path(scratch), seed)
        bench = _Bench(Path(scratch), paths, threads, timeout)
        found = []
        for number in range(repeats):
            tell("time", number, repeats)
            found.append(bench.ask("times", paths, seconds=seconds, min_runs=min_runs, swap=number % 2 == 1))
        tell("memory", 0, 0)
        peaks = [int(bench.ask("memory", [path])["bytes"]) for path in paths]
        nodes = bench.nodes()
    ratios = [np.divide(*answer["seconds"]) for answer in found]
    sides = [
        Side(
            str(given),
            1e3 * statistics.median(answer["medians"][place] for answer in found),
            1e3 * statistics.median(answer["load"][place] for answer in found),
            peaks[place],
            nodes[place],
        )
        for place, given in enumerate((a, b))
    ]
    return Latency(
        a=sides[0],
        b=sides[1],
        ratio=float(np.median([np.median(each) for each in ratios])),
        interval=_interval(ratios, seed),
        repeats=[float(np.median(each)) for each in ratios],
        load_ratio=statistics.median(answer["load"][0] / answer["load"][1] for answer in found),
        turns=sum(len(each) for each in ratios),
        threads=threads,
        inputs=shapes,
    )


def _prepare(path: str, inputs: Mapping[str, Any] | None, folder: Path, seed: int) -> dict[str, list[int]]:
    """Puts the inputs where the processes find them; their shapes."""
    from graphopt.targets._feeds import write_feeds

    feeds = _made(path, seed) if inputs is None else inputs
    write_feeds(folder, feeds)
    return {name: list(np.shape(value)) for name, value in feeds.items() if not isinstance(value, (list, tuple))}


def _made(path: str, seed: int) -> Mapping[str, Any]:
    from graphopt.verify.run import Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    source = Source.of(path)
    try:
        found = find_cases(source, Session(source), seconds=10.0, seed=seed)
    finally:
        source.close()
    if not found.cases:
        reasons = "; ".join(found.unchecked) or "it has none that fit"
        raise GraphoptError(f"no inputs found on which {path!r} runs ({reasons}); give some with inputs")
    return found.cases[0].feeds


@dataclass
class _Bench:
    """Asks fresh processes, one at a time."""

    folder: Path
    paths: list[str]
    threads: int
    timeout: float

    def ask(self, what: str, models: list[str], **more: Any) -> dict[str, Any]:
        request, answer = self.folder / "request.json", self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        facts = {"what": what, "models": models, "threads": self.threads, "inputs": str(self.folder), **more}
        request.write_text(json.dumps({**facts, "answer": str(answer)}))
        pinned = dict.fromkeys(_THREAD_VARIABLES, str(self.threads))
        environment = {**os.environ, **pinned, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-W", "ignore", "-m", "graphopt.targets._worker", str(request)]
        try:
            done = subprocess.run(
                command, env=environment, timeout=self.timeout, capture_output=True, text=True, errors="replace",
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise GraphoptError(f"timing took more than {self.timeout:.0f} s; give smaller inputs") from None
        if not answer.exists():
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise GraphoptError(f"ONNX Runtime does not run {' or '.join(map(repr, models))}: {_clean(said)}")
        found: dict[str, Any] = json.loads(answer.read_text())
        return found

    def nodes(self) -> list[int | None]:
        """Of each model; None where ONNX Runtime does not save its graph (some of its own operators, 2 GiB)."""
        try:
            return list(self.ask("nodes", self.paths)["nodes"])
        except GraphoptError:
            return [None, None]


def _clean(said: str) -> str:
    from graphopt.verify.run import one_line

    return one_line(said.partition(": ")[2] if said.startswith("onnxruntime.") else said)


def _interval(ratios: list[np.ndarray], seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        chosen = rng.integers(len(ratios), size=len(ratios))
        found[number] = np.median([np.median(rng.choice(ratios[k], size=len(ratios[k]))) for k in chosen])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
