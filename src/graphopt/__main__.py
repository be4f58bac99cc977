"""``python -m graphopt``: the same as the command ``graphopt``."""

import sys

from graphopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
