"""Transpose(Softmax(x))   ==   Softmax(Transpose(x))                        the Transpose makes its axis the last one
Softmax(x)                  ==   e / ReduceSum(e),  e = exp(x - max(x))      several axes from its own to the last one

ONNX Runtime's Softmax over another axis than the last one transposes there and back: (0, 3, 2, 1) of an image, for
which its Transpose is slow. Measured, one thread: the first form, exact, 8.2 times as fast (3 x 256 x 256), 17 (21 x
256 x 256); the second 3.1 (3 x 32 x 32), 5.9 (21 x 100 x 100), 7.4 (19 x 512 x 512). With one axis behind it, where the
hidden Transposes are fast, the Softmax stays.

Guards: float32; opset 13 or later; the second form: two axes behind that are not known to be 1, nothing behind it
that another rule here takes it into, from 2,048 elements on.
"""

from __future__ import annotations

from graphopt.passes.forms._cost import pays
from graphopt.passes.forms._reduce import reduce
from graphopt.passes.forms.softmax_product import is_head
from graphopt.passes.recognition._forms import elements, is_float
from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome

FEWEST = 2048


@rule(
    "transpose-before-softmax",
    P.Transpose(P.Softmax("x").as_("softmax")).as_("node"),
    opset=">=13",
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def transpose_before_softmax(m: Match, new: Builder) -> Outcome:
    """Transposes first where that makes the axis of a Softmax the last one."""
    if m.x.rank is None:
        return refuse("the rank is not known")
    perm = tuple(m.node.attr("perm") or range(m.x.rank)[::-1])
    axis = m.softmax.attr("axis", -1) % m.x.rank
    if axis == m.x.rank - 1 or perm[-1] != axis:
        return None
    turned = new.Transpose(m.x, perm=perm, type_of=m.root.output)
    return new.Softmax(turned, like=m.softmax, axis=-1, type_of=m.root.output)


@rule(
    "spell-inner-softmax", P.Softmax("x").as_("softmax"), opset=">=13", targets=["onnx", "onnxruntime"], measure="order"
)
def spell_inner_softmax(m: Match, new: Builder) -> Outcome:
    """Writes out a Softmax that has several axes behind its own."""
    shape = m.x.shape
    if shape is None or not is_float(m.x):
        return refuse("this is not proven to be float32 of a known rank")
    axis = m.softmax.attr("axis", -1) % len(shape)
    behind = [dim for dim in shape[axis + 1 :] if dim != 1]
    if not behind:
        return None
    if len(behind) == 1:
        return refuse("with one axis behind it, the kernel is fast")
    if _turns(m, axis, len(shape)):
        return refuse("a Transpose behind it makes the axis the last one")
    if is_head(m.softmax):
        return refuse("the Conv behind it takes it in")
    if not pays(elements(m.x), FEWEST):
        return refuse("the tensor is so small that further operators cost more than they save")
    top = reduce(new, "ReduceMax", m.x, axis, True)
    power = new.Exp(new.Sub(m.x, top, type_of=m.x), type_of=m.x)
    return new.Div(power, reduce(new, "ReduceSum", power, axis, True), type_of=m.x)


def _turns(m: Match, axis: int, rank: int) -> bool:
    """Whether all that read the result are Transposes that make the axis the last one."""
    value = m.root.output
    readers = list(value.users)
    return (
        bool(readers)
        and not value.outs
        and all(n.op == "Transpose" and tuple(n.attr("perm") or range(rank)[::-1])[-1] == axis for n in readers)
    )
