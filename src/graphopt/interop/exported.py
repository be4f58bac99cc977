"""Does an exported model compute what the library itself computes?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError, VerificationError
from graphopt.interop.adapter import Request
from graphopt.ir import Model

__all__ = ["confirm_export"]

_MOST = 0.01  # of an output's scale: no noise excuses more
_NOISE = 16.0  # times what one rounding step of the inputs does: kernels of two runtimes round in another order


def confirm_export(
    model: Model, inputs: Sequence[Any], expected: Sequence[Any], package: str, request: Request
) -> None:
    """Runs an exported model, as written, on the example inputs.

    inputs, expected: arrays, in the order of the model's inputs and outputs. What cannot be compared is said in
    `request.said`. Raises VerificationError where an output differs by more than rounding: what the type and depth of
    the model explain, or 16 times what one rounding step of the inputs does.
    """
    names = [value.name for value in model.graph.inputs if value.tensor is None]
    if len(names) != len(inputs) or len(model.graph.outputs) != len(expected):
        request.said.append(
            f"the export was not compared with {package}: it has {len(names)} inputs and {len(model.graph.outputs)} "
            f"outputs, the example {len(inputs)} and {len(expected)}"
        )
        return
    try:
        said = _compare(ir.to_proto(model, whole=True), names, inputs, expected, package)
    except OutputError:  # 2 GiB or more: from a file
        with tempfile.TemporaryDirectory(prefix="graphopt-export-") as folder:
            path = os.path.join(folder, "model.onnx")
            ir.save(model, path)
            said = _compare(path, names, inputs, expected, package)
    request.said += said


def _compare(
    model: Any, names: Sequence[str], inputs: Sequence[Any], expected: Sequence[Any], package: str
) -> list[str]:
    """What could not be compared, in words. Raises VerificationError."""
    from graphopt.verify.compare import deviation, slack_of, tolerance_for
    from graphopt.verify.noise import nudged_feeds
    from graphopt.verify.randomness import Randomness
    from graphopt.verify.run import Session
    from graphopt.verify.source import Source

    source, said = Source.of(model), []
    try:
        session = Session(source)
        feeds = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True)}
        outputs = session.run(feeds)
        nudged: list[Any] | None = None
        slack, random = slack_of(source.proto), Randomness(source.proto).dependents
        for place, info in enumerate(source.proto.graph.output):
            found = deviation(np.asarray(expected[place]), outputs[place], slack[place])
            if found.none or tolerance_for(found.dtype, source.node_count).allows(found):
                continue
            if info.name in random and not found.kind:
                said.append(f"output {info.name!r} was not compared with {package}: it depends on random numbers")
                continue
            nudged = nudged or session.run(nudged_feeds(feeds, 0))
            noise = deviation(outputs[place], nudged[place], slack[place])
            near = found.peak <= min(_NOISE * noise.peak, _MOST)
            if near and not (found.kind or found.mismatches or found.exact):
                continue
            raise VerificationError(
                f"the exported model does not give what {package} gives on the example inputs: output {info.name!r}: "
                f'{found.in_words()}; nothing was optimized (verify="off" skips this)'
            )
    except VerificationError:
        raise
    except GraphoptError as error:
        raise VerificationError(f"the exported model does not run on the example inputs: {error}") from error
    finally:
        source.close()
    return said
