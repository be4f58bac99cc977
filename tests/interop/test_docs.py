"""The code in docs/interop.md runs, section by section, as far as its libraries are installed."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "interop.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")[1:]}
LAST = "From torch to a measured file"


def blocks(section: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)


def run(codes: list[str], *packages: str) -> dict[str, Any]:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    space: dict[str, Any] = {}
    for code in codes:
        exec(code, space)
    return space


def test_graphsurgeon() -> None:
    run(blocks("onnx_graphsurgeon"), "onnx_graphsurgeon")


def test_onnx_ir() -> None:
    assert len(run(blocks("onnx_ir"), "onnx_ir")["again"].graph) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torch() -> None:
    run(blocks("torch"), "torch", "onnxscript")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(blocks("Keras and TensorFlow"), "tensorflow", "tf2onnx")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_srcnn_end_to_end() -> None:
    steps, torch_model, _ = blocks(LAST)
    space = run([steps, torch_model], "torch", "onnxscript")
    assert [node.op for node in space["model"].graph].count("Conv") == 3
    assert space["report"].nodes_after <= space["report"].nodes_before
    assert space["latency"].ratio > 0.5


def test_a_graph_made_by_hand_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    steps, _, handmade = blocks(LAST)
    space = run([steps, handmade])
    assert [node.op for node in space["model"].graph].count("Mul") == 1  # of two
    assert "times as fast" in capsys.readouterr().out


def test_every_block_is_run_by_some_test() -> None:
    assert sum(len(blocks(name)) for name in SECTIONS) == 7 and len(blocks(LAST)) == 3
