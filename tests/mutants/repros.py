"""Running a repro's script as whoever gets the folder would."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def reproduces(folder: Path) -> bool:
    """Whether the script of a repro, run in a process that is told of nothing else, shows a difference. It may need
    numpy and onnxruntime alone."""
    script = _script(folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, str(script)], check=False, capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 1


def reproduces_here(folder: Path) -> bool:
    """The same in this process, which is quicker."""
    script = _script(folder)
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(script)}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(compile(script.read_text(), str(script), "exec"), names)
        except SystemExit as end:
            return end.code == 1
        finally:
            names["saved"].close()
    return False


def _script(folder: Path) -> Path:
    script = folder / "repro.py"
    assert "graphopt" not in [line.split()[1] for line in script.read_text().splitlines() if line.startswith("import ")]
    return script
