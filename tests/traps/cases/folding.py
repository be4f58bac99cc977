"""What must not be folded: randomness, training, state, and small files that hold enormous constants."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from traps.case import Feeds, case
from traps.checks import grows_at_most, keeps
from traps.make import graph, init, model, n, rand

RANDOM = "Folding what must not be folded: random generators, Dropout with `training_mode`, ops with state"
BOMBS = "folding that explodes the file (Expand, ConstantOfShape, Tile, Range)"
KB = 1024


def no_feeds() -> list[Feeds]:
    return [{}]


@case("meaning/random", RANDOM, feeds=no_feeds, checks=[keeps("RandomNormal", "RandomUniform")], values=False)
def random_generators_without_inputs() -> onnx.ModelProto:
    nodes = [
        n("RandomNormal", "", "a", shape=[3]), n("RandomUniform", "", "b", shape=[3], seed=1.0),
        n("RandomNormal", "", "c", shape=[3]), n("Sub", "a c", "d"), n("Add", "d b", "y"),
    ]  # fmt: skip
    return model(nodes, "", "y:float[3]")


@case("meaning/random", RANDOM, feeds=no_feeds, values=False, checks=[keeps("RandomNormalLike", "RandomUniformLike")])
def random_generators_like_a_constant() -> onnx.ModelProto:
    nodes = [n("RandomNormalLike", "k", "a"), n("RandomUniformLike", "k", "b"), n("Add", "a b", "y")]
    return model(nodes, "", "y:float[2,2]", {"k": rand(2, 2)})


@case("meaning/random", RANDOM, feeds=no_feeds, values=False, checks=[keeps("Multinomial", "Bernoulli")])
def sampling_of_constants() -> onnx.ModelProto:
    nodes = [n("Multinomial", "p", "a", sample_size=4), n("Bernoulli", "q", "b"), n("Bernoulli", "q", "c", seed=2.0)]
    return model(
        nodes, "", "a:int32[1,4] b:float[2] c:float[2]", {"p": rand(1, 3), "q": np.array([0.4, 0.6], np.float32)}
    )


@case(
    "meaning/random",
    RANDOM + ": equal nodes are two draws",
    feeds=no_feeds,
    values=False,
    checks=[keeps("RandomNormal", "Bernoulli")],
)
def equal_random_nodes_are_no_common_subexpression() -> onnx.ModelProto:
    nodes = [
        n("RandomNormal", "", "a", shape=[4]), n("RandomNormal", "", "b", shape=[4]), n("Sub", "a b", "y"),
        n("Bernoulli", "p", "c"), n("Bernoulli", "p", "d"), n("Sub", "c d", "z"),
    ]  # fmt: skip
    return model(nodes, "", "y:float[4] z:float[4]", {"p": np.full(4, 0.5, np.float32)})


@case("meaning/random", RANDOM, values=False, feeds=lambda: [{"x": rand(3)}], checks=[keeps("RandomNormal")])
def random_in_the_bodies_of_an_if() -> onnx.ModelProto:
    yes, no = (graph([n("RandomNormal", "", o, shape=[3])], "", f"{o}:float[3]") for o in ("a", "b"))
    nodes = [
        n("ReduceSum", "x", "s", keepdims=0),
        n("Greater", "s zero", "c"),
        n("If", "c", "y", then_branch=yes, else_branch=no),
    ]
    return model(nodes, "x:float[3]", "y:float[3]", {"zero": 0.0})


@case(
    "meaning/random",
    RANDOM + ": one draw per iteration, not one for the loop",
    feeds=no_feeds,
    values=False,
    checks=[keeps("RandomNormal", "Loop")],
)
def random_in_the_body_of_a_loop() -> onnx.ModelProto:
    body = graph(
        [n("RandomNormal", "", "r", shape=[1]), n("Identity", "c", "d")], "i:int64[] c:bool[]", "d:bool[] r:float[1]"
    )
    return model([n("Loop", "trips -", "y", body=body)], "", "y:float[?,1]", {"trips": 3})


@case("meaning/random", RANDOM, values=False, checks=[keeps("Dropout")])
def dropout_in_training() -> onnx.ModelProto:
    nodes = [n("Dropout", "x ratio train", "y mask")]
    return model(nodes, "x:float[N,8]", "y:float[N,8] mask:bool[N,8]", {"ratio": 0.5, "train": np.array(True)})


@case("meaning/random", RANDOM, feeds=lambda: [{"x": rand(2, 8), "t": np.array(False)}], checks=[keeps("Dropout")])
def dropout_whose_mode_is_an_input() -> onnx.ModelProto:
    return model([n("Dropout", "x ratio t", "y")], "x:float[N,8] t:bool[]", "y:float[N,8]", {"ratio": 0.5})


@case("meaning/random", "Dropout in inference: the mask, if anyone reads it, is all true")
def dropout_in_inference_with_mask() -> onnx.ModelProto:
    nodes = [n("Dropout", "x ratio", "d mask"), n("Not", "mask", "inverse"), n("Dropout", "d - off", "y")]
    consts = {"ratio": 0.5, "off": np.array(False)}
    return model(nodes, "x:float[N,8]", "y:float[N,8] inverse:bool[N,8]", consts)


@case("meaning/random", "Dropout of opset 7 to 11: inference always; the mask is bool from opset 10 on, float before")
def dropout_of_old_opsets_with_mask() -> onnx.ModelProto:
    return model(
        [n("Dropout", "x", "y mask", ratio=0.9)], "x:float[N,8]", "y:float[N,8] mask:float[N,8]", opset=7, ir=4
    )


@case("meaning/random", "Dropout of opset 10", evaluator="ort-off")
def dropout_of_opset_10_with_mask() -> onnx.ModelProto:
    return model(
        [n("Dropout", "x", "y mask", ratio=0.9)], "x:float[N,8]", "y:float[N,8] mask:bool[N,8]", opset=10, ir=5
    )


@case("meaning/random", "Dropout of opset 1 and 6 trains unless is_test", evaluator="none", checks=[keeps("Dropout")])
def dropout_of_opset_6_in_training() -> onnx.ModelProto:
    return model([n("Dropout", "x", "y", ratio=0.5)], "x:float[N,8]", "y:float[N,8]", opset=6, ir=3)


def summed(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The bombs are 32 to 64 MB if folded: too much for a file, and few enough for an evaluator to run."""
    return [node, n("ReduceMax", "big", "m", keepdims=0), n("Shape", "big", "s"), n("Add", "m x", "y")]


for _title, (_op, _consts, _attrs) in {
    "expand": ("Expand", {"a": np.float32(2), "b": [4000, 4000]}, {}),
    "constant_of_shape": ("ConstantOfShape", {"a": [4000, 4000]}, {"value": init("v", [2.0])}),
    "tile": ("Tile", {"a": np.full((1, 100), 2, np.float32), "b": [4000, 40]}, {}),
}.items():
    case(
        "meaning/bomb",
        BOMBS,
        name=f"bomb_{_title}",
        feeds=lambda: [{"x": np.array(1.0, np.float32)}],
        checks=[grows_at_most(64 * KB)],
    )(
        lambda op=_op, consts=_consts, attrs=_attrs: model(
            summed(n(op, " ".join(consts), "big", **attrs)), "x:float[]", "y:float[] s:int64[2]", consts
        )
    )


@case("meaning/bomb", BOMBS, feeds=lambda: [{"x": np.array(1, np.int64)}], checks=[grows_at_most(64 * KB)])
def bomb_range() -> onnx.ModelProto:
    consts = {"a": 0, "b": 8_000_000, "c": 1}
    return model(summed(n("Range", "a b c", "big")), "x:int64[]", "y:int64[] s:int64[1]", consts)


@case("meaning/bomb", BOMBS + ": far too large to try", feeds=lambda: [{"x": rand(2)}], checks=[grows_at_most(64 * KB)])
def bomb_of_terabytes_behind_a_branch() -> onnx.ModelProto:
    """Nobody ever runs it: to fold it would take 4 TB."""
    body = graph([n("ConstantOfShape", "dims", "z"), n("ReduceMax", "z", "r", keepdims=0)], "", "r:float[]")
    other = graph([n("Identity", "one", "o")], "", "o:float[]")
    nodes = [
        n("ReduceMax", "x", "m", keepdims=0), n("Greater", "m limit", "c"),
        n("If", "c", "k", then_branch=body, else_branch=other), n("Add", "x k", "y"),
    ]  # fmt: skip
    return model(nodes, "x:float[2]", "y:float[2]", {"dims": [1_000_000, 1_000_000], "limit": 1e30, "one": 1.0})


@case("meaning/bomb", BOMBS + ": a chain that doubles", feeds=lambda: [{"x": rand(2)}], checks=[grows_at_most(64 * KB)])
def bomb_of_doublings() -> onnx.ModelProto:
    """22 Concat of a constant with itself: 32 MB from 8 bytes."""
    nodes = [n("Concat", f"v{i} v{i}", f"v{i + 1}", axis=0) for i in range(22)]
    nodes += [n("ReduceSum", "v22", "s", keepdims=0), n("Mul", "x s", "y")]
    return model(nodes, "x:float[2]", "y:float[2]", {"v0": [0.0, 1.0]})


@case(
    "meaning/bomb",
    BOMBS + ": Loop with a huge trip count",
    feeds=lambda: [{"x": rand(2), "c": np.array(False)}],
    checks=[grows_at_most(64 * KB), keeps("Loop")],
)
def bomb_loop_with_a_huge_trip_count() -> onnx.ModelProto:
    """Constant all the way, and 10^15 iterations long; the branch is never taken."""
    inner = graph(
        [n("Add", "v one", "w"), n("Identity", "k", "l")], "i:int64[] k:bool[] v:float[]", "l:bool[] w:float[]"
    )
    body = graph([n("Loop", "trips - zero", "r", body=inner)], "", "r:float[]")
    other = graph([n("Identity", "one", "o")], "", "o:float[]")
    nodes = [n("If", "c", "k0", then_branch=body, else_branch=other), n("Add", "x k0", "y")]
    consts = {"trips": 10**15, "zero": 0.0, "one": 1.0}
    return model(nodes, "x:float[2] c:bool[]", "y:float[2]", consts)


@case(
    "meaning/bomb",
    BOMBS + ": small results of large constants fold",
    feeds=lambda: [{"x": rand(3)}],
    checks=[grows_at_most(4 * KB)],
)
def small_constants_do_fold() -> onnx.ModelProto:
    nodes = [n("Expand", "two three", "e"), n("Mul", "e e", "f"), n("Add", "x f", "y")]
    return model(nodes, "x:float[3]", "y:float[3]", {"two": 2.0, "three": [3]})


@case(
    "meaning/bomb",
    BOMBS + ": EyeLike, OneHot, Resize and Pad",
    feeds=lambda: [{"x": np.array(1.0, np.float32)}],
    checks=[grows_at_most(64 * KB)],
)
def bomb_one_hot_and_pad() -> onnx.ModelProto:
    nodes = [
        n("OneHot", "i depth on_off", "h", axis=-1), n("ReduceMax", "h", "m", keepdims=0),
        n("Pad", "i pads", "p"), n("ReduceMax", "p", "q", keepdims=0), n("Cast", "q", "r", to=TensorProto.FLOAT),
        n("Sum", "m r x", "y"),
    ]  # fmt: skip
    consts = {"i": [3], "depth": 4_000_000, "on_off": [0.0, 1.0], "pads": [4_000_000, 0]}
    return model(nodes, "x:float[]", "y:float[]", consts)


@case(
    "meaning/bomb",
    "a Constant that many nodes share is not copied for each",
    feeds=lambda: [{"x": rand(64, 64)}],
    tol=1e-4,
    checks=[grows_at_most(64 * KB)],
)
def shared_weight_of_many_affine_layers() -> onnx.ModelProto:
    """40 MatMul with one shared weight, each times a constant of its own: to fold all copies the weight 40 times."""
    nodes, consts = [], {"w": rand(64, 64, low=-0.1, high=0.1)}
    for i in range(40):
        nodes += [n("MatMul", f"v{i} w" if i else "x w", f"m{i}"), n("Mul", f"m{i} k{i}", f"v{i + 1}")]
        consts[f"k{i}"] = np.float32(1 + i / 10)
    return model([*nodes, n("Identity", "v40", "y")], "x:float[64,64]", "y:float[64,64]", consts)
