"""TensorRT's Python bindings, of any version from 8.5 to 11: found, asked what they can do, errors told in words.

What every version has is used as it is. What some lack is asked for by name first (`Bindings.flag`, `Bindings.has`). A
test reads the recorded lists of both ends' classes, methods and enums, and holds this package to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from graphopt.errors import GraphoptError

__all__ = ["Bindings", "load_bindings"]

_MOST = 200  # messages that a log keeps
_LOGGERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_INSTALL = "install it with: pip install 'graphopt[tensorrt]' (needs an NVIDIA GPU and driver)"


@dataclass(frozen=True)
class Bindings:
    """The module `tensorrt`, and what this version of it is able to."""

    trt: Any

    @cached_property
    def version(self) -> tuple[int, ...]:
        """As numbers: (8, 5, 3, 1)."""
        return tuple(int(part) for part in re.findall(r"\d+", str(self.trt.__version__))[:4])

    @property
    def is_strongly_typed(self) -> bool:
        """Whether precision is what the graph says: there are no flags for it (from TensorRT 11 on)."""
        return not self.has("BuilderFlag", "FP16")

    def has(self, kind: str, member: str) -> bool:
        """Whether there is an enum or class of that name with that member."""
        return hasattr(getattr(self.trt, kind, None), member)

    def flag(self, kind: str, member: str) -> int:
        """A flag as the bit that it is; 0 where this version has none of that name."""
        found = getattr(getattr(self.trt, kind, None), member, None)
        return 0 if found is None else 1 << int(found)

    @property
    def shares_profiles(self) -> bool:
        """Whether contexts of one engine may use the same optimization profile at a time (from TensorRT 10 on)."""
        return self.version >= (10,)

    def logger(self, told: list[str]) -> Any:
        """TensorRT's logger, which from now on appends what is worth knowing to `told`, until `unlisten`.

        TensorRT keeps a single logger while anything that was made with it lives, and goes on using that one whatever
        it is given, so that there is one for all.
        """
        if self.trt not in _LOGGERS:
            _LOGGERS[self.trt] = _collector(self.trt.ILogger)
            load_plugins = getattr(self.trt, "init_libnvinfer_plugins", None)
            if load_plugins is not None:  # before 10 the parser makes InstanceNormalization and others of these
                load_plugins(_LOGGERS[self.trt], "")
        shared = _LOGGERS[self.trt]
        shared.listeners.append(told)
        return shared

    def unlisten(self, told: list[str]) -> None:
        """No longer appends to `told`."""
        shared = _LOGGERS.get(self.trt)
        if shared is not None:
            shared.listeners = [listener for listener in shared.listeners if listener is not told]


def _collector(base: Any) -> Any:
    severity = base.Severity
    worth = (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING)

    class Collector(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.listeners: list[list[str]] = []

        def log(self, level: Any, message: str) -> None:
            if level in worth:
                for told in self.listeners:
                    if len(told) < _MOST and message not in told:
                        told.append(message)

    return Collector()


def load_bindings() -> Bindings:
    """Imports TensorRT. Raises GraphoptError: it is not installed, or its libraries do not load."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise GraphoptError(f"TensorRT is installed without {error.name}; {_INSTALL}") from error
        raise GraphoptError(f"TensorRT is not installed; {_INSTALL}") from None
    except (ImportError, OSError) as error:
        raise GraphoptError(f"TensorRT does not load ({error}); {_INSTALL}") from error
    return Bindings(tensorrt)
