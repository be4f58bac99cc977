"""What every command shares: output into a pipe that may close, warnings, errors turned into exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
LONGEST = 1600  # characters of an error or warning
PIPED_WIDTH = 200  # columns when stdout is no terminal and COLUMNS is not set: long names stay on their line


def guarded(command: Callable[[list[str]], int], args: list[str]) -> int:
    """Run `command(args)`; an error becomes one line on stderr, after its traceback if ``--debug`` is in `args`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a node name that the terminal cannot spell must not end the program
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command(args)
        write("")
        return interrupted() if code == INTERRUPTED else code  # newer releases of typer catch the interrupt themselves
    except (KeyboardInterrupt, EOFError):
        return interrupted()
    except SystemExit as leave:  # typer leaves with 1 when the reader of its help went away
        if not isinstance(leave.__context__, BrokenPipeError):
            raise
        _discard_stdout()
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, no traceback
        if "--debug" in args:
            traceback.print_exception(error)
        return _explain(error)


def _explain(error: Exception) -> int:
    if isinstance(error, GraphoptError):
        return fail(str(error) or type(error).__name__, error.exit_code)
    # Typer carries its own copy of click in newer releases: its exceptions are known by their looks, not their class.
    usage = getattr(error, "format_message", None)
    if callable(usage):
        return fail(f"{str(usage()).replace(': Value error,', ':').rstrip('.')} (see --help)", 2)
    if type(error).__name__ == "Abort":
        return interrupted()
    if isinstance(error, OSError):
        what = f": {error.filename}" if error.filename is not None else ""
        return fail(f"{error.strerror or error}{what}", 2)
    if isinstance(error, MemoryError):
        return fail("out of memory; for a large model try --verify off or a smaller --verify-budget", 2)
    return fail(f"internal error, please report it: {type(error).__name__}: {error} (--debug for the traceback)", 2)


def interrupted() -> int:
    """Say so on stderr; returns the exit code."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def fail(message: str, code: int) -> int:
    """Print ``error: message`` as one line on stderr and return `code`."""
    print(f"error: {_line(message)}", file=sys.stderr)
    return code


def warn(message: str) -> None:
    """Print ``warning: message`` as one line on stderr."""
    print(f"warning: {_line(message)}", file=sys.stderr)


def _line(message: str) -> str:
    """One line that a terminal does not obey, and not a megabyte of it: names come out of models."""
    from graphopt.cli._text import printable

    line = printable(" ".join(message.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def write(text: str) -> None:
    """Write `text` to stdout and flush. A reader that went away (``| head``) is no error: the rest goes nowhere."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(*parts: RenderableType) -> None:
    """Print rich renderables to stdout, one below the other; plain strings are never read as markup."""
    from graphopt.cli._text import Printable

    console = stdout_console()
    with console.capture() as capture:
        for part in parts:
            console.print(Printable(part))
    # Rich pads every cell of a table's last column: nothing that a file or a terminal needs.
    write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def stdout_console() -> Console:
    """A console on stdout that takes text literally."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)


def show_json(data: Any) -> None:
    """Print `data` (a dict, or text that is JSON already) on stdout."""
    from graphopt.report import json_text

    write((data if isinstance(data, str) else json_text(data)) + "\n")
