"""Translation validation: every rewrite is checked by itself, and what is wrong is undone while the rest stays."""

from graphopt.verify.rewrites.mend import mend
from graphopt.verify.rewrites.validator import Findings, Validator

__all__ = ["Findings", "Validator", "mend"]
