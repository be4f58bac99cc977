"""Values of graphsurgeon's constants that stay in a model's store until somebody asks for them.

Imported where onnx_graphsurgeon is installed, only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues  # noqa: TID253 - see above

from graphopt.ir import Store, Tensor
from graphopt.ir.external import refill

__all__ = ["Held", "StandIn"]

_PLAIN = "fiubc"  # kinds of dtypes that numpy has itself


class StandIn(LazyValues):  # type: ignore[misc] # the library has no types
    """A tensor that graphsurgeon's export is to put into the model as it is."""

    def __init__(self, proto: TensorProto) -> None:
        self.tensor = proto
        self.shape, self.dtype = tuple(proto.dims), proto.data_type


class Held(LazyValues):  # type: ignore[misc] # the library has no types
    """The values of a tensor in a store; `load` gives an array that may be changed, `tensor` a whole proto."""

    def __init__(self, proto: TensorProto, store: Store, shape: Any, dtype: Any, nbytes: int) -> None:
        self.proto, self.store = proto, store
        self.shape, self.dtype, self.nbytes = shape, dtype, nbytes

    @property
    def tensor(self) -> TensorProto:
        """The tensor with its values in it."""
        whole = TensorProto()
        whole.CopyFrom(self.proto)
        raw = Tensor(self.proto, self.store).raw()
        assert raw is not None
        refill(whole, bytes(raw))
        return whole

    def load(self) -> Any:
        """The values, as graphsurgeon gives them."""
        held = Tensor(self.proto, self.store)
        if np.dtype(self.dtype).kind in _PLAIN and held.numpy().dtype == self.dtype:
            return np.array(held.numpy())
        return np.array(numpy_helper.to_array(self.tensor))

    def __deepcopy__(self, memo: object) -> Held:
        return self  # nothing in it is ever changed
