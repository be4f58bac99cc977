"""Model repositories for Triton: configurations that its own messages read, ensembles, versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

from graphopt.errors import GraphoptError, OutputError
from graphopt.targets.triton import Served, package_triton

pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs the triton extra (tritonclient)")


def save(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.onnx"
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}'), file)
    return file


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save(tmp_path, "net", "(float[N, 3, H] x) => (float[N, 3, H] y) { y = Relu(x) }")


def read(file: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())


def test_a_model_with_batches(net: Path, tmp_path: Path) -> None:
    [file] = package_triton(tmp_path / "repo", Served(net, max_batch=16, delay=100, preferred=(4, 8), instances=2))
    config = read(file)
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", 16)
    assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.input] == [("x", 11, [3, -1])]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert config.instance_group[0].count == 2
    assert [sample.batch_size for sample in config.model_warmup] == [1, 16]
    assert list(config.model_warmup[0].inputs["x"].dims) == [3, 1]
    onnx.checker.check_model(onnx.load(tmp_path / "repo" / "net" / "1" / "model.onnx"))


def test_without_batches(tmp_path: Path) -> None:
    fixed = save(tmp_path, "fixed", "(float[1, 3] x, int64 k) => (float[1, 3] y) { c = Cast<to=1>(k) y = Mul(x, c) }")
    config = read(package_triton(tmp_path / "repo", Served(fixed, warmup=False, threads=2))[0])
    assert config.max_batch_size == 0
    assert [list(entry.dims) for entry in config.input] == [[1, 3], [1]]
    assert config.input[1].HasField("reshape")
    assert not config.HasField("dynamic_batching")
    assert not config.model_warmup
    assert config.parameters["intra_op_thread_count"].string_value == "2"


def test_versions(net: Path, tmp_path: Path) -> None:
    for _ in range(2):
        package_triton(tmp_path / "repo", Served(net, keep=2))
    [file] = package_triton(tmp_path / "repo", Served(net, version=7, keep=2))
    assert sorted(entry.name for entry in (tmp_path / "repo" / "net").iterdir()) == ["1", "2", "7", "config.pbtxt"]
    assert read(file).version_policy.latest.num_versions == 2
    with pytest.raises(OutputError, match="is there already"):
        package_triton(tmp_path / "repo", Served(net, version=7))


def test_a_plan(net: Path, tmp_path: Path) -> None:
    (tmp_path / "net.plan").write_bytes(b"plan")
    config = read(package_triton(tmp_path / "repo", Served(net, plan=tmp_path / "net.plan"))[0])
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.instance_group[0].kind == 1
    assert (tmp_path / "repo" / "net" / "1" / "model.plan").read_bytes() == b"plan"


def test_an_ensemble(net: Path, tmp_path: Path) -> None:
    before = save(
        tmp_path, "before", "(uint8[N, 3, H] pixels) => (float[N, 3, H] scaled) { scaled = Cast<to=1>(pixels) }"
    )
    after = save(tmp_path, "after", "(float[N, 3, H] y) => (int64[N, 1, H] label) { label = ArgMax<axis=1>(y) }")
    models = [Served(each, max_batch=4) for each in (before, net, after)]
    files = package_triton(tmp_path / "repo", models, ensemble="pipeline")
    config = read(files[-1])
    assert (config.platform, config.max_batch_size) == ("ensemble", 4)
    assert [entry.name for entry in config.input] == ["pixels"]
    assert [entry.name for entry in config.output] == ["label"]
    steps = [(step.model_name, dict(step.input_map), dict(step.output_map)) for step in config.ensemble_scheduling.step]
    assert steps == [
        ("before", {"pixels": "pixels"}, {"scaled": "scaled"}),
        ("net", {"x": "scaled"}, {"y": "y"}),
        ("after", {"y": "y"}, {"label": "label"}),
    ]
    assert (tmp_path / "repo" / "pipeline" / "1").is_dir()


def test_steps_that_do_not_fit(net: Path, tmp_path: Path) -> None:
    other = save(tmp_path, "other", "(int64[N, 3, H] y) => (int64[N, 3, H] z) { z = Abs(y) }")
    with pytest.raises(GraphoptError, match=r"'y' does not fit input 'y' of 'other': FP32\[3, -1\] against INT64"):
        package_triton(tmp_path / "repo", [Served(net), Served(other)], ensemble="both")
    again = save(tmp_path, "again", "(float[N, 3, H] y) => (float[N, 3, H] y2) { y2 = Abs(y) }")
    fixed = save(tmp_path, "fixed", "(float[1, 3] y2) => (float[1, 3] z) { z = Abs(y2) }")
    with pytest.raises(GraphoptError, match="some models of the ensemble make batches"):
        package_triton(tmp_path / "repo", [Served(net), Served(again), Served(fixed)], ensemble="all")
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"instances": 0}, "no instance"),
        ({"preferred": (9,)}, "is not between 1 and the largest"),
        ({"name": "../up"}, "is no name for a model repository"),
    ],
)
def test_what_cannot_be_served(net: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphoptError, match=said):
        Served(net, **options)


def test_names_and_types(net: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="two models of one name"):
        package_triton(tmp_path / "repo", [Served(net), Served(net)])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        package_triton(tmp_path / "file", Served(net))


def test_external_data_goes_along(tmp_path: Path) -> None:
    import numpy as np
    from onnx import numpy_helper

    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(64, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    package_triton(tmp_path / "repo", Served(tmp_path / "big.onnx"))
    onnx.checker.check_model(str(tmp_path / "repo" / "big" / "1" / "model.onnx"))
    import onnxruntime as ort

    ort.InferenceSession(str(tmp_path / "repo" / "big" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
