"""The intermediate representation: def-use chains over ONNX protobuf, weights looked at and not loaded."""

from graphopt.ir.files import from_proto, load, save, to_proto
from graphopt.ir.graph import Graph
from graphopt.ir.model import Model
from graphopt.ir.node import Dim, Node, Shape, Value
from graphopt.ir.order import captures
from graphopt.ir.tensor import NDArray, Store, Tensor
from graphopt.ir.text import to_text

__all__ = [
    "Dim",
    "Graph",
    "Model",
    "NDArray",
    "Node",
    "Shape",
    "Store",
    "Tensor",
    "Value",
    "captures",
    "from_proto",
    "load",
    "save",
    "to_proto",
    "to_text",
]
