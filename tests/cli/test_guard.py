"""The command line's supervisor: crashes end in one line, signals and exit codes go through, nothing half is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the supervisor needs fork")

WORK = """
import os, signal, sys, time
from graphopt.cli import _guard

def work():
    {body}
    return 7

sys.exit(_guard.supervised(work))
"""


def start(body: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    code = WORK.format(body="\n    ".join(body.splitlines()))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    variables = {**os.environ, "TMPDIR": str(folder), **env}
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, text=True, env=variables, **pipes)


def run(body: str, folder: Path, **env: str) -> tuple[int, str, str]:
    process = start(body, folder, **env)
    out, err = process.communicate("given\n", timeout=60)
    return process.returncode, out, err


def test_the_exit_code_and_the_streams_are_those_of_the_work(tmp_path: Path) -> None:
    code, out, err = run("print(input()); print('warned', file=sys.stderr)", tmp_path)
    assert (code, out, err) == (7, "given\n", "warned\n")


def test_system_exit_goes_through(tmp_path: Path) -> None:
    assert run("sys.exit(3)", tmp_path)[0] == 3


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGFPE", "SIGBUS"])
def test_a_crash_ends_in_one_line(name: str, tmp_path: Path) -> None:
    body = f"_guard.about('net.onnx', []); _guard.note('fold-constants')\nos.kill(os.getpid(), signal.{name})"
    code, out, err = run(body, tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: net.onnx: in stage 'fold-constants' ")
    assert name in err


def test_running_out_of_memory_is_called_that(tmp_path: Path) -> None:
    code, _, err = run("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert code == 2
    assert "out of memory" in err


def test_half_written_files_of_a_crashed_child_are_removed(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"old")
    (tmp_path / "out.onnx.1-abc.part").write_bytes(b"of another process")
    body = """
import tempfile
from graphopt.ir.writing import replacing
_guard.about("net.onnx", [__import__("pathlib").Path("out.onnx")])
os.mkdir(os.path.join(tempfile.gettempdir(), f"graphopt-verify-{os.getpid()}-x"))
with replacing("out.onnx.data") as data, replacing("out.onnx") as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGSEGV)
"""
    assert run(body, tmp_path)[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.1-abc.part"]
    assert (tmp_path / "out.onnx").read_bytes() == b"old"


def test_a_crash_after_the_work_is_done_changes_nothing(tmp_path: Path) -> None:
    """Libraries crash when they are unloaded: the result stands."""
    body = "import atexit\natexit.register(os.abort)"
    assert run(body, tmp_path)[0] == 7
    assert run(body, tmp_path)[2] == ""


def test_an_operator_that_does_not_stop_ends_the_child(tmp_path: Path) -> None:
    body = """
from graphopt.verify import limits
limits.PATIENCE = 0.2
_guard.note("verify")
with limits.Watch(lambda: None, 0.1, 1 << 40):
    time.sleep(60)
"""
    code, out, err = run(body, tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "in stage 'verify' one operator went on" in err


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


SLEEP = """
from graphopt.cli._ui import guarded
def sleep(args):
    open("ready", "w").close()
    time.sleep(60)
    return 0
_guard.note("verify")
return guarded(sleep, [])
"""


@pytest.mark.parametrize("everybody", [True, False])
def test_an_interrupt_ends_it_once(everybody: bool, tmp_path: Path) -> None:
    """Sent to both processes, as terminals do, or to the parent alone."""
    code = WORK.format(body="\n    ".join(SLEEP.splitlines()))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for(tmp_path / "ready")
    if everybody:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    assert (process.returncode, err) == (130, "interrupted\n")


def test_who_insists_is_obeyed(tmp_path: Path) -> None:
    body = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nopen('ready', 'w').close()\ntime.sleep(60)"
    process = start(body, tmp_path)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    assert (process.returncode, err) == (130, "interrupted\n")


def test_terminate_is_passed_on(tmp_path: Path) -> None:
    process = start(SLEEP, tmp_path)
    wait_for(tmp_path / "ready")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a signal on the parent's death")
def test_the_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    process = start(SLEEP, tmp_path)
    wait_for(tmp_path / "ready")
    process.kill()
    process.communicate(timeout=20)  # would wait for the child, which holds the pipes


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    body = "print(os.getppid())"
    code, out, _ = run(body, tmp_path, GRAPHOPT_SUPERVISE="0")
    assert (code, int(out)) == (7, os.getpid())
    assert int(run(body, tmp_path)[1]) != os.getpid()


def test_the_command_line_is_supervised(tmp_path: Path, model: Path) -> None:
    """A crash in the middle of a real run: the result of an earlier one is still there."""
    (tmp_path / "out.onnx").write_bytes(b"old")
    passes = tmp_path / "crash.py"
    passes.write_text(
        "import os\nimport graphopt\n\n"
        "class Crash(graphopt.Pass):\n    name = 'crash'\n\n"
        "    def run(self, model, ctx):\n        os.abort()\n"
    )
    command = [sys.executable, "-m", "graphopt", "fuse", str(model), "-o", "out.onnx", "--load", str(passes)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("graphopt: ")]  # progress, when slow
    assert line.startswith(f"error: {model}: in stage 'crash' ")
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"crash.py", "net.onnx", "out.onnx"}
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
