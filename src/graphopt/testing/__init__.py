"""For tests of passes, graphopt's own and users'.

>>> from graphopt.testing import conformance   # in a test of your pass:
>>> conformance("dead-code", "model.onnx")     # doctest: +SKIP
"""

from graphopt.testing.conformance import ConformanceError, Outcome, conformance

__all__ = ["ConformanceError", "Outcome", "conformance"]
