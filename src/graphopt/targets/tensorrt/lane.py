"""One way through an engine: an execution context, a stream, and the memory that its inputs and outputs lie in.

Memory grows to the largest that was needed and is used again. Whatever is taken is given back by `close`, also where
something fails on the way.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._cuda import Cuda
from graphopt.targets.tensorrt.arrays import DeviceArray, Located

if TYPE_CHECKING:
    from graphopt.targets.tensorrt.engine import Port

__all__ = ["Lane"]

_ALIGNED = 256  # bytes, which TensorRT asks of every address


@dataclass
class _Room:
    """Memory of one kind for one tensor."""

    take: Callable[[int], int]
    give: Callable[[int], None]
    address: int = 0
    size: int = -1

    def grow(self, size: int) -> None:
        """Makes it hold so many bytes."""
        if size > self.size:
            self.release()
            self.address = self.take(size)
            self.size = size

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
        self.graph: int | None = None  # recorded for what is bound
        self.shapes: dict[str, tuple[int, ...]] = {}  # of outputs
        self.profile = int(context.active_optimization_profile)
        self._bound: Any = None  # what the context was told last
        self._allocator_base = allocator
        self._allocators: dict[str, Any] = {}
        self._unknown: set[str] = set()  # outputs whose shapes only a run knows
        self.problem: GraphoptError | None = None  # of an allocator, in which nothing may be raised
        self.stream = cuda.stream()
        self.is_open = True

    def close(self) -> None:
        """Gives everything back; twice does no harm. Raises GraphoptError, but only after trying all of it."""
        if not self.is_open:
            return
        self.is_open = False
        with suppress(GraphoptError):  # what failed before is said there
            self.cuda.synchronize(self.stream)
        actions: list[Callable[[], None]] = [self.drop_graph, *(room.release for room in self.rooms.values())]
        actions.append(lambda: self.cuda.free_stream(self.stream))
        self.context = None
        failures = []
        for action in actions:
            try:
                action()
            except GraphoptError as error:
                failures.append(error)
        self.rooms.clear()
        self.held.clear()
        self._allocators.clear()
        if failures:
            raise failures[0]

    def _memory(self, name: str, kind: str, size: int) -> int:
        """The address of memory that holds so many bytes; never null."""
        room = self._room(name, kind)
        room.grow(size)
        return room.address

    def _room(self, name: str, kind: str) -> _Room:
        key = (name, kind)
        if key not in self.rooms:
            pair = (self.cuda.malloc, self.cuda.free)
            self.rooms[key] = _Room(*(pair if kind == "device" else (self.cuda.malloc_host, self.cuda.free_host)))
        return self.rooms[key]

    def use_context(self, make: Callable[[], Any]) -> None:
        """Goes on with another context of the same engine, which is made when the one before is gone: before
        TensorRT 10 two of them cannot have one profile."""
        self.drop_graph()
        self.context = None
        self._bound = None
        self._allocators.clear()
        try:
            self.context = make()
        except GraphoptError:
            self.close()
            raise
        self.profile = int(self.context.active_optimization_profile)

    # one run

    def use_profile(self, number: int) -> None:
        """Switches to a profile of the engine."""
        if number == self.profile:
            return
        self.drop_graph()
        self._bound = None
        try:
            switched = self.context.set_optimization_profile_async(number, self.stream)
        except RuntimeError as error:
            raise GraphoptError(f"TensorRT does not switch to profile {number}: {error}") from error
        if not switched:
            raise GraphoptError(f"TensorRT does not switch to profile {number}")
        self.profile = number

    def follow(self, inputs: Mapping[str, Located]) -> None:
        """Lets the stream wait for those that make the inputs."""
        for other in {array.stream for array in inputs.values() if array.stream is not None}:
            self.cuda.follow(self.stream, other)

    def bind(self, inputs: Mapping[str, Located], own: bool) -> None:
        """Tells the context shapes and addresses. own: everything in the lane's memory, which a CUDA graph needs."""
        places = {name: self._place(name, array, own) for name, array in inputs.items()}
        values = self._host_values(inputs)  # these are sizes: shapes depend on them
        told = tuple((name, array.shape, places[name], values.get(name)) for name, array in inputs.items())
        if told == self._bound:
            return
        self.drop_graph()
        self._bound = None
        for name, array in inputs.items():
            if not self.context.set_input_shape(name, array.shape):
                raise GraphoptError(f"TensorRT does not take the shape {array.shape} for input {name!r}")
            self._set_address(name, places[name])
        try:
            missing = self.context.infer_shapes()
        except RuntimeError as error:
            raise GraphoptError(f"TensorRT cannot tell the shapes: {error}") from error
        if missing:
            raise GraphoptError(f"TensorRT cannot tell the shapes: nothing is known of {', '.join(missing)}")
        self._unknown.clear()
        for name, port in self.ports.items():
            if not port.is_input:
                self._bind_output(name, port)
        self._bound = told

    def _place(self, name: str, array: Located, own: bool) -> int:
        if self.ports[name].in_host_memory:
            return self._memory(name, "host", array.nbytes)
        return array.address if _is_direct(array, own) else self._memory(name, "device", array.nbytes)

    def _host_values(self, inputs: Mapping[str, Located]) -> dict[str, bytes]:
        """Writes the inputs that TensorRT reads in host memory, and returns them."""
        found = {}
        for name, array in inputs.items():
            if self.ports[name].in_host_memory:
                target = self._room(name, "host").address
                if array.on_device and array.nbytes:
                    self.cuda.copy(target, array.address, array.nbytes, self.stream)
                    self.cuda.synchronize(self.stream)
                else:
                    ctypes.memmove(target, array.address, array.nbytes)
                found[name] = ctypes.string_at(target, array.nbytes)
        return found

    def _bind_output(self, name: str, port: Port) -> None:
        shape = tuple(self.context.get_tensor_shape(name))
        if -1 in shape:
            self._unknown.add(name)
            if name not in self._allocators:
                self._allocators[name] = _allocator(self._allocator_base, weakref.ref(self))
                if not self.context.set_output_allocator(name, self._allocators[name]):
                    raise GraphoptError(f"TensorRT takes no allocator for {name!r}")
            return
        self.shapes[name] = shape
        size = int(np.prod(shape, dtype=np.int64)) * port.dtype.itemsize
        self._set_address(name, self._memory(name, "host" if port.in_host_memory else "device", size))

    def _set_address(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise GraphoptError(f"TensorRT does not take an address for {name!r}")

    def send(self, inputs: Mapping[str, Located], own: bool) -> None:
        """Gives the stream the copies to the device, from pinned memory."""
        for name, array in inputs.items():
            if self.ports[name].in_host_memory or not array.nbytes or _is_direct(array, own):
                continue
            source = array.address
            if not array.on_device:
                source = self._memory(name, "host", array.nbytes)
                ctypes.memmove(source, array.address, array.nbytes)
            self.cuda.copy(self._room(name, "device").address, source, array.nbytes, self.stream)

    def execute(self) -> None:
        """Gives the stream the run."""
        ran = self.context.execute_async_v3(self.stream)
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem
        if not ran:
            raise GraphoptError("TensorRT does not run the engine; its log says why")

    def record(self) -> None:
        """Records the run as a CUDA graph, for what is bound.

        TensorRT's developer guide ("CUDA Graphs"): the first run after a change of shapes is not to be recorded, and a
        graph is void once its context is told anything else.
        """
        if self._unknown:
            raise GraphoptError("an output's size depends on the data: such an engine cannot run as a CUDA graph")
        if self.graph is None:
            self.execute()
            self.cuda.synchronize(self.stream)
            self.graph = self.cuda.capture(self.stream, self.execute)

    def launch(self) -> None:
        """Gives the stream the recorded run."""
        self.record()
        assert self.graph is not None
        self.cuda.launch(self.graph, self.stream)

    def drop_graph(self) -> None:
        """Forgets the recorded run."""
        graph, self.graph = self.graph, None
        if graph is not None:
            self.cuda.free_graph(graph)

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
        return bool(self._unknown)

    def results(self) -> dict[str, np.ndarray]:
        """Outputs, out of pinned memory; the stream must have ended."""
        found = {}
        for name, port in self.ports.items():
            if not port.is_input:
                found[name] = np.empty(self.shapes[name], port.dtype)
                if found[name].nbytes:
                    ctypes.memmove(found[name].ctypes.data, self._room(name, "host").address, found[name].nbytes)
        return found

    def device_results(self) -> dict[str, DeviceArray]:
        """Outputs where they are."""
        found = {}
        for name, port in self.ports.items():
            if not port.is_input:
                kind = "host" if port.in_host_memory else "device"
                address = self._memory(name, kind, self.output_bytes(name))
                found[name] = DeviceArray(address, self.shapes[name], port.dtype, self, self._to_numpy)
        return found

    def _to_numpy(self, array: DeviceArray) -> np.ndarray:
        if not self.is_open:
            raise GraphoptError("the engine is closed, and the memory of its outputs is gone")
        self.cuda.use()
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


def _is_direct(array: Located, own: bool) -> bool:
    """Whether TensorRT may read it where it is."""
    return array.on_device and not own and array.nbytes > 0 and array.address % _ALIGNED == 0


def _allocator(base: Any, lane: weakref.ref[Lane]) -> Any:
    """For outputs whose size depends on the data: memory of the lane, and the shape that it turned out to have.

    TensorRT calls `reallocate_output` before version 10, `reallocate_output_async` from then on; 0 is a refusal.
    """

    class Allocator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            owner = lane()
            if owner is None:
                return 0
            try:
                return owner._memory(tensor_name, "device", size)
            except GraphoptError as error:
                owner.problem = error
                return 0

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            owner = lane()
            if owner is not None:
                owner.shapes[tensor_name] = tuple(shape)

    return Allocator()
