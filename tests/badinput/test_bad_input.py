"""Bad input: one clear error on one line, exit code 2, and nothing on the disk has changed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from badinput.files import BAD, external, good, put

OLD = b"the result of an earlier run"


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder: its kind, and a file's content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "file" if path.is_file() else "other"
        content = path.read_bytes() if kind == "file" else b""
        found[str(path.relative_to(folder))] = f"{kind} {hashlib.sha256(content).hexdigest()}"
    return found


FULL_DISK = (
    "import resource, runpy, sys; size = int(sys.argv.pop(1)); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); "
    "runpy.run_module('graphopt', run_name='__main__', alter_sys=True)"
)
"""Runs graphopt where no file may grow beyond a size: a full disk, as far as a program can tell."""


def run(folder: Path, *args: str | Path, limit: int = 0) -> subprocess.CompletedProcess[str]:
    """`python -m graphopt` with these arguments, in `folder`, with a temporary folder of its own beside it."""
    temporary = folder.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    env = {
        **os.environ,
        "TMPDIR": str(temporary),
        "COLUMNS": "60",
        "PYTHONWARNINGS": "default,ignore::DeprecationWarning:typer",
    }
    start = ["-c", FULL_DISK, str(limit)] if limit else ["-m", "graphopt"]
    command = [sys.executable, *start, *map(str, args)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    left = [p.name for p in temporary.iterdir() if p.name != ".ses"]  # ONNX Runtime's own, on import
    assert left == [], "temporary files were left"
    return done


def assert_refused(folder: Path, args: list[str | Path], words: tuple[str, ...], *, limit: int = 0) -> None:
    before = snapshot(folder)
    done = run(folder, *args, limit=limit)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    progress = "graphopt: "  # lines of this kind come after a second of work
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(progress)]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[0].startswith("error: "), lines[0]
    for word in words:
        assert word in lines[0], f"the message does not name {word}: {lines[0]}"
    assert re.search(r"[;?]|see --help", lines[0]), f"the message does not say what to do: {lines[0]}"
    assert snapshot(folder) == before, "something on the disk has changed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    (path / "out.onnx").write_bytes(OLD)
    return path


@pytest.mark.parametrize("name", BAD)
def test_bad_file_on_the_command_line(name: str, folder: Path) -> None:
    source = BAD[name].make(folder)
    assert_refused(folder, ["fuse", source, "-o", "out.onnx"], BAD[name].words)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("verify", ["off", "numeric"])
def test_bad_file_in_the_api(name: str, verify: str, folder: Path) -> None:
    import graphopt

    source = BAD[name].make(folder)
    before = snapshot(folder)
    with pytest.raises(getattr(graphopt, BAD[name].error)) as caught:
        graphopt.optimize_file(source, folder / "out.onnx", verify=verify)
    assert isinstance(caught.value, graphopt.GraphoptError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    with pytest.raises(graphopt.GraphoptError):
        graphopt.optimize(source, verify=verify)
    assert snapshot(folder) == before


IN_MEMORY = (
    "cycle", "node_that_reads_itself", "undefined_input", "undefined_graph_output", "undefined_name_in_a_body",
    "value_defined_twice", "initializer_defined_twice", "unknown_operator", "operator_of_a_later_opset",
    "function_that_calls_itself", "functions_that_call_each_other", "tensor_shorter_than_its_dims",
    "model_without_a_graph",
)  # fmt: skip


@pytest.mark.parametrize("name", IN_MEMORY)
def test_bad_model_in_memory(name: str, folder: Path) -> None:
    """The same errors where there is no file to name; the caller's model stays as it was."""
    import graphopt

    model = onnx.load(BAD[name].make(folder))
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(graphopt.GraphoptError) as caught:
        graphopt.optimize(model)
    assert all(word in str(caught.value) for word in BAD[name].words if word != "model.onnx")
    assert model.SerializeToString(deterministic=True) == before


USAGE: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown_pass": (["--passes", "fuse-conv-bm"], ("fuse-conv-bm",)),
    "unknown_pass_among_others": (["--passes", "cleanup,nothing-like-it,fuse"], ("nothing-like-it",)),
    "unknown_option_of_a_pass": (["--passes", "fold-constants{colour=8}"], ("colour", "fold-constants")),
    "option_of_a_wrong_type": (["--passes", "fold-constants{max_bytes=many}"], ("fold-constants",)),
    "unbalanced_braces": (["--passes", "fold-constants{max_bytes=8"], ("fold-constants{max_bytes=8",)),
    "empty_pipeline_item": (["--passes", "cleanup,,fuse"], ("cleanup,,fuse",)),
    "bad_target": (["--target", "abacus"], ("abacus", "onnxruntime")),
    "bad_verify": (["--verify", "hope"], ("hope", "numeric")),
    "bad_budget": (["--verify-budget", "soon"], ("--verify-budget",)),
    "unknown_option": (["--fsat"], ("--fsat",)),
    "missing_inputs_file": (["--inputs", "sample.npz"], ("sample.npz",)),
    "missing_pass_file": (["--load", "mine.py"], ("mine.py",)),
    "report_in_a_missing_folder": (["--report", "nowhere/report.json"], ("nowhere",)),
    "report_over_the_model": (["--report", "model.onnx"], ("model.onnx",)),
    "report_over_the_output": (["--report", "out.onnx"], ("out.onnx",)),
}


@pytest.mark.parametrize("name", USAGE)
def test_bad_usage(name: str, folder: Path) -> None:
    source = put(folder, good())
    options, words = USAGE[name]
    assert_refused(folder, ["fuse", source, "-o", "out.onnx", *options], words)


def test_bad_arguments_of_the_api(folder: Path) -> None:
    import graphopt

    model = good()
    for options, word in (
        ({"passes": "nothing"}, "nothing"),
        ({"target": "abacus"}, "abacus"),
        ({"verify": "hope"}, "hope"),
    ):
        with pytest.raises(graphopt.GraphoptError, match=word):
            graphopt.optimize(model, **options)
    with pytest.raises(graphopt.UnknownPassError):
        graphopt.optimize(model, "fuse-conv-bm")
    with pytest.raises(graphopt.GraphoptError):
        graphopt.optimize(model, inputs={"nobody": onnx.numpy_helper.to_array(model.graph.initializer[0])})


def test_no_arguments_and_unknown_command(folder: Path) -> None:
    assert_refused(folder, ["fuse"], ("MODEL",))
    assert_refused(folder, ["fudge", "model.onnx"], ("fudge",))


BAD_OUTPUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "folder_that_does_not_exist": ("nowhere/out.onnx", ("nowhere",)),
    "folder_itself": ("sub", ("sub",)),
    "below_a_file": ("model.onnx/out.onnx", ("model.onnx",)),
    "input_itself": ("model.onnx", ("model.onnx",)),
    "input_by_another_spelling": ("sub/../model.onnx", ("model.onnx",)),
    "input_by_a_link": ("link.onnx", ("link.onnx",)),
    "input_by_a_hard_link": ("hard.onnx", ("hard.onnx",)),
    "external_data_of_the_input": ("weights.bin", ("weights.bin",)),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
@pytest.mark.parametrize("way", ["command line", "api"])
def test_bad_output(name: str, way: str, folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(64 * 64 * 4))
    source = external(folder, "weights.bin")
    (folder / "sub").mkdir()
    (folder / "link.onnx").symlink_to("model.onnx")
    os.link(source, folder / "hard.onnx")
    target, words = BAD_OUTPUTS[name]
    if way == "command line":
        assert_refused(folder, ["fuse", source, "-o", target], words)
        return
    import graphopt

    before = snapshot(folder)
    with pytest.raises(graphopt.OutputError):
        graphopt.optimize_file(source, folder / target)
    assert snapshot(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_that_may_not_be_written(folder: Path) -> None:
    source = put(folder, good())
    (folder / "sub").mkdir(mode=0o500)
    assert_refused(folder, ["fuse", source, "-o", "sub/out.onnx"], ("sub",))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that even root cannot write")
def test_output_folder_that_nobody_can_write(folder: Path) -> None:
    source = put(folder, good())
    assert_refused(folder, ["fuse", source, "-o", "/proc/self/out.onnx"], ("/proc/self/out.onnx",))


@pytest.mark.parametrize("verify", ["off", "numeric"])
def test_full_disk(verify: str, folder: Path) -> None:
    """1 MiB of weights, and room for 100 KiB: the earlier result is still there, and no half of a new one."""
    source = put(folder, good(512))
    args: list[str | Path] = ["fuse", source, "-o", "out.onnx", "--verify", verify]
    assert_refused(folder, args, ("out.onnx",), limit=100 * 1024)


def test_full_disk_with_external_data(folder: Path) -> None:
    model = good(512)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "sub").mkdir()
    args: list[str | Path] = ["fuse", "model.onnx", "-o", "sub/out.onnx", "--verify", "off"]
    assert_refused(folder, args, ("sub",), limit=100 * 1024)


def test_full_disk_for_the_report(folder: Path) -> None:
    """The report comes last; without room for it the exit code says so, and the report of before is intact."""
    source = put(folder, good(4))
    (folder / "report.json").write_bytes(OLD)
    done = run(folder, "fuse", source, "-o", "new.onnx", "--report", "report.json", "--verify", "off", limit=300)
    assert done.returncode == 2, done.stderr
    assert (folder / "report.json").read_bytes() == OLD
    assert not [p for p in folder.iterdir() if p.name not in {"model.onnx", "out.onnx", "new.onnx", "report.json"}]


def test_the_good_model_is_good(folder: Path) -> None:
    """The files that the bad ones were made from pass, so that the errors are about what was made bad."""
    done = run(folder, "fuse", put(folder, good()), "-o", "out.onnx")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    (folder / "weights.bin").write_bytes(bytes(64 * 64 * 4))
    done = run(folder, "fuse", external(folder, "weights.bin"), "-o", "out.onnx")
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(str(folder / "out.onnx"))
