"""What is written goes by the output's name alone, never over what the input needs, and all of it or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.security.util import W, assert_refused, external, graphopt, net, run, snapshot, whole

import graphopt as package
from graphopt import OutputError
from graphopt.ir import files, load, save, writing

OLD = b"the result of an earlier run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    (path / "w.bin").write_bytes(W.tobytes())
    return path


def changed(folder: Path, before: dict[str, str]) -> set[str]:
    after = snapshot(folder)
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


# -- where -------------------------------------------------------------------------------------------------------------

NAMES = ["../evil", "/tmp/graphopt_evil", "evil\0", "evil/../../x", "~/evil", "C:\\evil", "evil\n", "x" * 300, "", "."]


@pytest.mark.parametrize("name", NAMES, ids=lambda text: repr(text)[:16])
def test_names_in_a_model_are_no_names_of_files(folder: Path, name: str) -> None:
    """Graph, node, tensor, function names, domains, metadata: none becomes a path."""
    model = net()
    graph = model.graph
    graph.name = graph.doc_string = model.producer_name = model.domain = model.doc_string = name
    for node in graph.node:
        node.name = node.doc_string = name
    model.metadata_props.add(key=name, value=name)
    graph.initializer[0].name = graph.node[0].input[1] = f"w{name}"
    graph.initializer[0].doc_string = name
    model.opset_import.append(onnx.helper.make_opsetid(f"d{name}", 1))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    before = snapshot(folder.parent)
    package.optimize_file(folder / "m.onnx", folder / "out.onnx")
    assert changed(folder.parent, before) == {"work/out.onnx"}


def test_elsewhere_two_files_are_written(folder: Path, tmp_path: Path) -> None:
    external(folder, "w.bin")
    (tmp_path / "out").mkdir()
    before = snapshot(tmp_path)
    package.optimize_file(folder / "model.onnx", tmp_path / "out" / "m.onnx")
    assert changed(tmp_path, before) == {"out/m.onnx", "out/m.onnx.data"}


def test_a_failed_verification_writes_the_repro_only(folder: Path) -> None:
    source = folder / "m.onnx"
    source.write_bytes(net().SerializeToString())
    (folder / "wrong.py").write_text(
        "from graphopt import rule\nfrom graphopt.rewrite import P\n"
        "@rule('wrong', P.Relu('x').as_('n'))\ndef wrong(m, new):\n    return new.Sigmoid(m.x)\n"
    )
    before = snapshot(folder)
    done = graphopt(folder, "fuse", "m.onnx", "-o", "out.onnx", "--load", "wrong.py", "--passes", "wrong")
    assert done.returncode == 1, done.stderr
    assert all(name.startswith(("out.onnx.repro", "__pycache__")) for name in changed(folder, before))


def test_a_repro_does_not_overwrite_what_the_input_needs(folder: Path) -> None:
    """A model can call its data file what a repro would call its first model."""
    (folder / "out.onnx.repro").mkdir()
    (folder / "out.onnx.repro" / "before.onnx").write_bytes(W.tobytes())
    external(folder, "out.onnx.repro/before.onnx", name="m.onnx")
    (folder / "wrong.py").write_text(
        "from graphopt import rule\nfrom graphopt.rewrite import P\n"
        "@rule('wrong', P.Relu('x').as_('n'))\ndef wrong(m, new):\n    return new.Sigmoid(m.x)\n"
    )
    before = snapshot(folder)
    done = graphopt(folder, "fuse", "m.onnx", "-o", "out.onnx", "--load", "wrong.py", "--passes", "wrong")
    assert done.returncode == 1, done.stderr
    assert not changed(folder, before) & set(before)


# -- never over the input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["w.bin", "sub/../w.bin", "link.bin", "hard.bin", "sub/up/w.bin"])
def test_the_output_is_not_a_data_file(folder: Path, target: str) -> None:
    external(folder, "w.bin")
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to("..", target_is_directory=True)
    (folder / "link.bin").symlink_to("w.bin")
    os.link(folder / "w.bin", folder / "hard.bin")
    before = snapshot(folder)
    assert_refused(graphopt(folder, "fuse", "model.onnx", "-o", target), "w.bin" if "w.bin" in target else target)
    assert snapshot(folder) == before


@pytest.mark.parametrize("how", ["name", "link", "hard link", "through a link"])
def test_the_new_data_file_is_not_one_in_use(folder: Path, how: str) -> None:
    """The output's folder is another one, so its weights are copied to out.onnx.data, which the input uses."""
    out = folder / "sub"
    out.mkdir()
    location = "sub/out.onnx.data"
    if how == "link":
        (out / "out.onnx.data").symlink_to("../w.bin")
        location = "w.bin"
    elif how == "hard link":
        os.link(folder / "w.bin", out / "out.onnx.data")
        location = "w.bin"
    else:
        (out / "out.onnx.data").write_bytes(W.tobytes())
    if how == "through a link":
        (folder / "door").symlink_to("sub", target_is_directory=True)
        location = "door/out.onnx.data"
    external(folder, location)
    before = snapshot(folder)
    done = graphopt(folder, "fuse", "model.onnx", "-o", "sub/out.onnx", "--verify", "off")
    assert_refused(done, "out.onnx.data", "weights of this model")
    assert snapshot(folder) == before


def test_the_new_data_file_is_not_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(folder, "w.bin", name="m.onnx.data")
    before = snapshot(folder)
    model = load(folder / "m.onnx.data")
    monkeypatch.setattr(files, "LIMIT", 10)
    with pytest.raises(OutputError, match="the model itself"):
        save(model, folder / "m.onnx")
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "report",
    ["w.bin", "sub/../w.bin", "link.json", "out.onnx", "sub/../out.onnx", "out.onnx.data", "model.onnx", "hard.onnx"],
)
def test_the_report_is_no_other_file(folder: Path, report: str) -> None:
    external(folder, "w.bin")
    (folder / "sub").mkdir()
    (folder / "link.json").symlink_to("w.bin")
    os.link(folder / "model.onnx", folder / "hard.onnx")
    before = snapshot(folder)
    assert_refused(graphopt(folder, "fuse", "model.onnx", "-o", "out.onnx", "--report", report), Path(report).name)
    assert snapshot(folder) == before


def test_a_link_is_replaced_not_followed(folder: Path) -> None:
    """The file that an output's name leads to is somebody's: it stays."""
    (folder / "m.onnx").write_bytes(net().SerializeToString())
    (folder / "precious").write_bytes(OLD)
    (folder / "out.onnx").symlink_to("precious")
    package.optimize_file(folder / "m.onnx", folder / "out.onnx")
    assert not (folder / "out.onnx").is_symlink()
    assert (folder / "precious").read_bytes() == OLD


@pytest.mark.parametrize("what", ["folder", "pipe", "device"])
@pytest.mark.parametrize("name", ["out.onnx", "out.onnx.data"])
def test_what_no_file_can_replace(folder: Path, what: str, name: str) -> None:
    external(folder, "w.bin")
    out = folder / "sub"
    out.mkdir()
    if what == "folder":
        (out / name).mkdir()
    elif what == "pipe":
        os.mkfifo(out / name)
    else:
        (out / name).symlink_to("/dev/null")
    before = snapshot(folder)
    assert_refused(graphopt(folder, "fuse", "model.onnx", "-o", "sub/out.onnx", "--verify", "off"), name)
    assert snapshot(folder) == before


# -- all or nothing ----------------------------------------------------------------------------------------------------


def earlier(folder: Path) -> Path:
    """An earlier output of two files, which works."""
    out = folder / "sub"
    out.mkdir()
    model = net()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.concatenate([W, W])[:64] * 2, "w"))
    onnx.save(model, out / "out.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    return out / "out.onnx"


@pytest.mark.parametrize("fails", [0, 1, 2], ids=["keeping the old data", "the new data", "the new model"])
def test_a_rename_that_fails_leaves_both_old_files(folder: Path, fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    external(folder, "w.bin")
    target = earlier(folder)
    before, result = snapshot(folder), run(target)
    replace, calls = os.replace, [0]

    def failing(source: str, destination: str) -> None:
        calls[0] += 1
        if calls[0] == fails + 1:
            raise PermissionError(13, "Permission denied")
        replace(source, destination)

    monkeypatch.setattr(writing.os, "replace", failing)
    with pytest.raises(OutputError, match="Permission denied"):
        package.optimize_file(folder / "model.onnx", target, verify="off")
    monkeypatch.undo()
    assert snapshot(folder) == before
    np.testing.assert_array_equal(run(target), result)


def test_an_interrupt_leaves_both_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(folder, "w.bin")
    target = earlier(folder)
    before = snapshot(folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        package.optimize_file(folder / "model.onnx", target, verify="off")
    assert snapshot(folder) == before


def test_success_replaces_both_and_leaves_nothing_else(folder: Path) -> None:
    external(folder, "w.bin")
    target = earlier(folder)
    before = snapshot(folder)
    package.optimize_file(folder / "model.onnx", target)
    assert changed(folder, before) == {"sub/out.onnx", "sub/out.onnx.data"}
    np.testing.assert_allclose(run(whole(target)), run(folder / "model.onnx"), rtol=1e-5)


def test_saving_twice_the_same_bytes(folder: Path) -> None:
    external(folder, "w.bin")
    (folder / "sub").mkdir()
    package.optimize_file(folder / "model.onnx", folder / "sub" / "o.onnx", verify="off")
    first = snapshot(folder)
    package.optimize_file(folder / "model.onnx", folder / "sub" / "o.onnx", verify="off")
    assert snapshot(folder) == first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no supervisor without fork")
def test_a_program_killed_between_the_two_renames(folder: Path) -> None:
    """The supervisor puts the old data back beside the old model."""
    external(folder, "w.bin")
    before = snapshot(folder) if earlier(folder) else {}
    code = (
        "import os, signal, sys; from graphopt.cli import main; real = os.replace; calls = []\n"
        "def replace(a, b):\n"
        "    calls.append(a)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(a, b)\n"
        "os.replace = replace\n"
        "sys.argv[1:] = ['fuse', 'model.onnx', '-o', 'sub/out.onnx', '--verify', 'off']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "killed" in done.stderr
    assert snapshot(folder) == before


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_stopped_leaves_the_old_result(folder: Path, kind: signal.Signals) -> None:
    """Wherever it is when the signal comes."""
    model = net()
    for i in range(300):
        model.graph.initializer.append(numpy_helper.from_array(np.random.default_rng(i).normal(size=50_000), f"r{i}"))
        model.graph.output.append(onnx.helper.make_tensor_value_info(f"r{i}", 11, [50_000]))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    (folder / "out.onnx").write_bytes(OLD)
    for delay in (0.5, 0.9):
        command = [sys.executable, "-m", "graphopt", "fuse", "m.onnx", "-o", "out.onnx", "--verify", "off", "-q"]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(kind)
        process.wait(60)
        content = (folder / "out.onnx").read_bytes()
        assert content == OLD or len(onnx.load_from_string(content).graph.output) == 301
