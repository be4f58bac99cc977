"""Makes the engine importable as `fuzz`, and its seeds as `traps` and `conformance`, wherever the tests are started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
