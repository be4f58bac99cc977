"""The Python in the documents runs as it is written, each document from top to bottom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
WHOLE = ("comparing.md", "subgraphs.md", "tutorial.md")  # those whose blocks follow from each other


@pytest.mark.parametrize("name", WHOLE)
def test_the_examples_run(name: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    (tmp_path / "example.py").write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
