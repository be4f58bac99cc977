"""Taking payloads out of serialized models, and putting them back."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir import from_proto
from graphopt.ir.wire import TOKEN_SIZE, join, split, token, token_index

from .util import BRANCH, proto


def tensor(name: str, size: int) -> TensorProto:
    return numpy_helper.from_array(np.arange(size, dtype=np.uint8), name)


def with_payloads(sizes: list[int]) -> ModelProto:
    """Tensors everywhere a tensor can be: initializers, sparse ones, attributes, bodies, functions."""
    places = [tensor(f"t{i}", size) for i, size in enumerate(sizes)]
    sparse = helper.make_sparse_tensor(tensor("s", 100), numpy_helper.from_array(np.arange(100)), [1000])
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=places[0])], "body", [], [], places[:2])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=places[-1]),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
        helper.make_node("Odd", [], ["z"], domain="my", many=places, bodies=[body, body], sparse=sparse),
    ]
    function = helper.make_function("my", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    graph = helper.make_graph(nodes, "g", [], [], places, sparse_initializer=[sparse])
    return helper.make_model(graph, functions=[function])


def whole(data: bytes, blobs: list[memoryview]) -> bytes:
    pieces, size = join(data, blobs)
    joined = b"".join(pieces)
    assert len(joined) == size
    return joined


@given(st.lists(st.sampled_from([0, 1, 7, 31, 32, 33, 100, 127, 128, 300]), min_size=1, max_size=4), st.integers(1, 64))
def test_join_is_the_inverse_of_split(sizes: list[int], big: int) -> None:
    model = with_payloads(sizes)
    data = model.SerializeToString()
    skeleton, blobs = split(data, big)
    assert whole(skeleton, blobs) == data
    assert all(len(blob) >= big for blob in blobs)
    parsed = ModelProto.FromString(skeleton)
    for made, original in zip(parsed.graph.initializer, model.graph.initializer, strict=True):
        index = token_index(made.raw_data)
        assert (bytes(blobs[index]) if index is not None else made.raw_data) == original.raw_data
        assert (index is not None) == (len(original.raw_data) >= big)


def test_every_place_of_a_tensor_is_found() -> None:
    data = with_payloads([200, 300]).SerializeToString()
    skeleton, blobs = split(data, 100)
    # 2 initializers and 1 sparse one (values, indices); in the nodes: a Constant, 2 bodies with 3 each, and an operator
    # with 2 tensors, 1 sparse tensor and 2 bodies; the nodes twice: in the graph and in a function
    assert len(blobs) == 4 + 2 * (1 + 6 + 4 + 6)
    assert len(skeleton) + sum(map(len, blobs)) - TOKEN_SIZE * len(blobs) == pytest.approx(len(data), rel=0.05)


def test_payloads_are_views_not_copies() -> None:
    data = with_payloads([1000]).SerializeToString()
    _, blobs = split(data, 100)
    assert all(blob.obj is data for blob in blobs)


def test_tokens() -> None:
    assert token_index(token(7)) == 7
    assert token_index(b"x" * TOKEN_SIZE) is None
    assert token_index(b"") is None


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_nothing(data: bytes) -> None:
    try:
        skeleton, blobs = split(data, 4)
    except ModelError:
        return
    assert whole(bytes(skeleton), blobs)[: len(data) and 1] == data[: len(data) and 1] or not data


@given(st.data())
def test_truncated_models_are_an_error(data: st.DataObject) -> None:
    whole_model = with_payloads([50, 200]).SerializeToString()
    cut = data.draw(st.integers(1, len(whole_model) - 1))
    try:
        skeleton, _ = split(whole_model[:cut], 10)
        parsed = ModelProto.FromString(skeleton)
    except (ModelError, DecodeError):
        return
    assert len(parsed.SerializeToString()) <= cut + 10 * TOKEN_SIZE  # cut between two fields: a smaller message


@given(st.data())
def test_damaged_models_are_an_error_or_a_model(data: st.DataObject) -> None:
    """No hang, no crash, no exception but ModelError, wherever a byte changes."""
    healthy = bytearray(proto(BRANCH).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        healthy[data.draw(st.integers(0, len(healthy) - 1))] = data.draw(st.integers(0, 255))
    try:
        damaged = ModelProto.FromString(bytes(healthy))
    except DecodeError:
        return
    try:
        made = from_proto(damaged)
        made.text()
        made.commit()
    except ModelError:
        return
    for graph in made.scopes():
        assert all(isinstance(node.op, str) for node in graph)


@pytest.mark.parametrize("tag", [0x0B, 0x0C, 0x0E, 0x0F])
def test_wire_types_that_no_onnx_file_has(tag: int) -> None:
    with pytest.raises(ModelError, match="no valid protobuf"):
        split(bytes([tag, 0, 0]))


def test_endless_varint() -> None:
    with pytest.raises(ModelError):
        split(b"\xff" * 40)


def test_length_that_runs_past_the_end() -> None:
    with pytest.raises(ModelError, match="cut short"):
        split(b"\x3a\xff\x7f\x00")


def test_deep_nesting_is_no_recursion() -> None:
    inner = b""
    for _ in range(3000):  # graph > node > attribute > graph ...
        for field in (6, 5, 1):
            head = bytearray([field << 3 | 2])
            size = len(inner)
            while size > 127:
                head.append(size & 127 | 128)
                size >>= 7
            inner = bytes(head) + bytes([size]) + inner
    size = len(inner)
    head = bytearray([0x3A])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    data = bytes(head) + bytes([size]) + inner
    assert split(data, 1)[0] == data
