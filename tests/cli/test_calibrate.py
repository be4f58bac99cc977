from __future__ import annotations

import json

import numpy as np
import pytest

from graphopt.analysis.ranges import Ranges
from graphopt.cli import _data
from graphopt.cli._data import TimeLeft


@pytest.fixture
def data(tmp_path, rng):
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(4):
        np.savez(folder / f"{index}.npz", x=rng.normal(size=(1, 3, 8, 8)).astype(np.float32))
    return folder


def test_a_folder(graphopt, model, data):
    result = graphopt("calibrate", model, "--data", data)
    assert (result.code, result.err) == (0, "")
    path = model.with_name("net.ranges.json")
    ranges = Ranges.load(path)
    assert (ranges.samples, set(ranges)) == (4, {"x", "c", "b", "y"})
    assert ranges["y"].low == 0.0
    assert f"ranges of 4 tensors from 4 samples (minmax), written to {path}" in " ".join(result.out.split())
    assert "widest" in result.out


def test_what_is_written_and_said(graphopt, model, data, tmp_path):
    out = tmp_path / "r.json"
    result = graphopt("calibrate", model, "-d", data, "-o", out, "--json", "--samples", 2, "--method", "percentile",
                      "--percentile", 99, "--tensors", "x", "--tensors", "y", "--per-channel")  # fmt: skip
    facts = json.loads(result.out)
    ranges = Ranges.load(out)
    assert facts == {
        "output": str(out), "model": "net", "samples": 2, "tensors": 2, "methods": {"percentile": 2}, "notes": [],
        "digest": ranges.digest(),
    }  # fmt: skip
    assert (ranges["x"].low, ranges["x"].high) != (ranges["x"].minimum, ranges["x"].maximum)
    assert ranges["x"].channel_high.shape == (3,)
    assert graphopt("calibrate", model, "-d", data, "--quiet") == (0, "", "")


def test_settings_of_the_observers(graphopt, model, data, tmp_path):
    out = tmp_path / "r.json"
    result = graphopt("calibrate", model, "-d", data, "-o", out, "-q", "--method", "entropy")
    assert "cuts nothing" in result.err
    result = graphopt("calibrate", model, "-d", data, "-o", out, "-q", "--method", "entropy", "--bins", 1024)
    assert result == (0, "", "")
    assert any(found.high < found.maximum for found in Ranges.load(out).values())


def test_a_function_and_a_batched_file(graphopt, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.arange(5 * 3 * 8 * 8, dtype=np.float32).reshape(5, 3, 8, 8)
    np.savez(tmp_path / "all.npz", x=x)
    (tmp_path / "cli_feeds.py").write_text(
        "import numpy as np\ndef feeds():\n    return [{'x': a[None]} for a in np.load('all.npz')['x']]\n"
    )
    assert graphopt("calibrate", model, "-d", "all.npz", "--batched", "-o", "a.json", "-q").code == 0
    assert graphopt("calibrate", model, "-d", "cli_feeds:feeds", "-o", "b.json", "-q").code == 0
    first, second = Ranges.load("a.json"), Ranges.load("b.json")
    assert first.samples == 5
    assert first.digest() == second.digest()


def test_images(graphopt, model, tmp_path, rng):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "photos").mkdir()
    for index in range(2):
        pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
        image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    result = graphopt("calibrate", model, "-d", tmp_path / "photos", "--preprocess", "unit", "--json")
    found = Ranges.load(json.loads(result.out)["output"])["x"]
    assert 0 <= found.low < found.high <= 1
    result = graphopt("calibrate", model, "-d", tmp_path / "photos")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "give the preprocessing" in result.err


def test_the_cache(graphopt, model, data, tmp_path):
    arguments = ("calibrate", model, "-d", data, "--cache", tmp_path / "c", "--json")
    first = graphopt(*arguments)
    assert json.loads(graphopt(*arguments).out) == json.loads(first.out)
    result = graphopt(*arguments, "--method", "entropy")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "is of another" in result.err


def test_ranges_from_and_for_tensorrt(graphopt, model, data, tmp_path):
    cache = tmp_path / "trt.cache"
    graphopt("calibrate", model, "-d", data, "-q", "--export-cache", cache)
    assert cache.read_text().startswith("TRT-")
    with open(cache, "a") as stream:
        stream.write("other: 3c010a14\n")
    result = graphopt("calibrate", model, "--import-cache", cache, "-o", tmp_path / "r.json")
    assert (result.code, result.err) == (0, "")
    assert "ranges of 4 tensors (import)" in result.out
    ranges = Ranges.load(tmp_path / "r.json")
    assert set(ranges) == {"x", "c", "b", "y"}
    assert ranges["x"].low == -ranges["x"].high


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "calibration needs data"),
        (["--data", "nowhere"], "'nowhere' does not exist"),
        (["--data", "."], "holds no calibration data"),
        (["--data", "no_such_module:f"], "no module 'no_such_module'"),
        (["--data", "bad.npz"], "'z' is no input of the model; its inputs: x"),
        (["--data", "good.npz", "-o", "no/r.json"], "does not exist; create it first"),
        (["--data", "good.npz", "-o", "net.onnx"], "is the input itself"),
        (["--data", "good.npz", "--cache", "no/c"], "does not exist; create it first"),
        (["--data", "good.npz", "--cluster", "here"], "'here' is no cluster"),
        (["--data", "good.npz", "--method", "best"], "--method"),
        (["--data", "good.npz", "--percentile", "30"], "--percentile"),
        (["--data", "good.npz", "--import-cache", "c"], "leave --data out"),
        (["--import-cache", "c"], "no TensorRT calibration cache"),
        (["--data", "good.npz", "--tensors", "q"], "'q'"),
    ],
)
def test_errors_are_one_line(graphopt, model, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    np.savez("good.npz", x=np.ones((1, 3, 8, 8), np.float32))
    np.savez("bad.npz", z=np.ones((1, 3, 8, 8), np.float32))
    if arguments == ["--data", "."]:
        arguments = ["--data", "sub"]
    result = graphopt("calibrate", model, *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_a_model_that_is_not_there(graphopt):
    assert "does not exist" in graphopt("calibrate", "none.onnx", "-d", "x").err


def test_time_left(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(_data.time, "monotonic", lambda: now[0])
    progress = TimeLeft(lambda *step: said.append(step), pause=10.0)
    for done in range(100, 140):
        now[0] += 1.0
        progress("calibrating", done, 220)
    stages = list(dict.fromkeys(stage for stage, _, _ in said))
    assert stages == ["calibrating", "calibrating, 1:50 left", "calibrating, 1:40 left", "calibrating, 1:30 left"]
    assert [done for _, done, _ in said] == list(range(100, 140))
    progress("choosing", 0, 0)
    assert said[-1] == ("choosing", 0, 0)
