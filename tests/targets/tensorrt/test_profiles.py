"""Optimization profiles: what users write, what follows from it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt.profiles import Profile, Triple, corners_of, parse_shapes, profiles_of

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[batch, 3, H, W] image, int64[batch, seq] mask, int64[2] size, '
    "float[4] fixed) => (float[batch, 3, H, W] y) { y = Relu(image) }"
)


def model() -> ir.Model:
    return ir.from_proto(parser.parse_model(TEXT))


def one(shapes: Any) -> str:
    return str(profiles_of(model(), shapes)[0])


def test_inputs_with_the_same_symbols_follow() -> None:
    text = one("image=1x3x32x32:4x3x64x64:8x3x96x96,seq=1:16:128")
    assert text == "image=1x3x32x32:4x3x64x64:8x3x96x96,mask=1x1:4x16:8x128"


def test_symbols_alone() -> None:
    assert one("batch=1:2:3,H=8,W=8,seq=5") == "image=1x3x8x8:2x3x8x8:3x3x8x8,mask=1x5:2x5:3x5"


def test_a_single_shape_is_all_three() -> None:
    assert one("image=2x3x8x8,seq=4") == "image=2x3x8x8,mask=2x4"


def test_values_of_a_shape_tensor() -> None:
    found = profiles_of(model(), "image=2x3x8x8,seq=4,size=[8 8]:[16 16]:[32 32]")[0]
    assert found.values["size"].max == (32, 32)
    assert profiles_of(model(), str(found))[0] == found
    with pytest.raises(GraphoptError, match="holds no integers"):
        profiles_of(model(), "image=2x3x8x8,seq=4,fixed=[8 8 8 8]")


def test_dicts_and_several_profiles() -> None:
    found = profiles_of(
        model(), [{"image": (1, 3, 8, 8), "seq": 4}, {"batch": (1, 2, 4), "H": 8, "W": 8, "seq": (1, 2, 3)}]
    )
    assert [str(profile) for profile in found] == [
        "image=1x3x8x8,mask=1x4",
        "image=1x3x8x8:2x3x8x8:4x3x8x8,mask=1x1:2x2:4x3",
    ]
    three = profiles_of(model(), {"image": [(1, 3, 8, 8), (2, 3, 8, 8), (3, 3, 8, 8)], "seq": 1})[0]
    assert three.shapes["image"].opt == (2, 3, 8, 8)


def test_a_fixed_model_needs_nothing() -> None:
    fixed = ir.from_proto(
        parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { y = Relu(x) }')
    )
    assert profiles_of(fixed, None) == [Profile()]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (None, "give --shapes image=1x3x1x1:4x3x4x4:8x3x8x8 (or batch=1:4:8)"),
        ("image=1x3x8x8", "nothing says how large dim 1 may be"),
        ("image=1x4x8x8,seq=1", "dim 1 is 3 in the model, not 4"),
        ("image=1x3x8,seq=1", "has 4 dims"),
        ("pixels=1x3x8x8", "no input and no symbol is named 'pixels'; there are: image"),
        ("image=1x3x8x8:2x3x8x8", "has 2 shapes; give one, or min:opt:max"),
        ("image=4x3x8x8:2x3x8x8:8x3x8x8,seq=1", "out of order"),
        ("image=1x3x8x8,batch=2,seq=1", "they are one size"),
        ("image=1xax8x8", "not of the form"),
        ("image=1x3x8x8,image=1x3x8x8", "twice"),
        ("image", "cannot read"),
        ("image=-1x3x8x8", "negative"),
        ("batch=1x2:1x2:1x2", "is a symbol"),
        ({"image": "large"}, "give one, or (min, opt, max)"),
        ({"batch": (1, 2)}, "give one, or (min, opt, max)"),
    ],
)
def test_what_is_refused(shapes: Any, said: str) -> None:
    with pytest.raises(GraphoptError) as caught:
        profiles_of(model(), shapes)
    assert said in str(caught.value)


def test_outside_of_a_profile() -> None:
    profile = profiles_of(model(), "image=1x3x8x8:2x3x8x8:4x3x8x8,seq=1:2:3")[0]
    assert profile.why_not({"image": (4, 3, 8, 8), "mask": (4, 3)}) == ""
    said = profile.why_not({"image": (5, 3, 8, 8)})
    assert said == "input 'image' has the shape 5x3x8x8, and the engine takes 1x3x8x8 to 4x3x8x8"


def test_corners() -> None:
    profile = profiles_of(model(), "image=1x3x8x8:2x3x8x8:4x3x8x8,seq=1")[0]
    assert [corner["image"][0] for corner in corners_of(profile)] == [1, 2, 4]


shapes = st.lists(st.integers(0, 512), min_size=1, max_size=5).map(tuple)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_.:/]{0,8}", fullmatch=True).filter(lambda n: ":" not in n), shapes, max_size=4
    )
)
def test_what_is_written_is_read(given_shapes: dict[str, tuple[int, ...]]) -> None:
    profile = Profile(
        {name: Triple(shape, shape, tuple(size + 1 for size in shape)) for name, shape in given_shapes.items()}
    )
    assert {name: Triple(*parts) for name, parts in parse_shapes(str(profile)).items()} == profile.shapes
