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

    With ``--debug`` anywhere in `argv` the traceback of an error comes before its line.
    """
    from graphopt.cli._ui import guarded

    return guarded(_dispatch, list(sys.argv[1:] if argv is None else argv))


def _dispatch(args: list[str]) -> int:
    from graphopt.cli._app import build

    code = build()(args, prog_name="graphopt", standalone_mode=False)
    return code if isinstance(code, int) else 0
