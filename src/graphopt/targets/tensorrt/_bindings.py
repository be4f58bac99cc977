"""TensorRT's Python bindings, of any version from 8.5 to 11: found, asked what they can do, errors told in words.

What every version has is used as it is. What some lack is asked for by name first (`Bindings.flag`, `Bindings.has`). A
test reads the recorded lists of both ends' classes, methods and enums, and holds this package to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphopt.errors import GraphoptError

__all__ = ["Bindings", "load_bindings"]

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

    def logger(self, told: list[str]) -> Any:
        """A logger that appends what is worth knowing to `told`, and prints nothing."""
        severity = self.trt.ILogger.Severity
        worth = (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING)
        base = self.trt.ILogger

        class Collector(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in worth and message not in told:
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
