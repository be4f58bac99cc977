"""Every element type in every storage, and the arrays that become tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir import Store, Tensor, dtypes
from graphopt.ir.tensor import fill, payload_bytes

from .util import model

KINDS = [kind for name, kind in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")]
STORAGES = ("raw", "typed", "blob", "external")
NEW_ONNX = hasattr(TensorProto, "FLOAT6E2M3")  # its helpers know all these types


def some(kind: int, count: int = 11) -> np.ndarray[Any, Any]:
    """Values of a type that a wrong width, sign or order would change."""
    dtype = dtypes.to_numpy(kind)
    plain = np.resize(np.array([0, 1, -1, 2, -2, 1.5, -0.5, 3, 0.25, -1.5, 6]), count)
    if dtype.kind == "u" or dtypes.name(kind) in ("uint4", "uint2", "float8_e8m0fnu"):
        plain = np.abs(plain) + (dtypes.name(kind) == "float8_e8m0fnu")
    if dtype.kind == "c":
        return (plain + 1j * plain[::-1]).astype(dtype)
    with np.errstate(all="ignore"):
        return plain.astype(np.float32).astype(dtype) if dtype.kind == "V" else plain.astype(dtype)


def stored(kind: int, array: np.ndarray[Any, Any], storage: str, folder: Path) -> Tensor:
    """The array as a Tensor, written by code that shares nothing with graphopt's."""
    store = Store(folder=str(folder))
    if storage == "typed":
        proto = typed(kind, array)
        return Tensor(proto, store)
    proto = TensorProto(name="t", data_type=kind, dims=array.shape)
    payload = packed(kind, array)
    if storage == "raw":
        proto.raw_data = payload
    elif storage == "blob":
        proto.raw_data = store.add(payload)
    else:
        (folder / "w.bin").write_bytes(b"\7" * 5 + payload + b"\7" * 3)
        proto.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "w.bin"), ("offset", "5"), ("length", str(len(payload)))):
            proto.external_data.add(key=key, value=text)
    return Tensor(proto, store)


def codes(array: np.ndarray[Any, Any]) -> list[int]:
    return [int(code) for code in np.ascontiguousarray(array).view(np.uint8).ravel()]


def packed(kind: int, array: np.ndarray[Any, Any]) -> bytes:
    bits = dtypes.NARROW.get(kind)
    if bits is None:
        return array.tobytes()
    stream = sum((code & ((1 << bits) - 1)) << (bits * i) for i, code in enumerate(codes(array)))
    return stream.to_bytes((bits * array.size + 7) // 8, "little")


def typed(kind: int, array: np.ndarray[Any, Any]) -> TensorProto:
    proto = TensorProto(name="t", data_type=kind, dims=array.shape)
    name = dtypes.name(kind)
    if name in ("float32", "complex64"):
        proto.float_data.extend(array.view(np.float32).tolist())
    elif name in ("float64", "complex128"):
        proto.double_data.extend(array.view(np.float64).tolist())
    elif name == "int64":
        proto.int64_data.extend(array.tolist())
    elif name in ("uint32", "uint64"):
        proto.uint64_data.extend(array.tolist())
    elif name in ("int8", "int16", "int32", "uint8", "uint16", "bool"):
        proto.int32_data.extend(array.astype(np.int32).tolist())
    elif dtypes.NARROW.get(kind) in (2, 4):
        proto.int32_data.extend(packed(kind, array))
    elif dtypes.NARROW.get(kind) == 6:
        proto.int32_data.extend(code & 63 for code in codes(array))
    else:
        bits = array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)
        proto.int32_data.extend(bits.astype(np.int32).tolist())
    return proto


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if a.dtype.kind == "V":  # int4 keeps its sign in the upper half of the byte, or not
        a, b = a.astype(np.float32), b.astype(np.float32)
    assert a.tobytes() == b.tobytes()


def test_the_table_is_that_of_onnx() -> None:
    if NEW_ONNX:
        for kind in KINDS:
            assert dtypes.to_numpy(kind) == helper.tensor_dtype_to_np_dtype(kind), kind
            assert dtypes.from_numpy(dtypes.to_numpy(kind)) == kind
    assert dtypes.from_numpy(np.dtype("U3")) == dtypes.from_numpy(np.dtype(object)) == TensorProto.STRING


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", KINDS, ids=dtypes.name)
@pytest.mark.parametrize("count", [11, 0])
def test_every_type_in_every_storage(kind: int, storage: str, count: int, tmp_path: Path) -> None:
    array = some(kind, count)
    tensor = stored(kind, array, storage, tmp_path)
    got = tensor.numpy()
    same(got, array)
    assert not got.flags.writeable
    assert tensor.numpy() is got
    assert tensor.shape == (count,)
    assert tensor.dtype == kind
    assert tensor.nbytes == len(packed(kind, array))
    if NEW_ONNX and storage in ("raw", "typed"):
        same(got, numpy_helper.to_array(tensor.proto))


@pytest.mark.parametrize("kind", KINDS, ids=dtypes.name)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 1, 4)])
def test_arrays_become_tensors(kind: int, shape: tuple[int, ...]) -> None:
    array = some(kind, int(np.prod(shape))).reshape(shape)
    proto = TensorProto()
    fill(proto, array, "t", Store())
    assert proto.raw_data == packed(kind, array)
    same(Tensor(proto, Store()).numpy(), array)
    assert proto.data_type == kind
    if NEW_ONNX:
        onnx.checker.check_tensor(proto)


@given(st.sampled_from(sorted(dtypes.NARROW)), st.integers(0, 40), st.randoms(use_true_random=False))
def test_packing_and_unpacking(kind: int, count: int, random: Any) -> None:
    wide = np.array([random.randrange(1 << dtypes.NARROW[kind]) for _ in range(count)], np.uint8)
    array = wide.view(dtypes.to_numpy(kind))
    payload = dtypes.pack(array, kind)
    assert payload == packed(kind, array)
    assert len(payload) == payload_bytes(kind, count)
    same(dtypes.unpack(payload, kind, count), array)


def test_large_arrays_go_to_the_store() -> None:
    store, proto = Store(), TensorProto()
    array = np.arange(100_000, dtype=np.float32).reshape(-1, 10)
    fill(proto, array, "t", store)
    assert len(proto.raw_data) < 100
    assert len(store.blobs) == 1
    same(Tensor(proto, store).numpy(), array)


def test_arrays_of_another_layout() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for view in (array.T, array[:, ::2], array.astype(">f4"), np.asfortranarray(array)):
        proto = TensorProto()
        fill(proto, view, "t", Store())
        same(Tensor(proto, Store()).numpy(), np.ascontiguousarray(view).astype("<f4"))


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (np.array([1, -8, 7]), TensorProto.INT4, [1, -8, 7]),
        (np.array([0x3F80, 0xC000], np.uint16), TensorProto.BFLOAT16, [1, -2]),
        (np.array([0x38, 0xB8], np.uint8), TensorProto.FLOAT8E4M3FN, [1, -1]),
        (np.array([1.0, -2.0], np.float32), TensorProto.BFLOAT16, [1, -2]),
        (np.array([1, 0], np.uint8), TensorProto.BOOL, [1, 0]),
        (np.array([3, 200], np.uint8), TensorProto.FLOAT, [3, 200]),
    ],
)
def test_a_type_that_the_array_does_not_say(array: np.ndarray[Any, Any], kind: int, expected: list[float]) -> None:
    proto = TensorProto()
    fill(proto, array, "t", Store(), kind)
    got = Tensor(proto, Store()).numpy()
    assert got.dtype == dtypes.to_numpy(kind)
    assert got.astype(np.float32).tolist() == expected


def test_strings_that_are_no_utf8() -> None:
    items = [b"caf\xc3\xa9", b"\xff\xfe", b"", b"\0"]
    proto = TensorProto(name="s", data_type=TensorProto.STRING, dims=[2, 2], string_data=items)
    array = Tensor(proto, Store()).numpy()
    assert array.tolist() == [[b"caf\xc3\xa9", b"\xff\xfe"], [b"", b"\0"]]
    again = TensorProto()
    fill(again, array, "s", Store())
    assert again.SerializeToString() == proto.SerializeToString()
    fill(again := TensorProto(), np.array(["é", "b"]), "s", Store())
    assert list(again.string_data) == ["é".encode(), b"b"]


@pytest.mark.parametrize(
    "change",
    [
        {"raw_data": b"\0" * 15},
        {"raw_data": b"\0" * 17},
        {"raw_data": b""},
        {"dims": [-1]},
        {"dims": [2, -2]},
        {"data_type": 0},
        {"data_type": 99},
        {"data_type": TensorProto.INT4, "dims": [33]},
        {"data_type": TensorProto.STRING},
    ],
    ids=str,
)
def test_tensors_that_do_not_hold_what_they_declare(change: dict[str, Any]) -> None:
    proto = TensorProto(**{"name": "t", "data_type": TensorProto.FLOAT, "dims": [4], "raw_data": b"\0" * 16} | change)
    with pytest.raises(ModelError, match="'t'"):
        Tensor(proto, Store()).numpy()


def test_typed_fields_that_are_too_short() -> None:
    for kind in (TensorProto.FLOAT, TensorProto.INT4, TensorProto.BFLOAT16, TensorProto.STRING):
        with pytest.raises(ModelError):
            Tensor(TensorProto(name="t", data_type=kind, dims=[5]), Store()).numpy()


CONSTANTS = [
    ("value = float[2] {1, 2}", np.float32, [1, 2]),
    ("value_float = 0.1", np.float32, np.float32(0.1)),
    ("value_floats = [0.5, 2.0]", np.float32, [0.5, 2]),
    ("value_int = 3", np.int64, 3),
    ("value_ints = [3, -1]", np.int64, [3, -1]),
]


@pytest.mark.parametrize(("text", "dtype", "expected"), CONSTANTS)
def test_constant_nodes(text: str, dtype: type, expected: Any) -> None:
    m = model(f"g () => (float[N] y) {{ k = Constant<{text}>()  y = Identity(k) }}")
    k = m.graph.values["k"]
    assert k.is_const
    assert k.dtype == dtypes.from_numpy(np.dtype(dtype))
    assert k.shape == np.shape(expected)
    np.testing.assert_array_equal(k.numpy(), np.array(expected, dtype))
    assert k.numpy().dtype == dtype


def test_constant_nodes_of_text() -> None:
    m = model('g () => (string[N] y) { y = Constant<value_strings = ["a", "b"]>() z = Constant<value_string = "c">() }')
    assert m.graph.values["y"].numpy().tolist() == [b"a", b"b"]
    assert m.graph.values["z"].numpy()[()] == b"c"
    assert m.graph.values["y"].dtype == TensorProto.STRING


@pytest.mark.parametrize("linear", [False, True])
def test_sparse_constants(linear: bool) -> None:
    indices = np.array([1, 5]) if linear else np.array([[0, 1], [1, 2]])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2.5, -1], np.float32), "v"), numpy_helper.from_array(indices, "i"), [2, 3]
    )
    m = model("g () => (float[N] y) { y = Constant<value_int = 1>() }")
    m.graph.insert("Constant", [], out="k", sparse_value=sparse)
    assert m.graph.values["k"].numpy().tolist() == [[0, 2.5, 0], [0, 0, -1]]


def test_a_constant_without_a_value() -> None:
    m = model("g () => (float[N] y) { y = Constant() }")
    with pytest.raises(ModelError, match="no value"):
        m.graph.values["y"].numpy()


def test_bfloat16_is_ml_dtypes() -> None:
    proto = TensorProto(name="t", data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"\x80\x3f")
    assert Tensor(proto, Store()).numpy().dtype == ml_dtypes.bfloat16
