"""A hundredth of ten GiB of external data (a sparse file): only that hundredth is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

COUNT, SIDE = 100, 5120  # weights of 100 MiB
SIZE = SIDE * SIDE * 4
CODE = """
import sys, time, graphopt.api, graphopt.subgraphs.extract
import graphopt
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024
before, began = peak(), time.perf_counter()
graphopt.extract_file("m.onnx", "sub/p.onnx", nodes="m50")
print(peak() - before, time.perf_counter() - began)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_hundredth_of_ten_gigabytes(tmp_path: Path) -> None:
    with open(tmp_path / "w.data", "wb") as file:
        file.truncate(COUNT * SIZE)
    tensors, nodes, last = [], [], "x"
    for index in range(COUNT):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", str(index * SIZE)), ("length", str(SIZE))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [last, tensor.name], [f"v{index}"], f"m{index}"))
        last = f"v{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", SIDE]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "sub").mkdir()  # beside the model, nothing would have to be copied at all
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    extra, seconds = done.stdout.split()
    assert int(extra) < 300
    assert (tmp_path / "sub" / "p.onnx.data").stat().st_size == SIZE
    assert float(seconds) < 30  # about half a second on an idle machine; a busy one has to write 100 MiB all the same
