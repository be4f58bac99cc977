"""y_i = f(x W_i + b_i)   ==   Split(f(x [W_1 W_2 ..] + [b_1 b_2 ..]))_i

Convolutions, matrix products and Gemm of one input, alike but for their weights, become one; activations, and operators
with a constant for each channel, that follow all of them in the same way are merged, too. Where one Concat reads the
results in order, it reads the one result instead, and nothing is split. Exact: every channel is computed from the
same products (their order of summation is the kernel's).

What is alike on different inputs is the matter of passes that run first, with the same option: `stack-inputs` (the same
weights), `batch-matmul`, `group-conv` (other weights), and `split-last` (the parts of a Split).

Guards: constant weights that nobody else reads, alike in all but the number of output channels; one group; a bias that
is one number per channel, for all or none; and it has to pay on the target (`graphopt.analysis.target`): on a CPU where
channels fill the kernel's blocks better together than apart, for TensorRT with every matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.analysis.batching import gain_of_merging_transposed
from graphopt.analysis.target import BLOCKS_A_PASS, ENOUGH, WIDTHS, gain_of_merging
from graphopt.ir import Model, Node
from graphopt.passes.base import Pass
from graphopt.passes.horizontal._levels import rounds_anew
from graphopt.passes.horizontal._merge import merge
from graphopt.passes.horizontal._siblings import (
    Family,
    concat_of,
    families,
    family_of,
    follow,
    reason_apart,
    shares_weights,
)
from graphopt.passes.horizontal.batch_matmul import BatchMatmul
from graphopt.passes.horizontal.group_conv import GroupConv
from graphopt.passes.horizontal.split_last import SplitLast
from graphopt.passes.horizontal.stack_inputs import StackInputs
from graphopt.rewrite import Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "fuse-horizontal"
FULL = BLOCKS_A_PASS * max(WIDTHS)


@dataclass(frozen=True)
class FuseHorizontal(Pass):
    """Merges operators that compute different channels from one input, where that pays on the target.

    gain: how many times as fast it must be by the model of cost; 0 merges whatever can be merged.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"gain": 0.0}
    gain: float = ENOUGH

    def run(self, model: Model, ctx: Context) -> None:
        """Merges siblings, scope by scope."""
        for item in (StackInputs(self.gain), BatchMatmul(self.gain), GroupConv(self.gain), SplitLast(self.gain)):
            item.run(model, ctx)
        for graph in list(model.scopes(functions=False)):
            for siblings in list(families(graph)) if not is_opaque(graph) else ():
                self._consider(siblings, ctx)

    def _consider(self, siblings: list[Node], ctx: Context) -> None:
        alone = [node for node in siblings if not shares_weights(node)]
        if len(alone) < len(siblings):
            ctx.refuse(NAME, "others read a weight, too, so that the file would grow", siblings[0])
        for chosen in (alone, [node for node in alone if not _is_full(node)]):
            if len(chosen) < 2:
                return
            family = family_of(chosen)
            apart = reason_apart(family)
            if apart is not None:
                ctx.refuse(NAME, apart.reason, family.first)
                return
            follow(family)
            concat = concat_of(family)
            reason = rounds_anew(family.first.output, ctx.target) if concat is None else ""
            if reason:
                ctx.refuse(NAME, reason, family.first)
                return
            gain = _gain(family, ctx.target, concat is None)
            if gain >= self.gain:
                if ctx.allow(NAME, site_of(family.first)):
                    ctx.fired(NAME, family.first)
                    merge(family, concat, ctx, NAME)
                return
            ctx.refuse(NAME, f"it does not pay here: {gain:.2f} times as fast by the model of cost", family.first)


def _is_full(node: Node) -> bool:
    """Whether its channels fill the kernel's blocks, as many as it takes in one pass: it gains nothing by siblings."""
    return node.op == "Conv" and family_of([node]).sizes[0] % FULL == 0


def _gain(family: Family, target: str, split: bool) -> float:
    op, sizes = family.first.op, family.sizes
    if op == "ConvTranspose":
        weight = family.first.inputs[1]
        return gain_of_merging_transposed(target, sizes, weight.numpy().shape[2:] if weight is not None else ())
    return gain_of_merging(op, target, sizes, family.reduction, split)
