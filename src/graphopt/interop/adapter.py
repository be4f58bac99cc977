"""What stands between graphopt and another library: which objects are whose, how they become a model and come back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

from onnx import ModelProto, helper

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.interop.differences import differences
from graphopt.ir import Model, Store
from graphopt.ir.files import check_external
from graphopt.ir.valid import validate

__all__ = ["Adapter", "InteropWarning", "Request", "finish", "library", "say"]


class InteropWarning(UserWarning):
    """Another library has no place for something in a model. What the model computes is the same all the same."""


@dataclass
class Request:
    """How an object is to be turned into a model.

    example_inputs: to export with. dynamic_shapes: of them, in the library's own terms. check: whether what was
    exported is compared with what the library itself computes. options: for the exporter. said: gets what the user
    should know.
    """

    example_inputs: Any = None
    dynamic_shapes: Any = None
    check: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


class Adapter:
    """One library. Nothing here imports it before one of its objects is there, or is asked for."""

    package: ClassVar[str]  # what is imported
    extra: ClassVar[str]  # of graphopt, that installs it
    types: ClassVar[tuple[tuple[str, str], ...]]  # (top-level package, class), base classes included
    shown: ClassVar[tuple[str, ...]]  # the types as users know them
    exports: ClassVar[bool] = False  # there is a way in only

    def matches(self, kind: type) -> bool:
        """Whether objects of a type are this library's."""
        return any((base.__module__.partition(".")[0], base.__name__) in self.types for base in kind.__mro__)

    def to_model(self, given: Any, request: Request) -> Model:
        """An object as a model. Raises GraphoptError where that cannot be."""
        raise GraphoptError(f"a {type(given).__name__} of {self.package} cannot be read")

    def from_model(self, model: Model) -> tuple[Any, list[str]]:
        """A model, which stays as it is, as the library's own object, and what was lost, in words; where there is no
        way back, as a `ModelProto`. Raises GraphoptError where the library cannot hold what the model computes."""
        return ir.to_proto(model), []

    def refuse_export(self, request: Request) -> None:
        """Raises GraphoptError for arguments that only models to be exported take."""
        if request.example_inputs is not None or request.dynamic_shapes is not None or request.options:
            raise GraphoptError(
                f"example_inputs and dynamic_shapes are for models to be exported; a model of {self.package} is one "
                "already: leave them out (inputs= are what to verify with)"
            )

    def compared(self, model: Model, read: Callable[[], Model]) -> list[str]:
        """What a model lost on its way through the library. Raises GraphoptError where it computes something else.

        read: gives the model as it comes back."""
        try:
            found = differences(model, read())
        except GraphoptError as error:
            raise GraphoptError(f"{self.package} cannot hold this model: {error}") from error
        if found.wrong:
            raise GraphoptError(f"{self.package} cannot hold this model: {found.wrong[0]}; keep it as a ModelProto")
        return [f"{self.package} has no place for {', '.join(found.lost)}"] if found.lost else []

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Whatever the library raises becomes one GraphoptError, with the library's own words."""
        try:
            yield
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(f"{self.package} cannot {what}: {_innermost(error)}") from error


def library(name: str, extra: str) -> ModuleType:
    """An installed library. Raises GraphoptError that names the extra to install."""
    try:
        return import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise GraphoptError(f"{missing} is not installed; run: pip install 'graphopt[{extra}]'") from error


def finish(proto: ModelProto, store: Store) -> Model:
    """A proto that a library wrote, as a model. Raises ModelError where it is not valid."""
    graph = proto.graph
    if proto.ir_version < 4:  # every initializer had to be listed as an input, which libraries do not know
        known = {info.name for info in graph.input}
        missing = [tensor for tensor in graph.initializer if tensor.name not in known]
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in missing)
    model = Model(proto, store)
    validate(model)
    check_external(model)
    return model


def say(lost: Iterable[str]) -> None:
    """Tells the caller's caller."""
    for text in lost:
        warnings.warn(text, InteropWarning, stacklevel=3)


def _innermost(error: BaseException) -> str:
    """The first cause of an error, in a line: libraries wrap it in the names of all that was around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
