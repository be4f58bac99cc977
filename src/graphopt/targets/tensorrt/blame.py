"""Which layer of an engine is wrong first: inner tensors are marked as outputs, a few at a time, and compared.

Marking changes what TensorRT fuses, so that a fault of a fusion may go away; that is said. Each round builds an engine
with `width` marked tensors and keeps the stretch between the last that agrees and the first that does not, so that n
nodes take about log(n) / log(width + 1) builds (Polygraphy's layer-wise comparison marks all of them in one, which few
engines survive).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, ValueInfoProto

from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt.verification import Allowance, distance_of

__all__ = ["Fault", "first_fault"]

Build = Callable[[ModelProto], Engine]


@dataclass(frozen=True)
class Fault:
    """tensor: the first that differs, None where none does once they are marked. node: what makes it. agrees: the last
    tensor before it that is right. how: the difference in words. builds: engines that it took."""

    tensor: str | None
    node: str
    agrees: str
    how: str
    builds: int

    def summary(self) -> str:
        """One line.

        >>> Fault("h3", "conv_3", "h2", "4 of 9 elements disagree as NaN or infinity", 3).summary()
        "conv_3 is the first that differs (tensor 'h3': 4 of 9 elements disagree as NaN or infinity); 'h2' still agrees"
        """
        if self.tensor is None:
            return "with its inner tensors marked as outputs it agrees: a fusion is at fault, or chance"
        before = f"; {self.agrees!r} still agrees" if self.agrees else ""
        return f"{self.node} is the first that differs (tensor {self.tensor!r}: {self.how}){before}"


def first_fault(
    model: ModelProto, feeds: Mapping[str, Any], build: Build, allowed: Allowance, *, width: int = 6
) -> Fault:
    """Looks for the first tensor of a model that an engine gets wrong.

    model: that the engine was built from; feeds: on which it fails; build: makes an engine of a model with other
    outputs; width: tensors marked at a time.
    """
    from graphopt.verify.source import Source
    from graphopt.verify.window import capture

    makers = _tensors(model)
    names = list(makers)
    known = capture(Source.of(model), names, dict(feeds))
    names = [name for name in names if getattr(known.get(name), "dtype", None) is not None]
    low, high, how, builds = -1, len(names), "", 0
    while high - low > 1:
        step = max(1, (high - low) // (width + 1))
        marked = list(range(low + step, high, step))[:width]
        builds += 1
        with build(marked_model(model, [names[place] for place in marked])) as engine:
            outputs = engine.run(feeds)
        before = (low, high)
        for place in marked:
            found = distance_of(known[names[place]], outputs.get(names[place]))
            if found.kind or found.mismatches or found.far_peak > allowed.peak or found.far_rms > allowed.rms:
                high, how = place, found.in_words()
                break
            low = place
        if (low, high) == before:
            break
    if high == len(names):
        return Fault(None, "", names[low] if low >= 0 else "", "", builds)
    return Fault(names[high], makers[names[high]], names[low] if low >= 0 else "", how, builds)


def _tensors(model: ModelProto) -> dict[str, str]:
    """What nodes of the main graph make, in their order -> the node."""
    return {
        name: node.name or node.output[0]
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name
    }


def marked_model(model: ModelProto, names: list[str]) -> ModelProto:
    """A copy of which these tensors are the outputs, besides its own."""
    marked = ModelProto()
    marked.CopyFrom(model)
    own = {info.name for info in marked.graph.output}
    known = {info.name: info for info in marked.graph.value_info}
    for name in names:
        if name not in own:
            marked.graph.output.append(known.get(name) or ValueInfoProto(name=name))
    return marked
