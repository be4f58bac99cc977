"""Descriptions of targets: records that survive JSON, the file that `graphopt machine` keeps, and what reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from graphopt.analysis.cost import ORT_CPU, TENSORRT_H200, Machine, estimate, machine_for, saved
from graphopt.analysis.target import gain_of_merging
from graphopt.passes.forms._cost import pays

FAST = replace(ORT_CPU, name="mine", overhead=ORT_CPU.overhead * 10)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    machine_for.cache_clear()
    yield tmp_path / "cache"
    machine_for.cache_clear()


@pytest.mark.parametrize("machine", [ORT_CPU, TENSORRT_H200])
def test_descriptions_survive_json(machine):
    again = Machine.from_dict(json.loads(json.dumps(machine.to_dict())))
    assert again == machine
    assert hash(again) == hash(machine)
    assert all(value > 0 for value in machine.seconds.values())


def test_descriptions_cannot_be_changed():
    with pytest.raises(TypeError):
        ORT_CPU.seconds["conv"] = 0.0
    with pytest.raises(AttributeError):
        ORT_CPU.overhead = 0.0


WRONG = [
    {"overhead": -1.0},
    {"overhead": "much"},
    {"bandwidth": 0},
    {"seconds": 3},
    {"seconds": {"conv": None}},
    {"seconds": {"conv": float("nan")}},
    {"widths": 16},
    {"widths": [0]},
    {"cache": None},
    {"colour": "red"},
    {"name": 3},
]


@pytest.mark.parametrize("change", WRONG)
def test_what_is_no_description_is_refused(change):
    with pytest.raises(ValueError, match="no description"):
        Machine.from_dict({**ORT_CPU.to_dict(), **change})
    with pytest.raises(ValueError, match="no description"):
        Machine.from_dict({})


def test_without_a_file_the_shipped_one_holds(cache):
    assert machine_for("onnx") is machine_for("onnxruntime") is ORT_CPU
    assert machine_for("tensorrt") is TENSORRT_H200
    assert saved.load() is None
    assert not cache.exists()


def test_what_was_measured_holds_until_it_is_forgotten(cache):
    path = saved.save(FAST)
    assert path.parent == cache
    assert machine_for("onnxruntime") == FAST
    assert machine_for("tensorrt") is TENSORRT_H200
    assert [file.name for file in cache.iterdir()] == [path.name]
    assert saved.forget() == path
    assert machine_for("onnxruntime") is ORT_CPU
    assert saved.forget() is None


def test_another_processor_or_runtime_has_a_file_of_its_own(cache, monkeypatch):
    saved.save(FAST)
    monkeypatch.setattr(saved, "cpu_name", lambda: "another/CPU @ 3 GHz")
    assert saved.load() is None
    assert saved.path_for().name.startswith("machine-another-cpu-3-ghz-ort-")
    assert saved.path_for(4) != saved.path_for(1)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"name": 1}', b"[" * 100_000, b" " * (2 << 20)]
)
def test_files_that_are_no_description_are_ignored_with_a_warning(cache, content):
    path = saved.save(FAST)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is ignored"):
        assert machine_for("onnxruntime") is ORT_CPU


def test_a_folder_in_place_of_the_file_is_ignored_with_a_warning(cache):
    path = saved.save(FAST)
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="is ignored"):
        assert saved.load() is None


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("GRAPHOPT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert saved.folder() == tmp_path / "graphopt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert saved.folder() == tmp_path / ".cache" / "graphopt"


def test_forms_pay_later_where_nodes_start_slowly(cache):
    assert pays(512, 512)
    assert not pays(511, 512)
    saved.save(FAST)
    assert not pays(512, 512)
    assert pays(5120, 512)


def test_blocks_of_the_machine_decide_what_is_merged():
    given = ("Conv", "onnxruntime", [8, 8], 576, True)
    narrow = replace(ORT_CPU, widths=(8,))
    assert gain_of_merging(*given, ORT_CPU) != gain_of_merging(*given, narrow)
    assert gain_of_merging(*given) == gain_of_merging(*given, ORT_CPU)
    assert gain_of_merging("Conv", "tensorrt", [8, 8], 576, True) == 1.0
    assert gain_of_merging("MatMul", "tensorrt", [8, 8], 576, True) == 2.0
    assert gain_of_merging("MatMul", "onnxruntime", [4, 4], 576, False, replace(ORT_CPU, columns=8)) == 2.0


def test_the_public_names_load_no_runtime():
    code = "import sys, graphopt.analysis.cost, graphopt.analysis.runtime_fusion; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert callable(estimate)
