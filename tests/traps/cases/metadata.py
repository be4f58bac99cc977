"""What the file says besides the computation, and must still say afterwards."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from traps.case import Check, case
from traps.make import model, n, rand, vi

LOST = (
    "sparse_initializer, quantization_annotation, metadata_props, doc_string, denotation, "
    "device configurations lost on the way through"
)


def props(target: Any) -> dict[str, str]:
    return {p.key: p.value for p in target.metadata_props}


def put(target: Any, **values: str) -> None:
    for key, value in values.items():
        target.metadata_props.add(key=key, value=value)


def same(*path: str) -> Check:
    """The fields of this path are equal before and after, for example `graph.doc_string`."""

    def value(model: onnx.ModelProto) -> Any:
        found: Any = model
        for part in path:
            found = getattr(found, part)
        return (
            [v.SerializeToString(deterministic=True) for v in found]
            if hasattr(found, "__len__") and not isinstance(found, str)
            else found
        )

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        assert value(a) == value(b), f"{'.'.join(path)} has changed"

    return check


def same_props(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    assert props(a).items() <= props(b).items(), "the model's metadata_props have changed"
    assert props(a.graph).items() <= props(b.graph).items(), "the graph's metadata_props have changed"


def same_values_info(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Docs, denotations and properties of inputs and outputs."""
    for old, new in ((a.graph.input, b.graph.input), (a.graph.output, b.graph.output)):
        assert [v.SerializeToString(deterministic=True) for v in old] == [
            v.SerializeToString(deterministic=True) for v in new
        ]


def same_of_node(name: str) -> Check:
    """The node of this name still has its doc string, its properties and its device configuration."""

    def check(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        old, new = ({node.name: node for node in m.graph.node}[name] for m in (a, b))
        assert old.doc_string == new.doc_string, "the node's doc_string is gone"
        assert props(old).items() <= props(new).items(), "the node's metadata_props are gone"
        if hasattr(old, "device_configurations"):
            assert list(old.device_configurations) == list(new.device_configurations), (
                "the node's device configurations are gone"
            )

    return check


def plain(**kwargs: Any) -> onnx.ModelProto:
    nodes = [
        n("Identity", "x", "i"),
        n("Mul", "i k", "m", name="keep"),
        n("Mul", "a b", "dead"),
        n("Relu", "m", "y", name="relu"),
    ]
    return model(nodes, "x:float[N]", "y:float[N]", {"k": 2.0, "a": rand(2), "b": rand(2)}, **kwargs)


HEADS = [
    same("doc_string"),
    same("producer_name"),
    same("producer_version"),
    same("model_version"),
    same("domain"),
    same("graph", "doc_string"),
    same("graph", "name"),
]


@case("structure/metadata", LOST, checks=[*HEADS, same_props])
def docs_and_properties_of_model_and_graph() -> onnx.ModelProto:
    built = plain(doc_string="what the graph does")
    built.doc_string, built.producer_name, built.producer_version = "what the model is", "somebody", "1.2"
    built.domain, built.model_version = "org.example", 2**40
    put(built, names="{0: 'cat'}", stride="32", empty="")
    if hasattr(built.graph, "metadata_props"):
        put(built.graph, author="Ω")
    return built


@case("structure/metadata", LOST + ": of nodes", checks=[same_of_node("keep"), same_of_node("relu")])
def docs_and_properties_of_nodes() -> onnx.ModelProto:
    built = plain()
    for node in built.graph.node:
        node.doc_string = f"made from {node.op_type}"
        if hasattr(node, "metadata_props"):
            put(node, source=f"line {node.op_type}")
    return built


@case("structure/metadata", LOST + ": of inputs, outputs and their types", checks=[same_values_info])
def docs_and_denotations_of_inputs() -> onnx.ModelProto:
    built = plain()
    for value in (built.graph.input[0], built.graph.output[0]):
        value.doc_string = "an image, 0 to 255"
        value.type.denotation = "IMAGE"
        value.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
        if hasattr(value, "metadata_props"):
            put(value, range="0..255")
    return built


@case("structure/metadata", LOST + ": of initializers that stay")
def docs_of_initializers() -> onnx.ModelProto:
    built = plain()
    for tensor in built.graph.initializer:
        tensor.doc_string = "a weight"
    return built


def annotations_kept(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """The annotation of a value that is still there is still there, and so are the parameters that it names."""
    kept = {q.tensor_name: q for q in b.graph.quantization_annotation}
    assert "m" in kept, "the quantization annotation of m is gone"
    names = {t.name for t in b.graph.initializer}
    for entry in kept["m"].quant_parameter_tensor_names:
        assert entry.value in names, f"{entry.value}, which the annotation names, is gone"


@case("structure/metadata", LOST, checks=[annotations_kept])
def quantization_annotations() -> onnx.ModelProto:
    built = plain()
    built.graph.initializer.extend(
        [numpy_helper.from_array(rand(), "m_scale"), numpy_helper.from_array(rand(), "m_zero")]
    )
    note = built.graph.quantization_annotation.add(tensor_name="m")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="m_scale")
    note.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="m_zero")
    return built


def sparse_kept(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    old, new = ({s.values.name: s for s in m.graph.sparse_initializer} for m in (a, b))
    dense = {t.name for t in b.graph.initializer}
    assert set(old) <= set(new) | dense, "a sparse initializer is gone"


@case("structure/metadata", LOST, checks=[sparse_kept])
def sparse_initializer_kept() -> onnx.ModelProto:
    values = helper.make_tensor("sp", TensorProto.FLOAT, [2], [1.5, -2.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("sp_i", TensorProto.INT64, [2], [0, 4]), [5])
    built = model([n("Add", "x sp", "y")], "x:float[5]", "y:float[5]")
    built.graph.sparse_initializer.append(sparse)
    return built


if hasattr(onnx, "DeviceConfigurationProto"):

    @case("structure/metadata", LOST, checks=[same("configuration"), same_of_node("relu")])
    def device_configurations() -> onnx.ModelProto:
        """Multi-device models (IR 11): two devices, and a node that is sharded over them."""
        built = plain(ir=11)
        built.configuration.add(name="pair", num_devices=2, device=["CPU", "CPU"])
        node = built.graph.node[3].device_configurations.add(configuration_id="pair", pipeline_stage=1)
        spec = node.sharding_spec.add(tensor_name="m", device=[0, 1])
        spec.sharded_dim.add(axis=0).simple_sharding.add(num_shards=2)
        return built


def info_is_true(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Whatever the optimized graph declares about inner values is about values that it has."""
    names = (
        {o for node in b.graph.node for o in node.output}
        | {i.name for i in b.graph.input}
        | {t.name for t in b.graph.initializer}
    )
    stale = [v.name for v in b.graph.value_info if v.name not in names]
    assert not stale, f"value_info of values that are gone: {stale}"


@case("structure/metadata", "value_info of removed values is stale", checks=[info_is_true])
def value_info_of_inner_values() -> onnx.ModelProto:
    info = [vi("i:float[N]"), vi("m:float[N]"), vi("dead:float[2]")]
    return plain(value_info=info)


@case("structure/metadata", "training_info is not ours to drop", evaluator="none", checks=[same("training_info")])
def training_info_kept() -> onnx.ModelProto:
    built = plain()
    info = built.training_info.add()
    info.initialization.CopyFrom(
        helper.make_graph([n("Constant", "", "k0", value_float=1.0)], "init", [], [vi("k0:float[]")])
    )
    info.initialization_binding.add(key="k", value="k0")
    return built
