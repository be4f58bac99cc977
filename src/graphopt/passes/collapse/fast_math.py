"""Everything after this pass may be rewritten into what is equal as long as every value is finite.

Infinities of both signs that meet in a sum are NaN; with the sums in another order they may not meet. Chains of linear
operators, parallel branches and channels that are zero are collapsed after this pass whatever their operand is; before
it, only where the operand is bounded. `fast_math=True` puts it in front of the pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.rewrite import Context


@dataclass(frozen=True)
class FastMath(Pass):
    """Allows rewrites that are equal only while every value is finite; changes nothing itself."""

    name = "fast-math"
    only_notes = True

    def run(self, model: Model, ctx: Context) -> None:
        """Notes the permission."""
        model.fast_math = True
