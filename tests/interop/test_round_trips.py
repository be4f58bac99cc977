"""Through each library and back: nothing is lost, or it is said, or refused; weights stay where they are."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import interop, ir
from graphopt.errors import ExternalDataError, GraphoptError, ModelError
from graphopt.interop.differences import differences
from graphopt.ir import Model
from graphopt.testing import backend_cases

from .util import FUNCTIONS, annotated, bodies, conv_bn, nodes, same, weights

LIBRARIES = {"graphsurgeon": "onnx_graphsurgeon", "onnx_ir": "onnx_ir"}


class Library:
    def __init__(self, name: str):
        pytest.importorskip(LIBRARIES[name])
        self.name = name
        self.to, self.back = getattr(interop, f"to_{name}"), getattr(interop, f"from_{name}")

    def around(self, model: Model) -> Model:
        back: Model = self.back(self.to(model))
        back.check()
        return back


@pytest.fixture(params=sorted(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


def refused(library: Library, model: Model) -> str:
    with pytest.raises(GraphoptError, match="cannot hold this model") as caught:
        library.to(model)
    assert type(caught.value) is GraphoptError
    return str(caught.value)


# -- the corpus ------------------------------------------------------------------------------------------------------


def through(library: Library, model: Model) -> str:
    """What became of a model."""
    before = ir.to_proto(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", interop.InteropWarning)
        try:
            back = library.around(model)
        except GraphoptError as error:
            return "refused" if "cannot hold this model" in str(error) else str(error)
    said = [str(warning.message) for warning in caught if warning.category is interop.InteropWarning]
    same(model, back, notes=not said)
    if not said:
        assert nodes(back) == nodes(model)
    assert ir.to_proto(model) == before
    return "said" if said else "equal"


# Parts of onnx's cases: bodies, sequences, optionals, text, narrow types, old and new operators.
SAMPLE = r"test_(if|loop|scan|sequence|optional|identity|cast_|string|constant|quantize|bernoulli|a|convtr|lstm|layer)"


def test_the_backend_corpus(library: Library) -> None:
    found = {"equal": 0, "said": 0, "refused": 0}
    for case in backend_cases(["node", "simple", "light"], ["original"], SAMPLE):
        if not case.skip:
            found[through(library, ir.from_proto(case.model))] += 1
    assert found["equal"] > 150
    assert library.name == "graphsurgeon" or found["said"] == found["refused"] == 0
    assert found["refused"] < 15 and found["said"] < 30  # sequences of known shape; optionals


@pytest.mark.campaign
def test_the_whole_backend_corpus(library: Library) -> None:
    found = {"equal": 0, "said": 0, "refused": 0}
    for case in backend_cases(variants=["original", "constant", "defaults"]):
        if not case.skip:
            found[through(library, ir.from_proto(case.model))] += 1
    assert found["equal"] > 3500


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_real_models(real_model: Path, name: str) -> None:
    outcome = through(Library(name), ir.load(real_model))
    assert outcome != "refused" or real_model.stem in ("qonnx_espcn_quant", "sk_logreg_iris", "use_quantized")


# -- what they hold --------------------------------------------------------------------------------------------------


def test_functions(library: Library) -> None:
    model = Model(parser.parse_model(FUNCTIONS))
    assert same(model, library.around(model))


def test_bodies_and_what_they_capture(library: Library) -> None:
    model = Model(bodies())
    back = library.around(model)
    assert same(model, back)
    whole = ir.to_proto(back)
    assert whole.ByteSize() < 1.2 * ir.to_proto(model).ByteSize()
    count = sum(len(graph.initializers) for graph in back.scopes())
    assert count == 3  # none is there twice, though two bodies read one of them


def test_names_in_bodies_that_mean_different_things(library: Library) -> None:
    proto = bodies()
    then, other = (a.g for a in proto.graph.node[1].attribute)
    del proto.graph.initializer[0]
    for body, value in ((then, 7.0), (other, 8.0)):
        body.initializer.extend(weights(w=np.float32([value])))
    model = Model(proto)
    assert same(model, library.around(model))


def test_notes(library: Library) -> None:
    model = Model(annotated())
    if library.name == "onnx_ir":
        back = library.around(model)
        assert same(model, back)
        entries = back.graph.initializers["w"].tensor.proto.metadata_props
        assert sorted(entry.key for entry in entries) == ["a", "b"]
        return
    with pytest.warns(interop.InteropWarning, match="onnx_graphsurgeon has no place for doc_string of 1 input") as said:
        back = library.around(model)
    assert "metadata_props of 1 node" in str(said[0].message) and "domain of the model" in str(said[0].message)
    assert same(model, back, notes=False)
    assert (back.proto.producer_name, back.proto.graph.doc_string) == ("me", "its graph")
    assert [info.name for info in back.proto.graph.value_info] == ["c"]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fnuz", "float8_e5m2", "int4", "uint2", "float4_e2m1fn"])
@pytest.mark.parametrize("count", [64, 1 << 19])
def test_element_types(library: Library, name: str, count: int) -> None:
    kind = getattr(TensorProto, {"float4_e2m1fn": "FLOAT4E2M1"}.get(name, name.upper().replace("8_", "8")), None)
    if kind is None or (name == "uint2" and not hasattr(TensorProto, "UINT2")):
        pytest.skip("this onnx release lacks the type")
    bits = {"bfloat16": 16, "int4": 4, "uint2": 2, "float4_e2m1fn": 4}.get(name, 8)
    raw = np.random.default_rng(0).integers(0, 120, count * bits // 8, np.uint8).tobytes()
    proto = parser.parse_model('<ir_version: 13, opset_import: ["": 25]> g (float[N] x) => (float[N] y) { y = Neg(x) }')
    proto.graph.initializer.append(TensorProto(name="w", data_type=kind, dims=[count], raw_data=raw))
    proto.graph.node.append(helper.make_node("Cast", ["w"], ["z"], to=1))
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, [count]))
    model = ir.from_proto(proto)
    back = library.around(model)
    assert same(model, back)
    assert ir.to_proto(back).graph.initializer[0].raw_data == raw
    given = library.to(model)
    if library.name == "onnx_ir":
        assert given.graph.initializers["w"].const_value.numpy().shape == (count,)


def test_text_and_typed_fields(library: Library) -> None:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g () => (string[2] s, float[3] f) {}')
    proto.graph.initializer.append(helper.make_tensor("a", TensorProto.STRING, [2], [b"one", "zw\u00f6lf".encode()]))
    proto.graph.initializer.append(helper.make_tensor("b", TensorProto.FLOAT, [3], [1.0, float("nan"), -0.0]))
    proto.graph.node.extend(helper.make_node("Identity", [x], [y]) for x, y in (("a", "s"), ("b", "f")))
    model = Model(proto)
    assert same(model, library.around(model))


def test_old_models_list_their_initializers_as_inputs(library: Library) -> None:
    proto = conv_bn()
    proto.ir_version = 3
    proto.graph.input.extend(helper.make_tensor_value_info(t.name, 1, t.dims) for t in proto.graph.initializer)
    back = library.around(Model(proto))
    assert {info.name for info in back.proto.graph.input} == {info.name for info in proto.graph.input}
    onnx.checker.check_model(ir.to_proto(back))


# -- what one of them cannot hold --------------------------------------------------------------------------------------


def test_maps_are_refused(library: Library) -> None:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Neg(x) }')
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    proto.graph.node.append(helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]))
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, []))
    proto.graph.output.append(helper.make_value_info("z", helper.make_sequence_type_proto(kind)))
    assert "keep it as a ModelProto" in refused(library, Model(proto)) or library.name == "onnx_ir"


def test_sparse_constants(library: Library) -> None:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g () => (float[5] y) { y = Identity(w) }')
    values = numpy_helper.from_array(np.float32([1, 2]), "w")
    indices = numpy_helper.from_array(np.int64([0, 3]), "w_i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    model = Model(proto)
    if library.name == "graphsurgeon":
        assert same(model, library.around(model))
    else:
        assert "w" in refused(library, model)


def test_a_default_that_would_become_a_constant_is_refused() -> None:
    library = Library("graphsurgeon")
    proto = conv_bn()
    proto.graph.input.append(helper.make_tensor_value_info("w", 1, [8, 3, 3, 3]))
    assert "the input 'w', which has a default, becomes a constant" in refused(library, Model(proto))
    assert same(Model(proto), Library("onnx_ir").around(Model(proto)))


@pytest.mark.parametrize(
    ("attribute", "value"), [("sequence", [numpy_helper.from_array(np.ones(2))]), ("empty", []), ("raw", b"\xba\xff")]
)
def test_attributes_that_graphsurgeon_drops_are_refused(attribute: str, value: Any) -> None:
    library = Library("graphsurgeon")
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y) { y = own.Op(x) }'
    )
    entry = helper.make_attribute(attribute, value, attr_type=onnx.AttributeProto.INTS if value == [] else None)
    proto.graph.node[0].attribute.append(entry)
    refused(library, Model(proto))


def test_what_libraries_write_is_checked() -> None:
    gs = pytest.importorskip("onnx_graphsurgeon")
    graph = gs.import_onnx(conv_bn())
    graph.outputs[0].dtype = None
    with pytest.raises(GraphoptError, match=r"onnx_graphsurgeon cannot export this graph: .*dtype"):
        interop.from_graphsurgeon(graph)
    graph = gs.import_onnx(conv_bn())
    graph.nodes[2].op = "Relux"
    with pytest.raises(ModelError, match="Relux"):
        interop.from_graphsurgeon(graph)
    function = gs.Function("f", domain="d")
    with pytest.raises(GraphoptError, match="give the Graph"):
        interop.from_graphsurgeon(function)


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    onnx.save(conv_bn(1 << 14), tmp_path / "large.onnx")
    return tmp_path / "large.onnx"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside.onnx"
    onnx.save(conv_bn(1 << 14), path, save_as_external_data=True, location="outside.data", size_threshold=1024)
    return path


def test_large_weights_are_viewed_not_copied(library: Library, large: Path) -> None:
    model = ir.load(large)
    given = library.to(model)
    weight = model.graph.initializers["w"].tensor.numpy()
    if library.name == "onnx_ir":
        assert np.shares_memory(given.graph.initializers["w"].const_value.numpy(), weight)
    back = library.back(given)
    assert np.shares_memory(back.graph.initializers["w"].tensor.numpy(), weight)
    assert same(model, back)


def test_large_attributes_are_viewed_too(tmp_path: Path) -> None:
    library = Library("onnx_ir")
    proto = conv_bn(1 << 14)
    weight = proto.graph.initializer[0]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    del proto.graph.initializer[0]
    onnx.save(proto, tmp_path / "constant.onnx")
    model = ir.load(tmp_path / "constant.onnx")
    given = library.to(model)
    array = model.graph.values["w"].numpy()
    assert np.shares_memory(given.graph.node(0).attributes["value"].value.numpy(), array)
    back = library.back(given)
    assert np.shares_memory(back.graph.values["w"].numpy(), array)
    assert same(model, back)
    assert onnx.load(tmp_path / "constant.onnx") == proto
    assert given.graph.node(0).attributes["value"].value.name == "w"


def test_external_data_stay_where_they_are(library: Library, outside: Path, tmp_path: Path) -> None:
    model = ir.load(outside)
    given = library.to(model)
    back = library.back(given)
    assert same(model, back)
    assert all(back.graph.initializers[name].tensor.is_external for name in ("w", "s"))
    (tmp_path / "other").mkdir()
    ir.save(back, tmp_path / "other" / "o.onnx")
    assert onnx.load(tmp_path / "other" / "o.onnx").graph.node == onnx.load(outside).graph.node


def test_a_library_can_use_what_it_is_given(library: Library, large: Path, outside: Path) -> None:
    expected = {t.name: numpy_helper.to_array(t) for t in conv_bn(1 << 14).graph.initializer}
    for path in (large, outside):
        given = library.to(ir.load(path))
        if library.name == "onnx_ir":
            import onnx_ir

            found = {name: value.const_value.numpy() for name, value in given.graph.initializers.items()}
            whole = onnx_ir.to_proto(given) if path == large else None
        else:
            import onnx_graphsurgeon as gs

            whole = gs.export_onnx(given)
            held = copy.deepcopy(given.tensors()["w"]._values)
            assert list(held.shape) == [1 << 14, 3, 3, 3] and "LazyValues" in str(held)
            found = {name: t.values for name, t in given.tensors().items() if isinstance(t, gs.Constant)}
            found["w"][0] = 0  # they may be changed
            assert np.array_equal(interop.from_graphsurgeon(given).graph.initializers["w"].tensor.numpy(), found["w"])
            found["w"] = held.load()
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
        if whole is not None:
            assert {t.name: numpy_helper.to_array(t).tobytes() for t in whole.graph.initializer} == {
                name: array.tobytes() for name, array in expected.items()
            }


def test_data_of_several_folders(tmp_path: Path) -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.data").write_bytes(np.full(1 << 16, len(name) + (name == "two"), np.float32).tobytes())
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[65536] x) => (float[65536] y) '
    model = onnx_ir.from_proto(parser.parse_model(f"{head} {{ c = Add(x, x)  y = Add(c, c) }}"))
    shape = onnx_ir.Shape([1 << 16])
    for node, name in zip(list(model.graph), ("one", "two"), strict=True):
        tensor = onnx_ir.ExternalTensor(
            "w.data", 0, 1 << 18, onnx_ir.DataType.FLOAT, shape=shape, name=name, base_dir=tmp_path / name
        )
        value = onnx_ir.Value(name=name, const_value=tensor)
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)
    read = interop.from_onnx_ir(model)
    assert [read.graph.initializers[name].tensor.numpy()[0] for name in ("one", "two")] == [3.0, 4.0]


def test_external_data_outside_of_the_folder_are_refused(outside: Path) -> None:
    pytest.importorskip("onnx_ir")
    given = interop.to_onnx_ir(ir.load(outside))
    proto = given.graph.initializers["w"].const_value
    proto._location = "../outside.data"
    for name in ("s", "t", "m", "v"):
        given.graph.initializers[name].const_value._location = "../outside.data"
    with pytest.raises(ExternalDataError, match="outside the model's folder"):
        interop.from_onnx_ir(given)


def test_graphs_are_as_they_were_after_they_were_read(library: Library, large: Path) -> None:
    given = library.to(ir.load(large))
    if library.name == "onnx_ir":
        before = given.graph.initializers["w"].const_value
        library.back(given)
        assert given.graph.initializers["w"].const_value is before
    else:
        before = given.tensors()["w"]._values
        library.back(given)
        assert given.tensors()["w"]._values is before


# -- the comparison itself ---------------------------------------------------------------------------------------------


def changed(how: str) -> ModelProto:
    proto = annotated()
    graph = proto.graph
    {
        "operator": lambda: setattr(graph.node[2], "op_type", "Abs"),
        "input": lambda: graph.node[1].input.__setitem__(1, "t"),
        "attribute": lambda: graph.node[1].attribute.append(helper.make_attribute("epsilon", 0.5)),
        "weight": lambda: setattr(graph.initializer[1], "raw_data", bytes(32)),
        "opset": lambda: setattr(proto.opset_import[0], "version", 16),
        "interface": lambda: setattr(graph.input[0].type.tensor_type, "elem_type", 10),
        "node": lambda: graph.node.append(helper.make_node("Neg", ["y"], ["z"])),
    }[how]()
    return proto


@pytest.mark.parametrize("how", ["operator", "input", "attribute", "weight", "opset", "interface", "node"])
def test_the_comparison_sees(how: str) -> None:
    assert differences(Model(annotated()), Model(changed(how))).wrong


def test_the_comparison_sees_lost_notes_of_every_kind() -> None:
    lost = differences(Model(annotated()), Model(conv_bn())).lost
    assert {text.split(" of ")[1].split(" ", 1)[-1] for text in lost} == {
        "graph", "input", "model", "node", "tensor", "value",
    }  # fmt: skip
