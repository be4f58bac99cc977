"""PyTorch: modules and exported programs, by torch.onnx.export (dynamo), compared with torch's own outputs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.interop.adapter import Adapter, Request, library
from graphopt.interop.exported import confirm_export
from graphopt.interop.onnx_ir import OnnxIr
from graphopt.ir import Model, dtypes

__all__ = ["Torch"]

# Types that numpy lacks: the integers of the same width that torch hands out instead, and onnx's number.
_BITS = {"bfloat16": ("int16", 16), "float8_e4m3fn": ("uint8", 17), "float8_e4m3fnuz": ("uint8", 18),
         "float8_e5m2": ("uint8", 19), "float8_e5m2fnuz": ("uint8", 20)}  # fmt: skip


class Torch(Adapter):
    """torch.nn.Module, torch.export.ExportedProgram, torch.onnx.ONNXProgram."""

    package: ClassVar[str] = "torch"
    extra: ClassVar[str] = "torch"
    types: ClassVar[tuple[tuple[str, str], ...]] = (
        ("torch", "Module"), ("torch", "ExportedProgram"), ("torch", "ONNXProgram"),
    )  # fmt: skip
    shown: ClassVar[tuple[str, ...]] = (
        "a torch.nn.Module with example_inputs", "a torch.export.ExportedProgram", "a torch.onnx.ONNXProgram",
    )  # fmt: skip
    exports: ClassVar[bool] = True

    def to_model(self, given: Any, request: Request) -> Model:
        """The exported model; its weights are views of torch's memory. Raises GraphoptError, VerificationError."""
        torch = library("torch", self.extra)
        if _is(given, "ONNXProgram"):
            self.refuse_export(request)
            return OnnxIr().read(given.model)
        library("onnxscript", self.extra)  # torch's exporter rests on it
        if _is(given, "ExportedProgram"):
            if request.dynamic_shapes is not None:
                raise GraphoptError("an ExportedProgram has dynamic_shapes already: give them to torch.export.export")
            args, kwargs = _arguments(torch, request.example_inputs) or given.example_inputs or ((), {})
            return self._export(torch, given, given.module(), args, kwargs, request)
        arguments = _arguments(torch, request.example_inputs)
        if arguments is None:
            raise GraphoptError(
                f"a torch module is exported on examples: give example_inputs= to optimize or to "
                f"graphopt.interop.from_torch ({type(given).__name__} has none)"
            )
        modes = [(module, module.training) for module in given.modules()]
        given.eval()
        try:
            return self._export(torch, given, given, *arguments, request)
        finally:
            for module, training in modes:
                module.training = training

    def _export(self, torch: Any, given: Any, call: Any, args: Any, kwargs: Any, request: Request) -> Model:
        with self.asking("export this module"):
            options = {"verbose": False, **request.options}
            program = torch.onnx.export(
                given, args, kwargs=kwargs, dynamic_shapes=request.dynamic_shapes, dynamo=True, **options
            )
        model = OnnxIr().read(program.model)
        if not request.check:
            return model
        leaves = torch.utils._pytree.tree_leaves
        with self.asking("run this module on the example inputs"), torch.no_grad():
            own_args, own_kwargs = torch.utils._pytree.tree_map(_copied, (args, kwargs))
            outputs = call(*own_args, **own_kwargs)
            inputs = [_array(torch, leaf) for leaf in leaves((args, kwargs)) if leaf is not None]
            expected = [_array(torch, leaf) for leaf in leaves(outputs) if leaf is not None]
        confirm_export(model, inputs, expected, self.package, request)
        return model


def _is(given: Any, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.startswith("torch") for base in type(given).__mro__)


def _arguments(torch: Any, examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Positional and keyword arguments."""
    if examples is None:
        return None
    if isinstance(examples, dict):
        return (), {name: _tensor(torch, value) for name, value in examples.items()}
    if isinstance(examples, (tuple, list)):
        return tuple(_tensor(torch, value) for value in examples), {}
    return (_tensor(torch, examples),), {}


def _tensor(torch: Any, value: Any) -> Any:
    return torch.from_numpy(np.array(value)) if isinstance(value, (np.ndarray, np.generic)) else value


def _copied(leaf: Any) -> Any:
    """A module may write into what it is given."""
    return leaf.clone() if hasattr(leaf, "clone") and hasattr(leaf, "detach") else leaf


def _array(torch: Any, leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return np.asarray(leaf, np.float32 if isinstance(leaf, float) else None)
    tensor = leaf.detach().cpu()
    if tensor.is_complex():  # ONNX has no complex operators: torch exports pairs
        tensor = torch.view_as_real(tensor.resolve_conj())
    bits = _BITS.get(str(tensor.dtype).removeprefix("torch."))
    if bits is not None:
        return tensor.contiguous().view(getattr(torch, bits[0])).numpy().view(dtypes.to_numpy(bits[1]))
    return tensor.resolve_neg().numpy()
