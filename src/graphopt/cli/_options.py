"""Options that several commands share, declared once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.errors import GraphoptError, OutputError


class Target(str, Enum):
    """Where the output will run."""

    onnx = "onnx"
    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


class Verify(str, Enum):
    """How the output is checked against the input."""

    off = "off"
    check = "check"
    numeric = "numeric"
    rewrites = "rewrites"


ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.", show_default=False)]
MaybeModelArg = Annotated[
    Path | None, typer.Argument(metavar="MODEL", help="The .onnx file; it is never changed.", show_default=False)
]
OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write; MODEL.opt.onnx by default.",
        show_default=False,
    ),
]  # fmt: skip
PassesOpt = Annotated[
    str | None,
    typer.Option(
        "--passes", "-p", metavar="PIPELINE", show_default=False,
        help="Passes and presets in order, as in 'fold-constants,fuse-conv-bn' (see `graphopt passes`).",
    ),
]  # fmt: skip
TargetOpt = Annotated[
    Target,
    typer.Option("--target", "-t", help="Who will run the output; onnx: standard operators only, runs anywhere."),
]
VerifyOpt = Annotated[
    Verify,
    typer.Option(
        "--verify",
        help="numeric: run both and compare; rewrites: also each rewrite by itself, and undo what is wrong; "
        "check: structure only; off: nothing.",
    ),
]
FastMathOpt = Annotated[
    bool,
    typer.Option("--fast-math", help="Allow rewrites that are equal only while every value is finite (no infinities)."),
]
BudgetOpt = Annotated[
    float | None,
    typer.Option(
        "--verify-budget", metavar="SECONDS", min=0.0, show_default=False,
        help="Stop comparing after this long; what stays unchecked is said. (60)",
    ),
]  # fmt: skip
InputsOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--inputs", "-i", metavar="DATA.npz", show_default=False,
        help="Compare on these inputs: an .npz with one array per graph input. Repeatable.",
    ),
]  # fmt: skip
LoadOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--load", "-l", metavar="FILE", show_default=False,
        help="Load passes (.py) or presets (.toml). Without --passes the passes run last. Repeatable.",
    ),
]  # fmt: skip
MoreOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--load", "-l", metavar="FILE", show_default=False,
        help="Load passes (.py) or presets (.toml) first. Repeatable.",
    ),
]  # fmt: skip
ReportOpt = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.json", help="Write the full report there as JSON.", show_default=False),
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
DebugOpt = Annotated[bool, typer.Option("--debug", help="On an error show the Python traceback.")]


def load_passes(files: Sequence[Path] | None) -> list[str]:
    """Load files of passes and presets; returns the names that they registered, in order."""
    if not files:
        return []
    from graphopt.passes.loading import load_file

    return [name for file in files for name in load_file(file)]


def load_inputs(files: Sequence[Path] | None) -> list[dict[str, Any]] | None:
    """Read feeds: one dict of arrays per .npz file, or None when no file is given. Raises GraphoptError."""
    if not files:
        return None
    from zipfile import BadZipFile

    import numpy as np

    feeds = []
    for file in files:
        try:
            with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
                if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                    raise ValueError("a member is no array")  # numpy hands out the bytes of what it does not know
                feeds.append(arrays)
        except FileNotFoundError:
            raise GraphoptError(f"inputs file {str(file)!r} does not exist; check the path") from None
        except (OSError, ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
            hint = "write it with numpy.savez(file, input_name=array, ...)"
            raise GraphoptError(f"inputs file {str(file)!r} is no .npz archive of plain arrays; {hint}") from error
    return feeds


def check_writable(file: Path, *, never: Path | None = None, what: str = "output") -> None:
    """Find out before the work that `file` cannot be written. never: a file that it must not be. Raises OutputError."""
    if file.is_dir():
        raise OutputError(f"{what} {str(file)!r} is a folder; name a file in it")
    if not file.parent.is_dir():
        raise OutputError(f"{what} folder {str(file.parent)!r} does not exist; create it first")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise OutputError(f"{what} {str(file)!r} cannot be written: permission denied; choose another place")
    if never is not None and file.exists() and never.exists() and file.samefile(never):
        raise OutputError(f"{what} {str(file)!r} is the input itself; name another file with -o")


def write_text(file: Path, text: str) -> None:
    """Write `text` (UTF-8) to `file`. Raises OutputError."""
    from graphopt.ir.files import replacing

    try:
        with replacing(str(file)) as stream:
            stream.write(text.encode())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {str(file)!r}: {reason}; make room there, or choose another place") from error
