"""The cheapest way to divide things in two: a minimum cut, by Dinic's algorithm.

E. A. Dinitz, "Algorithm for solution of a problem of maximum flow in networks with power estimation", 1970.
"""

from __future__ import annotations

from collections import deque

NEVER = float("inf")
_NOTHING = 1e-6


class Cut:
    """Things are numbered as `add` gives them out; each ends up on one of two sides, `True` or `False`.

    >>> cut = Cut()
    >>> a, b, c = cut.add(5.0, 1.0), cut.add(2.0, 3.0), cut.add(0.0, 4.0)
    >>> cut.link(a, b, 2.0)
    >>> cut.sides()
    [True, True, False]
    """

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # by thing: indices into the three lists below; 0 is True, 1 is False
        self._to: list[int] = []
        self._room: list[float] = []

    def add(self, if_false: float, if_true: float) -> int:
        """A thing, and what it costs on either side."""
        self._edges.append([])
        thing = len(self._edges) - 1
        common = min(if_false, if_true)
        if common != NEVER:
            if_false, if_true = if_false - common, if_true - common
        self.apart(0, thing, if_false)
        self.apart(thing, 1, if_true)
        return thing - 2

    def link(self, a: int, b: int, cost: float) -> None:
        """What it costs that `a` is True and `b` is False."""
        self.apart(a + 2, b + 2, cost)

    def apart(self, a: int, b: int, cost: float) -> None:
        """As `link`, by inner numbers."""
        if cost > 0:
            for start, end, room in ((a, b, cost), (b, a, 0.0)):
                self._edges[start].append(len(self._to))
                self._to.append(end)
                self._room.append(room)

    def sides(self) -> list[bool]:
        """The cheapest sides of all things; where several cost the same, as few as can be are True."""
        while True:
            level = self._levels()
            if level[1] < 0:
                return [found >= 0 for found in level[2:]]
            self._saturate(level)

    def _levels(self) -> list[int]:
        level = [-1] * len(self._edges)
        level[0] = 0
        pending = deque([0])
        while pending:
            thing = pending.popleft()
            for edge in self._edges[thing]:
                end = self._to[edge]
                if level[end] < 0 and self._room[edge] > _NOTHING:
                    level[end] = level[thing] + 1
                    pending.append(end)
        return level

    def _saturate(self, level: list[int]) -> None:
        """Sends flow along shortest paths until none is left. A path is a stack of edges."""
        at = [0] * len(self._edges)
        path: list[int] = []
        while True:
            thing = self._to[path[-1]] if path else 0
            if thing == 1:
                self._push(path)
                path.clear()
                continue
            edge = self._next(thing, at, level)
            if edge >= 0:
                path.append(edge)
            elif not path:
                return
            else:
                at[self._to[path.pop() ^ 1]] += 1

    def _next(self, thing: int, at: list[int], level: list[int]) -> int:
        edges = self._edges[thing]
        while at[thing] < len(edges):
            edge = edges[at[thing]]
            if self._room[edge] > _NOTHING and level[self._to[edge]] == level[thing] + 1:
                return edge
            at[thing] += 1
        return -1

    def _push(self, path: list[int]) -> None:
        flow = min(self._room[edge] for edge in path)
        for edge in path:
            self._room[edge] -= flow
            self._room[edge ^ 1] += flow
