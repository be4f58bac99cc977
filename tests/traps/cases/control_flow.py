"""If, Loop, Scan and SequenceMap: captures, names, constants, and how often a body runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from traps.case import Feeds, case
from traps.checks import keeps
from traps.make import graph, model, n, rand, vi

CAPTURES = "captured outer values treated as unused"
NAMES = "names in a body that shadow or repeat outer names"
DEEP = "three levels deep (recursion limits)"
CONDITION = (
    "If with a constant condition whose branch output is an initializer or a captured value (a crash, and a segfault)"
)
OUTER = "a branch output that is an outer value itself (invalid: needs Identity)"
CONSTANTS = "constants of a body"
ZERO = "Loop with zero trips"


def xs(**more: Any) -> list[Feeds]:
    return [{"x": rand(3, seed=s), **more} for s in (0, 1)]


def both() -> list[Feeds]:
    return [{"x": rand(3), "c": np.array(c)} for c in (True, False)]


def if_model(
    then: onnx.GraphProto,
    other: onnx.GraphProto,
    consts: dict[str, Any],
    *,
    before: list[onnx.NodeProto] | None = None,
    out: str = "y:float[3]",
) -> onnx.ModelProto:
    """If on the constant `c`, or on the input `c` where there is no such constant."""
    node = n("If", "c", "r", then_branch=then, else_branch=other)
    ins = "x:float[3]" if "c" in consts else "x:float[3] c:bool[]"
    return model([*(before or []), node, n("Identity", "r", "y")], ins, out, consts)


YES = {"c": np.array(True)}
OTHER = graph([n("Exp", "x", "e")], "", "e:float[3]", name="other")


@case("structure/if", CONDITION, feeds=xs)
def constant_if_of_plain_nodes() -> onnx.ModelProto:
    return if_model(graph([n("Neg", "x", "a"), n("Relu", "a", "b")], "", "b:float[3]"), OTHER, YES)


@case("structure/if", CONDITION, feeds=xs)
def constant_if_whose_output_is_an_initializer() -> onnx.ModelProto:
    return if_model(graph([], "", "k:float[3]", {"k": rand(3, seed=4)}), OTHER, YES)


@case("structure/if", CONDITION, feeds=xs)
def constant_if_whose_output_is_a_constant_node() -> onnx.ModelProto:
    return if_model(graph([n("Constant", "", "k", value_floats=[1.0, 2.0, 3.0])], "", "k:float[3]"), OTHER, YES)


@case("structure/if", CONDITION, feeds=xs)
def constant_if_whose_output_is_captured() -> onnx.ModelProto:
    return if_model(graph([n("Identity", "x", "k")], "", "k:float[3]"), OTHER, YES)


@case("structure/if", CONDITION, feeds=xs)
def constant_if_that_is_the_graph_output() -> onnx.ModelProto:
    """The output's name stays, though the value that it renames is an input and an initializer."""
    yes = graph([n("Identity", "x", "a"), n("Identity", "k", "b")], "", "a:float[3] b:float[2]")
    no = graph([n("Neg", "x", "p"), n("Exp", "k", "q")], "", "p:float[3] q:float[2]")
    node = n("If", "c", "y z", then_branch=yes, else_branch=no)
    return model([node], "x:float[3]", "y:float[3] z:float[2]", {"k": rand(2), **YES})


@case("structure/if", OUTER, feeds=both, checks=[keeps("If")])
def identity_of_an_outer_value_in_a_branch() -> onnx.ModelProto:
    return if_model(graph([n("Identity", "x", "k")], "", "k:float[3]"), OTHER, {})


@case("structure/if", OUTER, feeds=both)
def noop_of_outer_values_in_a_branch() -> onnx.ModelProto:
    """No-ops other than Identity, and one that folds to an outer initializer."""
    yes = graph([n("Cast", "x", "a", to=TensorProto.FLOAT), n("Dropout", "w", "b")], "", "a:float[3] b:float[3]")
    no = graph([n("Identity", "w", "p"), n("Reshape", "x s", "q")], "", "p:float[3] q:float[3]")
    node = n("If", "c", "y z", then_branch=yes, else_branch=no)
    return model([node], "x:float[3] c:bool[]", "y:float[3] z:float[3]", {"w": rand(3), "s": [3]})


@case("structure/if", CONSTANTS, feeds=both)
def branches_whose_outputs_are_initializers() -> onnx.ModelProto:
    yes, no = (graph([], "", "k:float[3]", {"k": rand(3, seed=s)}) for s in (1, 2))
    return if_model(yes, no, {})


@case("structure/if", "branches that say the same", feeds=both)
def if_with_equal_branches() -> onnx.ModelProto:
    yes, no = (graph([n("Neg", "x", o)], "", f"{o}:float[3]") for o in ("a", "b"))
    return if_model(yes, no, {})


@case("structure/if", "a condition that folds to a constant, of shape [1]", feeds=xs)
def condition_that_folds() -> onnx.ModelProto:
    before = [n("Shape", "x", "s"), n("Equal", "s three", "c")]
    yes = graph([n("Neg", "x", "a")], "", "a:float[3]")
    node = n("If", "c", "y", then_branch=yes, else_branch=OTHER)
    return model([*before, node], "x:float[3]", "y:float[3]", {"three": [3]})


@case("structure/if", "branches of unlike shape and rank", feeds=both)
def branches_of_unlike_shape() -> onnx.ModelProto:
    yes = graph([n("Concat", "x x", "a", axis=0)], "", "a:float[6]")
    no = graph([n("Unsqueeze", "x ax", "b")], "", "b:float[1,3]")
    node = n("If", "c", "r", then_branch=yes, else_branch=no)
    return model([node, n("Shape", "r", "y")], "x:float[3] c:bool[]", "y:int64[?]", {"ax": [0]})


@case("structure/if", "an If of which one output is unused, and one of which none is", feeds=both)
def if_with_unused_outputs() -> onnx.ModelProto:
    yes = graph([n("Neg", "x", "a"), n("Exp", "a", "b")], "", "a:float[3] b:float[3]")
    no = graph([n("Abs", "x", "p"), n("Log", "p", "q")], "", "p:float[3] q:float[3]")
    nodes = [n("If", "c", "u y", then_branch=yes, else_branch=no), n("If", "c", "v w", then_branch=yes, else_branch=no)]
    return model(nodes, "x:float[3] c:bool[]", "y:float[3]")


@case("structure/if", CAPTURES, feeds=both)
def values_that_only_bodies_read() -> onnx.ModelProto:
    """An initializer, a node, an unused-looking Constant: all read one level down only."""
    nodes = [n("Mul", "x w", "m"), n("Constant", "", "k", value_float=3.0)]
    yes = graph([n("Add", "m k", "a")], "", "a:float[3]")
    no = graph([n("Add", "m v", "b")], "", "b:float[3]")
    return if_model(yes, no, {"w": rand(3), "v": rand(3, seed=1)}, before=nodes)


@case(
    "structure/if",
    CAPTURES + ": a Conv+BN of which the body reads the middle",
    feeds=lambda: [{"x": rand(1, 3, 5, 5), "c": np.array(c)} for c in (True, False)],
    tol=1e-5,
)
def body_reads_the_middle_of_a_pattern() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "m"), n("BatchNormalization", "m g g g v", "y")]
    yes, no = graph([n("Neg", "m", "a")], "", "a:float[1,2,3,3]"), graph([n("Exp", "y", "b")], "", "b:float[1,2,3,3]")
    nodes.append(n("If", "c", "z", then_branch=yes, else_branch=no))
    consts = {"w": rand(2, 3, 3, 3), "g": rand(2), "v": rand(2, low=0.5, high=1.0)}
    return model(nodes, "x:float[1,3,5,5] c:bool[]", "y:float[1,2,3,3] z:float[1,2,3,3]", consts)


@case("structure/if", NAMES, feeds=both)
def siblings_that_use_the_same_names() -> onnx.ModelProto:
    """Both branches, and the branches of the next If, call their values and constants the same."""
    yes = graph([n("Mul", "x k", "t", name="n"), n("Add", "t k", "o", name="n2")], "", "o:float[3]", {"k": [2.0]})
    no = graph([n("Div", "x k", "t", name="n"), n("Sub", "t k", "o", name="n2")], "", "o:float[3]", {"k": [3.0]})
    nodes = [
        n("If", "c", "p", then_branch=yes, else_branch=no),
        n("Not", "c", "d"),
        n("If", "d", "q", then_branch=yes, else_branch=no),
        n("Add", "p q", "y"),
    ]
    return model(nodes, "x:float[3] c:bool[]", "y:float[3]")


@case("structure/if", NAMES + ": inlining two constant Ifs puts two values of one name into one graph", feeds=xs)
def constant_ifs_of_the_same_inner_names() -> onnx.ModelProto:
    def branch(k: float) -> onnx.GraphProto:
        return graph([n("Mul", "x k", "t", name="n"), n("Add", "t k", "o", name="m")], "", "o:float[3]", {"k": [k]})

    nodes = [
        n("If", "c", "p", then_branch=branch(2.0), else_branch=OTHER),
        n("If", "c", "q", then_branch=branch(3.0), else_branch=OTHER),
        n("Sub", "p q", "y"),
    ]
    return model(nodes, "x:float[3]", "y:float[3]", YES)


@case("structure/if", NAMES + ": the inlined names stand later in the outer graph", feeds=xs)
def inlined_names_that_the_outer_graph_defines_later() -> onnx.ModelProto:
    yes = graph([n("Neg", "x", "t"), n("Exp", "t", "o")], "", "o:float[3]")
    nodes = [
        n("If", "c", "p", then_branch=yes, else_branch=OTHER),
        n("Abs", "p", "t"),
        n("Sqrt", "t", "o"),
        n("Add", "o t", "y"),
    ]
    return model(nodes, "x:float[3]", "y:float[3]", YES)


def nested(depth: int, *, constant: bool) -> onnx.GraphProto:
    """If in If in If ...; every level reads `x`, the level above, and a constant of its own."""
    body = graph([n("Add", f"v{depth - 1} x", f"v{depth}")], "", f"v{depth}:float[3]")
    for level in range(depth - 1, 0, -1):
        other = graph([n("Abs", f"v{level - 1}", f"o{level}")], "", f"o{level}:float[3]")
        nodes = [
            n("Add", f"v{level - 1} k{level}", f"v{level}"),
            n("If", "yes" if constant else "c", f"r{level}", then_branch=body, else_branch=other),
        ]
        body = graph(nodes, "", f"r{level}:float[3]", {f"k{level}": [float(level)]})
    return body


# ORT 1.23 takes time exponential in the depth: it gets 8 levels. Protobuf itself ends at about 30.
for _depth, _constant in ((3, False), (3, True), (8, False), (8, True), (25, False), (25, True)):
    case(
        "structure/depth",
        DEEP,
        name=f"if_{_depth}_levels_deep_{'constant' if _constant else 'dynamic'}",
        feeds=xs if _constant else both,
        evaluator="ort-off" if _depth < 25 else "reference",
    )(
        lambda depth=_depth, constant=_constant: model(
            [
                n("Exp", "x", "v0"),
                n(
                    "If",
                    "yes" if constant else "c",
                    "y",
                    then_branch=nested(depth, constant=constant),
                    else_branch=OTHER,
                ),
            ],
            "x:float[3]" if constant else "x:float[3] c:bool[]",
            "y:float[3]",
            {"yes": np.array(True)} if constant else {},
        )
    )


@case("structure/depth", DEEP + ": Loop in If in Loop", feeds=xs, tol=1e-6)
def loop_in_if_in_loop() -> onnx.ModelProto:
    inner = graph(
        [n("Mul", "w outer", "w1"), n("Add", "w1 k", "w2"), n("Identity", "ci", "co")],
        "j:int64[] ci:bool[] w:float[3]",
        "co:bool[] w2:float[3]",
        {"k": [0.5]},
    )
    yes = graph([n("Loop", "two - v", "l", body=inner)], "", "l:float[3]")
    no = graph([n("Neg", "v", "m")], "", "m:float[3]")
    nodes = [
        n("Mod", "i two", "r"),
        n("Equal", "r zero", "even"),
        n("If", "even", "v2", then_branch=yes, else_branch=no),
        n("Identity", "cond", "cout"),
        n("Identity", "v2", "v3"),
    ]
    body = graph(nodes, "i:int64[] cond:bool[] v:float[3]", "cout:bool[] v2:float[3] v3:float[3]", {"zero": 0})
    main = [n("Tanh", "x", "outer"), n("Loop", "trips - x", "y s", body=body)]
    return model(main, "x:float[3]", "y:float[3] s:float[?,3]", {"two": 2, "trips": 5})


BODY = [n("Add", "v k", "w"), n("Identity", "ci", "co"), n("Mul", "w w", "scan")]
FACE = ("i:int64[] ci:bool[] v:float[3]", "co:bool[] w:float[3] scan:float[3]")


def loop(
    trip: str, cond: str, consts: dict[str, Any], *, body: onnx.GraphProto | None = None, ins: str = "x:float[3]"
) -> onnx.ModelProto:
    body = body or graph(BODY, *FACE, {"k": [1.0]})
    return model([n("Loop", f"{trip} {cond} x", "y s", body=body)], ins, "y:float[3] s:float[?,3]", consts)


@case("structure/loop", ZERO, feeds=xs)
def loop_of_zero_trips() -> onnx.ModelProto:
    return loop("none", "-", {"none": 0})


@case("structure/loop", ZERO + ": the condition is false from the start", feeds=xs)
def loop_whose_condition_is_false() -> onnx.ModelProto:
    return loop("five", "no", {"five": 5, "no": np.array(False)})


@case(
    "structure/loop", ZERO + ", or one, or three", feeds=lambda: [f for t in (0, 1, 3) for f in xs(t=np.array(t))[:1]]
)
def loop_whose_trips_are_an_input() -> onnx.ModelProto:
    return loop("t", "-", {}, ins="x:float[3] t:int64[]")


@case("structure/loop", "Loop of one trip", feeds=xs)
def loop_of_one_trip() -> onnx.ModelProto:
    return loop("one", "yes", {"one": 1, "yes": np.array(True)})


@case("structure/loop", "Loop that ends by its own condition", feeds=xs)
def loop_that_breaks() -> onnx.ModelProto:
    nodes = [
        n("Add", "v k", "w"),
        n("ReduceMax", "w", "m", keepdims=0),
        n("Less", "m limit", "co"),
        n("Mul", "w w", "scan"),
    ]
    body = graph(nodes, *FACE, {"k": [1.0], "limit": 4.0})
    return loop("many", "-", {"many": 2**40}, body=body)


@case("structure/loop", "a carried value whose shape grows: its Shape is no constant", feeds=xs)
def loop_whose_carried_value_grows() -> onnx.ModelProto:
    nodes = [n("Shape", "v", "sh"), n("Concat", "v v", "w", axis=0), n("Identity", "ci", "co")]
    body = graph(nodes, "i:int64[] ci:bool[] v:float[?]", "co:bool[] w:float[?] sh:int64[1]")
    return model([n("Loop", "three - x", "y s", body=body)], "x:float[3]", "y:float[?] s:int64[3,1]", {"three": 3})


@case("structure/loop", "a carried constant is no constant after the first trip", feeds=xs)
def loop_that_starts_from_a_constant() -> onnx.ModelProto:
    nodes = [n("Mul", "v two", "w"), n("Mul", "v x", "scan"), n("Identity", "ci", "co")]
    body = graph(nodes, "i:int64[] ci:bool[] v:float[]", "co:bool[] w:float[] scan:float[3]", {"two": 2.0})
    return model(
        [n("Loop", "three yes one", "y s", body=body)],
        "x:float[3]",
        "y:float[] s:float[3,3]",
        {"three": 3, "one": 1.0, "yes": np.array(True)},
    )


@case("structure/loop", "values passed through: carried unchanged, swapped, and the iteration number", feeds=xs)
def loop_that_swaps_its_values() -> onnx.ModelProto:
    nodes = [
        n("Identity", "b", "a2"),
        n("Identity", "a", "b2"),
        n("Identity", "k", "k2"),
        n("Identity", "ci", "co"),
        n("Cast", "i", "f", to=TensorProto.FLOAT),
        n("Add", "f a", "scan"),
    ]
    body = graph(
        nodes,
        "i:int64[] ci:bool[] a:float[3] b:float[3] k:float[3]",
        "co:bool[] a2:float[3] b2:float[3] k2:float[3] scan:float[3]",
    )
    main = [n("Neg", "x", "m"), n("Loop", "three - x m x", "y z u s", body=body)]
    return model(main, "x:float[3]", "y:float[3] z:float[3] u:float[3] s:float[3,3]", {"three": 3})


@case("structure/loop", CAPTURES, feeds=xs)
def loop_that_captures_and_repeats_work() -> onnx.ModelProto:
    """Loop-invariant work in the body; the outer value is read nowhere else."""
    nodes = [
        n("Exp", "o", "e"),
        n("Add", "e k", "f"),
        n("Add", "v f", "w"),
        n("Identity", "ci", "co"),
        n("Identity", "w", "scan"),
    ]
    body = graph(nodes, *FACE, {"k": rand(3)})
    return model(
        [n("Tanh", "x", "o"), n("Loop", "three - x", "y s", body=body)],
        "x:float[3]",
        "y:float[3] s:float[3,3]",
        {"three": 3},
    )


@case("structure/loop", CONSTANTS, feeds=xs, tol=1e-6)
def foldable_constants_of_a_body() -> onnx.ModelProto:
    nodes = [
        n("Constant", "", "a", value_float=2.0), n("Sqrt", "a", "b"), n("Add", "b k", "c"), n("Mul", "c outer", "d"),
        n("Mul", "v d", "w"),
        n("Identity", "ci", "co"), n("Mul", "w b", "scan"),
    ]  # fmt: skip
    body = graph(nodes, *FACE, {"k": 1.0})
    return loop("three", "-", {"three": 3, "outer": 0.25}, body=body)


@case("structure/loop", NAMES, feeds=xs, valid=False, evaluator="none", checks=[keeps("Loop", "Relu")])
def body_that_shadows_an_outer_name() -> onnx.ModelProto:
    """Not valid, and seen in the wild: the body calls its own value as the outer graph calls another."""
    nodes = [n("Relu", "v", "t"), n("Add", "t k", "w"), n("Identity", "ci", "co"), n("Identity", "w", "scan")]
    body = graph(nodes, *FACE, {"k": [1.0]})
    main = [n("Neg", "x", "t"), n("Loop", "three - x", "y s", body=body), n("Abs", "t", "z")]
    return model(main, "x:float[3]", "y:float[3] s:float[3,3] z:float[3]", {"three": 3})


@case("structure/loop", NAMES + ": a body's input is called as an outer value", feeds=xs)
def body_input_named_like_an_outer_value() -> onnx.ModelProto:
    nodes = [n("Add", "x k", "w"), n("Identity", "ci", "co"), n("Identity", "w", "scan")]
    body = graph(nodes, "i:int64[] ci:bool[] x:float[3]", FACE[1], {"k": [1.0]})
    return model(
        [n("Neg", "x", "m"), n("Loop", "three - m", "y s", body=body)],
        "x:float[3]",
        "y:float[3] s:float[3,3]",
        {"three": 3},
    )


@case("structure/loop", "scan outputs that nobody reads; carried values that nobody reads", feeds=xs)
def loop_with_unused_outputs() -> onnx.ModelProto:
    body = graph(
        [*BODY, n("Neg", "u", "u2")],
        "i:int64[] ci:bool[] v:float[3] u:float[3]",
        "co:bool[] w:float[3] u2:float[3] scan:float[3]",
        {"k": [1.0]},
    )
    return model([n("Loop", "three - x x", "y dead unused", body=body)], "x:float[3]", "y:float[3]", {"three": 3})


@case("structure/loop", "Loop with a sequence as carried value", feeds=xs)
def loop_that_fills_a_sequence() -> onnx.ModelProto:
    nodes = [
        n("Cast", "i", "i_f", to=TensorProto.FLOAT),
        n("Add", "x i_f", "e"),
        n("SequenceInsert", "q e", "q2"),
        n("Identity", "ci", "co"),
    ]
    kind = helper.make_tensor_sequence_value_info
    ins = [vi("i:int64[]"), vi("ci:bool[]"), kind("q", TensorProto.FLOAT, None)]
    body = graph(nodes, ins, [vi("co:bool[]"), kind("q2", TensorProto.FLOAT, None)])
    main = [
        n("SequenceEmpty", "", "empty"),
        n("Loop", "three - empty", "r", body=body),
        n("ConcatFromSequence", "r", "y", axis=0, new_axis=1),
    ]
    return model(main, "x:float[3]", "y:float[?,3]", {"three": 3})


@case(
    "structure/scan",
    CAPTURES + ", in a Scan; reversed directions and other axes",
    feeds=lambda: [{"x": rand(4, 3), "z": rand(3, 4, seed=1)}],
)
def scan_with_directions_and_axes() -> onnx.ModelProto:
    nodes = [
        n("Add", "st a", "t"),
        n("Mul", "t k", "u"),
        n("Add", "u b", "st2"),
        n("Identity", "st2", "o"),
        n("Mul", "a b", "p"),
    ]
    body = graph(nodes, "st:float[3] a:float[3] b:float[3]", "st2:float[3] o:float[3] p:float[3]")
    scan = n(
        "Scan", "zero x z", "last o p", body=body, num_scan_inputs=2, scan_input_axes=[0, 1],
        scan_input_directions=[0, 1],
        scan_output_axes=[1, 0], scan_output_directions=[1, 0],
    )  # fmt: skip
    outs = "last:float[3] o:float[3,4] p:float[4,3]"
    return model([scan], "x:float[4,3] z:float[3,4]", outs, {"zero": np.zeros(3, np.float32), "k": [0.5]})


@case("structure/scan", "a Scan body that passes its inputs through", feeds=lambda: [{"x": rand(4, 3)}])
def scan_that_copies() -> onnx.ModelProto:
    body = graph([n("Identity", "s", "t"), n("Identity", "a", "o")], "s:float[3] a:float[3]", "t:float[3] o:float[3]")
    return model(
        [n("Scan", "zero x", "last y", body=body, num_scan_inputs=1)],
        "x:float[4,3]",
        "last:float[3] y:float[4,3]",
        {"zero": rand(3)},
    )


@case("structure/sequence-map", CAPTURES + ", in a SequenceMap", feeds=lambda: [{"x": rand(4, 3)}], tol=1e-6)
def sequence_map_that_captures() -> onnx.ModelProto:
    body = graph([n("Mul", "e k", "f"), n("Add", "f o", "g")], "e:float[2,3]", "g:float[2,3]")
    nodes = [
        n("Tanh", "k", "o"),
        n("SplitToSequence", "x two", "parts"),
        n("SequenceMap", "parts", "mapped", body=body),
        n("ConcatFromSequence", "mapped", "y", axis=0),
    ]
    return model(nodes, "x:float[4,3]", "y:float[4,3]", {"k": rand(3), "two": 2})
