"""What the inputs of a product look like: second moments and mean magnitudes, for GPTQ and AWQ.

`weight_statistics` runs a model on calibration data and collects, for the input x [..., K] of each product with a
constant weight, X^T X (float32, [K, K]), the mean of |x| for each channel and the number of rows. Rows are gathered
until there are 1024, so that the sums have few terms; they differ from float64's by less than 1e-5 of the diagonal.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

Progress = Callable[..., Any]
ROWS = 1024
FORMAT = "graphopt.statistics 1"


@dataclass(frozen=True)
class Moments:
    """Of one tensor [..., K]. gram: float32 [K, K], the sum of x x^T over all rows. mean_abs: float64 [K], the mean of
    |x|. count: rows."""

    gram: np.ndarray
    mean_abs: np.ndarray
    count: int

    def importance(self) -> np.ndarray:
        """E[x^2] of each channel, float64 [K], none of them nothing."""
        h = np.diagonal(self.gram).astype(np.float64) / max(self.count, 1)
        return np.maximum(h, max(float(h.max()), 1e-30) * 1e-6)

    def scaled(self, by: np.ndarray) -> Moments:
        """Those of x * by, where `by` is positive, [K]."""
        factor = by.astype(np.float32)
        return Moments(self.gram * factor[:, None] * factor, self.mean_abs * by, self.count)

    def plus(self, other: Moments) -> Moments:
        """Those of both, of another tensor with as many channels."""
        count = max(self.count + other.count, 1)
        mean = (self.mean_abs * self.count + other.mean_abs * other.count) / count
        return Moments(self.gram + other.gram, mean, count)


class Gram:
    """An observer that collects the moments of a tensor whose last axis are channels.

    >>> seen = Gram()
    >>> seen.update(np.float32([[1, 2], [3, -4]]))
    >>> seen.moments().gram.tolist(), seen.moments().mean_abs.tolist(), seen.moments().count
    ([[10.0, -10.0], [-10.0, 20.0]], [2.0, 3.0], 2)
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self._gram: np.ndarray | None = None
        self._sum: np.ndarray | None = None
        self._count = 0

    def update(self, array: np.ndarray) -> None:
        """Takes in an array [..., K] of any float type. Raises GraphoptError for NaN, infinities, another K."""
        if array.ndim == 0:
            raise GraphoptError("a tensor without axes has no channels")
        rows = array.reshape(-1, array.shape[-1])
        if self._sum is None:
            self._sum = np.zeros(rows.shape[1])
        if rows.shape[1] != len(self._sum):
            raise GraphoptError(f"a tensor has {rows.shape[1]} channels where it had {len(self._sum)} before")
        total = np.abs(rows).sum(axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            raise GraphoptError("the calibration data leads to NaN or infinities")
        self._sum += total
        self._count += len(rows)
        for start in range(0, len(rows), ROWS):
            self._keep(np.array(rows[start : start + ROWS], np.float32))

    def _keep(self, rows: np.ndarray) -> None:
        self._rows.append(rows)
        self._waiting += len(rows)
        if self._waiting >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        x = np.concatenate(self._rows)
        self._rows, self._waiting = [], 0
        product = x.T @ x
        if self._gram is None:
            self._gram = product
        else:
            self._gram += product

    def merge(self, other: Gram) -> None:
        """Takes in what another has seen. The sums are those of one that saw everything, but for the last digits."""
        other._flush()
        self._flush()
        if other._gram is None or other._sum is None:
            return
        if self._gram is None or self._sum is None:
            self._gram, self._sum, self._count = other._gram.copy(), other._sum.copy(), other._count
            return
        if self._gram.shape != other._gram.shape:
            raise GraphoptError("statistics of tensors with different numbers of channels cannot be merged")
        self._gram += other._gram
        self._sum += other._sum
        self._count += other._count

    def moments(self) -> Moments:
        """What was seen. Raises GraphoptError where that is nothing."""
        self._flush()
        if self._gram is None or self._sum is None:
            raise GraphoptError("there was no calibration data")
        return Moments(self._gram, self._sum / self._count, self._count)


class Statistics(Mapping[str, Moments]):
    """Moments by tensor name: in memory, or in a file that is read one tensor at a time.

    >>> seen = Gram()
    >>> seen.update(np.eye(2, dtype=np.float32))
    >>> Statistics({"x": seen.moments()})["x"].count
    2
    """

    def __init__(self, tensors: Mapping[str, Moments] | None = None, *, path: str | None = None) -> None:
        self._tensors = dict(tensors or {})
        self.path = path
        self._names: list[str] = _names(path) if path is not None else list(self._tensors)

    def __getitem__(self, name: str) -> Moments:
        if self.path is None:
            return self._tensors[name]
        index = self._names.index(name)
        with np.load(self.path, allow_pickle=False) as file:
            return Moments(file[f"gram_{index}"], file[f"mean_abs_{index}"], int(file[f"count_{index}"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __str__(self) -> str:
        """How pipelines spell them."""
        return self.path or f"<statistics of {len(self)} tensors>"

    __repr__ = __str__

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .npz file."""
        with _Writer(os.fspath(path)) as writer:
            for name in self:
                writer.add(name, self[name])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Opens what `save` wrote; tensors are read when asked for. Raises GraphoptError, naming the file."""
        return cls(path=os.fspath(path))


def _names(path: str) -> list[str]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["format"]) != FORMAT:
                raise ValueError("another format")
            return [str(name) for name in file["names"]]
    except FileNotFoundError:
        raise GraphoptError(f"there is no statistics file {path}; write one with weight_statistics(...)") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise GraphoptError(f"{path} holds no statistics of this version of graphopt ({error})") from error


class _Writer:
    """An .npz file written member by member, beside and renamed."""

    def __init__(self, path: str) -> None:
        self.path, self.names = path, list[str]()

    def __enter__(self) -> _Writer:
        self._zip = zipfile.ZipFile(f"{self.path}.part", "w", allowZip64=True)
        return self

    def add(self, name: str, moments: Moments) -> None:
        """Writes one tensor's."""
        index = len(self.names)
        self.names.append(name)
        self._array(f"gram_{index}", moments.gram)
        self._array(f"mean_abs_{index}", moments.mean_abs)
        self._array(f"count_{index}", np.array(moments.count))

    def _array(self, key: str, array: np.ndarray) -> None:
        with self._zip.open(f"{key}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self._array("names", np.array(self.names, dtype=np.str_))
            self._array("format", np.array(FORMAT))
        self._zip.close()
        if kind is None:
            os.replace(f"{self.path}.part", self.path)
        else:
            os.unlink(f"{self.path}.part")


@dataclass
class _Group:
    """Tensors observed in one run over the data."""

    names: list[str] = field(default_factory=list)
    bytes: int = 0


def weight_statistics(
    model: Any,
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    only: str = "*",
    keep_float: str = "",
    path: str | os.PathLike[str] | None = None,
    memory: int = 2 << 30,
    progress: Progress | None = None,
) -> Statistics:
    """Statistics of the inputs of products with constant weights, for `quantize-weights` with gptq or awq.

    model: a ModelProto, a path or an ir.Model, with the names that it has when it is quantized. feeds: iterable of
    {input name: array}. only, keep_float: as of the pass. memory: bytes for the sums; where they take more, the data is
    run over several times (it must be a sequence then). path: a file that they are written to, one group of tensors
    after the other, instead of being kept. Raises GraphoptError where there is nothing to collect, or no data.

    >>> from onnx import helper, numpy_helper
    >>> w = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    >>> x, y = (helper.make_tensor_value_info(n, 1, ["N", 4]) for n in "xy")
    >>> m = helper.make_model(helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w]))
    >>> weight_statistics(m, [{"x": np.ones((3, 4), np.float32)}])["x"].count
    3
    """
    from graphopt import interop
    from graphopt.passes.quantize._products import inputs_of_products

    widths = inputs_of_products(interop.model_of(model, "weight_statistics"), only, keep_float)
    if not widths:
        raise GraphoptError("no MatMul or Gemm with a constant weight, of those chosen, is in the main graph")
    groups = _groups(widths, memory)
    if len(groups) > 1 and iter(feeds) is feeds:
        raise GraphoptError(
            f"the statistics take {sum(g.bytes for g in groups) >> 20} MiB, more than `memory`, and these feeds can be "
            "gone through once only; pass a list, or raise `memory`"
        )
    if path is None:
        return Statistics({name: seen for group in groups for name, seen in _collect(model, feeds, group, progress)})
    with _Writer(os.fspath(path)) as writer:
        for group in groups:
            for name, seen in _collect(model, feeds, group, progress):
                writer.add(name, seen)
    return Statistics.load(path)


def _groups(widths: Mapping[str, int], memory: int) -> list[_Group]:
    groups = [_Group()]
    for name, width in widths.items():
        size = 4 * width * width + 8 * ROWS * width
        if groups[-1].names and groups[-1].bytes + size > memory:
            groups.append(_Group())
        groups[-1].names.append(name)
        groups[-1].bytes += size
    return groups


def _collect(
    model: Any, feeds: Iterable[Mapping[str, np.ndarray]], group: _Group, progress: Progress | None
) -> Iterator[tuple[str, Moments]]:
    from graphopt.calibration.running import observe

    observers = {name: Gram() for name in group.names}
    observe(model, feeds, dict(observers), progress=progress)
    for name in group.names:
        yield name, observers.pop(name).moments()
