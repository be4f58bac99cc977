"""Operators of the default domain and how to complete them: operands, attributes, outputs; opsets 7 and up.

apply(draft, "Conv", {0: x})   # draws weights, maybe a bias, and the attributes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.testing.catalog import (
    casts,
    containers,
    controlflow,
    elementwise,
    generators,
    indexing,
    linear,
    movement,
    normalizations,
    quantized,
    recurrent,
    reductions,
    text,
    windows,
)
from graphopt.testing.catalog.call import Call, schema_of
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit, Draft, Var

_FAMILIES = (
    elementwise,
    reductions,
    movement,
    windows,
    linear,
    normalizations,
    recurrent,
    quantized,
    indexing,
    casts,
    generators,
    containers,
    text,
    controlflow,
)
OPS: dict[str, Entry] = {entry.op: entry for family in _FAMILIES for entry in family.ENTRIES}

__all__ = ["OPS", "Entry", "apply", "available"]


def apply(
    draft: Draft,
    op: str,
    operands: Mapping[int, Var] | None = None,
    *,
    attrs: Mapping[str, Any] | None = None,
    const_slots: frozenset[int] = frozenset(),
    omit: frozenset[int] = frozenset(),
    n_out: int | Sequence[bool] | None = None,
) -> list[Var]:
    """Adds an operator to a draft, completing what is not given, and returns its outputs.

    operands: values by input slot. attrs: attributes that are set; others are drawn. const_slots: inputs that must be
    constants. omit: optional inputs that must be left out. n_out: the number of outputs, or a bool for each. Raises
    DoesNotFit when that cannot be, and leaves the draft as it was.

    >>> from graphopt.testing.chooser import RandomChooser
    >>> from onnx import TensorProto
    >>> draft = Draft(RandomChooser(3), opset=17)
    >>> x = draft.input(TensorProto.FLOAT, (1, 3, 8, 8))
    >>> [y] = apply(draft, "Conv", {0: x}, attrs={"kernel_shape": [3, 3]}, const_slots=frozenset({1, 2}))
    >>> draft.nodes[-1].op_type, len(y.shape)
    ('Conv', 4)
    """
    entry = OPS.get(op)
    if entry is None:
        raise DoesNotFit(f"{op} is not in the catalog")
    mark = draft.mark()
    try:
        call = Call(draft, op, operands or {}, attrs or {}, const_slots, omit, n_out)
        return entry.fill(call) or call.emit()
    except (DoesNotFit, IndexError, ZeroDivisionError) as error:
        draft.rollback(mark)
        raise DoesNotFit(str(error)) from error


def available(opset: int) -> list[str]:
    """The operators of the catalog that an opset has."""
    found = []
    for op, entry in OPS.items():
        if entry.since <= opset <= entry.until:
            try:
                schema_of(op, opset)
            except DoesNotFit:
                continue
            found.append(op)
    return found
