"""Rules checked by machine: models from a rule's pattern, both sides compared.

>>> from graphopt.testing.rules import check_rules
>>> [check] = check_rules(["eliminate-identity"], instances=20)
>>> check.ok, check.fired > 0
(True, True)
"""

from graphopt.testing.rules.check import check_rules
from graphopt.testing.rules.result import Counterexample, RuleCheck

__all__ = ["Counterexample", "RuleCheck", "check_rules"]
