"""What a Pad does, whatever its opset: attributes until 10, inputs from 11, an input with axes from 18."""

from __future__ import annotations

from graphopt.ir import Node
from graphopt.passes.simplify._facts import every_pad
from graphopt.rewrite import Refusal, refuse


def spatial_pads(pad: Node, rank: int, value: float) -> list[int] | Refusal:
    """The pads over the spatial axes, in the order of Conv's attribute (all begins, then all ends).

    Refuses unless the Pad puts this value, and nothing else, there and nowhere else.
    """
    if pad.attr("mode", "constant") != "constant":
        return refuse("the Pad repeats or reflects what is there")
    pads = _full(pad, rank)
    if isinstance(pads, Refusal):
        return pads
    filled = _value(pad)
    if filled is None:
        return refuse("the padded value is computed at run time")
    if filled != value:
        return refuse(f"the padded value is {filled}, not {value}")
    begins, ends = pads[:rank], pads[rank:]
    if any(begins[:2]) or any(ends[:2]):
        return refuse("the Pad is over the batch or the channels, too")
    if min(pads) < 0:
        return refuse("a negative pad cuts off")
    return [*begins[2:], *ends[2:]]


def _full(pad: Node, rank: int) -> tuple[int, ...] | Refusal:
    """Pads of all axes: begins, then ends."""
    for slot, name in ((1, "pads"), (3, "padded axes")):
        operand = pad.input(slot)
        if operand is not None and not operand.is_const:
            return refuse(f"the {name} are computed at run time")
    pads = every_pad(pad, rank)
    return refuse("pads and axes do not fit the rank") if pads is None or len(pads) != 2 * rank else pads


def _value(pad: Node) -> float | None:
    """What is padded in; None where it is not known."""
    operand = pad.input(2)
    if operand is None:
        return float(pad.attr("value", 0.0))
    return float(operand.numpy().reshape(())) if operand.is_const and operand.numpy().size == 1 else None
