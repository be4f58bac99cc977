"""What calibration found: the range of values that each float tensor takes on representative data.

A range is what quantization makes a scale and a zero point of. `graphopt.calibrate` measures ranges; passes read them,
by the names of the tensors in the model that was calibrated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.files import replacing

FORMAT = "graphopt.ranges"
VERSION = 1


@dataclass(frozen=True)
class TensorRange:
    """The values of one tensor: from `low` to `high`, both finite, as the observer chose them.

    minimum, maximum: what was seen, which a percentile or entropy observer cuts. method: the observer that gave low and
    high ("minmax", "moving-average", "percentile", "entropy", "mse", "import"). channel_axis: the axis of the
    per-channel arrays (float64, one element a channel), or None where there are none. channel_mean is E[x], for bias
    correction; channel_low and channel_high for equalization and SmoothQuant.
    """

    low: float
    high: float
    minimum: float
    maximum: float
    method: str = "minmax"
    channel_axis: int | None = None
    channel_low: np.ndarray | None = None
    channel_high: np.ndarray | None = None
    channel_mean: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise GraphoptError(f"a range from {self.low} to {self.high} is none: low and high are finite, low first")

    @property
    def amax(self) -> float:
        """The largest magnitude, which symmetric quantization goes by."""
        return max(abs(self.low), abs(self.high))

    def to_dict(self) -> dict[str, Any]:
        """As plain values; arrays as lists of floats, which survive JSON exactly."""
        plain = {key: value for key, value in vars(self).items() if value is not None}
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TensorRange:
        """The inverse of `to_dict`. Raises GraphoptError where something is missing or no number."""
        try:
            read: dict[str, Any] = {
                k: np.asarray(v, np.float64) if isinstance(v, list) else v for k, v in plain.items()
            }
            return cls(**read)
        except (TypeError, ValueError) as error:
            raise GraphoptError(f"no range: {error}") from error


class Ranges(Mapping[str, TensorRange]):
    """Ranges by tensor name.

    model: name of the graph that was calibrated. samples: how many feeds were seen. path: the file they were loaded
    from, or None. notes: what was left out, and why.

    >>> found = Ranges({"x": TensorRange(-1.0, 2.0, -1.0, 2.5, "percentile")}, samples=8)
    >>> found["x"].high, found.samples
    (2.0, 8)
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorRange],
        *,
        model: str = "",
        samples: int = 0,
        path: str | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self._tensors = dict(tensors)
        self.model, self.samples, self.path, self.notes = model, samples, path, tuple(notes)

    def __getitem__(self, name: str) -> TensorRange:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __str__(self) -> str:
        """How pipelines spell them: the path, or a digest of ranges that are in memory only."""
        return self.path or f"<ranges {self.digest()[:12]}>"

    def to_json(self) -> str:
        """The content of the file; the same bytes for the same ranges, whatever order they were found in."""
        tensors = {name: self._tensors[name].to_dict() for name in sorted(self._tensors)}
        head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "model": self.model, "samples": self.samples}
        if self.notes:
            head["notes"] = list(self.notes)
        return json.dumps({**head, "tensors": tensors}, indent=1) + "\n"

    def digest(self) -> str:
        """SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON file, beside and renamed."""
        with replacing(os.fspath(path)) as stream:
            stream.write(self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ranges:
        """Reads what `save` wrote. Raises GraphoptError, naming the file."""
        name = os.fspath(path)
        try:
            with open(name, encoding="utf-8") as stream:
                plain = json.load(stream)
        except FileNotFoundError:
            raise GraphoptError(f"there is no ranges file {name}; write one with `graphopt calibrate`") from None
        except (OSError, ValueError) as error:
            raise GraphoptError(f"ranges file {name} cannot be read ({error}); calibrate again") from error
        if not isinstance(plain, dict) or plain.get("format") != FORMAT or plain.get("version") != VERSION:
            raise GraphoptError(f"{name} holds no ranges of this version of graphopt; calibrate again")
        tensors = {key: TensorRange.from_dict(value) for key, value in plain["tensors"].items()}
        head = {key: plain[key] for key in ("model", "samples", "notes") if key in plain}
        return cls(tensors, path=name, **head)
