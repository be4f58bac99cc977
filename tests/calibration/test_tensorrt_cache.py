from __future__ import annotations

import struct

import numpy as np
import pytest

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.calibration.tensorrt_cache import read_tensorrt_cache, write_tensorrt_cache
from graphopt.errors import GraphoptError

TEXT = """TRT-8503-EntropyCalibration2
data: 3c010a14
(Unnamed Layer* 0) [Convolution]_output: 3d9d4a3f
a: b:0: 00000000

"""


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "model.cache"
    path.write_text(TEXT)
    return path


def test_reading(cache):
    ranges = read_tensorrt_cache(cache)
    assert list(ranges) == ["data", "(Unnamed Layer* 0) [Convolution]_output", "a: b:0"]
    scale = struct.unpack(">f", bytes.fromhex("3c010a14"))[0]
    assert ranges["data"] == TensorRange(-127 * scale, 127 * scale, -127 * scale, 127 * scale, "import")
    assert ranges["a: b:0"].amax == 0.0
    assert list(read_tensorrt_cache(cache, ["data", "other"])) == ["data"]


def test_there_and_back(cache, tmp_path, rng):
    copy = tmp_path / "copy.cache"
    write_tensorrt_cache(read_tensorrt_cache(cache), copy)
    assert copy.read_text() == TEXT.rstrip("\n") + "\n"
    scales = rng.lognormal(0, 8, 200).astype(np.float32)
    found = {f"t{i}": TensorRange(-float(s) * 127, float(s) * 127, 0.0, 0.0) for i, s in enumerate(scales)}
    write_tensorrt_cache(Ranges(found), copy, head="TRT-100100-MinMaxCalibration")
    again = read_tensorrt_cache(copy)
    assert [again[name].amax for name in found] == [found[name].amax for name in found]


def test_an_asymmetric_range_goes_by_its_larger_side(tmp_path):
    write_tensorrt_cache({"x": TensorRange(-1.0, 254.0, -1.0, 254.0)}, tmp_path / "c")
    assert "x: 40000000" in (tmp_path / "c").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line is not like"),
        ("data: 3c010a14\n", "first line is not like"),
        ("TRT-8503-EntropyCalibration2\n", "no tensors"),
        ("TRT-8503-EntropyCalibration2\ndata: 3c010a\n", "line 2: not NAME: SCALE"),
        ("TRT-8503-EntropyCalibration2\n\ndata 3c010a14\n", "line 3: not NAME: SCALE"),
        ("TRT-8503-EntropyCalibration2\ndata: 7fc00000\n", "scale of 'data' is nan"),
        ("TRT-8503-EntropyCalibration2\ndata: bf800000\n", "scale of 'data' is -1.0"),
        ("TRT-8503-EntropyCalibration2\ndata: 3c010a14\n", "of another model"),
    ],
)
def test_what_is_no_cache(tmp_path, text, words):
    path = tmp_path / "model.cache"
    path.write_text(text)
    with pytest.raises(GraphoptError) as caught:
        read_tensorrt_cache(path, ["x"])
    assert words in str(caught.value)
    assert "model.cache" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(GraphoptError, match="there is no TensorRT calibration cache"):
        read_tensorrt_cache(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraphoptError, match="cannot be read"):
        read_tensorrt_cache(tmp_path / "b")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(GraphoptError, match="a name is one line"):
        write_tensorrt_cache({"a\nb": TensorRange(0.0, 1.0, 0.0, 1.0)}, tmp_path / "c")
    with pytest.raises(GraphoptError, match="no first line"):
        write_tensorrt_cache({}, tmp_path / "c", head="TRT")
