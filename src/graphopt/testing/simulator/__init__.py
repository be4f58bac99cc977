"""A TensorRT and a GPU for machines that have neither: the bindings' names as recorded, run by ONNX Runtime.

It shows that code calls what the bindings of a version have, in an order that makes sense, and lets go of what it
takes; it says nothing about what the real one accepts, how fast it is, or how it rounds.
"""

from graphopt.testing.simulator.module import Simulated
from graphopt.testing.simulator.recorded import VERSIONS, recorded
from graphopt.testing.simulator.world import World

__all__ = ["VERSIONS", "Simulated", "World", "recorded"]
