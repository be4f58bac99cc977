"""Makes the corpus importable as `traps` from wherever the tests are started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
