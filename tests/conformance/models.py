"""Small models that differ as much as possible, for every pass to be run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

MODELS: dict[str, Callable[[], ModelProto]] = {}


def model(build: Callable[[], ModelProto]) -> Callable[[], ModelProto]:
    MODELS[build.__name__] = build
    return build


def parse(text: str, weights: dict[str, Any] | None = None, opset: int = 17, ir: int = 8) -> ModelProto:
    """onnx's textual format, with the initializers put in; a shape stands for random values of that shape."""
    proto = parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["": {opset}, "local": 1, "com.microsoft": 1]> {text}'
    )
    rng = np.random.default_rng(7)
    for name, value in (weights or {}).items():
        array = rng.standard_normal(value).astype(np.float32) * 0.5 if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    used = {node.domain for node in proto.graph.node} | {f.domain for f in proto.functions}
    kept = [o for o in proto.opset_import if not o.domain or o.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    return proto


def batchnorm(prefix: str, channels: int) -> dict[str, Any]:
    var = np.linspace(0.5, 2, channels).astype(np.float32)
    return {f"{prefix}g": (channels,), f"{prefix}b": (channels,), f"{prefix}m": (channels,), f"{prefix}v": var}


@model
def convolutions() -> ModelProto:
    return parse(
        """net (float[N,3,H,W] x) => (float[N,6,H2,W2] y) {
            c1 = Conv<pads = [1,1,1,1]>(x, w1)
            n1 = BatchNormalization<epsilon = 0.001>(c1, ag, ab, am, av)
            r1 = Relu(n1)
            s = Mul(r1, scale)
            c2 = Conv<group = 2>(s, w2, bias2)
            a2 = Add(c2, shift)
            p = Pad(a2, pads, zero)
            c3 = Conv(p, w3)
            y = Clip(c3, low, high)
        }""",
        {
            "w1": (4, 3, 3, 3),
            **batchnorm("a", 4),
            "scale": (4, 1, 1),
            "w2": (4, 2, 1, 1),
            "bias2": (4,),
            "shift": (1, 4, 1, 1),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            "zero": np.float32(0),
            "w3": (6, 4, 3, 3),
            "low": np.float32(0),
            "high": np.float32(6),
        },
    )


@model
def transposed_and_pooled() -> ModelProto:
    return parse(
        """net (float[N,4,5,5] x) => (float[N,6,M,K] y, float[N,4,P,Q] z) {
            n0 = BatchNormalization(x, bg, bb, bm, bv)
            t = ConvTranspose<strides = [2,2]>(n0, w)
            y = BatchNormalization(t, ag, ab, am, av)
            p = Pad(x, pads, none)
            z = MaxPool<kernel_shape = [2,2]>(p)
        }""",
        {
            **batchnorm("b", 4),
            "w": (4, 6, 3, 3),
            **batchnorm("a", 6),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
            "none": np.float32(-np.inf),
        },
    )


@model
def dense() -> ModelProto:
    return parse(
        """net (float[N,8] x) => (float[N,4] y) {
            m1 = MatMul(x, w1)
            a1 = Add(m1, b1)
            n1 = BatchNormalization(a1, ag, ab, am, av)
            r1 = Relu(n1)
            g2 = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(r1, w2, b2)
            d = Dropout(g2)
            half = Constant<value_float = 0.5>()
            h = Mul(d, half)
            m3 = MatMul(h, w3)
            m4 = MatMul(m3, w4)
            y = Sub(m4, b4)
        }""",
        {
            "w1": (8, 6),
            "b1": (6,),
            **batchnorm("a", 6),
            "w2": (6, 6),
            "b2": (6,),
            "w3": (6, 3),
            "w4": (3, 4),
            "b4": (4,),
        },
    )


@model
def attention() -> ModelProto:
    return parse(
        """net (float[B,T,8] x) => (float[B,T,8] y) {
            mean = ReduceMean<axes = [-1], keepdims = 1>(x)
            c = Sub(x, mean)
            sq = Pow(c, two)
            var = ReduceMean<axes = [-1], keepdims = 1>(sq)
            eps = Add(var, epsilon)
            std = Sqrt(eps)
            norm = Div(c, std)
            q0 = MatMul(norm, wq)
            k0 = MatMul(norm, wk)
            shape1 = Shape(x)
            i0 = Constant<value = int64 {0}>()
            b = Gather<axis = 0>(shape1, i0)
            shape2 = Shape(x)
            i1 = Constant<value = int64 {1}>()
            t = Gather<axis = 0>(shape2, i1)
            zero = Constant<value = int64[1] {0}>()
            bu = Unsqueeze(b, zero)
            tu = Unsqueeze(t, zero)
            heads = Constant<value_ints = [2]>()
            size = Constant<value_ints = [4]>()
            target = Concat<axis = 0>(bu, tu, heads, size)
            q = Reshape(q0, target)
            k = Reshape(k0, target)
            qt = Transpose<perm = [0,2,1,3]>(q)
            kt = Transpose<perm = [0,2,1,3]>(k)
            ktt = Transpose<perm = [0,1,3,2]>(kt)
            scores = MatMul(qt, ktt)
            p = Softmax<axis = -1>(scores)
            pc = Cast<to = 1>(p)
            o = MatMul(pc, kt)
            ot = Transpose<perm = [0,2,1,3]>(o)
            flat = Concat<axis = 0>(bu, tu, eight)
            or = Reshape(ot, flat)
            e1 = Div(or, root2)
            e2 = Erf(e1)
            e3 = Add(e2, one)
            e4 = Mul(or, e3)
            e5 = Mul(e4, half)
            y = Add(e5, x)
        }""",
        {
            "two": np.float32(2),
            "epsilon": np.float32(1e-5),
            "wq": (8, 8),
            "wk": (8, 8),
            "eight": np.array([8], np.int64),
            "root2": np.float32(2**0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
        },
    )


@model
def branches() -> ModelProto:
    return parse(
        """net (float[N,3] x, bool cond) => (float[N,3] y, float[N,3] z) {
            a = Relu(x)
            twice = Add(a, a)
            y = If(cond) <
                then_branch = yes () => (float[M,3] t) { u = Identity(twice)  t = Mul(u, one) },
                else_branch = no () => (float[M,3] t) {
                    inner = Not(cond)
                    t = If(inner) <
                        then_branch = deep () => (float[M,3] v) { u = Neg(twice)  w = Neg(u)  v = Add(w, x) },
                        else_branch = never () => (float[M,3] v) { v = Identity(a) }
                    >
                }
            >
            always = Constant<value = bool {1}>()
            z = If(always) <
                then_branch = on () => (float[M,3] p) { p = Abs(x) },
                else_branch = off () => (float[M,3] p) { p = Exp(x) }
            >
        }""",
        {"one": np.float32(1)},
    )


@model
def loops() -> ModelProto:
    return parse(
        """net (float[3] x, int64 trips) => (float[3] last, float[K,3] all, float[4,3] scanned) {
            go = Constant<value = bool {1}>()
            bias = Tanh(x)
            last, all = Loop(trips, go, x) <body = step
            (int64 i, bool c, float[3] v) => (bool c2, float[3] v2, float[3] out) {
                c2 = Identity(c)
                invariant = Exp(bias)
                s = Add(v, invariant)
                s1 = Identity(s)
                v2 = Mul(s1, half)
                out = Sub(v2, zero)
            }>
            first, scanned = Scan(x, rows) <num_scan_inputs = 1, body = add
            (float[3] state, float[3] row) => (float[3] next, float[3] sum) {
                next = Add(state, row)
                sum = Identity(next)
            }>
        }""",
        {"half": np.float32(0.5), "zero": np.zeros(3, np.float32), "rows": (4, 3)},
    )


@model
def functions() -> ModelProto:
    return parse(
        """net (float[N,4] x) => (float[N,4] y) {
            a = local.scaled<by = 2.0>(x, w)
            y = local.twice(a, w)
        }
        <opset_import: ["": 17, "local": 1], domain: "local">
        twice (x, w) => (y) { a = local.scaled<by = 0.5>(x, w)  b = Identity(a)  y = local.scaled<by = 1.0>(b, w) }
        <opset_import: ["": 17], domain: "local">
        scaled <by> (x, w) => (y) { m = MatMul(x, w)  k = Constant<value_float: float = @by>()  y = Mul(m, k) }
        """,
        {"w": (4, 4)},
    )


@model
def old_style() -> ModelProto:
    """IR 3: initializers are listed as inputs."""
    proto = parse(
        """net (float[1,2,4,4] x) => (float[1,24] y) {
            c = Conv(x, w)
            n = BatchNormalization(c, ag, ab, am, av)
            u = Upsample<mode = "nearest">(n, scales)
            s = Slice<axes = [2], starts = [0], ends = [2]>(u)
            d = Dropout<ratio = 0.3>(s)
            y = Reshape(d, shape)
        }""",
        {
            "w": (3, 2, 1, 1),
            **batchnorm("a", 3),
            "scales": np.array([1, 1, 1, 1], np.float32),
            "shape": np.array([1, -1], np.int64),
        },
        opset=9,
        ir=3,
    )
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


@model
def overridable_defaults() -> ModelProto:
    return parse(
        """net (float[N,6] x, int64[2] shape, float scale) => (float[a,b] y) {
            r = Reshape(x, shape)
            m = Mul(r, scale)
            y = Mul(m, one)
        }""",
        {"shape": np.array([-1, 3], np.int64), "scale": np.float32(1), "one": np.float32(1)},
    )


@model
def quantized() -> ModelProto:
    return parse(
        """net (float[N,4] x) => (float[N,4] y) {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            wd = DequantizeLinear(wq, ws, wz)
            m = MatMul(d, wd)
            r = Relu(m)
            q2 = QuantizeLinear(r, s, z)
            y = DequantizeLinear(q2, s, z)
        }""",
        {
            "s": np.float32(0.05),
            "z": np.uint8(128),
            "wq": np.arange(-8, 8, dtype=np.int8).reshape(4, 4),
            "ws": np.float32(0.1),
            "wz": np.int8(0),
        },
    )


@model
def views() -> ModelProto:
    return parse(
        """net (float[N,2,3,4] x) => (float[A,B] y, int64[4] shape, float[2,3] part) {
            t1 = Transpose<perm = [0,2,3,1]>(x)
            t2 = Transpose<perm = [0,3,1,2]>(t1)
            u = Unsqueeze(t2, two)
            s = Squeeze(u, two)
            r1 = Reshape(s, keep)
            r2 = Reshape(r1, flat)
            c1 = Cast<to = 11>(r2)
            c2 = Cast<to = 1>(c1)
            cut = Slice(c2, from, to, axes)
            cut2 = Slice(cut, from, to, axes)
            one_of = Concat<axis = 1>(cut2)
            y = Identity(one_of)
            shape = Shape(x)
            grown = Expand(w, ones)
            part = Add(grown, nothing)
        }""",
        {
            "two": np.array([2], np.int64),
            "keep": np.array([0, -1, 4], np.int64),
            "flat": np.array([0, 24], np.int64),
            "from": np.array([1], np.int64),
            "to": np.array([9223372036854775807], np.int64),
            "axes": np.array([1], np.int64),
            "w": (2, 3),
            "ones": np.array([1, 1], np.int64),
            "nothing": np.zeros((1, 1), np.float32),
        },
    )


@model
def text_and_integers() -> ModelProto:
    proto = parse(
        """net (string[N] s, int32[N] i, bool[N] b) => (bool[N] same, int32[N] k, string[N] t) {
            same = Equal(s, word)
            one = Constant<value = int32 {1}>()
            zero = Constant<value = int32 {0}>()
            a = Mul(i, one)
            c = Add(a, zero)
            k = Where(b, c, i)
            t = Identity(s)
        }""",
        opset=19,
        ir=9,
    )
    proto.graph.initializer.append(helper.make_tensor("word", TensorProto.STRING, [1], [b"caf\xc3\xa9"]))
    return proto


@model
def sequences() -> ModelProto:
    return parse(
        """net (float[N,4] x) => (seq(float[M,2]) parts, float[N,2] first, optional(float[N,4]) maybe) {
            sizes = Constant<value_ints = [2, 2]>()
            parts = SplitToSequence<axis = 1>(x, sizes)
            at = Constant<value_int = 0>()
            first = SequenceAt(parts, at)
            maybe = Optional(x)
        }""",
        opset=18,
    )


@model
def untidy() -> ModelProto:
    """Nodes out of order and without names, dead ones, values that are input, constant and output at once."""
    proto = parse(
        """net (float[N] x, float[N] unused) => (float[N] x, float[N] y, float[2] w, float[N] a, float[N] b) {
            y = Neg(n2)
            n2 = Neg(n1)
            n1 = Neg(x)
            a = Exp(x)
            b = Exp(x)
            dead = Log(a)
            dead2 = Add(dead, b)
        }""",
        {"w": (2,), "w2": (2,)},
    )
    proto.doc_string = "untidy"
    helper.set_model_props(proto, {"author": "nobody"})
    return proto


@model
def twins() -> ModelProto:
    """Equal work done several times, in several scopes, on equal weights."""
    return parse(
        """net (float[N,4] x, bool c) => (float[N,4] y) {
            a1 = MatMul(x, w1)
            a2 = MatMul(x, w2)
            s1 = Sigmoid(a1)
            m1 = Mul(a1, s1)
            s2 = Sigmoid(a2)
            m2 = Mul(s2, a2)
            k = Clip(m1, , top)
            l = Clip(m2, top)
            sum = Add(k, l)
            y = If(c) <
                then_branch = p () => (float[M,4] o) { e = MatMul(x, w1)  o = Add(e, sum) },
                else_branch = q () => (float[M,4] o) { e = MatMul(x, w2)  o = Add(e, sum) }
            >
        }""",
        {"w1": np.eye(4, dtype=np.float32), "w2": np.eye(4, dtype=np.float32), "top": np.float32(1.5)},
    )


@model
def unknown_operators() -> ModelProto:
    proto = parse(
        """net (float[N] x) => (float[N] y) {
            a = Identity(x)
            b = local.Mystery<depth = 3>(a)
            c = Identity(b)
            y = local.Mystery(c)
        }"""
    )
    assert len(proto.opset_import) == 2
    return proto


@model
def random_numbers() -> ModelProto:
    return parse(
        """net (float[N] x) => (float[N] y, bool[3] mask) {
            noise = RandomNormal<shape = [3], seed = 1.0>()
            noise2 = RandomNormal<shape = [3], seed = 1.0>()
            zero = Sub(noise, noise2)
            mask = IsNaN(zero)
            training = Constant<value = bool {0}>()
            ratio = Constant<value_float = 0.5>()
            y = Dropout(x, ratio, training)
        }"""
    )
