from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.calibration.checks import check_feeds, inputs_of
from graphopt.errors import GraphoptError

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, 3] x, int64[N, T] ids, float16[T] h, float[F] free) => (float[N, 3] y) { y = Relu(x) }"""
MODEL = parser.parse_model(TEXT)
MODEL.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2]), "free"))
INPUTS = inputs_of(MODEL)


def sample(**other):
    feeds = {"x": np.ones((2, 3), np.float32), "ids": np.zeros((2, 5), np.int64), "h": np.zeros(5, np.float16)}
    return {**feeds, **other}


def test_what_a_model_takes():
    assert [str(given) for given in INPUTS.values()] == ["float32[N, 3]", "int64[N, T]", "float16[T]", "float32[F]"]
    assert [given.optional for given in INPUTS.values()] == [False, False, False, True]


def test_good_samples_pass():
    feeds = sample()
    assert check_feeds(feeds, INPUTS, "s") == feeds
    assert set(check_feeds(sample(free=np.ones(1, np.float32)), INPUTS, "s")) == set(INPUTS)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ([1], ["a list", "not a dict"]),
        (sample(z=np.ones(1)), ["'z' is no input", "x, ids, h"]),
        ({"x": np.ones((2, 3), np.float32)}, ["'ids'", "is missing"]),
        (sample(x=[[1.0, 2.0, 3.0]]), ["a list", "np.asarray"]),
        (sample(x=np.ones((2, 3))), ["float64", "float32[N, 3]", ".astype(np.float32)"]),
        (sample(x=np.ones((2, 3), ">f4")), [">f4"]),
        (sample(x=np.ones((2, 4), np.float32)), ["[2, 4]", "axis 1 must be 3"]),
        (sample(x=np.ones((7, 2, 3), np.float32)), ["[7, 2, 3]", "--batched"]),
        (sample(x=np.ones(3, np.float32)), ["[3]", "add the batch axis"]),
        (sample(x=np.ones((3, 3), np.float32)), ["'N' is 2 in 'ids'", "3 in 'x'"]),
        (sample(h=np.zeros(4, np.float16)), ["'T' is 4 in 'h'", "5 in 'ids'"]),
        (sample(x=np.float32([[1, 2, np.nan], [1, 2, 3]])), ["'x' contains NaN"]),
        (sample(h=np.float16([1, np.inf, 1, 1, 1])), ["'h' contains infinity"]),
        (sample(x=np.float32([[np.inf, -np.inf, 1], [1, 2, 3]])), ["'x' contains infinity"]),
        (sample(x=np.ones((0, 3), np.float32), ids=np.ones((0, 5), np.int64)), ["no elements", "[0, 3]"]),
        (sample(x=np.array([[object()] * 3] * 2)), ["object"]),
    ],
)
def test_bad_samples_get_one_clear_error(feeds, words):
    with pytest.raises(GraphoptError) as caught:
        check_feeds(feeds, INPUTS, "sample 4")
    text = str(caught.value)
    assert text.startswith("sample 4")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_large_finite_values_are_finite():
    check_feeds(sample(x=np.full((2, 3), 3e38, np.float32)), INPUTS, "s")


def test_text_and_narrow_floats():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (string[N] s, bfloat16[2] b) => (string[N] t) { t = Identity(s) }'
    )
    inputs = inputs_of(model)
    good = np.array([1, 2], ml_dtypes.bfloat16)
    for text in (np.array(["a"]), np.array(["a"], object), np.array([b"a"])):
        check_feeds({"s": text, "b": good}, inputs, "s")
    with pytest.raises(GraphoptError, match="'b' contains NaN"):
        check_feeds({"s": np.array(["a"]), "b": np.array([1, np.nan], ml_dtypes.bfloat16)}, inputs, "s")


def test_an_input_that_is_no_tensor():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (seq(float[N]) s) => (int64 n) { n = SequenceLength(s) }'
    )
    with pytest.raises(GraphoptError, match="'s' is no tensor"):
        inputs_of(model)
