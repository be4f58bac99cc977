"""convert-precision on real models, on inputs that are made: no infinity or NaN that the original has not.

Run with `-m models`; see `real_model` in tests/conftest.py for where the models come from. Each runs in a process of
its own, which ONNX Runtime may end. `benchmarks/precision.py` has the figures, and takes recipes of inputs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parents[3] / "benchmarks" / "halving.py"


@pytest.mark.timeout(900)
def test_nothing_overflows(real_model: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    request = {"src": str(real_model), "recipes": "", "ranges": True, "to": "float16", "result": str(result)}
    command = [sys.executable, "-W", "ignore", str(WORKER), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880, check=False)
    if "does not load" in done.stderr or "no inputs were found" in done.stderr:
        pytest.skip("ONNX Runtime does not run the original")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(result.read_text())
    assert found["bad"] == 0 and found["settled"], found
