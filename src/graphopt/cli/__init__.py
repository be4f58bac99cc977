"""The command line: ``graphopt`` and ``python -m graphopt``.

Exit codes: 0 done, 1 verification failed, 2 bad input or usage, 130 interrupted. Results go to stdout; progress,
warnings and the one-line errors to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` defaults to ``sys.argv[1:]``. Returns the exit code and never raises on bad input.

    Without `argv` the work is done in a child process, so that a crash in a library, too, ends in a line and code 2.
    With ``--debug`` anywhere in `argv` the traceback of an error comes before its line.
    """
    from graphopt.cli._ui import guarded

    if argv is not None:
        return guarded(_dispatch, list(argv))
    from graphopt.cli._guard import supervised

    return supervised(lambda: guarded(_dispatch, sys.argv[1:]))


def _dispatch(args: list[str]) -> int:
    from graphopt.cli._app import build

    code = build()(args, prog_name="graphopt", standalone_mode=False)
    return code if isinstance(code, int) else 0
