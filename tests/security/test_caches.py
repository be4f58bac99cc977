"""Models that are links themselves: Hugging Face's cache, where model and data are links into a folder of blobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.security.util import SECRET, W, external, graphopt, run, snapshot, whole

import graphopt as package
from graphopt import ExternalDataError
from graphopt.ir import load, save


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """`snapshots/abc/onnx/model.onnx` and its `model.onnx_data` are links to files of `blobs`."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "4fa1").write_bytes(W.tobytes())
    external(blobs, "model.onnx_data", name="93bc")
    (snapshot / "model.onnx").symlink_to("../../../blobs/93bc")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/4fa1")
    (tmp_path / "secret.bin").write_bytes(SECRET)
    return snapshot


def test_it_is_read(cache: Path) -> None:
    np.testing.assert_array_equal(load(cache / "model.onnx").graph.values["w"].numpy(), W)
    assert package.verify(cache / "model.onnx", cache / "model.onnx").ok


def test_a_link_to_the_link(cache: Path) -> None:
    """Links may lead to links; the data is looked for beside the first one."""
    (cache / "also.onnx").symlink_to("model.onnx")
    np.testing.assert_array_equal(load(cache / "also.onnx").graph.values["w"].numpy(), W)


@pytest.mark.parametrize("where", ["beside", "elsewhere", "working folder"])
def test_what_is_made_of_it_stands_alone(cache: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is no link, so it may not use data that a link leads to: it gets a copy."""
    before = snapshot(cache.parents[2])
    folder = cache if where == "beside" else cache.parents[2] / "out"
    folder.mkdir(exist_ok=True)
    source, target = cache / "model.onnx", folder / "model.opt.onnx"
    if where == "working folder":
        monkeypatch.chdir(cache)
        source = Path("model.onnx")
    report = package.optimize_file(source, target)
    assert report.verification is not None
    assert report.verification.status == "passed"
    assert not target.is_symlink()
    assert (folder / "model.opt.onnx.data").stat().st_size == W.nbytes
    np.testing.assert_allclose(run(whole(target)), run(cache / "model.onnx"), rtol=1e-5)
    np.testing.assert_array_equal(load(target).graph.values["w"].numpy(), W)
    after = snapshot(cache.parents[2])
    assert {name: after[name] for name in before} == before, "the cache is as it was"


def test_from_the_command_line(cache: Path) -> None:
    done = graphopt(cache, "fuse", "model.onnx")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout


def test_saving_over_the_link_leaves_the_blob(cache: Path) -> None:
    blob = (cache / "../../../blobs/93bc").read_bytes()
    model = load(cache / "model.onnx")
    save(model, cache / "model.onnx")
    assert not (cache / "model.onnx").is_symlink()
    assert (cache / "../../../blobs/93bc").read_bytes() == blob
    np.testing.assert_array_equal(load(cache / "model.onnx").graph.values["w"].numpy(), W)


@pytest.mark.parametrize("target", ["../../../secret.bin", "../../../blobs/sub/w.bin", "/etc/passwd", "../../../blobs"])
def test_only_files_right_beside_the_real_model(cache: Path, target: str) -> None:
    """Opening a link reads no more than opening what it leads to would: that file's own folder, and of it not more
    than a cache needs."""
    sub = cache.parents[2] / "blobs" / "sub"
    sub.mkdir()
    (sub / "w.bin").write_bytes(SECRET)
    (cache / "model.onnx_data").unlink()
    (cache / "model.onnx_data").symlink_to(target)
    with pytest.raises(ExternalDataError, match=r"outside|no regular file"):
        load(cache / "model.onnx")


def test_no_link_no_blobs(cache: Path) -> None:
    """A model that is a file of its own gets nothing of where its data's link leads."""
    content = (cache / "model.onnx").read_bytes()
    (cache / "model.onnx").unlink()
    (cache / "model.onnx").write_bytes(content)
    with pytest.raises(ExternalDataError, match="cp -L"):
        load(cache / "model.onnx")


def test_the_name_in_the_cache_does_not_matter(cache: Path) -> None:
    """Data that the model would find beside the real file is not looked for there: the link's folder counts."""
    (cache / "model.onnx_data").unlink()
    (cache.parents[2] / "blobs" / "model.onnx_data").write_bytes(SECRET)
    with pytest.raises(ExternalDataError, match="missing"):
        load(cache / "model.onnx")
