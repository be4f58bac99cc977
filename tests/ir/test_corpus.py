"""A no-op load and save keeps every byte of every model of the ONNX backend tests."""

from __future__ import annotations

import importlib
import importlib.util
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx.backend.test.case.node as node_cases
import pytest
from onnx import ModelProto
from onnx.backend.test import loader

from graphopt.errors import ModelError
from graphopt.ir import from_proto, load, save, to_proto

from .util import raw

# Bodies, sequences, optionals, text, odd types: a second or two instead of the seven that all cases take to make.
SAMPLE = ("cast", "constant", "identity", "if_", "loop", "optionalhaselement", "quantizelinear", "scan", "sequence_map")


IN_FILES = (Path(loader.DATA_DIR) / "node").is_dir()  # older releases of onnx ship the operator cases, too


def check(proto: ModelProto) -> None:
    data = proto.SerializeToString()
    m = from_proto(proto)
    m.check()
    assert to_proto(m).SerializeToString() == data
    for graph in m.scopes():  # written anew from the IR, every node says the same
        for node in graph:
            graph.touch(node)
    assert raw(m.commit()) == raw(proto)


@pytest.mark.parametrize("kind", ["simple", "pytorch-converted", "pytorch-operator", *(["node"] if IN_FILES else [])])
def test_models_in_files(kind: str, tmp_path: Path) -> None:
    for case in loader.load_model_tests(kind=kind)[:: 10 if kind == "node" else 1]:
        path = Path(case.model_dir) / "model.onnx"
        data = path.read_bytes()
        try:
            m = load(path)
        except ModelError as error:
            raise AssertionError(case.name) from error
        save(m, tmp_path / "o.onnx")
        assert (tmp_path / "o.onnx").read_bytes() == data, case.name
        check(ModelProto.FromString(data))


def made(modules: tuple[str, ...]) -> Iterator[ModelProto]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow on purpose
        for name in modules:  # `if_` is `if` in older releases
            found = importlib.util.find_spec(f"{node_cases.__name__}.{name}")
            importlib.import_module(f"{node_cases.__name__}.{name if found else name.rstrip('_')}")
    yield from (case.model for case in node_cases._NodeTestCases if case.model is not None)


@pytest.mark.skipif(IN_FILES, reason="the operator cases of this onnx release are files")
def test_operator_cases() -> None:
    models = list(made(SAMPLE))
    assert len(models) > 100
    for model in random.Random(0).sample(models, 100):
        check(model)


@pytest.mark.campaign
def test_all_operator_cases() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = node_cases.collect_testcases(None)
    assert len(cases) > 1500
    for case in cases:
        check(case.model)


def test_real_models(real_model: Path, tmp_path: Path) -> None:
    m = load(real_model)
    save(m, tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == real_model.read_bytes()
    for graph in m.scopes():
        graph.ensure_sorted()  # one of them is not
    m.check()
