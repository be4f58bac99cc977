"""A new folder that appears whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import OutputError

__all__ = ["check_new", "new_folder"]


def check_new(target: Path) -> None:
    """Raises OutputError where something goes by that name: nothing is ever overwritten."""
    if target.exists():
        raise OutputError(f"{target} is there already; choose another folder, or remove it")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which gets the name `target` when all went well, and is gone otherwise.

    Raises OutputError where that is there already or cannot be written.
    """
    check_new(target)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{target.name[:32]}-", dir=target.parent))
        try:
            yield made
            made.chmod(0o755)
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except (OSError, ValueError) as error:  # ValueError: a name that is too long for an archive
        taken = getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST)
        reason = "it is there already" if taken else getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {target}: {reason}; choose another folder") from error
