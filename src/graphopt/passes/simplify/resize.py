"""Resize(x) and Upsample(x) to the same size   ==   x: scales all exactly 1, or sizes that are the dims of x.

At scale 1 every coordinate transform maps a pixel onto itself, so that each mode reads that pixel alone (ONNX Runtime
copies the tensor). Guards: tf_crop_and_resize crops; tf_half_pixel_for_nn shifts by half a pixel; scales must be
constant, sizes constant or certainly the dims; sizes must be complete or name their axes.
"""

from __future__ import annotations

from graphopt.analysis.shapes import shapes_of
from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import filled_with, normalize
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

_SHIFTING = ("tf_crop_and_resize", "tf_half_pixel_for_nn")


@rule("eliminate-resize", P.op("Resize", "Upsample")("x", rest("operands")).as_("node"))
def eliminate_resize(m: Match, new: Builder) -> Outcome:
    node: Node = m.node
    if node.op == "Upsample" and "scales" in node.attributes:
        same = all(scale == 1 for scale in node.attr("scales"))
    elif node.op == "Upsample" and "height_scale" in node.attributes:
        same = node.attr("height_scale") == node.attr("width_scale") == 1
    else:
        same = _is_same(node, m.x)
    if not same:
        return None
    if node.attr("coordinate_transformation_mode") in _SHIFTING:
        return refuse("its coordinate transform moves pixels even at scale 1")
    return m.x


def _is_same(node: Node, x: Value) -> bool:
    two_inputs = node.op == "Upsample" or node.graph.opset() < 11
    scales, sizes = node.input(1 if two_inputs else 2), None if two_inputs else node.input(3)
    if scales is not None and scales.is_const and scales.numpy().size:
        return filled_with(scales, 1)
    shapes = shapes_of(x)
    target, dims = shapes.elements(sizes), shapes.dims(x)
    if not target or dims is None:
        return False
    axes = normalize(node.attr("axes") or tuple(range(len(dims))), len(dims))
    if axes is None or len(axes) != len(target) or node.attr("keep_aspect_ratio_policy") not in (None, "stretch"):
        return False
    return shapes.all_equal(tuple([dims[axis] for axis in axes]), target)
