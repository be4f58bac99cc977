"""Memory, streams and time of a machine that does not exist: a GPU played by the processor."""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable
from typing import Any

from graphopt.errors import GraphoptError

__all__ = ["World"]

_ALIGNED = 256


class World:
    """Plays `graphopt.targets.tensorrt._cuda.Cuda` in host memory; the simulated TensorRT runs in it.

    Work that streams are given is done at once, unless a stream is being captured. memory: bytes that it has.
    """

    def __init__(self, name: str = "simulated GPU", memory: int = 1 << 33) -> None:
        self.name, self.key = name, f"{name}, sm_00, driver 0"
        self.clock = 0
        self._limit = memory
        self._held: dict[int, Any] = {}
        self._streams: set[int] = set()
        self._events: dict[int, float] = {}
        self._graphs: dict[int, list[Callable[[], Any]]] = {}
        self._numbers = itertools.count(1)
        self._captured: tuple[int, list[Callable[[], Any]]] | None = None
        self.alive: dict[str, int] = {}  # engines, contexts and the like that were not let go of
        self.log: list[str] = []  # what was done, in order

    def do(self, stream: int, what: str, action: Callable[[], Any]) -> Any:
        """Gives a stream something to do."""
        if stream not in self._streams:
            raise GraphoptError(f"CUDA: invalid resource handle {stream}")
        self.log.append(what)
        if self._captured is not None and self._captured[0] == stream:
            self._captured[1].append(action)
            return True
        return action()

    def born(self, kind: str) -> None:
        """One more of these is alive."""
        self.alive[kind] = self.alive.get(kind, 0) + 1

    def gone(self, kind: str) -> None:
        """One fewer."""
        self.alive[kind] -= 1

    @property
    def held(self) -> int:
        """Bytes allocated, on the device and pinned."""
        return sum(len(block) - _ALIGNED for block in self._held.values())

    def malloc(self, size: int) -> int:
        """Host memory that stands for the device's."""
        if self.held + size > self._limit:
            raise GraphoptError("CUDA: out of memory")
        if self._captured is not None:
            raise GraphoptError("CUDA: operation not permitted when stream is capturing")
        block = (ctypes.c_char * (max(size, 1) + _ALIGNED))()
        address = ctypes.addressof(block)
        address += -address % _ALIGNED
        self._held[address] = block
        return address

    def free(self, address: int) -> None:
        """Freeing twice is a fault."""
        if self._captured is not None:
            raise GraphoptError("CUDA: operation not permitted when stream is capturing")
        if address not in self._held:
            raise GraphoptError("CUDA: invalid argument (freed twice, or never allocated)")
        del self._held[address]

    malloc_host, free_host = malloc, free

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Within host memory."""
        self.do(stream, "copy", lambda: ctypes.memmove(target, source, size))

    def use(self) -> None:
        """There is one device."""

    @property
    def is_capturing(self) -> bool:
        """Whether what streams are given is recorded."""
        return self._captured is not None

    def follow(self, stream: int, other: int) -> None:
        """All is done already."""
        if stream not in self._streams:
            raise GraphoptError(f"CUDA: invalid resource handle {stream}")

    def stream(self) -> int:
        """A number."""
        made = next(self._numbers)
        self._streams.add(made)
        self.born("stream")
        return made

    def free_stream(self, stream: int) -> None:
        """Takes the number back."""
        self._streams.remove(stream)
        self.gone("stream")

    def synchronize(self, stream: int) -> None:
        """All is done already."""
        if self._captured is not None and self._captured[0] == stream:
            raise GraphoptError("CUDA: operation not permitted when stream is capturing")

    def event(self) -> int:
        """A number."""
        made = next(self._numbers)
        self._events[made] = 0.0
        self.born("event")
        return made

    def free_event(self, event: int) -> None:
        """Takes the number back."""
        del self._events[event]
        self.gone("event")

    def record(self, event: int, stream: int) -> None:
        """Notes the time."""
        self.do(stream, "record", lambda: self._events.__setitem__(event, time.perf_counter()))

    def elapsed(self, start: int, end: int) -> float:
        """By the clock."""
        return self._events[end] - self._events[start]

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Keeps what the stream is given, and does none of it."""
        self._captured = (stream, [])
        try:
            work()
            actions = self._captured[1]
        finally:
            self._captured = None
        made = next(self._numbers)
        self._graphs[made] = actions
        self.born("graph")
        return made

    def launch(self, graph: int, stream: int) -> None:
        """Does all of it."""
        actions = self._graphs[graph]
        self.do(stream, "launch", lambda: [action() for action in actions])

    def free_graph(self, graph: int) -> None:
        """Forgets it."""
        del self._graphs[graph]
        self.gone("graph")

    def memory(self) -> tuple[int, int]:
        """Free, and all."""
        return self._limit - self.held, self._limit
