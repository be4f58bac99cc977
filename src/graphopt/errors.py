"""Every error that graphopt raises on purpose.

All derive from `GraphoptError`, so one ``except`` is enough. Each message is one line that names the thing (file, node,
pass, option) and says what to do about it; the command line prints it as ``error: <message>`` and exits with
``exit_code``. Anything else that escapes from graphopt is a bug.

>>> import graphopt.errors as e
>>> str(e.UnknownPassError("fuse-conv-bm", ["fuse-conv-bn", "dce"]))
"unknown pass 'fuse-conv-bm' (did you mean 'fuse-conv-bn'?); run `graphopt passes` for the list"
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from graphopt.verify import VerificationReport

__all__ = [
    "ExternalDataError",
    "GraphoptError",
    "ModelError",
    "OutputError",
    "PassError",
    "PipelineSyntaxError",
    "RewriteCycle",
    "UnknownPassError",
    "VerificationError",
]


class GraphoptError(Exception):
    """Base of all graphopt errors; raised itself for wrong arguments that no subclass describes better.

    `exit_code` is what the command line returns: 2 for bad input or usage, 1 when verification failed.
    """

    exit_code: ClassVar[int] = 2


class ModelError(GraphoptError):
    """The model cannot be read or is not valid ONNX: truncated, not a protobuf, cyclic, duplicate or undefined names.

    Also raised by `Model.check()` when a pass left the IR in a state that breaks its invariants.
    """


class ExternalDataError(ModelError):
    """External tensor data is missing, too short, or at a path that leaves the model's folder."""


class UnknownPassError(GraphoptError):
    """A pass, rule or preset was asked for by a name that nothing registered.

    name: what was asked for. known: the registered names, used to suggest the nearest one.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = sorted(known)
        near = get_close_matches(name, self.known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        super().__init__(f"unknown pass {name!r}{hint}; run `graphopt passes` for the list")

    def __reduce__(self) -> tuple[type[UnknownPassError], tuple[str, list[str]]]:
        return (type(self), (self.name, self.known))


class PipelineSyntaxError(GraphoptError):
    """A pipeline string such as ``"fold-constants,fuse-conv-bn{width=8}"`` does not parse, or an option is not known.

    The message names both. text: the whole string. position: 0-based offset of the trouble, or None when it is not at
    one place.
    """

    def __init__(self, message: str, text: str = "", position: int | None = None) -> None:
        self.message = message
        self.text = text
        self.position = position
        super().__init__(message)

    def __reduce__(self) -> tuple[type[PipelineSyntaxError], tuple[str, str, int | None]]:
        return (type(self), (self.message, self.text, self.position))


class OutputError(GraphoptError):
    """The result cannot be written: folder missing, not permitted, disk full, or the output is the input itself."""


class PassError(GraphoptError):
    """A pass raised; the model was rolled back to what it was before that pass.

    The cause is chained (``__cause__``). pass_name: the pass. A user's pass raises this too, to stop the pipeline.
    """

    def __init__(self, message: str, pass_name: str = "") -> None:
        self.message = message
        self.pass_name = pass_name
        super().__init__(f"pass {pass_name!r}: {message}" if pass_name else message)

    def __reduce__(self) -> tuple[type[PassError], tuple[str, str]]:
        return (type(self), (self.message, self.pass_name))


class RewriteCycle(PassError):
    """Rewrites do not end: a region came back to a form it had before, or the edit budget ran out.

    The message names the rules that undo each other; run them in separate passes, or drop one.
    """


class VerificationError(GraphoptError):
    """The optimized model does not compute what the original computes; nothing was written.

    report: the `graphopt.verify.VerificationReport` with the failing runs, or None where none was made.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, report: VerificationReport | None = None) -> None:
        self.message = message
        self.report = report
        super().__init__(message)

    def __reduce__(self) -> tuple[type[VerificationError], tuple[str, VerificationReport | None]]:
        return (type(self), (self.message, self.report))
