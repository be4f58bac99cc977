"""Makes the table of graphopt.testing.catalog.kernels anew: python tests/testing/kernels.py"""

from __future__ import annotations

import sys

from graphopt.testing.catalog import OPS, apply, available
from graphopt.testing.catalog.call import main_slot, slots_of
from graphopt.testing.catalog.kernels import LETTERS
from graphopt.testing.chooser import RandomChooser
from graphopt.testing.draft import DoesNotFit, Draft
from graphopt.verify.run import LoadError, RunError, Session
from graphopt.verify.source import Source

NAMES = {number: letter for letter, number in LETTERS.items()}


def loads(op: str, opset: int, dtype: int) -> bool:
    """Whether ONNX Runtime itself loads the operator with data of that type, in each of a few forms."""
    tried = 0
    slot = main_slot(op, opset)
    for seed in range(12):
        draft = Draft(RandomChooser(seed * 7 + 1), opset)
        draft.dtypes, draft.portable = frozenset([dtype]), False
        try:
            apply(draft, op)
        except DoesNotFit:
            continue
        node = next((node for node in draft.nodes if node.op_type == op), None)
        types = {var.name: var.dtype for var in draft.values}
        if node is None or len(node.input) <= slot or types[node.input[slot]] != dtype:
            continue
        try:
            drawn = draft.finish()
            session = Session(Source.of(drawn.model))
            session.run(drawn.feeds)
            if session.reference:
                return False
        except (LoadError, RunError):
            return False
        tried += 1
        if tried == 3:
            return True
    return tried > 0


def rows() -> list[str]:
    found = []
    for op in sorted(OPS):
        entries: list[str] = []
        last = None
        for opset in range(7, 27):
            if (
                op not in available(opset)
                or not slots_of(op, opset)
                or len(slots_of(op, opset)[main_slot(op, opset)][1]) < 2
            ):
                continue
            types = slots_of(op, opset)[main_slot(op, opset)][1]
            letters = "".join(NAMES[dtype] for dtype in types if loads(op, opset, dtype))
            if letters != last:
                entries.append(f"{opset}:{letters}")
                last = letters
        if entries:
            found.append(" ".join([op, *entries]))
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(rows()) + "\n")
