"""Rules and passes that are wrong, each in another way, for the tests of `verify="rewrites"`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.base import Pass
from graphopt.rewrite import P, const, rule


@rule("relu-is-abs", P.Relu("x"))
def relu_is_abs(m, new):
    """Wrong for negative numbers."""
    return new.Abs(m.x)


@rule("drop-bn", P.BatchNormalization(P.Conv("x", "w").as_("conv"), const(), const(), const(), const()))
def drop_bn(m, new):
    """Wrong: the normalization is forgotten."""
    return new.Conv(m.x, m.w, like=m.conv)


@rule("minus-itself", P.Sub("x", "x"))
def minus_itself(m, new):
    """Wrong for infinity and NaN alone."""
    return new.Mul(m.x, new.constant(np.float32(0)))


@rule("finite-minus-itself", P.Sub("x", "x"))
def finite_minus_itself(m, new):
    """Wrong for infinity and NaN: a constant of the right shape (made by way of Shape)."""
    shape = new.Shape(m.x)
    return new.ConstantOfShape(shape)


@rule("wrong-for-one", P.ReduceSumSquare("x").as_("node"))
def wrong_for_one(m, new):
    """Wrong for an axis of size 1 alone: there it adds 1."""
    size = new.Cast(new.Shape(m.x), to=1)
    last = new.Gather(size, new.constant(np.array([1], np.int64)), axis=0)
    extra = new.Cast(new.Equal(last, new.constant(np.float32(1))), to=1)
    axes = new.constant(np.array([1], np.int64))
    return new.Add(new.ReduceSum(new.Mul(m.x, m.x), axes, keepdims=0), extra)


@rule("baked-batch", P.Shape("x"))
def baked_batch(m, new):
    """Wrong for other batch sizes than 1."""
    return new.constant(np.array([1, 4], np.int64))


@rule("rank-lost", P.Softmax("x"))
def rank_lost(m, new):
    """Wrong shape: one dim more."""
    return new.Unsqueeze(m.x, new.constant(np.array([0], np.int64)))


@rule("does-not-run", P.Neg("x"))
def does_not_run(m, new):
    """The new node fails on every input."""
    return new.Reshape(m.x, new.constant(np.array([7, 11, 13], np.int64)))


@rule("does-not-load", P.Neg("x"))
def does_not_load(m, new):
    """There is no such operator."""
    return new.Negg(m.x)


@rule("tanh-twice", P.Tanh("x"))
def tanh_twice(m, new):
    """Wrong, and what it makes is matched by others."""
    return new.Identity(new.Neg(new.Neg(new.Sin(m.x))))


@dataclass(frozen=True)
class NoClaims(Pass):
    """Turns Exp into Sin and says nothing of it; asks for no site either."""

    name = "no-claims"

    def run(self, model, ctx):
        for node in list(model.graph):
            if node.op == "Exp" and ctx.allow():
                made = model.graph.insert("Sin", [node.inputs[0]], before=node)
                node.output.replace_with(made.output)
                model.graph.erase(node)
                ctx.record(self.name, ["exp"], [made.label], model.graph)


@dataclass(frozen=True)
class WrongMerge(Pass):
    """CSE that takes Clip(x, lo) and Clip(x, "", hi) for the same."""

    name = "wrong-merge"

    def run(self, model, ctx):
        clips = [node for node in model.graph if node.op == "Clip"]
        first, second = clips[:2]
        if ctx.allow(self.name, second.output.name):
            ctx.claim((second.output, first.output), nodes=(first, second))
            second.output.replace_with(first.output)
            model.graph.erase(second)
            ctx.record(self.name, ["clip"], [first.label], model.graph)


@dataclass(frozen=True)
class WrongConstant(Pass):
    """Puts a constant that is off by a little in place of the first one."""

    name = "wrong-constant"
    off: float = 1e-3

    def run(self, model, ctx):
        for value in list(model.graph.initializers.values()):
            if value.is_const and value.users and ctx.allow(self.name, value.name):
                new = model.graph.constant(value.numpy() + np.float32(self.off), "other")
                ctx.claim((value, new))
                value.replace_with(new)
                ctx.record(self.name, [value.name], [new.name], model.graph)
                return


@dataclass(frozen=True)
class Crashes(Pass):
    """Fails after a change."""

    name = "crashes"

    def run(self, model, ctx):
        node = next(iter(model.graph))
        ctx.claim()
        ctx.record(self.name, [node.label], [], model.graph)
        raise RuntimeError("as it must")
