"""Fuzzing: mutated model files through the whole of graphopt; nothing may crash, hang, or take what it may not.

    python -m benchmarks.fuzz --files 10000 --seed 0 --json fuzz.json
    python benchmarks/fuzz.py --only 4242 --keep faults

Each file (a seed and a number make it, always the same one: `tests/fuzz`) is loaded, optimized with the default
pipeline and verified numerically, in a process of its own, through the API and, where that refuses, through the command
line. Reported: how many passed and were refused, by error; what crashed, hung (10 s of the processor), took more than
1 GB of memory, raised something that is no GraphoptError, answered with more than a line or the wrong exit code,
changed a file that it must not change, or computed something else than the original. --keep keeps the files at fault.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(TESTS), str(HERE)]  # `fuzz` is the package there, not this script

from common import SINGLE_THREAD, describe_machine, write_json  # noqa: E402

FAULTS = ("crash", "hang", "memory", "internal", "wrong", "rude")


def run_all(seed: int, numbers: range, jobs: int) -> list[dict[str, Any]]:
    """The outcomes of these files, from `jobs` processes that share them."""
    outcomes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{k}.jsonl") for k in range(jobs)]
        workers = [start(seed, range(numbers.start + k, numbers.stop, jobs), path) for k, path in enumerate(paths)]
        began, shown = time.monotonic(), 0.0
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.2)
            if time.monotonic() - shown > 10 and sys.stderr.isatty():
                shown = time.monotonic()
                done = sum(path.read_bytes().count(b"\n") for path in paths)
                print(f"\r{done} of {len(numbers)}, {shown - began:.0f} s", end="", file=sys.stderr, flush=True)
        failed = [worker.returncode for worker in workers if worker.returncode]
        if failed:
            raise SystemExit(f"a runner ended with exit code {failed[0]}")
        for path in paths:
            outcomes += [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(outcomes, key=lambda outcome: int(outcome["number"]))


def start(seed: int, numbers: range, path: Path) -> subprocess.Popen[bytes]:
    bounds = [str(n) for n in (seed, numbers.start, numbers.stop, numbers.step)]
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.runner", *bounds]
    with path.open("wb") as file:
        return subprocess.Popen(command, cwd=TESTS, stdout=file, env={**os.environ, **SINGLE_THREAD})


def report(outcomes: list[dict[str, Any]]) -> str:
    """Counts, errors, faults, the largest and the slowest."""
    statuses = Counter(outcome["status"] for outcome in outcomes)
    lines = ["  ".join(f"{name} {statuses[name]}" for name in ("ok", "refused", *FAULTS))]
    verdicts = Counter(outcome["verdict"] for outcome in outcomes if outcome["verdict"])
    lines.append("verification of the ok: " + ", ".join(f"{name} {count}" for name, count in verdicts.most_common()))
    lines.append("refused:")
    errors = Counter(outcome["error"] for outcome in outcomes if outcome["status"] == "refused")
    lines += [f"  {count:6} {name}" for name, count in errors.most_common()]
    seconds = sorted(float(outcome["seconds"]) for outcome in outcomes)
    peaks = sorted(int(outcome["peak"]) for outcome in outcomes)
    if outcomes:
        middle = len(outcomes) // 2
        lines.append(f"seconds: median {seconds[middle]:.2f}, largest {seconds[-1]:.1f}")
        lines.append(f"memory at the peak: median {peaks[middle] >> 20} MB, largest {peaks[-1] >> 20} MB")
    lines += [describe(outcome) for outcome in outcomes if outcome["status"] in FAULTS]
    return "\n".join(lines)


def describe(outcome: dict[str, Any]) -> str:
    what = f"{outcome['status']} {outcome['error']}".strip()
    message = " ".join(str(outcome["message"]).split())[-300:]
    return f"{what}: file {outcome['number']}, {outcome['origin']} after {outcome['kind']}: {message}"


def keep(seed: int, outcomes: list[dict[str, Any]], folder: Path) -> None:
    """Writes the files at fault."""
    from fuzz.mutate import mutant

    folder.mkdir(parents=True, exist_ok=True)
    for outcome in outcomes:
        if outcome["status"] in FAULTS:
            name = f"{outcome['status']}-{seed}-{outcome['number']}.onnx"
            (folder / name).write_bytes(mutant(seed, int(outcome["number"])).data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--only", type=int, help="run one file alone, by its number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder for the files at fault")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    first = options.first if options.only is None else options.only
    numbers = range(first, first + (options.files if options.only is None else 1))
    began = time.monotonic()
    outcomes = run_all(options.seed, numbers, max(1, min(options.jobs, len(numbers))))
    print(report(outcomes))
    if options.keep is not None:
        keep(options.seed, outcomes, options.keep)
    if options.json is not None:
        taken = time.monotonic() - began
        facts = {
            "machine": describe_machine(["graphopt", "onnx", "onnxruntime", "numpy", "protobuf"]),
            "seed": options.seed,
            "seconds": taken,
            "outcomes": outcomes,
        }
        write_json(str(options.json), facts)
    sys.exit(any(outcome["status"] in FAULTS for outcome in outcomes))


if __name__ == "__main__":
    main()
