"""What a user gives to calibrate with, as samples: feeds {input name: array}, read one at a time and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.calibration.checks import Feeds, Inputs, check_feeds, inputs_of
from graphopt.calibration.files import Batched, Files, files_in
from graphopt.calibration.images import SUFFIXES, Preprocessing
from graphopt.calibration.source import Indexed, Source
from graphopt.calibration.user import is_reference, load_reference
from graphopt.errors import GraphoptError
from graphopt.ir import Model

Path = str | os.PathLike[str]
__all__ = ["Feeds", "Indexed", "Source", "feeds_of"]


def feeds_of(
    data: Any,
    model: Model | ModelProto | Path | Inputs,
    *,
    preprocess: Preprocessing | str | None = None,
    batched: bool = False,
    samples: int | None = None,
) -> Source:
    """The samples in whatever a user gives, the first of them read and checked.

    data: a folder or a list of files: .npz (arrays by input name; one sample each), .npy (for models of one input),
    images (which need `preprocess`), or folders with one NAME.npy an input; "module:function", a function, or an
    iterable that gives feeds; one feed. model: to check by; its inputs will do.
    preprocess: for images, see `Preprocessing.parse`. batched: the first axis of the arrays in .npz or .npy files
    counts samples: `a[i]` where an array has one more axis than its input, else `a[i:i + n]`, n being the size that the
    input declares for its first axis (1 where it is dynamic). samples: at most so many; of files, at even distances, of
    a stream, the first ones.

    Raises GraphoptError, naming the file or sample, for data that cannot be read or is not what the model takes, now
    for the first sample and while iterating for the others.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) '
    ...                        '{ y = Relu(x) }')
    >>> source = feeds_of(({"x": np.full((1, 3), i, np.float32)} for i in range(4)), m, samples=2)
    >>> [float(feeds["x"].max()) for feeds in source]
    [0.0, 1.0]
    """
    if samples is not None and samples < 1:
        raise GraphoptError(f"{samples} samples cannot be calibrated with; give 1 or more")
    if isinstance(data, Source):
        return data if samples is None else data.limited(samples)
    inputs: Inputs = dict(model) if isinstance(model, Mapping) else inputs_of(model)
    if isinstance(preprocess, str):
        preprocess = Preprocessing.parse(preprocess)
    source = _source(data, inputs, preprocess, batched)
    if samples is not None:
        source = source.limited(samples)
    source.check_first()
    return source


def _source(data: Any, inputs: Inputs, preprocess: Preprocessing | None, batched: bool) -> Source:
    if isinstance(data, str) and is_reference(data) and not os.path.exists(data):
        return Streamed(load_reference(data), inputs, data)
    if isinstance(data, (str, os.PathLike)):
        return _of_paths([os.fspath(data)], inputs, preprocess, batched)
    if isinstance(data, Mapping):
        return Listed([data], inputs)
    if isinstance(data, Sequence) and data and all(isinstance(item, (str, os.PathLike)) for item in data):
        paths = [os.fspath(item) for item in data]
        if len(paths) == 1 and is_reference(paths[0]) and not os.path.exists(paths[0]):
            return Streamed(load_reference(paths[0]), inputs, paths[0])
        return _of_paths(paths, inputs, preprocess, batched)
    if preprocess is not None:
        raise GraphoptError("preprocessing is for image files, but the data is made by Python: preprocess it there")
    if isinstance(data, Sequence):
        return Listed(data, inputs)
    if callable(data):
        name = getattr(data, "__qualname__", type(data).__name__)
        return Streamed(data, inputs, f"{getattr(data, '__module__', '')}:{name}")
    if isinstance(data, Iterable):
        return Streamed(data, inputs, type(data).__name__)
    raise GraphoptError(
        f"a {type(data).__name__} is no calibration data: give a folder, files, 'module:function', or feeds"
    )


def _of_paths(paths: list[str], inputs: Inputs, preprocess: Preprocessing | None, batched: bool) -> Source:
    files, kind = files_in(paths, inputs)
    if preprocess is not None and kind != "image":
        raise GraphoptError(f"preprocessing is for images, but {files[0]!r} is none ({', '.join(sorted(SUFFIXES))})")
    if batched:
        if kind == "image":
            raise GraphoptError(f"{files[0]!r} is an image: only .npz and .npy files hold batches")
        return Batched(files, kind, inputs)
    return Files(files, kind, inputs, preprocess)


class Listed(Indexed):
    """Feeds that are in memory."""

    def __init__(self, feeds: Sequence[Any], inputs: Inputs) -> None:
        super().__init__(inputs, len(feeds))
        self.feeds = feeds

    def load(self, number: int) -> Any:
        """The sample of a number."""
        return self.feeds[number]

    def digest(self) -> str:
        """Of all that is in it."""
        found = hashlib.sha256(repr(self.order).encode())
        for number in self.order:
            _digest(found, check_feeds(self.feeds[number], self.inputs, self.label(number)))
        return found.hexdigest()

    def part(self, start: int, stop: int) -> Listed:
        """Holds the samples of the part alone, so that no more is sent to another process."""
        chosen = [self.feeds[number] for number in self.order[start:stop]]
        made = Listed(chosen, self.inputs)
        made.names = {i: self.label(number) for i, number in enumerate(self.order[start:stop])}
        return made


class Streamed(Source):
    """Feeds that a function or an iterable makes, of which nothing is held.

    A function is called, and an iterable gone over, each time that samples are asked for; an iterator serves once.
    """

    def __init__(self, make: Callable[[], Any] | Iterable[Any], inputs: Inputs, what: str) -> None:
        super().__init__(inputs)
        self.make, self.what = make, what
        self.most: int | None = None
        self._peeked: list[Any] = []  # the first sample of what serves once, which was looked at
        self._used = False
        self._first = ""
        try:
            self.size = len(make)  # type: ignore[arg-type]
        except TypeError:
            self.size = None

    def limited(self, samples: int) -> Streamed:
        """The first ones."""
        self.most = samples if self.most is None else min(samples, self.most)
        self.size = None if self.size is None else min(self.size, self.most)
        return self

    def check_first(self) -> None:
        """Reads one sample; that of an iterator is kept for the first round."""
        stream = self._stream()
        first = list(islice(stream, 1))
        if not first:
            raise GraphoptError(f"{self.what} gives no samples; calibration needs at least one")
        sample = check_feeds(first[0], self.inputs, self.label(0))
        found = hashlib.sha256()
        _digest(found, sample)
        self._first = found.hexdigest()
        if self.serves_once:
            self._peeked = first
        elif hasattr(stream, "close"):
            stream.close()

    @property
    def serves_once(self) -> bool:
        """Whether samples can be had only once."""
        return isinstance(self.make, Iterator)

    def label(self, number: int) -> str:
        """How errors call a sample."""
        return f"sample {number} of {self.what}"

    def since(self, start: int) -> Iterator[Feeds]:
        """Checked samples; what comes before `start` is made and left."""
        if self.serves_once:
            if self._used:
                raise GraphoptError(
                    f"{self.what} serves once and is used up; give a function, a list or files to go over again"
                )
            self._used = True
        samples = chain(self._peeked, self._stream()) if self.serves_once else self._stream()
        number = -1
        for number, sample in enumerate(islice(samples, self.most)):
            if number >= start:
                yield check_feeds(sample, self.inputs, self.label(number))
        if number < 0:
            raise GraphoptError(f"{self.what} gives no samples; calibration needs at least one")
        self.size = number + 1

    def digest(self) -> str:
        """Of its name and its first sample: the others are not known before they are made."""
        return hashlib.sha256(f"{self.what}\n{self._first}\n{self.most}".encode()).hexdigest()

    def _stream(self) -> Iterator[Any]:
        try:
            made = self.make if isinstance(self.make, Iterable) else self.make()
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(f"{self.what} failed: {type(error).__name__}: {error}") from error
        if isinstance(made, Mapping):
            made = [made]
        if not isinstance(made, Iterable):
            raise GraphoptError(
                f"{self.what} returned a {type(made).__name__}, not feeds to go over (a list, or yield)"
            )
        return _said(made, self.what)


def _said(made: Iterable[Any], what: str) -> Iterator[Any]:
    """The items; an exception of the user's code becomes an error that says whose it is."""
    items = iter(made)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(f"{what} failed: {type(error).__name__}: {error}") from error
        yield item


def _digest(found: Any, feeds: Feeds) -> None:
    for name in sorted(feeds):
        array = feeds[name]
        found.update(f"{name}\n{array.dtype}{array.shape}\n".encode())
        plain = array.dtype.hasobject
        found.update(repr(array.tolist()).encode() if plain else np.ascontiguousarray(array).data.cast("B"))
