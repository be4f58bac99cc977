"""The few things that are needed of CUDA, by cuda-python or by pycuda, whichever is there.

Addresses, streams and events are plain integers: what TensorRT's bindings take, and what other libraries hand out
(`__cuda_array_interface__`, DLPack, `torch.Tensor.data_ptr`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

from graphopt.errors import GraphoptError

__all__ = ["Cuda", "find_cuda"]


class Cuda(Protocol):
    """One device. Every method raises GraphoptError with CUDA's own word for what went wrong."""

    name: str  # of the device
    clock: int  # MHz that its processors may reach, 0 where that is not told
    key: str  # what makes an engine or a timing cache fit another machine: name, compute capability, driver

    def use(self) -> None:
        """Makes the calling thread work on this device, as CUDA (and TensorRT) has a current device in each thread."""

    def malloc(self, size: int) -> int:
        """So many bytes on the device."""

    def free(self, address: int) -> None:
        """Gives back what `malloc` gave."""

    def malloc_host(self, size: int) -> int:
        """So many bytes of pinned memory."""

    def free_host(self, address: int) -> None:
        """Gives back what `malloc_host` gave."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copies bytes, between wherever the two addresses are, in the stream's order."""

    def stream(self) -> int:
        """A new stream, which does not wait for the default stream."""

    def free_stream(self, stream: int) -> None:
        """Gives it back."""

    def synchronize(self, stream: int) -> None:
        """Waits for all that the stream has been given."""

    def follow(self, stream: int, other: int) -> None:
        """What the stream is given from now on waits for what `other` has been given (1: the default stream)."""

    def event(self) -> int:
        """A new event, with timing."""

    def free_event(self, event: int) -> None:
        """Gives it back."""

    def record(self, event: int, stream: int) -> None:
        """Marks this place in the stream."""

    def elapsed(self, start: int, end: int) -> float:
        """Seconds between two recorded events; waits for the second."""

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Records what `work` gives the stream as a graph, and returns that, ready to launch."""

    def launch(self, graph: int, stream: int) -> None:
        """Runs a recorded graph."""

    def free_graph(self, graph: int) -> None:
        """Gives it back."""

    def memory(self) -> tuple[int, int]:
        """Bytes free and bytes in all on the device."""


def find_cuda(device: int = 0) -> Cuda:
    """CUDA on this machine. Raises GraphoptError: no package for it, or no device."""
    broken = ""
    if find_spec("cuda") is not None and find_spec("cuda.bindings") is not None:
        try:
            return CudaPython(device)
        except ImportError as error:
            broken = f" (cuda-python is, and does not load: {error})"
    if find_spec("pycuda") is not None:
        from graphopt.targets.tensorrt._pycuda import PyCuda

        try:
            return PyCuda(device)
        except ImportError as error:
            broken += f" (pycuda is, and does not load: {error})"
    text = "neither cuda-python nor pycuda is installed; pip install 'graphopt[tensorrt]'"
    raise GraphoptError(f"{text}{broken}")


class CudaPython:
    """By NVIDIA's cuda-python (`cuda.bindings.runtime`)."""

    def __init__(self, device: int = 0) -> None:
        from cuda.bindings import runtime

        self.runtime, self.device = runtime, device
        self._graphs: dict[int, Any] = {}
        error, count = self._plain(runtime.cudaGetDeviceCount())
        if error or not count:
            raise GraphoptError(
                f"no CUDA device: {error or 'the driver sees none'}; engines are built and run on a GPU"
            )
        if not 0 <= device < count:
            raise GraphoptError(f"no CUDA device {device}: there are {count}, from 0 on")
        self.use()
        (found,) = self._call(runtime.cudaGetDeviceProperties(device))
        (driver,) = self._call(runtime.cudaDriverGetVersion())
        self.name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        self.key = f"{self.name}, sm_{found.major}{found.minor}, driver {driver}"
        rate = runtime.cudaDeviceGetAttribute(runtime.cudaDeviceAttr.cudaDevAttrClockRate, device)
        self.clock = 0 if self._plain(rate)[0] else int(rate[1]) // 1000

    def _plain(self, answer: tuple[Any, ...]) -> tuple[str, Any]:
        status, *values = answer
        if status == self.runtime.cudaError_t.cudaSuccess:
            return "", values[0] if values else None
        _, text = self.runtime.cudaGetErrorString(status)
        return (text.decode() if isinstance(text, bytes) else str(text)), None

    def _call(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        if answer[0] != self.runtime.cudaError_t.cudaSuccess:
            raise GraphoptError(f"CUDA: {self._plain(answer)[0]}")
        return answer[1:]

    def use(self) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaSetDevice(self.device))

    def malloc(self, size: int) -> int:
        """See `Cuda`."""
        return int(self._call(self.runtime.cudaMalloc(max(size, 1)))[0])

    def free(self, address: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaFree(address))

    def malloc_host(self, size: int) -> int:
        """See `Cuda`."""
        return int(self._call(self.runtime.cudaMallocHost(max(size, 1)))[0])

    def free_host(self, address: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaFreeHost(address))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """See `Cuda`."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call(self.runtime.cudaMemcpyAsync(target, source, size, kind, stream))

    def stream(self) -> int:
        """See `Cuda`."""
        return int(self._call(self.runtime.cudaStreamCreateWithFlags(self.runtime.cudaStreamNonBlocking))[0])

    def free_stream(self, stream: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaStreamSynchronize(stream))

    def follow(self, stream: int, other: int) -> None:
        """See `Cuda`."""
        (event,) = self._call(self.runtime.cudaEventCreateWithFlags(self.runtime.cudaEventDisableTiming))
        try:
            self._call(self.runtime.cudaEventRecord(event, other))
            self._call(self.runtime.cudaStreamWaitEvent(stream, event, 0))
        finally:
            self._call(self.runtime.cudaEventDestroy(event))  # CUDA keeps it until it has happened

    def event(self) -> int:
        """See `Cuda`."""
        return int(self._call(self.runtime.cudaEventCreate())[0])

    def free_event(self, event: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaEventRecord(event, stream))

    def elapsed(self, start: int, end: int) -> float:
        """See `Cuda`."""
        self._call(self.runtime.cudaEventSynchronize(end))
        return float(self._call(self.runtime.cudaEventElapsedTime(start, end))[0]) * 1e-3

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """See `Cuda`."""
        mode = self.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self.runtime.cudaStreamBeginCapture(stream, mode))
        try:
            work()
        except BaseException:
            status, *graphs = self.runtime.cudaStreamEndCapture(stream)  # a stream that stays in capture is lost
            if status == self.runtime.cudaError_t.cudaSuccess and graphs:
                self.runtime.cudaGraphDestroy(graphs[0])
            raise
        (graph,) = self._call(self.runtime.cudaStreamEndCapture(stream))
        try:
            (ready,) = self._call(self.runtime.cudaGraphInstantiate(graph, 0))
        finally:
            self._call(self.runtime.cudaGraphDestroy(graph))
        self._graphs[int(ready)] = ready
        return int(ready)

    def launch(self, graph: int, stream: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaGraphLaunch(self._graphs[graph], stream))

    def free_graph(self, graph: int) -> None:
        """See `Cuda`."""
        self._call(self.runtime.cudaGraphExecDestroy(self._graphs.pop(graph)))

    def memory(self) -> tuple[int, int]:
        """See `Cuda`."""
        free, total = self._call(self.runtime.cudaMemGetInfo())
        return int(free), int(total)
