"""Files as samples: .npz, .npy, images, folders of NAME.npy; or arrays in which the first axis counts the samples."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any

from graphopt.calibration.arrays import Rows, members, read_npy, read_npz
from graphopt.calibration.checks import Feeds, Input, Inputs
from graphopt.calibration.images import SUFFIXES, Preprocessing
from graphopt.calibration.source import Indexed
from graphopt.errors import GraphoptError

_KINDS = {".npz": "npz", ".npy": "npy", **dict.fromkeys(SUFFIXES, "image")}


def files_in(paths: list[str], inputs: Inputs) -> tuple[list[str], str]:
    """The files of samples, absolute and in natural order within each folder, and their kind: "npz", "npy", "image" or
    "folder" (with one NAME.npy an input in each). Raises GraphoptError where there are none, or several kinds."""
    found: list[tuple[str, str]] = []
    for path in paths:
        if not os.path.exists(path):
            hint = "" if os.sep in path else "; a function is given as MODULE:FUNCTION"
            raise GraphoptError(f"calibration data {path!r} does not exist; check the path{hint}")
        inside = _in_folder(path, inputs) if os.path.isdir(path) else [(path, _kind(path))]
        if not inside:
            raise GraphoptError(
                f"folder {path!r} holds no calibration data: .npz, .npy, images, or folders with a NAME.npy an input"
            )
        found += inside
    kinds = list(dict.fromkeys(kind for _, kind in found))
    if "" in kinds:
        path = next(path for path, kind in found if not kind)
        raise GraphoptError(f"{path!r} is no calibration data: give .npz, .npy or image files ({_suffixes()})")
    if len(kinds) > 1:
        examples = " and ".join(repr(next(path for path, kind in found if kind == k)) for k in kinds[:2])
        raise GraphoptError(f"calibration data of several kinds: {examples}; give files of one kind")
    return [os.path.abspath(path) for path, _ in found], kinds[0]


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _kind(path: str) -> str:
    return _KINDS.get(os.path.splitext(path)[1].lower(), "")


def _in_folder(folder: str, inputs: Inputs) -> list[tuple[str, str]]:
    """A folder of files; a folder that is one sample; one of such folders; or images in folders, however deep."""
    if _is_sample(folder, inputs):
        return [(folder, "folder")]
    names = sorted(os.listdir(folder), key=natural)
    here = [(os.path.join(folder, name), _kind(name)) for name in names if not name.startswith(".")]
    here = [(path, kind) for path, kind in here if kind and not os.path.isdir(path)]
    if here:
        return here
    inner = [os.path.join(folder, name) for name in names if os.path.isdir(os.path.join(folder, name))]
    samples = [(path, "folder") for path in inner if _is_sample(path, inputs)]
    return samples or list(_images_below(folder))


def _is_sample(folder: str, inputs: Inputs) -> bool:
    """Whether there is a NAME.npy for one of several inputs: names of a model with one input say nothing."""
    return any(os.path.isfile(os.path.join(folder, f"{name}.npy")) for name in inputs if _is_plain(name))


def _is_plain(name: str) -> bool:
    return bool(name) and not re.search(r"[/\\\0]", name)


def _images_below(folder: str) -> Iterator[tuple[str, str]]:
    for place, folders, names in os.walk(folder):
        folders.sort(key=natural)
        for name in sorted(names, key=natural):
            if _kind(name) == "image" and not name.startswith("."):
                yield os.path.join(place, name), "image"


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key by which 2 comes before 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]


def _stamp(path: str) -> str:
    """Name, size and time of change: what says cheaply that a file is the same."""
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(".npy")]
    found = []
    for item in paths:
        facts = os.stat(item)
        found.append(f"{item}\0{facts.st_size}\0{facts.st_mtime_ns}")
    return "\n".join(found)


class Files(Indexed):
    """One sample a file (or folder of NAME.npy); images: as many a sample as the model's batch has."""

    def __init__(self, files: list[str], kind: str, inputs: Inputs, preprocess: Preprocessing | None) -> None:
        self.files, self.kind, self.batch = files, kind, 1
        self.given: Input | None = None
        self.images = Preprocessing()
        if kind in ("npy", "image"):
            self.given = _only(inputs, files[0])
        if self.given is not None and kind == "image":
            self.images = _preprocessing(preprocess, self.given, files[0]).of(self.given)
            first = (self.given.dims or (None,))[0]
            self.batch = first if isinstance(first, int) and self.images.layout.startswith("N") else 1
            if len(files) < self.batch:
                raise GraphoptError(f"a batch of the model has {self.batch} images, but there are {len(files)}")
        super().__init__(inputs, len(files) // self.batch)

    def load(self, number: int) -> Feeds:
        """Reads the sample of a number."""
        path = self.files[number * self.batch]
        if self.kind == "npz":
            return read_npz(path)
        if self.kind == "folder":
            files = [name for name in os.listdir(path) if name.endswith(".npy")]
            return {name.removesuffix(".npy"): read_npy(os.path.join(path, name)) for name in sorted(files)}
        assert self.given is not None
        if self.kind == "npy":
            return {self.given.name: read_npy(path)}
        return {self.given.name: self._images(number * self.batch, self.given)}

    def _images(self, first: int, given: Input) -> Any:
        import numpy as np

        loaded = [self.images.load(path, given.numpy_dtype) for path in self.files[first : first + self.batch]]
        shapes = {array.shape for array in loaded}
        if len(shapes) > 1:
            sizes = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
            raise GraphoptError(
                f"{self.files[first]!r} and those after it are of several sizes ({sizes}); give resize=HxW"
            )
        return loaded[0] if len(loaded) == 1 else np.concatenate(loaded)

    def label(self, number: int) -> str:
        """The file's name."""
        return repr(self.files[number * self.batch])

    def digest(self) -> str:
        """Of names, sizes and times of change of the files, not of what is in them."""
        chosen = [self.files[n * self.batch + i] for n in self.order for i in range(self.batch)]
        text = "\n".join([f"{self.kind} {self.images}", *map(_stamp, chosen)])
        return hashlib.sha256(text.encode()).hexdigest()


def _only(inputs: Inputs, path: str) -> Input:
    wanted = [given for given in inputs.values() if not given.optional] or list(inputs.values())
    if len(wanted) != 1:
        names = ", ".join(inputs) or "none"
        raise GraphoptError(f"{path!r} has an array for one input, but the model's inputs are: {names}; use .npz files")
    return wanted[0]


def _preprocessing(given: Preprocessing | None, wanted: Input, path: str) -> Preprocessing:
    if given is not None:
        return given
    if wanted.numpy_dtype.kind in "iu":
        return Preprocessing()
    why = "how the model was trained decides the numbers that it gets"
    raise GraphoptError(
        f"{path!r} is an image: give the preprocessing, as {why}: --preprocess imagenet, unit (0 to 1), "
        "raw (0 to 255), or KEY=VALUE,... (preprocess=)"
    )


class Batched(Indexed):
    """Arrays whose first axis counts samples, in .npz archives, .npy files or folders of NAME.npy; read row by row."""

    def __init__(self, files: list[str], kind: str, inputs: Inputs) -> None:
        self.files, self.kind = files, kind
        self._open: dict[str, tuple[Rows, int, bool]] = {}  # input -> rows, how many a sample, whether an axis goes
        self._opened = -1
        self.starts = [0]
        super().__init__(inputs, 0)
        for file in range(len(files)):
            self.starts.append(self.starts[-1] + self._count(file))
        self._close()
        self._choose(list(range(self.starts[-1])))

    def _rows(self, path: str) -> dict[str, Rows]:
        if self.kind == "npz":
            return {name: Rows(path, name) for name in members(path)}
        if self.kind == "npy":
            return {_only(self.inputs, path).name: Rows(path)}
        names = [name for name in sorted(os.listdir(path)) if name.endswith(".npy")]
        return {name.removesuffix(".npy"): Rows(os.path.join(path, name)) for name in names}

    def _count(self, file: int) -> int:
        """Opens a file; how many samples are in it. Raises GraphoptError where its arrays do not agree."""
        self._close()
        path = self.files[file]
        counts: dict[str, int] = {}
        for name, rows in self._rows(path).items():
            if name not in self.inputs:
                has = ", ".join(self.inputs) or "none"
                raise GraphoptError(f"{path!r}: {name!r} is no input of the model; its inputs: {has}")
            dims = self.inputs[name].dims
            drops = dims is not None and len(rows.shape) == len(dims) + 1
            first = dims[0] if dims and not drops else 1
            each = first if isinstance(first, int) else 1
            if rows.shape[0] % each:
                raise GraphoptError(
                    f"{path!r}: {name!r} has {rows.shape[0]} rows, which is no multiple of its batch, {each}"
                )
            self._open[name] = (rows, each, drops)
            counts[name] = rows.shape[0] // each
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            raise GraphoptError(f"{path!r} has {said}: the first axis must count the same samples in all")
        self._opened = file
        return next(iter(counts.values()), 0)

    def load(self, number: int) -> Feeds:
        """Reads the sample of a number."""
        file = self._file(number)
        if file != self._opened:
            self._count(file)
        place = number - self.starts[file]
        found = {}
        for name, (rows, each, drops) in self._open.items():
            array = rows[place * each : (place + 1) * each]
            found[name] = array[0] if drops else array
        return found

    def _file(self, number: int) -> int:
        from bisect import bisect_right

        return bisect_right(self.starts, number) - 1

    def label(self, number: int) -> str:
        """The file's name and the place in it."""
        file = self._file(number)
        return f"{self.files[file]!r}, sample {number - self.starts[file]}"

    def digest(self) -> str:
        """Of names, sizes and times of change of the files, and of which samples."""
        text = "\n".join(["batched", repr(self.order), *map(_stamp, self.files)])
        return hashlib.sha256(text.encode()).hexdigest()

    def _close(self) -> None:
        for rows, _, _ in self._open.values():
            rows.close()
        self._open, self._opened = {}, -1

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: another process opens its own."""
        return {**self.__dict__, "_open": {}, "_opened": -1}
