"""Runs mutated files one by one, each in a process of its own: what became of it, how long it took, how much memory.

The processes are forked from one that has everything imported. Each optimizes its file twice at the most: through
`optimize_file`, and, where that refuses (and for some that pass), through the command line, whose answer has to be a
line and an exit code. A watchdog ends what takes too long or too much; files not ours to write must not change.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuzz.mutate import Mutant

OLD = b"the result of an earlier run"
PAGE = os.sysconf("SC_PAGE_SIZE")
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one file may take. seconds: of the processor; wall: of the clock, on a machine that does other things too.
    bytes: resident, imports included. budget: seconds that the verification is given."""

    seconds: float = 10.0
    wall: float = 60.0
    bytes: int = 1 << 30
    budget: float = 4.0


@dataclass
class Outcome:
    """What became of a file.

    status: "ok"; "refused" (error: its class); or a fault: "crash" (a signal), "hang", "memory", "internal" (an
    exception that is not ours), "wrong" (the result differs from the original), "rude" (not one line, a wrong exit
    code, or something changed on the disk). message: the error, or what is wrong. verdict: of the numeric comparison.
    """

    number: int
    origin: str
    kind: str
    size: int
    status: str = "ok"
    error: str = ""
    message: str = ""
    stage: str = ""
    verdict: str = ""
    seconds: float = 0.0
    peak: int = 0

    @property
    def is_fault(self) -> bool:
        """Whether this should not have happened."""
        return self.status not in ("ok", "refused")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def warm_up() -> None:
    """Imports what a run imports, so that forked processes need not."""
    import onnx.reference
    import onnxruntime
    import sympy

    import graphopt.api
    import graphopt.cli._run
    import graphopt.passes.registry
    import graphopt.verify
    from graphopt.cli import _app

    _app.build()
    graphopt.passes.registry.names()
    assert onnx.reference
    assert onnxruntime
    assert sympy
    assert graphopt.verify
    gc.collect()
    gc.freeze()


def run(mutant: Mutant, limits: Limits | None = None, both: bool = False) -> Outcome:
    """Optimizes the file in a process of its own. both: use the command line even where the API is content."""
    limits = limits or Limits()
    outcome = Outcome(mutant.number, mutant.origin, mutant.kind, len(mutant.data))
    with tempfile.TemporaryDirectory(prefix="graphopt-fuzz-") as place:
        folder = Path(place, "work")
        lay_out(folder, mutant.data)
        before = snapshot(folder)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _in_child(folder, writing, limits, both)
        os.close(writing)
        told = _watch(child, reading, limits, outcome)
        if not outcome.is_fault:
            _judge(outcome, told, folder, before)
    return outcome


def lay_out(folder: Path, data: bytes) -> None:
    """A model, with things around it that it may point to and that must not change."""
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "out.onnx").write_bytes(OLD)
    (folder / "weights.bin").write_bytes(bytes(4096))
    (folder / "sub" / "weights.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder, with a digest of each file's content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else "other"
    return found


# -- in the process of one file ----------------------------------------------------------------------------------------


def _in_child(folder: Path, writing: int, limits: Limits, both: bool) -> None:
    """Never returns."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the parent
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))  # the machine's, not the file's
        os.chdir(folder)
        sink = os.open(folder.parent / "noise", os.O_WRONLY | os.O_CREAT)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        temporary = folder.parent / "tmp"
        temporary.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
        with os.fdopen(writing, "w", buffering=1) as pipe:
            _work(pipe, limits, both)
    finally:
        os._exit(0)


def _work(pipe: Any, limits: Limits, both: bool) -> None:
    def tell(**facts: Any) -> None:
        pipe.write(json.dumps(facts) + "\n")

    tell(stage="api")
    error = ""
    try:
        from graphopt.api import optimize_file

        report = optimize_file("model.onnx", "out.onnx", verify_budget=limits.budget)
        tell(verdict=report.verification.status, unchecked=report.verification.unchecked[:3])
        Path("out.onnx").write_bytes(OLD)
        Path("out.onnx.data").unlink(missing_ok=True)
    except BaseException as problem:
        error = _describe(problem, tell)
    if error or both:
        shutil.rmtree("out.onnx.repro", ignore_errors=True)
        tell(stage="cli")
        from graphopt.cli import main

        out, err = io.StringIO(), io.StringIO()
        args = ["optimize", "model.onnx", "-o", "out.onnx", "--verify-budget", str(limits.budget)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(args)
        tell(code=code, out=out.getvalue()[-2000:], err=err.getvalue()[-4000:])
    tell(stage="done", peak=_peak())


def _describe(problem: BaseException, tell: Any) -> str:
    from graphopt.errors import GraphoptError

    name = type(problem).__name__
    ours = isinstance(problem, GraphoptError)
    tell(error=name, ours=ours, message=str(problem)[:2000], trace="" if ours else traceback.format_exc()[-3000:])
    return name


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


# -- beside it ---------------------------------------------------------------------------------------------------------


def _watch(child: int, reading: int, limits: Limits, outcome: Outcome) -> dict[str, Any]:
    """Reads what the process tells until it ends, or ends it."""
    told: dict[str, Any] = {}
    buffer = b""
    began = stage_began = time.monotonic()
    cpu_before = 0.0
    os.set_blocking(reading, False)
    killed = ""
    while True:
        ready = select.select([reading], [], [], 0.02)[0]
        if ready:
            piece = os.read(reading, 1 << 16)
            if not piece:
                break
            buffer += piece
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                facts = json.loads(line)
                if "stage" in facts:
                    stage_began, cpu_before = time.monotonic(), _cpu(child)
                told.update(facts)
        resident = _resident(child)
        outcome.peak = max(outcome.peak, resident)
        if resident > limits.bytes:
            killed = "memory"
        elif time.monotonic() - stage_began > limits.wall or _cpu(child) - cpu_before > limits.seconds:
            killed = "hang"
        if killed:
            os.kill(child, signal.SIGKILL)
            break
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    outcome.seconds = time.monotonic() - began
    outcome.stage = told.get("stage", "")
    outcome.peak = max(outcome.peak, told.get("peak", 0), usage.ru_maxrss << 10 if killed else 0)
    if killed:
        outcome.status, outcome.message = killed, f"in stage {outcome.stage}"
    elif os.WIFSIGNALED(status):
        outcome.status = "crash"
        outcome.error = signal.Signals(os.WTERMSIG(status)).name
        outcome.message = f"in stage {outcome.stage}"
    elif told.get("stage") != "done":
        outcome.status, outcome.message = "crash", f"ended in stage {outcome.stage}, exit code {status >> 8}"
    elif outcome.peak > limits.bytes:
        outcome.status, outcome.message = "memory", f"{outcome.peak / MEGABYTE:.0f} MB at its peak"
    return told


def _resident(child: int) -> int:
    try:
        with open(f"/proc/{child}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _cpu(child: int) -> float:
    try:
        with open(f"/proc/{child}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def _judge(outcome: Outcome, told: dict[str, Any], folder: Path, before: dict[str, str]) -> None:
    outcome.verdict = told.get("verdict", "")
    if outcome.verdict and told.get("unchecked"):
        outcome.message = told["unchecked"][0]
    if "error" in told:
        outcome.status, outcome.error, outcome.message = "refused", told["error"], told["message"]
        if not told["ours"]:
            outcome.status, outcome.message = "internal", f"{told['message']}\n{told['trace']}"
        elif told["error"] == "VerificationError":
            outcome.status = "wrong"
    if "code" in told and outcome.status in ("ok", "refused"):
        fault = _manners(told, refused=outcome.status == "refused")
        if fault:
            outcome.status, outcome.message = "rude", f"{fault}: {told['err'] or told['out']!r}"
    fault = _changes(before, snapshot(folder), refused=outcome.status == "refused")
    left = [p.name for p in (folder.parent / "tmp").iterdir() if p.name != ".ses"]
    if left:
        fault = f"temporary files were left: {left}"
    if fault and not outcome.is_fault:
        outcome.status, outcome.message = "rude", fault


def _manners(told: dict[str, Any], refused: bool) -> str:
    """What is wrong with the command line's answer."""
    lines = [line for line in told["err"].splitlines() if not line.startswith(("graphopt: ", "warning: "))]
    if not refused:
        return "" if told["code"] == 0 and not lines else f"exit code {told['code']} where the API was content"
    if told["code"] != 2:
        return f"exit code {told['code']}"
    if len(lines) != 1 or not lines[0].startswith("error: ") or "internal error" in lines[0]:
        return f"{len(lines)} lines"
    if len(lines[0]) > 2000:
        return f"a line of {len(lines[0])} characters"
    return "" if lines[0].isprintable() else "control characters"


def _changes(before: dict[str, str], after: dict[str, str], refused: bool) -> str:
    for name in before.keys() | after.keys():
        written = not refused and name in ("out.onnx", "out.onnx.data")
        if before.get(name) != after.get(name) and not written and not name.startswith("out.onnx.repro"):
            return f"{name} was {'changed' if name in before and name in after else 'left or removed'}"
    return ""


@dataclass
class Campaign:
    """All outcomes of a run, and what is told of them."""

    seed: int
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def faults(self) -> list[Outcome]:
        """What should not have happened."""
        return [outcome for outcome in self.outcomes if outcome.is_fault]

    def counts(self) -> dict[str, int]:
        """How many of each status."""
        found = dict.fromkeys(("ok", "refused", "crash", "hang", "memory", "internal", "wrong", "rude"), 0)
        for outcome in self.outcomes:
            found[outcome.status] += 1
        return found


def sequence(seed: int, numbers: range, limits: Limits | None = None, every: int = 8) -> Iterator[Outcome]:
    """The outcomes of some files of a campaign, in this process and its children."""
    from fuzz.mutate import mutant

    warm_up()
    for number in numbers:
        yield run(mutant(seed, number), limits, both=number % every == 0)


if __name__ == "__main__":  # python -m fuzz.runner SEED FIRST STOP STEP: what benchmarks/fuzz.py starts
    seed_, first, stop, step = map(int, sys.argv[1:5])
    for result in sequence(seed_, range(first, stop, step)):
        sys.stdout.write(json.dumps(result.to_dict()) + "\n")
        sys.stdout.flush()
