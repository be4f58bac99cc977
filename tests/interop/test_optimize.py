"""optimize, fuse, explain, verify and extract take other libraries' models and give them back."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import graphopt
from graphopt import interop, ir
from graphopt.api import explain
from graphopt.errors import GraphoptError, VerificationError
from graphopt.rewrite import P, rule
from graphopt.subgraphs.extract import extract

from .util import bodies, conv_bn, outline, same


@rule("wrong-relu", P.Relu("x"))
def wrong_relu(m, new):
    return new.Abs(m.x)


def given(library: str, proto: Any = None) -> Any:
    module = pytest.importorskip({"graphsurgeon": "onnx_graphsurgeon"}.get(library, library))
    proto = conv_bn() if proto is None else proto
    return module.import_onnx(proto) if library == "graphsurgeon" else module.from_proto(proto)


def ops(model: Any) -> list[str]:
    if isinstance(model, ModelProto):
        return [node.op_type for node in model.graph.node]
    return [node.op_type for node in model.graph] if hasattr(model, "graph") else [node.op for node in model.nodes]


LIBRARIES = pytest.mark.parametrize("library", ["graphsurgeon", "onnx_ir"])


@LIBRARIES
@pytest.mark.parametrize("verify", ["numeric", "rewrites", "check", "off"])
def test_optimize_gives_back_the_same_kind_with_the_same_result(library: str, verify: str) -> None:
    model = given(library)
    small, report = graphopt.optimize(model, verify=verify, with_report=True)
    assert type(small) is type(model) and small is not model
    assert ops(small) == ["Conv", "Relu"] and ops(model) == ["Conv", "BatchNormalization", "Relu"]
    assert (report.verification.status if verify in ("numeric", "rewrites") else report.verification) in (
        "passed",
        None,
    )
    back = getattr(interop, f"from_{library}")(small)
    assert same(ir.from_proto(graphopt.optimize(conv_bn())), back, notes=library == "onnx_ir")


@LIBRARIES
def test_bodies(library: str) -> None:
    small = graphopt.optimize(given(library, bodies()))
    back = getattr(interop, f"from_{library}")(small)
    assert same(ir.from_proto(graphopt.optimize(bodies())), back, notes=library == "onnx_ir")


def test_what_graphsurgeon_has_no_place_for_is_in_the_report() -> None:
    _, report = graphopt.optimize(given("graphsurgeon"), with_report=True)
    assert report.warnings == ["onnx_graphsurgeon has no place for metadata_props of 1 node"]
    _, report = graphopt.optimize(given("onnx_ir"), with_report=True)
    assert report.warnings == []


@LIBRARIES
def test_fuse_explain_verify_extract(library: str) -> None:
    model = given(library)
    assert ops(graphopt.fuse(model)) == ["Conv", "Relu"]
    assert [r.rule for r in explain(model, "fuse-conv-bn").rewrites] == ["fuse-conv-bn"]
    assert graphopt.verify(model, graphopt.fuse(model)).status == "passed"
    assert graphopt.verify(conv_bn(), graphopt.optimize(model, [wrong_relu], verify="off")).status == "failed"
    assert [node.op_type for node in extract(model, pattern="BatchNormalization Relu").graph.node][-1] == "Relu"


@LIBRARIES
def test_a_wrong_rewrite_is_found(library: str) -> None:
    with pytest.raises(VerificationError, match="wrong-relu"):
        graphopt.optimize(given(library), [wrong_relu])
    _, report = graphopt.optimize(given(library), ["fuse", wrong_relu], verify="rewrites", with_report=True)
    assert [reverted.rule for reverted in report.reverted] == ["wrong-relu"]


def test_a_graph_as_people_build_it() -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    x = gs.Variable("x", np.float32, ("N", 4))
    y, z = gs.Variable("y"), gs.Variable("z", np.float32, ("N", 4))
    one = gs.Constant("one", np.ones(4, np.float32))
    graph = gs.Graph([gs.Node("Mul", inputs=[x, one], outputs=[y]), gs.Node("Neg", inputs=[y], outputs=[z])], [x], [z])
    graph.opset = 17
    assert ops(graphopt.optimize(graph)) == ["Neg"]
    assert one._values is one.values


def test_a_model_as_people_build_it() -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 4])
    one = onnx_ir.val("one", const_value=onnx_ir.tensor(np.ones(4, np.float32), name="one"))
    mul = onnx_ir.node("Mul", [x, one])
    neg = onnx_ir.node("Neg", mul.outputs)
    neg.outputs[0].name, neg.outputs[0].dtype, neg.outputs[0].shape = "z", x.dtype, x.shape
    graph = onnx_ir.Graph([x], neg.outputs, nodes=[mul, neg], initializers=[one], opset_imports={"": 17}, name="g")
    assert ops(graphopt.optimize(onnx_ir.Model(graph, ir_version=8))) == ["Neg"]


# -- arguments that cannot be ------------------------------------------------------------------------------------------


def test_what_is_no_model_lists_what_is_taken() -> None:
    for call in (graphopt.optimize, lambda x: graphopt.verify(x, x), lambda x: explain(x, "fuse"), interop.model_of):
        with pytest.raises(
            GraphoptError, match=r"cannot \w+ a int: give a ModelProto, a path, .*onnx_ir\.Model.*Keras"
        ):
            call(42)
    with pytest.raises(GraphoptError, match="cannot take a part of a int: give"):
        extract(42, outputs="y")


def test_arguments_of_exports_are_for_exports() -> None:
    with pytest.raises(GraphoptError, match="are for models to be exported"):
        graphopt.optimize(conv_bn(), example_inputs=np.ones(3))
    with pytest.raises(GraphoptError, match="are for models to be exported"):
        graphopt.optimize(given("onnx_ir"), dynamic_shapes={})


def test_inplace_is_for_our_own() -> None:
    with pytest.raises(GraphoptError, match="take the model that is returned"):
        graphopt.optimize(given("onnx_ir"), inplace=True)


@pytest.mark.parametrize(
    ("function", "package", "extra"),
    [
        ("to_onnx_ir", "onnx_ir", "ir"),
        ("to_graphsurgeon", "onnx_graphsurgeon", "graphsurgeon"),
        ("from_torch", "torch", "torch"),
        ("from_tensorflow", "tf2onnx", "tensorflow"),
    ],
)
def test_a_library_that_is_not_installed(
    function: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    kind = (
        type("Module", (), {"__module__": "torch"}) if extra == "torch" else type("Model", (), {"__module__": "keras"})
    )
    model = ir.from_proto(conv_bn()) if function.startswith("to_") else kind()
    with pytest.raises(GraphoptError, match=rf"{package} is not installed; run: pip install 'graphopt\[{extra}\]'"):
        getattr(interop, function)(model)


def test_no_library_is_imported_before_it_is_needed() -> None:
    others = ["onnx_ir", "onnx_graphsurgeon", "torch", "tensorflow", "tf2onnx", "keras"]
    code = (
        "import sys, graphopt.interop; from graphopt.demo import demo_model; graphopt.optimize(demo_model())\n"
        f"print([m for m in {others!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@LIBRARIES
def test_real_models_come_out_the_same(real_model: Path, library: str) -> None:
    if real_model.stat().st_size > 50 << 20:
        pytest.skip("large models say no more, and take long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", interop.InteropWarning)
            model = getattr(interop, f"to_{library}")(ir.load(real_model))
    except GraphoptError as error:
        pytest.skip(str(error))
    small = getattr(interop, f"from_{library}")(graphopt.optimize(model, verify="check"))
    expected = ir.from_proto(graphopt.optimize(real_model, verify="check"))
    assert outline(small) == outline(expected)  # graphsurgeon forgets which of two equal constants came first
    assert library == "graphsurgeon" or same(small, expected, notes=False)
