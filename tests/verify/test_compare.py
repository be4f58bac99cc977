"""How far two results are apart: what must be seen, and what must not be mistaken for a difference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.verify.compare import deviation, flatten, tolerance_for

F32 = np.float32


def passes(reference, other, nodes=10):
    found = deviation(reference, other)
    return found.none or tolerance_for(found.dtype, nodes).allows(found)


def test_equal_is_none(rng):
    x = rng.standard_normal((3, 4)).astype(F32)
    found = deviation(x, x.copy())
    assert found.none and found.cosine == 1.0 and found.sqnr_db is None and passes(x, x.copy())


def test_rounding_passes_and_a_thousandth_does_not(rng):
    x = rng.standard_normal((8, 64)).astype(F32)
    assert passes(x, np.nextafter(x, F32(np.inf)))
    assert not passes(x, x * F32(1.001))


def test_one_wrong_element_among_a_million_is_seen(rng):
    x = rng.standard_normal(1_000_000).astype(F32)
    y = x.copy()
    y[123_456] += F32(0.01)
    found = deviation(x, y)
    assert found.rms < 1e-5 < found.peak and not passes(x, y)


def test_an_error_in_a_small_channel_is_not_hidden_by_a_large_one(rng):
    x = rng.uniform(0, 1, (1, 84, 400)).astype(F32)
    x[:, :4] *= 640
    y = x.copy()
    y[:, 50] *= F32(1.001)
    assert not passes(x, y)


def test_an_error_is_not_hidden_by_a_mask_of_huge_values(rng):
    x = rng.standard_normal((4, 64)).astype(F32)
    x[:, 40:] = -3.4e38
    y = x.copy()
    y[0, 0] += F32(0.01)
    assert not passes(x, y) and passes(x, x * F32(1 + 2e-7))


@pytest.mark.parametrize("other", [[np.nan, 1, np.inf], [1, np.nan, np.inf], [np.nan, 1, -np.inf], [np.nan, np.inf, 1]])
def test_nan_and_inf_must_agree(other):
    reference = np.array([np.nan, 1, np.inf], F32)
    assert passes(reference, np.array(other, F32)) == (other == [np.nan, 1, np.inf])


def test_large_but_finite_is_not_inf():
    found = deviation(np.array([np.inf, 1], F32), np.array([3.4e38, 1], F32))
    assert found.mismatches == 1 and found.max_abs == 0.0


def test_zero_against_zero_and_against_little():
    zero = np.zeros(5, F32)
    assert passes(zero, -zero)
    assert not passes(zero, zero + F32(1e-6))


def test_extremes_raise_no_warnings():
    x = np.array([1.7e308, -1.7e308, 1e-320, 0.0])
    assert not passes(x, -x)
    assert passes(x, x.copy())
    assert passes(np.array([3.4e38, 1e-45], F32), np.array([3.4e38, 1e-45], F32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.bool_])
def test_integers_must_be_equal(dtype):
    x = np.array([0, 1, 1, 0], dtype)
    y = np.array([0, 1, 0, 0], dtype)
    assert passes(x, x.copy())
    found = deviation(x, y)
    assert found.mismatches == 1 and found.off_by == 1 and found.exact and not passes(x, y)


def test_large_integers_are_compared_exactly():
    x = np.array([2**63 - 1, -(2**63)])
    found = deviation(x, np.array([2**63 - 2, 2**63 - 1]))
    assert found.mismatches == 2 and found.off_by == 2**64 - 1


def test_strings():
    assert passes(np.array(["a", "b"], object), np.array(["a", "b"]))
    assert deviation(np.array(["a", "b"], object), np.array(["a", "c"], object)).mismatches == 1


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64", "int4", "uint4", "complex64"]
)
def test_every_type_sees_a_difference(name, rng):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    x = (rng.standard_normal(64) * 3).astype(dtype)
    assert passes(x, x.copy())
    y = x.copy()
    y[3] = dtype.type(7) if float(x[3].real) < 3 else dtype.type(-2 if name != "uint4" else 0)
    assert not passes(x, y)


def test_low_precision_passes_one_step():
    x = np.linspace(-2, 2, 4001).astype(ml_dtypes.bfloat16)
    y = (x.view(np.uint16) + (np.arange(4001) % 50 == 0)).astype(np.uint16).view(ml_dtypes.bfloat16)
    assert passes(x, y)
    half = np.linspace(0.1, 2, 4001).astype(np.float16)
    assert passes(half, np.nextafter(half, np.float16(np.inf)))
    assert not passes(half, half * np.float16(1.05))


def test_type_and_shape_must_agree():
    x = np.zeros((2, 3), F32)
    assert deviation(x, x.astype(np.float64)).kind == "the type float32 became float64"
    assert deviation(x, x.T).kind == "the shape [2, 3] became [3, 2]"
    assert deviation(np.zeros((), F32), np.zeros((1,), F32)).kind == "the shape [] became [1]"


def test_sequences_maps_and_optionals():
    x = [np.arange(3), np.arange(2)]
    assert passes(x, [np.arange(3), np.arange(2)])
    assert "sequence of 2 became a sequence of 1" in deviation(x, x[:1]).kind
    assert deviation(x, [np.arange(3), np.arange(1, 3)]).mismatches == 2
    assert passes([{"a": 0.5, "b": 0.25}], [{"b": 0.25, "a": 0.5}])
    assert not passes([{"a": 0.5}], [{"b": 0.5}])
    assert not passes([{"a": 0.5}], [{"a": 0.6}])
    assert passes(None, None) and not passes(None, np.zeros(1)) and not passes(np.zeros(1), None)
    assert passes([], []) and not passes([], [np.zeros(1)])


def test_flatten_keeps_order():
    assert [path for path, _ in flatten([{"b": 1, "a": [2, None]}, []])] == [
        "[0]['a'][0]",
        "[0]['a'][1]",
        "[0]['b']",
        "[1][]",
    ]


def test_figures():
    x, y = np.array([3, 4], F32), np.array([3, 4.5], F32)
    found = deviation(x, y)
    assert found.max_abs == 0.5 and found.max_rel == 0.125 and found.peak == 0.125
    assert found.sqnr_db == pytest.approx(20.0) and found.cosine == pytest.approx(0.99846, abs=1e-5)


def test_tolerance_grows_with_depth_up_to_a_limit():
    assert tolerance_for("float32", 1).peak < tolerance_for("float32", 400).peak <= 1e-4
    assert tolerance_for("float32", 10**6).peak <= 1e-4
    assert tolerance_for("int64", 10).peak == 0.0
