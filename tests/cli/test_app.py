"""Help, version, exit codes, and that errors are one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import graphopt as package
from graphopt.cli import _ui
from graphopt.errors import VerificationError

COMMANDS = ("fuse", "optimize", "verify", "bisect", "inspect", "explain", "passes")


def test_no_arguments_print_the_help(graphopt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = graphopt()
    assert result.code == 0
    assert result.err == ""
    assert all(f"  {command} " in result.out for command in COMMANDS)
    assert "..." not in result.out.partition("Commands:")[2]  # no summary is cut


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_exit_codes_and_fits_80_columns(graphopt, command, flag, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = graphopt(command, flag)
    assert result.code == 0
    assert "Examples:\n" in result.out
    assert "Exit codes:" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_version(graphopt):
    assert graphopt("--version").out == f"graphopt {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "No such command"),
        (["fuse", "--target", "abacus", "m.onnx"], "'abacus'"),
        (["fuse", "--verify-budget", "-1", "m.onnx"], "'--verify-budget'"),
        (["optimize"], "Missing argument 'MODEL'"),
        (["fuse"], "no MODEL given"),
        (["fuse", "m.onnx", "--demo"], "--demo brings its own model"),
        (["inspect", "m.onnx", "--dim", "batch"], "--dim 'batch' is not NAME=SIZE"),
        (["inspect", "absent.onnx"], "absent.onnx"),
        (["verify", "absent.onnx", "absent.onnx"], "absent.onnx"),
        (["passes", "fuse-conv-bm"], "unknown pass 'fuse-conv-bm'"),
        (["fuse", "m.onnx", "--inputs", "absent.npz"], "absent.npz"),
        (["fuse", "m.onnx", "--load", "absent.py"], "absent.py"),
        (["fuse", "m.onnx", "-o", "no/such/folder/out.onnx"], "does not exist"),
        (["fuse", "m.onnx", "--report", "no/such/folder/out.json"], "does not exist"),
        (["fuse", "m.onnx", "-o", "out.json", "--report", "out.json"], "different names"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(graphopt, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = graphopt(*args)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (VerificationError("output 'y' differs\nby 3"), 1, "error: output 'y' differs by 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 2, "error: out of memory"),
        (OSError(28, "No space left on device", "out.onnx"), 2, "error: No space left on device: out.onnx\n"),
        (AssertionError("oops"), 2, "error: internal error, please report it: AssertionError: oops"),
    ],
)
def test_exit_code_and_line_of_each_error(capsys, error, code, text):
    def fail(args: list[str]) -> int:
        raise error

    assert _ui.guarded(fail, []) == code
    assert capsys.readouterr().err.startswith(text)
    if isinstance(error, Exception):
        assert _ui.guarded(fail, ["--debug"]) == code
        lines = capsys.readouterr().err
        assert lines.startswith("Traceback ")
        assert text.split("\n")[0] in lines


@pytest.mark.parametrize("flags", [["-u"], []], ids=["unbuffered", "buffered"])
@pytest.mark.parametrize("args", [["inspect", "net.onnx"], ["--help"], ["fuse", "--help"], ["passes"], ["--version"]])
def test_output_into_a_closed_pipe_is_no_error(model, monkeypatch, args, flags):
    monkeypatch.chdir(model.parent)
    command = [sys.executable, *flags, "-m", "graphopt", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_a_name_that_the_terminal_cannot_spell_is_no_error(model):
    command = [sys.executable, "-m", "graphopt", "inspect", str(model)]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_module_and_command_are_the_same(model):
    outputs = [
        subprocess.run([*command, "inspect", str(model), "--json"], capture_output=True, check=True).stdout
        for command in ([sys.executable, "-m", "graphopt"], [str(Path(sys.executable).with_name("graphopt"))])
    ]
    assert outputs[0] == outputs[1]


HEAVY = "onnxruntime, sympy, torch, rich, onnx, numpy, tensorrt, onnx.reference"


@pytest.mark.parametrize("args", [["--help"], ["fuse", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args):
    code = f"""
import sys
from graphopt.cli import main
main({args})
print([name for name in {HEAVY.split(", ")} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_inspect_imports_no_runtime(model):
    code = f"""
import sys
from graphopt.cli import main
main(["inspect", {str(model)!r}])
print([name for name in ("onnxruntime", "sympy", "torch", "onnx.reference") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
