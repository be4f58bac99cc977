"""One way through an engine: an execution context, a stream, and the memory that its inputs and outputs lie in.

Memory grows to the largest that was needed and is used again. Whatever is taken is given back by `close`, also where
something fails on the way.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._cuda import Cuda
from graphopt.targets.tensorrt.arrays import DeviceArray, Located

if TYPE_CHECKING:
    from graphopt.targets.tensorrt.engine import Port

__all__ = ["Lane"]


@dataclass
class _Room:
    """Memory of one kind for one tensor."""

    take: Callable[[int], int]
    give: Callable[[int], None]
    address: int = 0
    size: int = -1

    def grow(self, size: int) -> bool:
        """Makes it hold so many bytes; returns whether it moved."""
        if size <= self.size:
            return False
        moved = self.size >= 0
        self.release()
        self.address = self.take(size)
        self.size = size
        return moved

    def release(self) -> None:
        if self.size >= 0:
            self.size, address = -1, self.address
            self.give(address)


class Lane:
    """See the module. ports: what the engine takes and gives, by name. allocator: the bindings' IOutputAllocator."""

    def __init__(self, context: Any, cuda: Cuda, ports: Mapping[str, Port], allocator: Any) -> None:
        self.context, self.cuda, self.ports = context, cuda, ports
        self.rooms: dict[tuple[str, str], _Room] = {}
        self.held: list[Any] = []  # what the stream still reads
        self.graphs: dict[Any, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}  # of outputs that only a run knows
        self.stream = cuda.stream()
        self.profile = 0
        self._allocator_base = allocator
        self._allocators: dict[str, Any] = {}
        self.has_moved = False  # memory that a recorded graph may use
        self.is_open = True

    def close(self) -> None:
        """Gives everything back; twice does no harm."""
        if not self.is_open:
            return
        self.is_open = False
        self.cuda.synchronize(self.stream)
        self.context = None
        for graph in self.graphs.values():
            self.cuda.free_graph(graph)
        for room in self.rooms.values():
            room.release()
        self.rooms.clear()
        self.held.clear()
        self.cuda.free_stream(self.stream)

    def _memory(self, name: str, kind: str, size: int) -> int:
        """The address of memory that holds so many bytes."""
        room = self._room(name, kind)
        self.has_moved = room.grow(size) or self.has_moved
        return room.address

    def _room(self, name: str, kind: str) -> _Room:
        key = (name, kind)
        if key not in self.rooms:
            pair = (self.cuda.malloc, self.cuda.free)
            self.rooms[key] = _Room(*(pair if kind == "device" else (self.cuda.malloc_host, self.cuda.free_host)))
        return self.rooms[key]

    def use_context(self, context: Any) -> None:
        """Goes on with another context of the same engine."""
        self.context, self.profile = context, 0
        self._allocators.clear()

    # one run

    def use_profile(self, number: int) -> None:
        """Switches to a profile of the engine."""
        if number != self.profile:
            if not self.context.set_optimization_profile_async(number, self.stream):
                raise GraphoptError(f"TensorRT does not switch to profile {number}")
            self.profile = number

    def bind(self, inputs: Mapping[str, Located], own: bool) -> None:
        """Tells the context shapes and addresses. own: everything in the lane's memory, which a CUDA graph needs."""
        for name, array in inputs.items():
            if not self.context.set_input_shape(name, array.shape):
                raise GraphoptError(f"TensorRT does not take the shape {array.shape} for input {name!r}")
            if self.ports[name].in_host_memory:
                address = self._memory(name, "host", array.nbytes)
            elif array.on_device and not own:
                address = array.address
            else:
                address = self._memory(name, "device", array.nbytes)
            self._set_address(name, address)
        missing = self.context.infer_shapes()
        if missing:
            raise GraphoptError(f"TensorRT cannot tell the shapes: nothing is known of {', '.join(missing)}")
        for name, port in self.ports.items():
            if not port.is_input:
                self._bind_output(name, port)

    def _bind_output(self, name: str, port: Port) -> None:
        shape = tuple(self.context.get_tensor_shape(name))
        if -1 in shape:
            if name not in self._allocators:
                self._allocators[name] = _allocator(self._allocator_base, weakref.ref(self))
                self.context.set_output_allocator(name, self._allocators[name])
            return
        self.shapes[name] = shape
        size = int(np.prod(shape, dtype=np.int64)) * port.dtype.itemsize
        self._set_address(name, self._memory(name, "host" if port.in_host_memory else "device", size))

    def _set_address(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise GraphoptError(f"TensorRT does not take an address for {name!r}")

    def stage(self, inputs: Mapping[str, Located]) -> None:
        """Copies what is in host memory to where the copy to the device starts from."""
        for name, array in inputs.items():
            if not array.on_device and array.nbytes:
                ctypes.memmove(self._memory(name, "host", array.nbytes), array.address, array.nbytes)

    def send(self, inputs: Mapping[str, Located], own: bool) -> None:
        """Gives the stream the copies to the device."""
        for name, array in inputs.items():
            if self.ports[name].in_host_memory or not array.nbytes or (array.on_device and not own):
                continue
            source = array.address if array.on_device else self._room(name, "host").address
            self.cuda.copy(self._room(name, "device").address, source, array.nbytes, self.stream)

    def execute(self) -> None:
        """Gives the stream the run."""
        if not self.context.execute_async_v3(self.stream):
            raise GraphoptError("TensorRT does not run the engine; its log says why")

    def fetch(self) -> None:
        """Gives the stream the copies of outputs to pinned memory."""
        for name, port in self.ports.items():
            size = 0 if port.is_input or port.in_host_memory else self.output_bytes(name)
            if size:
                target = self._memory(name, "host", size)
                self.cuda.copy(target, self._room(name, "device").address, size, self.stream)

    def output_bytes(self, name: str) -> int:
        """Of an output, as of the last run."""
        return int(np.prod(self.shapes[name], dtype=np.int64)) * self.ports[name].dtype.itemsize

    @property
    def is_waiting_for_shapes(self) -> bool:
        """Whether a run must end before its outputs' sizes are known."""
        return bool(self._allocators)

    def results(self) -> dict[str, np.ndarray]:
        """Outputs, out of pinned memory; the stream must have ended."""
        found = {}
        for name, port in self.ports.items():
            if not port.is_input:
                size = self.output_bytes(name)
                raw = ctypes.string_at(self._room(name, "host").address, size) if size else b""
                found[name] = np.frombuffer(bytearray(raw), port.dtype).reshape(self.shapes[name])
        return found

    def device_results(self) -> dict[str, DeviceArray]:
        """Outputs where they are."""
        found = {}
        for name, port in self.ports.items():
            if not port.is_input:
                kind = "host" if port.in_host_memory else "device"
                address = self._room(name, kind).address
                found[name] = DeviceArray(address, self.shapes[name], port.dtype, self, self._to_numpy)
        return found

    def _to_numpy(self, array: DeviceArray) -> np.ndarray:
        made = np.empty(array.shape, array.dtype)
        if made.nbytes:
            pinned = self.cuda.malloc_host(made.nbytes)
            try:
                self.cuda.copy(pinned, array.address, made.nbytes, self.stream)
                self.cuda.synchronize(self.stream)
                ctypes.memmove(made.ctypes.data, pinned, made.nbytes)
            finally:
                self.cuda.free_host(pinned)
        return made


def _allocator(base: Any, lane: weakref.ref[Lane]) -> Any:
    """For outputs whose size depends on the data: memory of the lane, and the shape that it turned out to have."""

    class Allocator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            owner = lane()
            return 0 if owner is None else owner._memory(tensor_name, "device", size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            owner = lane()
            if owner is not None:
                owner.shapes[tensor_name] = tuple(shape)

    return Allocator()
