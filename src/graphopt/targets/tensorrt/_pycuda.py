"""CUDA by pycuda, for machines that have no cuda-python; no CUDA graphs, which pycuda does not know."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from graphopt.errors import GraphoptError

__all__ = ["PyCuda"]


class PyCuda:
    """See `graphopt.targets.tensorrt._cuda.Cuda`. Works in the device's primary context, as TensorRT does.

    The context is current only while something is done: pycuda ends the process where a thread ends with one left.
    """

    def __init__(self, device: int = 0) -> None:
        import pycuda.driver as driver

        self.driver = driver
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise GraphoptError(f"no CUDA device: {error}; engines are built and run on a GPU") from error
        if not 0 <= device < count:
            raise GraphoptError(f"no CUDA device {device}: there are {count}, from 0 on")
        if device:
            raise GraphoptError(f"device {device} needs cuda-python (pip install cuda-python); pycuda is for device 0")
        found = driver.Device(device)
        self.context = found.retain_primary_context()
        major, minor = found.compute_capability()
        self.name = found.name()
        self.key = f"{self.name}, sm_{major}{minor}, driver {driver.get_driver_version()}"
        self.clock = found.get_attribute(driver.device_attribute.CLOCK_RATE) // 1000
        self._device: dict[int, Any] = {}
        self._host: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}

    def _try(self, action: Callable[[], Any]) -> Any:
        self.context.push()
        try:
            return action()
        except self.driver.Error as error:
            raise GraphoptError(f"CUDA: {error}") from error
        finally:
            self.driver.Context.pop()

    def use(self) -> None:
        """Nothing to do for the first device."""

    def malloc(self, size: int) -> int:
        """See `Cuda`."""
        memory = self._try(lambda: self.driver.mem_alloc(max(size, 1)))
        self._device[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """See `Cuda`."""
        memory = self._device.pop(address)
        self._try(memory.free)

    def malloc_host(self, size: int) -> int:
        """See `Cuda`."""
        import numpy as np

        array = self._try(lambda: self.driver.pagelocked_empty(max(size, 1), np.uint8))
        self._host[array.ctypes.data] = array
        return int(array.ctypes.data)

    def free_host(self, address: int) -> None:
        """See `Cuda`."""
        array = self._host.pop(address)
        self._try(array.base.free)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """See `Cuda`."""
        driver, queue = self.driver, self._streams.get(stream)
        to_host, from_host = self._is_host(target), self._is_host(source)
        if to_host and from_host:
            raise GraphoptError("CUDA: both ends of a copy are host memory; copy with numpy")
        if to_host:
            self._try(lambda: driver.memcpy_dtoh_async(_bytes_at(target, size), source, queue))
        elif from_host:
            self._try(lambda: driver.memcpy_htod_async(target, _bytes_at(source, size), queue))
        else:
            self._try(lambda: driver.memcpy_dtod_async(target, source, size, queue))

    def _is_host(self, address: int) -> bool:
        return any(start <= address < start + array.nbytes for start, array in self._host.items())

    def stream(self) -> int:
        """See `Cuda`."""
        made = self._try(lambda: self.driver.Stream(1))  # CU_STREAM_NON_BLOCKING
        self._streams[made.handle] = made
        return int(made.handle)

    def free_stream(self, stream: int) -> None:
        """See `Cuda`."""
        self._try(lambda: self._streams.__delitem__(stream))  # its end needs the context

    def synchronize(self, stream: int) -> None:
        """See `Cuda`."""
        self._try(self._streams[stream].synchronize)

    def follow(self, stream: int, other: int) -> None:
        """See `Cuda`. For streams that pycuda did not make, this waits."""
        self._try(lambda: self._follow(self._streams[stream], other))

    def _follow(self, stream: Any, other: int) -> None:
        if other == 1 or other in self._streams:
            event = self.driver.Event()
            event.record(self._streams.get(other))
            stream.wait_for_event(event)
        else:
            self.driver.Context.synchronize()

    def event(self) -> int:
        """See `Cuda`."""
        made = self._try(self.driver.Event)
        self._events[id(made)] = made
        return id(made)

    def free_event(self, event: int) -> None:
        """See `Cuda`."""
        self._try(lambda: self._events.__delitem__(event))

    def record(self, event: int, stream: int) -> None:
        """See `Cuda`."""
        self._try(lambda: self._events[event].record(self._streams[stream]))

    def elapsed(self, start: int, end: int) -> float:
        """See `Cuda`."""
        self._try(self._events[end].synchronize)
        return float(self._try(lambda: self._events[start].time_till(self._events[end]))) * 1e-3

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Raises GraphoptError: pycuda has no graphs."""
        raise GraphoptError("CUDA graphs need cuda-python: pip install cuda-python")

    def launch(self, graph: int, stream: int) -> None:
        """Raises GraphoptError, as `capture` does."""
        self.capture(stream, lambda: None)

    def free_graph(self, graph: int) -> None:
        """Nothing to give back."""

    def memory(self) -> tuple[int, int]:
        """See `Cuda`."""
        free, total = self._try(self.driver.mem_get_info)
        return int(free), int(total)


def _bytes_at(address: int, size: int) -> Any:
    return (ctypes.c_char * size).from_address(address)
