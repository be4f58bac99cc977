from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from onnx import numpy_helper, parser, save

from graphopt.calibration import cache as module
from graphopt.calibration.cache import open_cache
from graphopt.calibration.collection import Collection, Plan
from graphopt.calibration.core import calibrate
from graphopt.errors import GraphoptError, OutputError

PLAN = Plan(("x",), histograms=True)
KEY = {"model": "m1", "data": "d1", "method": "entropy"}


def collection(samples):
    found = Collection(PLAN)
    for number in range(samples):
        found.begin(number)
        found.update("x", np.float32([number, -number]))
    return found


def test_what_is_kept_is_found_again(tmp_path):
    path = tmp_path / "c"
    cache = open_cache(path, KEY, every=0.0)
    assert cache.collection is None and not cache.finished
    assert cache.keep(collection(3))
    again = open_cache(path, KEY)
    assert again.collection.samples == 3 and not again.finished
    again.finish(collection(5))
    done = open_cache(path, KEY)
    assert done.finished and done.collection.to_bytes() == collection(5).to_bytes()
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


def test_it_is_written_every_so_often(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    cache = open_cache(tmp_path / "c", KEY, every=10.0)
    kept = []
    for second in range(45):
        now[0] = float(second)
        kept.append(cache.keep(collection(1)))
    assert [second for second in range(45) if kept[second]] == [10, 20, 30, 40]


@pytest.mark.parametrize("name", list(KEY))
def test_a_cache_of_something_else_is_refused(tmp_path, name):
    open_cache(tmp_path / "c", KEY).finish(collection(1))
    with pytest.raises(GraphoptError, match=f"'.*c' is of another {name}; name another file, or delete it"):
        open_cache(tmp_path / "c", {**KEY, name: "other"})
    with pytest.raises(GraphoptError, match="is of another"):
        open_cache(tmp_path / "c", "one text")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"", "is no calibration cache"),
        (lambda content: b"hello\n", "is no calibration cache"),
        (lambda content: b'{"format": "other"}\n', "is no calibration cache"),
        (lambda content: content[1:], "is no calibration cache"),
        (lambda content: content[:-9], "cut short or altered"),
        (lambda content: content[:-9] + b"123456789", "cut short or altered"),
        (lambda content: content.replace(b'"version": 1', b'"version": 7', 1), "another version"),
    ],
)
def test_damaged_files(tmp_path, change, words):
    path = tmp_path / "c"
    open_cache(path, KEY).finish(collection(2))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(GraphoptError, match=words):
        open_cache(path, KEY)


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        open_cache(tmp_path, KEY)
    with pytest.raises(OutputError, match="does not exist"):
        open_cache(tmp_path / "none" / "c", KEY)


def network(seed=0):
    """A model with weights that are too large to be in the parsed proto."""
    rng = np.random.default_rng(seed)
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 96] x) => (float[N, 4096] y) { a = MatMul(x, w)  y = Tanh(a) }"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(96, 4096)).astype(np.float32), "w"))
    return model


FEEDS = [{"x": np.full((1, 96), value, np.float32)} for value in range(1, 7)]
SCRIPT = """
import sys, time
import numpy as np
from graphopt.calibration import cache
from graphopt.calibration.core import calibrate
cache.EVERY, cache.SHARE = 0.0, 1e9
steps = []
def feeds():
    for value in range(1, 7):
        if value == 5 and sys.argv[3] == "wait":
            print("there", flush=True)
            time.sleep(60)
        yield {"x": np.full((1, 96), value, np.float32)}
found = calibrate(sys.argv[1], feeds, method="entropy", cache=sys.argv[2], progress=lambda *step: steps.append(step))
print(steps[0], found.digest())
"""


def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path):
    save(network(), tmp_path / "m.onnx")
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, "run.py", "m.onnx", "c"]
    with subprocess.Popen([*command, "wait"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run([*command, "go"], cwd=tmp_path, capture_output=True, text=True, check=True)
    whole = calibrate(network(), FEEDS, method="entropy")
    assert done.stdout == f"('calibrating', 4, 0) {whole.digest()}\n"


def test_a_finished_cache_gives_ranges_at_once(tmp_path, monkeypatch):
    path = tmp_path / "c"
    first = calibrate(network(), FEEDS, method="percentile", cache=path)
    monkeypatch.setattr("graphopt.calibration.core.collect", None)
    again = calibrate(network(), FEEDS, method="percentile", cache=path)
    assert again.to_json() == first.to_json()


def test_another_model_data_or_method_is_refused(tmp_path):
    path = tmp_path / "c"
    calibrate(network(), FEEDS, method="minmax", cache=path)
    for model, feeds, method in (
        (network(1), FEEDS, "minmax"),
        (network(), FEEDS[:-1], "minmax"),
        (network(), FEEDS, "entropy"),
    ):
        with pytest.raises(GraphoptError, match="is of another"):
            calibrate(model, feeds, method=method, cache=path)
