"""The same file in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt.demo import demo_model
from graphopt.errors import GraphoptError
from graphopt.targets import openvino as module
from graphopt.targets.openvino import check_openvino


def test_without_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[openvino\]'"):
        check_openvino(tmp_path / "m.onnx")


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    pytest.importorskip("openvino", reason="needs the openvino extra")
    onnx.save(demo_model(), tmp_path / "demo.onnx")
    return tmp_path / "demo.onnx"


def test_the_demo_agrees(demo: Path) -> None:
    found = check_openvino(demo, seconds=0.05)
    assert found.ok, found.why
    assert found.openvino_ms is not None
    assert found.openvino_ms > 0
    assert "agrees" in found.summary()
    assert found.to_dict()["ok"]


def test_a_difference_is_named(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ALLOWED", -1.0)
    found = check_openvino(demo, seconds=0.0)
    assert not found.ok
    assert "differs by" in found.summary()


def test_what_it_does_not_run(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the openvino extra")
    text = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[4, 4] x) => (float[4, 4] y) '
    onnx.save(parser.parse_model(text + '{ y = com.microsoft.CDist<metric="euclidean">(x, x) }'), tmp_path / "m.onnx")
    feeds: dict[str, Any] = {"x": np.eye(4, dtype=np.float32)}
    found = check_openvino(tmp_path / "m.onnx", feeds, seconds=0.0)
    assert not found.ok
    assert "does not run there" in found.summary()
