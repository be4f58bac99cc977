"""The original against itself: nudges of one unit, and random operators with seeds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.verify.noise import nudged, nudged_feeds, nudged_weights
from graphopt.verify.randomness import Randomness, pinned
from graphopt.verify.run import Session
from graphopt.verify.source import Source


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_a_nudge_is_one_unit_in_the_last_place(name, rng):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    x = (rng.standard_normal(1000) * 10).astype(dtype)
    moved = nudged(x, 0)
    kind = np.dtype(f"u{dtype.itemsize}")
    steps = moved.view(kind).astype(np.int64) - x.view(kind).astype(np.int64)
    assert moved.dtype == dtype and set(steps.tolist()) == {-1, 1} and 300 < (steps == 1).sum() < 700
    assert set((nudged(x, 0, 3).view(kind).astype(np.int64) - x.view(kind).astype(np.int64)).tolist()) == {-3, 3}
    assert not np.array_equal(moved, nudged(x, 1))


def test_ties_zeros_and_specials_stay():
    x = np.array([0.5, 0.5, 0.0, -0.0, np.inf, -np.inf, np.nan, 3.4028235e38, 1e-45, 0.5], np.float32)
    for seed in range(8):
        moved = nudged(x, seed)
        assert moved[0] == moved[1] == moved[9] != 0.5
        assert (
            moved[2] == 0 and np.signbit(moved[3]) and moved[4] == np.inf and moved[5] == -np.inf and np.isnan(moved[6])
        )
        assert np.isfinite(moved[7])


def test_other_types_and_kinds_of_feeds():
    feeds = {"i": np.arange(3), "s": np.array(["a"], object), "q": [np.ones(2, np.float32)], "m": {"a": 1.0}, "n": None}
    moved = nudged_feeds(feeds, 0)
    assert moved["i"] is feeds["i"] and moved["s"] is feeds["s"] and moved["m"] is feeds["m"] and moved["n"] is None
    assert moved["q"][0][0] != 1.0 and feeds["q"][0][0] == 1.0


def test_weights_but_not_geometry(build, tmp_path):
    model = build(
        """g (float[1,1,4,4] x) => (float[1,1,8,8] y) {
        c = Constant<value = float[2] {0.3, 0.7}>() s = ReduceSum<keepdims=0>(c)
        r = Resize(x, n, z) m = Mul(r, W) y = Mul(m, s) }""",
        W=np.full((8, 8), 0.3, np.float32),
        z=np.float32([1, 1, 2, 2]),
        n=np.zeros(0, np.float32),
    )
    before = model.SerializeToString(deterministic=True)
    moved = {t.name: numpy_helper.to_array(t) for t in nudged_weights(Source.of(model)).proto.graph.initializer}
    assert (
        (moved["W"] != np.float32(0.3)).all() and np.allclose(moved["W"], 0.3) and moved["z"].tolist() == [1, 1, 2, 2]
    )
    assert model.SerializeToString(deterministic=True) == before
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    outside = nudged_weights(Source.of(tmp_path / "m.onnx"))
    assert Session(outside).run({"x": np.ones((1, 1, 4, 4), np.float32)})[0].shape == (1, 1, 8, 8)


def test_what_random_numbers_reach(build):
    function = '<opset_import: ["": 18], domain: "local"> noise (a) => (b) { r = RandomNormalLike(a) b = Add(a, r) }'
    model = build(
        """g (float[N] x, bool c) => (float[N] p, float[N] q, float[N] r, float[N] s) {
            p = Neg(x) n = local.noise(x) q = Abs(n)
            r = If(c) <then_branch=t()=>(float[N] u){u=RandomUniformLike(x)}, else_branch=e()=>(float[N] v){v=Neg(x)}>
            k = Shape(x) s = ConstantOfShape(k) }""",
        functions=function,
        check=False,
    )
    found = Randomness(model)
    assert found.names == {"r", "u"} and found.dependents == {"q", "r"}
    assert Randomness(build("g (float[N] x) => (float[N] y) { y = Dropout(x) }")).names == set()


def test_pinned_models_repeat_and_keep_given_seeds(build):
    model = build(
        "g (float[N] x) => (float[N] y, float[N] z) { y = RandomNormalLike(x) z = RandomNormalLike<seed=3.0>(x) }"
    )
    feeds = {"x": np.zeros(5, np.float32)}
    runs = [Session(pinned(Source.of(model), by_name)).run(feeds) for by_name in (True, True, False)]
    assert np.array_equal(runs[0][0], runs[1][0]) and not np.array_equal(runs[0][0], runs[2][0])
    assert np.array_equal(runs[0][1], runs[2][1])
    assert [len(node.attribute) for node in model.graph.node] == [0, 1]
