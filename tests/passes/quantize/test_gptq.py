"""GPTQ: the algorithm against its definition, and that it beats rounding on data it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir import NDArray
from graphopt.passes.quantize import _gptq
from graphopt.passes.quantize._gptq import compensate, factor_of
from graphopt.passes.quantize._rtn import Grid, encode, parameters, quantize_matrix

from ..util import rand


def correlated(samples: int, channels: int, seed: int = 0) -> NDArray:
    """Inputs of few directions and a few large channels, as a transformer's."""
    random = np.random.default_rng(seed)
    basis = np.random.default_rng(99).standard_normal((channels // 4, channels))
    x = random.standard_normal((samples, channels // 4)) @ basis + 0.3 * random.standard_normal((samples, channels))
    x[:, :3] *= 8
    return np.asarray(x, np.float32)


def output_error(x: NDArray, weight: NDArray, other: NDArray) -> float:
    return float((((x @ (weight - other)).astype(np.float64)) ** 2).mean())


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, 100), (8, 32), (4, 64)])
def test_it_beats_rounding_on_new_data(bits: int, size: int, symmetric: bool, act_order: bool) -> None:
    seen, new = correlated(2000, 100), correlated(500, 100, seed=1)
    weight, grid = rand(100, 24), Grid(bits, size, symmetric)
    plain = output_error(new, weight, quantize_matrix(weight, grid).real())
    factor = factor_of(seen.T @ seen, act_order=act_order)
    assert output_error(new, weight, compensate(weight, factor, grid).real()) < 0.6 * plain


def test_it_is_the_algorithm_of_the_paper() -> None:
    """Row by row, with the inverse of H written out and no blocks: the same codes."""
    x = correlated(300, 40)
    weight, grid = rand(40, 6), Grid(4, 16, False, False)
    h = (x.T @ x).astype(np.float64)
    h += 0.01 * np.diagonal(h).mean() * np.eye(40)
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    w, codes = weight.astype(np.float64), np.empty((40, 6), np.uint8)
    for row in range(40):
        if row % 16 == 0:
            scale, zero = parameters(w[row : row + 16].astype(np.float32), grid)
        codes[row] = encode(w[row].astype(np.float32), scale, zero, 15)
        error = (w[row] - (codes[row].astype(np.float64) - zero) * scale) / upper[row, row]
        w[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    found = compensate(weight, factor_of(x.T @ x), grid).codes
    assert (found != codes).mean() < 0.01  # float32 against float64: a tie may go the other way


def test_columns_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = correlated(300, 64), rand(64, 10)
    whole = compensate(weight, factor_of(x.T @ x), Grid())
    monkeypatch.setattr(_gptq, "COLUMNS", 3)
    parts = compensate(weight, factor_of(x.T @ x), Grid())
    assert (whole.codes != parts.codes).mean() < 0.01
    np.testing.assert_allclose(whole.scale, parts.scale, rtol=0.2)


def test_channels_that_were_always_zero() -> None:
    x, weight = correlated(300, 64), rand(64, 10)
    x[:, 5] = 0
    found = compensate(weight, factor_of(x.T @ x), Grid(8, 32))
    assert np.isfinite(found.real()).all() and np.abs(found.real()[5] - weight[5]).max() < 0.02
    nothing = compensate(weight, factor_of(np.zeros((64, 64), np.float32)), Grid(8, 32, search=False))
    np.testing.assert_array_equal(nothing.codes, quantize_matrix(weight, Grid(8, 32, search=False)).codes)


def test_few_samples_are_damped() -> None:
    x, weight = correlated(3, 64), rand(64, 10)
    assert np.isfinite(compensate(weight, factor_of(x.T @ x), Grid()).real()).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_statistics_are_an_error(bad: float) -> None:
    gram = np.eye(16, dtype=np.float32)
    gram[3, 3] = bad
    with pytest.raises(GraphoptError, match="NaN or infinities"):
        factor_of(gram)
    gram[3, 3], gram[0, 1], gram[1, 0] = 1, 50, 50
    with pytest.raises(GraphoptError, match="not positive definite"):
        factor_of(gram)
