"""Ten GiB of external data (a sparse file): megabytes of memory, and verification says that it did not load them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

CODE = """
import resource, sys, onnxruntime, graphopt.api
import graphopt
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024
before = peak()
report = graphopt.optimize_file("m.onnx", "o.onnx")
print(peak() - before, report.nodes_after, report.verification.status, *report.verification.unchecked)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_gigabytes_of_external_data_cost_megabytes(tmp_path: Path) -> None:
    count, size = 10, 1 << 30
    with open(tmp_path / "w.data", "wb") as file:
        file.truncate(count * size)
        for index in range(count):  # so that no two weights are equal, which would have them compared and merged
            file.seek(index * size)
            file.write(bytes([index]))
    nodes, tensors, last = [], [], "x"
    for index in range(count):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[16384, 16384])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", str(index * size)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [last, tensor.name], [f"m{index}"]))
        nodes.append(helper.make_node("Identity", [f"m{index}"], [f"i{index}"]))
        last = f"i{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16384]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    extra, left, status, *why = done.stdout.split()
    assert int(extra) < 200
    assert int(left) == count
    assert status == "unchecked"
    assert "over the budget" in " ".join(why)
