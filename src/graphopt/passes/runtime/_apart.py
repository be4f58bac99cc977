"""A step between two nodes that changes nothing, so that ONNX Runtime does not take them for a pattern."""

import numpy as np

from graphopt.ir import Value
from graphopt.rewrite import Builder


def apart(value: Value, new: Builder) -> Value:
    """The same value, from a Reshape to its own dims, which costs nothing at run time; to what Shape says they are
    where the rank is not known."""
    rank = value.rank
    if rank is None:
        return new.Reshape(value, new.Shape(value), type_of=value)
    return new.Reshape(value, new.constant(np.zeros(rank, np.int64), "same_dims"), type_of=value)
