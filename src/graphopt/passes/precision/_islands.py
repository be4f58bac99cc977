"""Fewer Casts: what only moves data goes along with its neighbours, where that takes a Cast or more away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from graphopt.ir import Node, Value
from graphopt.passes.precision._plan import Plan, Use

# Operators that give elements of their operand as they are, and Cast, which rounds once in any case.
MOVES = frozenset(
    "Cast CastLike Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Neg Abs Relu "
    "Reshape ReverseSequence ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze "
    "Pad Where MaxPool ReduceMax ReduceMin Max Min Clip Dropout".split()
)


def settle(plan: Plan, movable: frozenset[str] = MOVES) -> None:
    """Keeps the old type for groups of data movement between others that have it."""
    Around(plan, movable).settle()


class Around:
    """The groups that may go either way, and what is next to them."""

    def __init__(self, plan: Plan, movable: frozenset[str]):
        self.plan = plan
        self.readers: dict[Value, list[Use]] = defaultdict(list)
        self.values: dict[Hashable, dict[Value, None]] = defaultdict(dict)  # made by a group, or read by it
        for use in plan.uses:
            if use.value.is_const:
                continue
            self.readers[use.value].append(use)
            self.values[plan.find(use.value)][use.value] = None
            if use.want is not None:
                self.values[plan.find(use.want)][use.value] = None
        members = self._members = defaultdict[Hashable, list[Node]](list)
        for node, slots in plan.slots.items():
            if slots.changes:
                members[plan.find(node)].append(node)
        self.groups = {
            group: None
            for group, nodes in members.items()
            if group not in plan.forced and all(node.op in movable for node in nodes)
        }

    def settle(self) -> None:
        """Keeps groups as they are, one by one and in chains, as long as that takes a Cast away."""
        pending = list(self.groups)
        while pending:
            group = pending.pop()
            if group not in self.plan.forced and self.saves([group]):
                self.plan.forced[group] = ""
                pending += self.neighbours(group)
        for chain in self.chains():
            if self.saves(chain):
                self.plan.forced.update(dict.fromkeys(chain, ""))

    def nodes(self, group: Hashable) -> list[Node]:
        """The nodes of a group."""
        return self._members[group]

    def casts(self, groups: list[Hashable]) -> int:
        """How many Casts the values take that these groups make or read."""
        touched = {value: None for group in groups for value in self.values[group]}
        return sum(self.plan.casts(self.readers[value]) for value in touched)

    def saves(self, groups: list[Hashable]) -> bool:
        """Whether there are fewer Casts if these groups stay as they are."""
        before = self.casts(groups)
        for group in groups:
            self.plan.forced[group] = ""
        after = self.casts(groups)
        for group in groups:
            del self.plan.forced[group]
        return after < before

    def neighbours(self, group: Hashable) -> list[Hashable]:
        """The groups that may go either way and share a value with this one."""
        found: dict[Hashable, None] = {}
        for value in self.values[group]:
            for key in (value, *(use.want for use in self.readers[value] if use.want is not None)):
                found[self.plan.find(key)] = None
        return [other for other in found if other in self.groups and other not in self.plan.forced and other != group]

    def chains(self) -> list[list[Hashable]]:
        """The groups that are left, those together that are next to each other."""
        left = {group: None for group in self.groups if group not in self.plan.forced}
        chains = []
        while left:
            chain = [left.popitem()[0]]
            for group in chain:
                for other in self.neighbours(group):
                    if other in left:
                        del left[other]
                        chain.append(other)
            chains.append(chain)
        return chains
