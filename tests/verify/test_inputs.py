"""Inputs that suit the model: in range, of the right kind, with two sizes of every symbol, found without a recipe."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.verify.axes import Axes
from graphopt.verify.flow import Flow
from graphopt.verify.hints import Hint, hints_of
from graphopt.verify.run import Session
from graphopt.verify.search import find_cases
from graphopt.verify.sizes import alternatives, roles_of
from graphopt.verify.source import Source
from graphopt.verify.spec import InputSpec, input_specs, sizes_of, symbols_of
from graphopt.verify.values import STYLES, make_feeds


def search(model, **options):
    source = Source.of(model)
    return find_cases(source, Session(source), **options)


def hints(model):
    specs, flow = input_specs(model), Flow(model)
    return hints_of(specs, flow, Axes(flow, specs))


def tables(rows=11):
    return np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)


# indices


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather(W, k)",
        "a = Cast<to=6>(k) y = Gather(W, a)",
        "two = Constant<value = int64 {2}>() a = Add(k, two) y = Gather(W, a)",
        "five = Constant<value = int64 {5}>() a = Sub(five, k) y = Gather(W, a)",
        "a = Reshape(k, s) b = Transpose(a) y = Gather(W, b)",
        "y = Gather<axis=-2>(W, k)",
        "d = Constant<value = int64 {11}>() v = Constant<value = float[2] {0,1}>() y = OneHot(k, d, v)",
        "y = local.lookup(W, k)",
        "Q = Identity(W) y = Gather(Q, k)",
    ],
)
def test_indices_stay_in_range_and_use_it(build, body):
    function = '<opset_import: ["": 18], domain: "local"> lookup (w, i) => (y) { j = Identity(i) y = Gather(w, j) }'
    model = build(
        f"g (int64[N,6] k) => (float y) {{ {body} }}", functions=function, check=False, W=tables(), s=np.array([3, -1])
    )
    hint = hints(model)["k"]
    assert hint.index and hint.high is not None and hint.low is not None and 4 <= hint.high - hint.low <= 10
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = search(model)
    assert found.tries == 3 and not found.unchecked
    drawn = np.concatenate([case.feeds["k"].ravel() for case in found.cases])
    assert len(set(drawn.tolist())) >= 4


def test_indices_used_in_bodies(build):
    model = build(
        """g (int64[N] k, int64[N] m, bool c) => (float[A,B] y, float[L,N,4] z) {
            y = If(c) <then_branch = t () => (float[A,B] u) {u = Gather(W, k)},
                       else_branch = e () => (float[A,B] v) {o = Identity(W) v = Gather(o, k)}>
            three = Constant<value = int64 {3}>()
            true = Constant<value = bool {1}>()
            z = Loop(three, true) <body = b (int64 i, bool d) => (bool f, float[N,4] w) {
                f = Identity(d) w = Gather(W, m)}>
        }""",
        W=tables(7),
        check=False,
    )
    found = hints(model)
    assert found["k"].high == 6 and found["m"].high == 6
    cases = search(model).cases
    assert {bool(case.feeds["c"]) for case in cases} == {True, False}


def test_loop_carried_index(build):
    model = build(
        """g (int64 n, int64[N] k) => (int64[N] y) {
            true = Constant<value = bool {1}>()
            y = Loop(n, true, k) <body = b (int64 i, bool c, int64[N] v) => (bool d, int64[N] w) {
                d = Identity(c) w = Gather(T, v)}>
        }""",
        T=np.array([4, 3, 2, 1, 0]),
    )
    found = hints(model)
    assert found["k"].high == 4 and found["n"].role == "trip"
    assert all(0 < case.feeds["n"] < 10 for case in search(model).cases)


def test_float_inputs_that_are_indices(build):
    model = build("g (float[N] k) => (float[N,4] y) { a = Cast<to=7>(k) y = Gather(W, a) }", W=tables())
    for case in search(model).cases:
        k = case.feeds["k"]
        assert 1 < k.max() < 11 and k.min() >= 0
        # The second kind of data has fractions, which the Cast drops: so a dropped Cast shows.
        assert np.array_equal(k, np.floor(k)) == (case.data == "base")


def test_indices_into_another_input(build):
    model = build(
        "g (float[nodes,4] x, int64[2,edges] k) => (float[2,edges,4] y) { h = MatMul(x, W) y = Gather(h, k) }",
        W=np.eye(4, dtype=np.float32),
    )
    assert hints(model)["k"].below == ("nodes",)
    found = search(model)
    assert not found.unchecked and all(case.feeds["k"].max() < case.binding["nodes"] for case in found.cases)


def test_indices_whose_range_only_the_error_tells(build):
    text = """g (float[N,8] x, int64[M] k) => (float[M,2] y) {
        s = Shape<start=0, end=1>(x) two = Constant<value = int64[1] {2}>() t = Concat<axis=0>(s, two)
        z = ConstantOfShape<value = float[1] {1}>(t) y = Gather(z, k) }"""
    found = search(build(text))
    assert len(found.cases) == 3 and all(case.feeds["k"].max() < case.binding["N"] for case in found.cases)


def test_string_and_label_vocabularies():
    encode = helper.make_node(
        "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["cat", "dog"], values_int64s=[1, 2]
    )
    graph = helper.make_graph(
        [encode],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["N"])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 18)], ir_version=9
    )
    assert hints(model)["x"].choices == ("cat", "dog")
    outputs = np.concatenate([case.outputs[0] for case in search(model).cases])
    assert {1, 2} <= set(outputs.tolist())


# other roles


def test_sample_rates_and_flags(build):
    model = build(
        """g (float[N] x, int64 sr) => (float[N] y) {
            r = Constant<value = int64 {8000}>() e = Equal(sr, r)
            y = If(e) <then_branch = t () => (float[N] u) {u = Neg(x)}, else_branch = f () => (float[N] v) {v = Abs(x)}>
        }"""
    )
    assert {int(case.feeds["sr"]) for case in search(model).cases} == {8000}
    model = build(
        "g (float[N] x, int64 mode) => (bool y) { a = Constant<value = int64[2] {3, 5}>() e = Equal(mode, a) "
        "c = Cast<to=1>(e) s = ReduceSum<keepdims=0>(c) y = Cast<to=9>(s) }"
    )
    assert {int(case.feeds["mode"]) for case in search(model).cases} == {3, 5}


@pytest.mark.parametrize("elem_type", [TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT32])
@pytest.mark.parametrize("style", ["base", "wide"])
def test_masks_have_ones_and_end_in_zeros(elem_type, style):
    spec = InputSpec("attention_mask", elem_type=elem_type, dims=("batch", "seq"))
    mask = make_feeds([spec], {"attention_mask": Hint(role="mask")}, {"batch": 4, "seq": 16}, style)["attention_mask"]
    ones = mask.astype(np.float32)
    assert mask.dtype == helper.tensor_dtype_to_np_dtype(elem_type) and set(np.unique(ones)) <= {0.0, 1.0}
    assert (ones.sum(axis=1) >= 1).all() and ones[1:, -1].max() == 0.0 and ones[:, 0].min() == 1.0
    single = make_feeds([spec], {"attention_mask": Hint(role="mask")}, {"batch": 3, "seq": 1}, style)["attention_mask"]
    assert single.astype(np.float32).min() == 1.0


def test_lengths_fit_the_sequence():
    specs = [
        InputSpec("x", dims=("batch", 3, "time")),
        InputSpec("x_lens", elem_type=TensorProto.INT64, dims=("batch",)),
    ]
    lengths = make_feeds(specs, {"x_lens": Hint(role="length")}, {"batch": 3, "time": 50})["x_lens"]
    assert lengths[0] == 50 and (lengths >= 1).all() and (lengths <= 50).all() and len(set(lengths.tolist())) == 3


def test_position_ids(build):
    model = build("g (int64[B,S] position_ids) => (float[B,S,4] y) { y = Gather(W, position_ids) }", W=tables(256))
    case = search(model).cases[1]
    assert case.feeds["position_ids"][0].tolist() == list(range(case.binding["S"]))


def test_images_and_small_vectors():
    specs = [InputSpec("image", dims=(1, 3, 8, 8)), InputSpec("nhwc", dims=(1, 8, 8, 3)), InputSpec("speed", dims=(1,))]
    feeds = make_feeds(specs, {}, {})
    assert all(feeds[name].min() >= 0 and feeds[name].max() <= 1 for name in feeds) and feeds["speed"][0] > 0
    wide = make_feeds(specs, {}, {}, "wide")
    assert wide["image"].min() < -2 and (wide["image"] == 0).any() and wide["image"].max() > 2
    assert make_feeds([InputSpec("u", elem_type=TensorProto.UINT8, dims=(64,))], {}, {})["u"].max() > 200


@pytest.mark.parametrize("elem_type", [v for n, v in TensorProto.DataType.items() if n != "UNDEFINED"])
@pytest.mark.parametrize("style", STYLES)
def test_every_type_can_be_made(elem_type, style):
    spec = InputSpec("x", elem_type=elem_type, dims=(4, "N"))
    value = make_feeds([spec], {}, {"N": 3}, style)["x"]
    assert value.shape == (4, 3)
    assert value.dtype == (object if elem_type == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(elem_type))


def test_values_repeat_with_the_seed_and_vary_with_it(build):
    model = build("g (float[N] x, int64[N] k) => (float[N] y, int64[N] z) { y = Neg(x) z = Neg(k) }")
    first, again, other = search(model), search(model), search(model, seed=1)
    for one, two in zip(first.cases, again.cases, strict=True):
        assert one.binding == two.binding and all(np.array_equal(one.feeds[n], two.feeds[n]) for n in one.feeds)
    assert not np.array_equal(first.cases[0].feeds["x"], other.cases[0].feeds["x"])
    assert [case.data for case in first.cases] == ["base", "base", "wide"]


def test_models_that_look_for_nan_get_some(build):
    found = search(build("g (float[N] x) => (bool[N] y) { y = IsNaN(x) }"))
    assert any(np.isnan(case.feeds["x"]).any() and np.isinf(case.feeds["x"]).any() for case in found.cases)


# sizes


def test_symbols_are_shared_and_open_dimensions_are_not(build):
    model = build(
        "g (float[N,4] a, float[N,4] b, float[?,2] c) => (float[N,4] y, float[?,2] z) { y = Add(a, b) z = Neg(c) }"
    )
    specs = input_specs(model)
    assert symbols_of(specs) == ["N", "c[0]"]
    found = search(model)
    assert not found.unchecked
    for symbol in ("N", "c[0]"):
        assert len({case.binding[symbol] for case in found.cases}) >= 2


def test_sums_of_symbols():
    specs = [
        InputSpec("ids", dims=("batch", "seq")),
        InputSpec("past", dims=("batch", "past_len", 8)),
        InputSpec("mask", dims=("batch", "past_len + seq")),
        InputSpec("odd", dims=("input-dim", "2*unknown")),
    ]
    assert symbols_of(specs) == ["batch", "seq", "past_len", "input-dim", "2*unknown"]
    assert sizes_of(("past_len + seq", "2*seq - 1", "seq // 2"), {"past_len": 3, "seq": 4}) == (7, 7, 2)


def test_roles_of_dimensions():
    specs = [
        InputSpec("x", dims=("batch", 3, "h", "w")),
        InputSpec("n", dims=("N", "h2", "w2", 3)),
        InputSpec("t", dims=("T", 8)),
        InputSpec("state", dims=(2, "batch", 64)),
        InputSpec("c", dims=("B", "C", "L")),
    ]
    roles = roles_of(specs)
    assert roles == {
        "batch": "batch",
        "h": "space",
        "w": "space",
        "N": "batch",
        "h2": "space",
        "w2": "space",
        "T": "free",
        "B": "batch",
        "C": "channels",
        "L": "free",
    }
    assert all(n != 16 and n > 0 for n in alternatives(16, "free"))


@pytest.mark.parametrize(
    ("text", "weights", "symbol", "size"),
    [
        ("g (float[N,K] x) => (float[N,5] y) { y = MatMul(x, W) }", {"W": (105, 5)}, "K", 105),
        ("g (float[N,K] x) => (float[N,5] y) { y = Gemm<transB=1>(x, W) }", {"W": (5, 33)}, "K", 33),
        ("g (float[N,C,H] x) => (float[N,5,M] y) { y = Conv<group=2>(x, W) }", {"W": (6, 7, 3)}, "C", 14),
        ("g (float[N,K] x) => (float[N,K] y) { y = Add(x, W) }", {"W": (1, 17)}, "K", 17),
        ("g (float[K,N] x) => (float[N,5] y) { t = Transpose(x) y = MatMul(t, W) }", {"W": (9, 5)}, "K", 9),
        (
            "g (float[S,N,K] x) => (float[S,1,N,4] y) { y = RNN<hidden_size=4>(x, W, R) }",
            {"W": (1, 4, 19), "R": (1, 4, 4)},
            "K",
            19,
        ),
    ],
)
def test_sizes_that_the_weights_demand(build, text, weights, symbol, size):
    arrays = {name: np.ones(shape, np.float32) for name, shape in weights.items()}
    found = search(build(text, check=False, **arrays))
    assert found.cases and all(case.binding[symbol] == size for case in found.cases)
    assert found.notes == [f"the weights allow one size only: {symbol!r} = {size}"] and not found.unchecked


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("g (float[N,T] x) => (float[N,M,30] y) { y = Reshape(x, s) }", {"s": np.array([0, -1, 30])}),
        ("g (float[1,1,H,W] x) => (float[1,1,P,Q] y) { y = Conv(x, k) }", {"k": np.ones((1, 1, 90, 5), np.float32)}),
        (
            "g (float[N,T] x) => (float[N,4] y) { a = Slice(x, o, t, o) y = MatMul(a, W) }",
            {"o": np.array([1]), "t": np.array([41]), "W": np.ones((40, 4), np.float32)},
        ),
        (
            """g (float[1,2,H,H2] x) => (float[1,3] y) {
                a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) f = Flatten(a) y = MatMul(f, W) }""",
            {"W": np.ones((2 * 14 * 14, 3), np.float32)},
        ),
        (
            "g (float[N,T] x) => (float[N,T] y) { r = Shape(x) t = Slice(r, i, j) w = Expand(v, t) y = Add(x, w) }",
            {"i": np.array([1]), "j": np.array([2]), "v": np.ones(1, np.float32)},
        ),
    ],
)
def test_sizes_that_errors_lead_to(build, text, weights):
    found = search(build(text, check=False, **weights))
    assert found.cases, found.unchecked


def test_height_and_width_differ_somewhere(build):
    model = build("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    assert any(case.binding["H"] != case.binding["W"] for case in search(model).cases)


def test_unknown_rank(build):
    model = build("g (float[N] x) => (float[N] y) { y = Conv(x, W) }", check=False, W=np.ones((4, 3, 3, 3), np.float32))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    found = search(model)
    assert found.cases[0].feeds["x"].ndim == 4 and found.cases[0].feeds["x"].shape[1] == 3
    model = build("g (float[N] x) => (float[N] y) { y = Transpose<perm=[2,0,1]>(x) }", check=False)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    assert search(model).cases[0].feeds["x"].ndim == 3


def test_sizes_that_cannot_change_are_said(build):
    model = build("g (float[N,T] x) => (float[1,24] y) { y = Reshape(x, s) }", check=False, s=np.array([1, 24]))
    found = search(model)
    assert found.cases and found.cases[0].feeds["x"].size == 24


def test_results_that_say_nothing_are_avoided(build):
    model = build("g (float[N] x) => (float[N] y) { y = Log(x) }")
    assert all(np.isfinite(case.outputs[0]).all() for case in search(model).cases[:2])


# what is left untouched


BRANCHES = """g (float[N,4] x) => (float[N,4] y) {
    m = ReduceMean<keepdims=0>(x) t = Constant<value = float {%s}>() c = Less(m, t)
    y = If(c) <then_branch = a () => (float[N,4] u) {u = Neg(x)},
               else_branch = b () => (float[N,4] v) {v = Exp(x)}> }"""


def test_branches_that_only_other_data_take(build):
    found = search(build(BRANCHES % "0.45"))
    assert any(case.data == "positive" for case in found.cases) and not found.notes
    assert all(np.isfinite(case.outputs[0]).all() for case in found.cases)


def test_branches_that_no_data_take_are_said(build):
    found = search(build(BRANCHES % "1000000.0"))
    assert found.notes == ["no inputs were found that take the else branch of If 'y'"] and len(found.cases) == 3


def test_outputs_that_never_move_are_said(build):
    model = build(
        "g (float[N] x) => (float[N] y, float[N] z) { a = Abs(x) z = Neg(x) y = Clip(x, big) }", big=np.float32(1e6)
    )
    found = search(model)
    assert found.unchecked == ["output 'y': it is 1e+06 everywhere on all the inputs that were made"]


def test_more_cases_where_only_labels_come_out(build):
    found = search(build("g (float[N,5] x) => (int64[N,1] y) { y = ArgMax<axis=1>(x) }"))
    assert len(found.cases) == 5


def test_sequences_of_more_than_one_step(build):
    model = build(
        "g (float[1,1,T] x) => (float[1,1,U] y) { y = Conv<strides=[160]>(x, W) }", W=np.ones((1, 1, 400), np.float32)
    )
    assert all(case.outputs[0].shape[2] > 2 for case in search(model).cases)


# kinds


def kind_model(kind, nodes, outputs):
    graph = helper.make_graph(nodes, "g", [helper.make_value_info("x", kind)], outputs)
    imports = [
        helper.make_opsetid("", 18),
        helper.make_opsetid("ai.onnx.ml", 3),
        helper.make_opsetid("com.microsoft", 1),
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def test_sequences_optionals_and_maps():
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2])
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    sequence = kind_model(
        helper.make_sequence_type_proto(tensor), [helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)], out
    )
    found = search(sequence)
    assert len(found.cases[0].feeds["x"]) == 3 and not found.unchecked
    has = [helper.make_node("OptionalHasElement", ["x"], ["y"])]
    optional = kind_model(
        helper.make_optional_type_proto(tensor), has, [helper.make_tensor_value_info("y", TensorProto.BOOL, [])]
    )
    assert {bool(case.outputs[0]) for case in search(optional).cases} == {True, False}
    words = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    vectorize = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["p", "q", "r"])
    cases = search(kind_model(words, [vectorize], out)).cases
    assert all(set(case.feeds["x"]) <= {"p", "q", "r"} for case in cases) and any(
        case.outputs[0].any() for case in cases
    )


def test_no_inputs_at_all(build):
    model = build("g () => (float[2] y) { y = Constant<value = float[2] {1, 2}>() }")
    found = search(model)
    assert len(found.cases) == 1 and not found.unchecked


def test_defaults_are_left_and_then_overridden(build):
    model = build("g (float[N] x, float[1] w) => (float[N] y) { y = Mul(x, w) }", w=np.array([2], np.float32))
    cases = search(model).cases
    assert "w" not in cases[0].feeds and any("w" in case.feeds and case.data == "defaults overridden" for case in cases)


def test_what_cannot_be_fed_is_said(build):
    model = build("g (float[3] x) => (float[3] y) { y = Reshape(x, s) }", check=False, s=np.array([7]))
    found = search(model)
    assert not found.cases and len(found.unchecked) == 1
    assert "no inputs were found that the original runs on" in found.unchecked[0] and "Reshape" in found.unchecked[0]


def test_no_time_is_said(build):
    found = search(build("g (float[N] x) => (float[N] y) { y = Neg(x) }"), seconds=0.0)
    assert not found.cases and found.unchecked
