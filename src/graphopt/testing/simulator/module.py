"""The simulated TensorRT as a module: classes and enums of one version's bindings, and no names that these lack."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakSet

from graphopt.testing.simulator import build, run
from graphopt.testing.simulator.recorded import VERSIONS, enums_of, limited
from graphopt.testing.simulator.world import World

__all__ = ["Simulated"]

_PLAIN = ("IHostMemory", "ITensor", "ILayer", "INetworkDefinition", "IOptimizationProfile", "IBuilderConfig")
_RUN = ("ICudaEngine", "EngineInspector", "IExecutionContext")
_BASES = ("IProfiler", "IProgressMonitor", "IOutputAllocator")  # users subclass them
_BOUND = {"Builder": build.Builder, "Runtime": run.Runtime, "Refitter": run.Refitter}  # made by users


class Simulated:
    """Stands in for the module `tensorrt` of a version, in a `World` of its own.

    timed: operators that a build had to time, as no timing cache knew them. faulty: an operator that engines get wrong
    (they leave out what it does).

    >>> trt = Simulated("8.5")
    >>> trt.__version__, hasattr(trt.BuilderFlag, "FP16"), hasattr(Simulated("11.4").BuilderFlag, "FP16")
    ('8.5.3.1', True, False)
    """

    def __init__(self, version: str = "11.4", world: World | None = None) -> None:
        self.__version__ = VERSIONS[version]
        self.world = world or World()
        self.timed = 0
        self.faulty = ""
        self._logging: tuple[Any, Any] = (None, None)
        enums = enums_of(version)
        for name, kind in enums.items():
            setattr(self, name, kind)
        for name in (*_PLAIN, "ITimingCache", "OnnxParser", "ParserError"):
            setattr(self, name, limited(getattr(build, name), version))
        for name in _RUN:
            setattr(self, name, limited(getattr(run, name), version))
        for name, kind in _BOUND.items():
            setattr(self, name, partial(limited(kind, version), self))
        for name in _BASES:
            if name in _known(version):
                setattr(self, name, getattr(build, name))
        self.Weights = run.Weights
        self.ILogger = type("ILogger", (build.ILogger,), {"Severity": _severities(enums)})

    def logger_of(self, user: Any, logger: Any) -> Any:
        """The logger that TensorRT uses for what is made with one: the first one, while what was made with it lives."""
        alive, first = self._logging
        if first is None or not alive:
            alive, first = WeakSet(), logger
            self._logging = (alive, first)
        alive.add(user)
        return first

    def tensor(self, value: Any, is_input: bool) -> Any:
        """A value of the IR as one of the network."""
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape or ())
        return self.ITensor(value.name, shape, build.data_type(self, value.dtype), is_input)  # type: ignore[attr-defined]


def _known(version: str) -> frozenset[str]:
    from graphopt.testing.simulator.recorded import recorded

    return frozenset(recorded(version).classes)


def _severities(enums: dict[str, Any]) -> Any:
    import enum

    return enums.get("Severity") or enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
