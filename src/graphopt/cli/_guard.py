"""The command line's supervisor: a small parent process that outlives a crash of the libraries which do the work.

A model can make native code end the process: a failed assertion in shape inference, a segmentation fault in a kernel,
the system short of memory. The work is therefore done in a child, forked before anything heavy is imported; when it
dies of a signal, the parent says so in one line, removes what was half written, and exits with 2. What the child is at,
it tells through a page of shared memory. Systems without `fork` work without a supervisor, and so does everything with
``GRAPHOPT_SUPERVISE=0`` (for debuggers and profilers).
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["about", "note", "supervised"]

_BOARD = 1 << 16  # bytes shared with the child
_PATIENCE = 0.3  # seconds until an interrupt is passed on: a terminal sends it to both processes
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class _Board:
    """What the child tells: stage, model, outputs, code (once it is known), why (it ended itself)."""

    def __init__(self) -> None:
        self.page: mmap.mmap | None = None  # only in a child that is supervised
        self.facts: dict[str, Any] = {}
        self.tied = False

    def write(self, **facts: Any) -> None:
        """Adds to what was told."""
        if self.page is None:
            return
        if not self.tied:
            self.tied = True
            _die_with_parent()
        self.facts.update(facts)
        text = json.dumps(self.facts).encode()
        if len(text) < _BOARD - 4:
            self.page[4 : 4 + len(text)] = text
            self.page[:4] = len(text).to_bytes(4, "little")


_CHILD = _Board()


def note(stage: str) -> None:
    """Tells the supervisor, if there is one, what is being done."""
    if _CHILD.page is not None and _CHILD.facts.get("stage") != stage:
        _CHILD.write(stage=stage)
        if stage == "verify":
            from graphopt.verify.limits import on_stuck

            on_stuck[:] = [_give_up]


def _give_up(why: str) -> None:
    """Ends the child, from whichever thread, where nothing else can stop what it does."""
    _CHILD.write(why=why)
    os.kill(os.getpid(), signal.SIGKILL)


def about(model: Path, outputs: Sequence[Path | None]) -> None:
    """Tells the supervisor, if there is one, which model this is about and which files will be written."""
    _CHILD.write(model=str(model), outputs=[os.path.abspath(path) for path in outputs if path is not None])


def supervised(work: Callable[[], int]) -> int:
    """Does `work` in a child process and returns its exit code, or 2 when the child crashed."""
    if not hasattr(os, "fork") or os.environ.get("GRAPHOPT_SUPERVISE") == "0":
        return work()
    page = mmap.mmap(-1, _BOARD)
    reading, writing = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)  # the other end stays open as long as this process lives
        _CHILD.page = page
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt_once)
        code = work()
        _CHILD.write(code=code)
        return code
    os.close(writing)
    return _Parent(child, reading, page).wait()


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Interrupts; another interrupt must not disturb the cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _die_with_parent() -> None:
    """A parent that is killed without mercy takes the child along (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


class _Parent:
    """Waits for the child, and passes signals on to it."""

    def __init__(self, child: int, alive: int, page: mmap.mmap) -> None:
        self.child, self.alive, self.page = child, alive, page
        self.interrupts = 0
        self.forward_at = 0.0
        self.forwarded = 0
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
        for name in _FORWARDED:
            number = getattr(signal, name)
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._forward)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """The first is the child's to handle; who insists has the child killed."""
        self.interrupts += 1
        self.forward_at = time.monotonic() + _PATIENCE
        if self.interrupts > 1:
            os.kill(self.child, signal.SIGKILL)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.forwarded = number
        os.kill(self.child, number)

    def wait(self) -> int:
        """The exit code of it all."""
        while True:
            seconds = max(0.0, self.forward_at - time.monotonic()) if self.forward_at else 1.0
            try:
                ended = bool(select.select([self.alive], [], [], seconds)[0])
            except InterruptedError:
                ended = False
            done, status = os.waitpid(self.child, 0 if ended else os.WNOHANG)
            if done:
                break
            if self.forward_at and time.monotonic() >= self.forward_at:
                self.forward_at = 0.0
                os.kill(self.child, signal.SIGINT)  # not from a terminal, then: nobody else has told it
        return self._conclude(status)

    def _conclude(self, status: int) -> int:
        if not os.WIFSIGNALED(status):
            return os.WEXITSTATUS(status)
        facts = self._facts()
        number = os.WTERMSIG(status)
        if isinstance(facts.get("code"), int):  # it was done; libraries may crash when they are unloaded
            return int(facts["code"])
        _clean_up(self.child, facts.get("outputs", []))
        if number == self.forwarded:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        from graphopt.cli._ui import fail, interrupted

        if self.interrupts or number == signal.SIGINT:
            return interrupted()
        return fail(_message(facts, number), 2)

    def _facts(self) -> dict[str, Any]:
        size = int.from_bytes(self.page[:4], "little")
        try:
            found = json.loads(self.page[4 : 4 + size])
        except ValueError:  # it died while it wrote
            return {}
        return found if isinstance(found, dict) else {}


def _message(facts: dict[str, Any], number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    stage, model = facts.get("stage", ""), facts.get("model", "")
    where = (f"{model}: " if model else "") + (f"in stage {stage!r} " if stage else "")
    if facts.get("why"):
        return f"{where}{facts['why']}; nothing was written. Try --verify check, which runs nothing"
    if number == signal.SIGKILL:
        return (
            f"{where}the process was killed, most likely because the system ran out of memory; nothing was written. "
            "Try --verify check, or more memory"
        )
    hint = "Try --verify check, which runs nothing" if stage == "verify" else "Try fewer passes (see `graphopt passes`)"
    return f"{where}a library that graphopt uses crashed ({name}); nothing was written. {hint}, and report the model"


def _clean_up(child: int, outputs: list[str]) -> None:
    """Removes what a process that died had half written: see `graphopt.ir.writing` for the names."""
    import shutil
    import tempfile

    for output in outputs:
        folder, name = os.path.split(output)
        model, data = (
            [path for path in _listed(folder) if path.name.startswith(f"{begun[:48]}.{child}-")]
            for begun in (name, f"{name}.data")
        )
        begun = any(path.suffix == ".part" for path in model)  # so the model is still the old one
        for path in {*model, *data}:
            if path.suffix == ".part":
                path.unlink(missing_ok=True)
            elif path.suffix == ".old" and begun:
                path.replace(f"{output}.data")
            elif path.suffix == ".old":
                path.unlink(missing_ok=True)
    for path in _listed(tempfile.gettempdir()):
        if path.name.startswith(f"graphopt-verify-{child}-"):
            shutil.rmtree(path, ignore_errors=True)


def _listed(folder: str) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError:
        return []
