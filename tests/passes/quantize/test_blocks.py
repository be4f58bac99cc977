"""Packing of weights in blocks: the bits are those that onnx and ONNX Runtime's own quantizer write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graphopt.ir import Model, Store
from graphopt.ir.tensor import fill
from graphopt.passes.quantize._blocks import Blocks, blocks_of, for_dequantize, for_matmul_nbits, pack_bits, unpack_bits
from graphopt.passes.quantize._rtn import Grid, quantize_matrix

from ..util import rand


def some(rows: int, columns: int, bits: int, size: int, symmetric: bool) -> Blocks:
    random, count = np.random.default_rng(rows + bits), blocks_of(rows, size)
    codes = random.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    zero = random.integers(0, 2**bits, (count, columns)).astype(np.uint8)
    zero = np.full_like(zero, 2 ** (bits - 1)) if symmetric else zero
    return Blocks(codes, rand(count, columns), zero, bits, size, symmetric)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("length", [1, 7, 16])
def test_packing_round_trip(bits: int, length: int) -> None:
    codes = np.random.default_rng(length).integers(0, 2**bits, (3, length)).astype(np.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (3, -(-length * bits // 8))
    np.testing.assert_array_equal(unpack_bits(packed, bits, length), codes)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("transposed", [True, False])
def test_dequantize_form_is_onnx_own_packing(bits: int, symmetric: bool, transposed: bool) -> None:
    """What the IR writes for these arrays is bit for bit what onnx.numpy_helper writes for the same numbers."""
    found = some(33, 5, bits, 16, symmetric)
    codes, scale, zero, kind = for_dequantize(found, transposed)
    signed = found.codes.astype(np.int16) - (2 ** (bits - 1) if symmetric else 0)
    want = onnx.helper.make_tensor("w", kind, codes.shape, (signed.T if transposed else signed).reshape(-1).tolist())
    mine = TensorProto()
    fill(mine, codes, "w", Store(), kind)
    np.testing.assert_array_equal(numpy_helper.to_array(mine).astype(int), numpy_helper.to_array(want).astype(int))
    assert mine.raw_data == numpy_helper.from_array(numpy_helper.to_array(want), "w").raw_data
    assert scale.shape == ((5, 3) if transposed else (3, 5)) and (zero is None) is symmetric


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(64, 16, 32), (96, 40, 16), (50, 7, 16), (128, 3, 128), (80, 5, 32)]
)
def test_bits_are_those_of_the_runtimes_quantizer(
    rows: int, columns: int, size: int, bits: int, symmetric: bool, dtype: Any
) -> None:
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    weight = np.random.default_rng(rows).standard_normal((rows, columns)).astype(dtype)
    config = quantizer.DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=symmetric, bits=bits)
    packed, scales, zeros = quantizer.DefaultWeightOnlyQuantizer(config).qbits_block_quant(weight)
    mine = for_matmul_nbits(quantize_matrix(weight, Grid(bits, size, symmetric, search=False)))
    np.testing.assert_array_equal(mine[0], packed)
    np.testing.assert_array_equal(mine[1].ravel(), scales.ravel())  # flat before ONNX Runtime 1.24
    assert mine[1].dtype == scales.dtype and (mine[2] is None) is symmetric
    if mine[2] is not None:
        np.testing.assert_array_equal(mine[2].ravel(), zeros.ravel())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_by_range_no_weight_is_more_than_half_a_step_off(bits: int, symmetric: bool, positive: bool) -> None:
    weight = np.concatenate([rand(70, 9, seed=1), rand(70, 2, seed=2, low=0.5), np.zeros((70, 1), np.float32)], axis=1)
    found = quantize_matrix(weight, Grid(bits, 32, symmetric, False, positive))
    step = np.abs(found.scale)[np.arange(70) // 32]
    off = np.abs(found.real() - weight)
    clipped = (found.codes == 0) | (found.codes == 2**bits - 1)  # a symmetric block lacks a step on one side
    assert (off[~clipped] <= step[~clipped] * 0.5001).all() and (off <= step * (1.001 if symmetric else 0.5001)).all()
    if positive or not symmetric:
        assert (found.scale >= 0).all() and (off <= step * 0.5001).all()
    assert not found.real()[:, -1].any()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_search_finds_better_scales(symmetric: bool, positive: bool, weighted: bool) -> None:
    weight = np.random.default_rng(0).standard_t(4, (128, 30)).astype(np.float32)
    h = rand(128, low=0.01, high=3.0) if weighted else None

    def error(found: Blocks) -> Any:
        squares = (found.real() - weight) ** 2 * (1 if h is None else h[:, None])
        return squares.reshape(4, 32, 30).sum(axis=1)

    plain = error(quantize_matrix(weight, Grid(4, 32, symmetric, False, positive), h))
    searched = error(quantize_matrix(weight, Grid(4, 32, symmetric, True, positive), h))
    assert np.median(searched / plain) < 1 and searched.sum() < 0.98 * plain.sum()


def test_the_weights_keep_their_length() -> None:
    """Least squares alone would make them all a little shorter, an error that adds up."""
    weight = np.random.default_rng(0).standard_normal((64, 200)).astype(np.float32)
    found = quantize_matrix(weight, Grid(4, 64)).real()
    lengths = (found * weight).sum(axis=0) / (weight**2).sum(axis=0)
    assert abs(lengths.mean() - 1) < 4e-3 and abs(lengths - 1).max() < 0.03


def test_constants_go_through_a_model() -> None:
    """int4 that the IR packs is read back by the IR and by onnx."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x) => (float[N] y) {y = Abs(x)}'
    )
    model = Model(proto)
    codes, _, _, kind = for_dequantize(some(17, 3, 4, 16, True))
    value = model.graph.constant(codes, "codes", kind)
    np.testing.assert_array_equal(value.numpy().astype(np.int8), codes)
    assert value.dtype == TensorProto.INT4 and value.tensor is not None and value.tensor.nbytes == 26
