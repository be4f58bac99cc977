"""What running a model may take of the machine: an arena of limited size for the runtime, a watch over time and memory.

ONNX Runtime allocates whatever a model asks for, and a few bytes ask for terabytes (Expand, ConstantOfShape, Resize).
Sessions here share one arena, which refuses beyond its size; text and what kernels allocate past the arena is seen by
the watch, which ends the run after the operator at work.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from graphopt.verify.source import Source

__all__ = [
    "TOO_LARGE", "Watch", "allowance", "elements", "is_about_memory", "join_arena", "mebibytes", "on_stuck",
    "outputs_limit", "past", "release", "trial",
]  # fmt: skip

TOO_LARGE = "more than the limit"  # in messages about runs that would take too much memory
LEAST = 512 << 20  # bytes, of a model without weights
_TIMES = 48  # the weights, on top: several sessions hold them, and large networks are run on large images
_POLL = 0.05  # seconds
PATIENCE = 120.0  # seconds that an operator may take after its run was to stop
on_stuck: list[Callable[[str], None]] = []  # what is called then: no runtime stops within an operator
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def allowance(source: Source) -> int:
    """Bytes that the runtime may take for the values of `source` and its weights together."""
    return source.memory or LEAST + _TIMES * source.weight_bytes


def outputs_limit(most: int) -> int:
    """Bytes that the outputs of one run may have: several runs are kept and compared."""
    return most // 8


def elements(most: int) -> int:
    """Elements that the inputs of one run may have: making them takes several copies in float64."""
    return most // 32


def mebibytes(count: int) -> str:
    """A number of bytes, for messages."""
    count = min(count, 1 << 100)
    return f"{count / (1 << 30):.4g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def past(count: int, most: int) -> str:
    """What is said of a number of bytes that is more than it may be."""
    return f"{mebibytes(count)}, {TOO_LARGE} of {mebibytes(most)}"


class _Arena:
    """The arena of this process, made at first use: the runtime knows only one. size: bytes, 0 where there is none."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.lock = threading.Lock()
        self.shrinker: Any = None

    def register(self, most: int) -> int:
        """Makes it, `most` bytes large, unless it is there; its size."""
        import onnxruntime as ort

        with self.lock:
            if self.size is None:
                place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
                try:
                    config = ort.OrtArenaCfg({"max_mem": most, "arena_extend_strategy": 1})  # as much as is asked for
                    ort.create_and_register_allocator(place, config)
                    self.size = most
                except Exception:  # noqa: BLE001 - the application has one of its own, or the runtime is another build
                    self.size = 0
            return self.size

    def shrink(self) -> None:
        """Gives back what nobody uses."""
        import onnxruntime as ort

        options = ort.RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with self.lock, suppress(Exception):  # then it stays as it is
            if self.shrinker is None:
                self.shrinker = _smallest_session()
            self.shrinker.run(None, {}, options)


_ARENA = _Arena()


def join_arena(options: Any, most: int) -> bool:
    """Lets a session with these options allocate from the shared arena, if that is as large; whether it does."""
    if most > _ARENA.register(most):
        return False
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(outputs_limit(most)))
    return True


def release() -> None:
    """Gives the system back what the arena holds and nobody uses."""
    if _ARENA.size:
        _ARENA.shrink()


def _smallest_session() -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
    node = helper.make_node("Constant", [], ["y"], value=value)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def resident() -> int:
    """Bytes of memory that this process has now, 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def trial(run: Callable[[], object], seconds: float | None, room: int) -> str:
    """Runs in a forked copy of the process that may allocate only `room` bytes more; what goes wrong, "" for nothing.

    There are kernels that no runtime can stop ("time", "memory"), and some that end the process ("crash"). Nothing is
    tried where processes cannot be forked.
    """
    if not hasattr(os, "fork") or not resident():
        return ""
    with _page() as said:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # on threads: the copy runs one operator after another
            child = os.fork()
        if child == 0:
            _run_limited(run, seconds, room, said.fileno())
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            return "memory" if status else ""
        end = signal.Signals(os.WTERMSIG(status)).name
        if end == "SIGABRT":
            said.seek(0)
            return "memory" if is_about_memory(RuntimeError(said.read(1 << 16).decode(errors="replace"))) else "crash"
    return _ENDS.get(end, "crash")


def _page() -> IO[bytes]:
    """A file in memory; where there are none, one that forgets."""
    return os.fdopen(os.memfd_create("said"), "w+b") if hasattr(os, "memfd_create") else open(os.devnull, "w+b")


_ENDS = {"SIGALRM": "time", "SIGKILL": "memory"}


def _run_limited(run: Callable[[], object], seconds: float | None, room: int, said: int) -> None:
    """Ends the process: with code 0 when `run` ended, if only in an error that is not about memory."""
    import faulthandler
    import resource

    try:
        faulthandler.disable()
        os.dup2(said, 2)  # what the runtime says when it ends the process
        with open("/proc/self/statm", "rb") as file:
            held = int(file.read().split()[5]) * _PAGE
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (held + room, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(0.01, seconds))
        run()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - it must not return into what the parent goes on with
        os._exit(1 if is_about_memory(error) else 0)


_NO_MEMORY = ("Available memory of", "bad_alloc", "bad allocation", "Failed to allocate memory", "bad array new length")


def is_about_memory(error: BaseException) -> bool:
    """Whether a runtime's error says that memory ran out."""
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in _NO_MEMORY)


class Watch:
    """A context in which `stop` is called, from another thread, once `seconds` are over or the process has grown by
    `room` bytes. reason: "", "time" or "memory"."""

    def __init__(self, stop: Callable[[], None], seconds: float | None, room: int) -> None:
        self.reason = ""
        self._stop, self._room = stop, room
        self._end = None if seconds is None else time.monotonic() + seconds
        self._before = resident()
        self._done = threading.Event()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()

    def _look(self) -> None:
        while not self.reason and not self._done.wait(self._wait()):
            self.check()
        if self.reason:
            self._insist()

    def _wait(self) -> float:
        return _POLL if self._end is None else max(0.0, min(_POLL, self._end - time.monotonic()))

    def _insist(self) -> None:
        """Tells those who can end the process that the operator at work goes on and on."""
        if not self._done.wait(PATIENCE):
            for tell in on_stuck:
                tell(f"one operator went on for {PATIENCE:.0f} s after it was to stop")

    def check(self) -> None:
        """Looks now."""
        if self._end is not None and time.monotonic() >= self._end:
            self.reason = "time"
        elif self._before and resident() > self._before + self._room:
            self.reason = "memory"
        if self.reason:
            self._stop()
