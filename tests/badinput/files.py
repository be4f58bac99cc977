"""Bad model files: each function writes one into a folder and returns its path."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Bad:
    """A bad file: what makes it, the words that the error must contain, and the error's class."""

    make: Callable[[Path], Path]
    words: tuple[str, ...] = ("model.onnx",)
    error: str = "ModelError"


BAD: dict[str, Bad] = {}


def bad(*words: str, error: str = "ModelError") -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def register(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        BAD[make.__name__] = Bad(make, words or ("model.onnx",), error)
        return make

    return register


def good(weights: int = 64) -> onnx.ModelProto:
    """MatMul, an Identity to remove, Relu; `weights` x `weights` floats."""
    w = np.random.default_rng(0).normal(size=(weights, weights)).astype(np.float32)
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"), helper.make_node("Identity", ["m"], ["i"]),
         helper.make_node("Relu", ["i"], ["y"], name="relu")],
        {"w": w}, width=weights,
    )  # fmt: skip


def build(nodes: list[NodeProto], weights: dict[str, np.ndarray] | None = None, *, width: int = 2) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, FLOAT, ["N", width]) for name in ("x", "y")]
    inits = [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def put(folder: Path, content: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


@bad()
def cut_in_the_middle(folder: Path) -> Path:
    file = good().SerializeToString()
    return put(folder, file[: len(file) // 2])


@bad()
def cut_by_one_byte(folder: Path) -> Path:
    return put(folder, good().SerializeToString()[:-1])


@bad()
def cut_after_the_header(folder: Path) -> Path:
    return put(folder, good().SerializeToString()[:11])


@bad()
def empty_file(folder: Path) -> Path:
    return put(folder, b"")


@bad()
def text_file(folder: Path) -> Path:
    return put(folder, b"import torch\n\nmodel = torch.load('weights.pt')\n" * 20)


@bad()
def git_lfs_pointer(folder: Path) -> Path:
    return put(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")


@bad()
def web_page(folder: Path) -> Path:
    return put(folder, b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n")


@bad()
def png_picture(folder: Path) -> Path:
    return put(folder, b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 4)


@bad()
def zip_archive(folder: Path) -> Path:
    return put(folder, b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + b"\xd4" * 300)


@bad()
def zeros(folder: Path) -> Path:
    return put(folder, bytes(4096))


@bad()
def protobuf_of_a_tensor(folder: Path) -> Path:
    return put(folder, numpy_helper.from_array(np.zeros((3, 4), np.float32), "t").SerializeToString())


@bad()
def model_without_a_graph(folder: Path) -> Path:
    return put(folder, onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]))


@bad("nowhere.onnx")
def file_that_is_not_there(folder: Path) -> Path:
    return folder / "nowhere.onnx"


@bad("folder.onnx")
def folder_for_a_file(folder: Path) -> Path:
    (folder / "folder.onnx").mkdir()
    return folder / "folder.onnx"


@bad()
def cycle(folder: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "c"], ["a"], name="first"), helper.make_node("Neg", ["a"], ["b"]),
             helper.make_node("Exp", ["b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]  # fmt: skip
    return put(folder, build(nodes))


@bad()
def node_that_reads_itself(folder: Path) -> Path:
    return put(folder, build([helper.make_node("Add", ["x", "y"], ["y"], name="loop")]))


@bad("ghost")
def undefined_input(folder: Path) -> Path:
    return put(folder, build([helper.make_node("Add", ["x", "ghost"], ["y"], name="adder")]))


@bad("y")
def undefined_graph_output(folder: Path) -> Path:
    return put(folder, build([helper.make_node("Relu", ["x"], ["z"])]))


@bad("ghost")
def undefined_name_in_a_body(folder: Path) -> Path:
    info = helper.make_tensor_value_info
    bodies = [
        helper.make_graph([helper.make_node("Neg", [source], [out])], out, [], [info(out, FLOAT, None)])
        for source, out in (("x", "p"), ("ghost", "q"))
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1])
    return put(folder, build([node], {"c": np.array(True)}))


@bad("y")
def value_defined_twice(folder: Path) -> Path:
    return put(folder, build([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]))


@bad("w")
def initializer_defined_twice(folder: Path) -> Path:
    model = good()
    model.graph.initializer.append(model.graph.initializer[0])
    return put(folder, model)


@bad("Frobnicate")
def unknown_operator(folder: Path) -> Path:
    return put(folder, build([helper.make_node("Frobnicate", ["x"], ["y"], name="what")]))


@bad("Gelu")
def operator_of_a_later_opset(folder: Path) -> Path:
    return put(folder, build([helper.make_node("Gelu", ["x"], ["y"])]))


@bad("F")
def function_that_calls_itself(folder: Path) -> Path:
    body = [helper.make_node("F", ["a"], ["t"], domain="my"), helper.make_node("Neg", ["t"], ["b"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    model = build([helper.make_node("F", ["x"], ["y"], domain="my")])
    model.opset_import.append(opsets[1])
    model.functions.append(helper.make_function("my", "F", ["a"], ["b"], body, opsets))
    return put(folder, model)


@bad("function")
def functions_that_call_each_other(folder: Path) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    model = build([helper.make_node("F", ["x"], ["y"], domain="my")])
    model.opset_import.append(opsets[1])
    for name, other in (("F", "G"), ("G", "F")):
        body = [helper.make_node(other, ["a"], ["b"], domain="my")]
        model.functions.append(helper.make_function("my", name, ["a"], ["b"], body, opsets))
    return put(folder, model)


@bad("w")
def tensor_shorter_than_its_dims(folder: Path) -> Path:
    model = good()
    model.graph.initializer[0].raw_data = b"\x00" * 12
    return put(folder, model)


@bad("w")
def tensor_of_an_unknown_type(folder: Path) -> Path:
    model = good()
    model.graph.initializer[0].data_type = 77
    return put(folder, model)


@bad("w")
def tensor_with_a_negative_dim(folder: Path) -> Path:
    model = good()
    model.graph.initializer[0].dims[0] = -64
    return put(folder, model)


def external(folder: Path, location: str, *, offset: str = "0", length: str = str(64 * 64 * 4)) -> Path:
    """A model whose weight `w` is 16 KiB of the file at `location`."""
    model = good()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return put(folder, model)


def outside(folder: Path) -> Path:
    """A file with data that is not in the model's folder."""
    path = folder.parent / "outside.bin"
    path.write_bytes(bytes(64 * 64 * 4))
    return path


EXTERNAL = "ExternalDataError"


@bad("w", "weights.bin", error=EXTERNAL)
def external_data_missing(folder: Path) -> Path:
    return external(folder, "weights.bin")


@bad("w", "outside.bin", error=EXTERNAL)
def external_data_at_an_absolute_path(folder: Path) -> Path:
    return external(folder, str(outside(folder)))


@bad("w", "outside.bin", error=EXTERNAL)
def external_data_in_the_folder_above(folder: Path) -> Path:
    outside(folder)
    return external(folder, "../outside.bin")


@bad("w", "outside.bin", error=EXTERNAL)
def external_data_above_by_way_of_a_folder(folder: Path) -> Path:
    outside(folder)
    (folder / "sub").mkdir()
    return external(folder, "sub/../../outside.bin")


@bad("w", "weights.bin", error=EXTERNAL)
def external_data_by_a_link_out_of_the_folder(folder: Path) -> Path:
    (folder / "weights.bin").symlink_to(outside(folder))
    return external(folder, "weights.bin")


@bad("w", "sub/outside.bin", error=EXTERNAL)
def external_data_in_a_linked_folder(folder: Path) -> Path:
    (folder / "sub").symlink_to(outside(folder).parent, target_is_directory=True)
    return external(folder, "sub/outside.bin")


@bad("w", "weights.bin", error=EXTERNAL)
def external_data_that_is_a_device(folder: Path) -> Path:
    (folder / "weights.bin").symlink_to("/dev/zero")
    return external(folder, "weights.bin")


@bad("w", "weights.bin", error=EXTERNAL)
def external_data_that_is_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "weights.bin")
    return external(folder, "weights.bin")


@bad("w", "weights.bin", error=EXTERNAL)
def external_data_that_is_a_folder(folder: Path) -> Path:
    (folder / "weights.bin").mkdir()
    return external(folder, "weights.bin")


def with_data(folder: Path, **entry: str) -> Path:
    (folder / "weights.bin").write_bytes(bytes(64 * 64 * 4))
    return external(folder, "weights.bin", **entry)


@bad("w", "weights.bin", error=EXTERNAL)
def external_length_past_the_end(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(bytes(100))
    return external(folder, "weights.bin")


@bad("w", "weights.bin", error=EXTERNAL)
def external_offset_past_the_end(folder: Path) -> Path:
    return with_data(folder, offset="4096")


@bad("w", error=EXTERNAL)
def external_offset_below_zero(folder: Path) -> Path:
    return with_data(folder, offset="-4")


@bad("w", error=EXTERNAL)
def external_offset_that_is_no_number(folder: Path) -> Path:
    return with_data(folder, offset="many")


@bad("w")
def external_length_that_is_not_the_tensors(folder: Path) -> Path:
    return with_data(folder, length="64")


@bad("w", error=EXTERNAL)
def external_data_without_a_location(folder: Path) -> Path:
    path = external(folder, "weights.bin")
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].external_data[0]
    return put(folder, model)


@bad("w", "location", error=EXTERNAL)
def external_data_with_two_locations(folder: Path) -> Path:
    path = with_data(folder)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="other.bin")
    return put(folder, model)


@bad("w", error=EXTERNAL)
def external_offset_of_more_than_64_bits(folder: Path) -> Path:
    return with_data(folder, offset=str(2**64))


@bad("w", error=EXTERNAL)
def external_data_of_text(folder: Path) -> Path:
    model = onnx.load(with_data(folder), load_external_data=False)
    model.graph.initializer[0].data_type = TensorProto.STRING
    return put(folder, model)


@bad("function", "nodes")
def functions_that_write_out_to_a_million_nodes(folder: Path) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    model = build([helper.make_node("F0", ["x"], ["y"], domain="my")])
    model.opset_import.append(opsets[1])
    for level in range(20):
        calls = [helper.make_node(f"F{level + 1}", [f"v{i}"], [f"v{i + 1}"], domain="my") for i in range(2)]
        model.functions.append(helper.make_function("my", f"F{level}", ["v0"], ["v2"], calls, opsets))
    model.functions.append(
        helper.make_function("my", "F20", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], opsets)
    )
    return put(folder, model)
