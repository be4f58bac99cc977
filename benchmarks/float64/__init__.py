"""A model in double precision: what its graph says in real arithmetic, as nearly as a computer has it.

    values = Evaluator(model).run(feeds)  # output name -> array, float64 wherever the model has floats of 16 or 32 bits

Every 16- and 32-bit float of the model (weights, attributes, inputs, results of Cast) is taken as the 64-bit one of the
same value, and every operator is computed in double by numpy: by the kernels of `kernels` where there is one,
else by ONNX's reference evaluator, node by node. Operators that round on purpose (QuantizeLinear and its like, casts to
integers) round here, too, only what they round is computed in double. What cannot be computed so raises `Unsupported`.
"""

from float64.evaluator import Evaluator, promoted
from float64.node import Unsupported

__all__ = ["Evaluator", "Unsupported", "promoted"]
