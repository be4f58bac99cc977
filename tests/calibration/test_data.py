from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from graphopt.calibration.data import feeds_of
from graphopt.errors import GraphoptError

ONE = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }')
TWO = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]> '
    "g (float[N, 3] x, int64[N] i) => (float[N, 3] y, int64[N] j) { y = Relu(x) j = Identity(i) }"
)


def row(value, n=1):
    return np.full((n, 3), value, np.float32)


def seen(source):
    return [float(feeds["x"].max()) for feeds in source]


@pytest.fixture
def folder(tmp_path):
    """Ten .npz files whose natural order is not that of their letters."""
    for value in range(10):
        np.savez(tmp_path / f"s{value + 1}.npz", x=row(value))
    (tmp_path / "notes.txt").write_text("not data")
    return tmp_path


def test_a_folder_of_npz(folder):
    source = feeds_of(folder, ONE)
    assert source.size == 10
    assert seen(source) == seen(source) == list(range(10))
    assert next(iter(source.since(8)))["x"].max() == 8
    assert [f["x"].max() for f in source.part(2, 4)] == [2, 3]
    assert seen(pickle.loads(pickle.dumps(source.part(2, 4)))) == [2, 3]


def test_samples_at_even_distances(folder):
    assert seen(feeds_of(folder, ONE, samples=5)) == [0, 2, 4, 6, 8]
    assert seen(feeds_of(folder, ONE, samples=3)) == [0, 3, 6]
    assert seen(feeds_of(folder, ONE, samples=99)) == list(range(10))
    assert seen(feeds_of((f for f in [{"x": row(1)}, {"x": row(2)}]), ONE, samples=1)) == [1]


def test_lists_of_files_and_one_file(folder):
    assert seen(feeds_of([folder / "s3.npz", str(folder / "s2.npz")], ONE)) == [2, 1]
    assert seen(feeds_of(str(folder / "s3.npz"), ONE)) == [2]


def test_npy_for_one_input(tmp_path):
    np.save(tmp_path / "a.npy", row(1))
    np.save(tmp_path / "b.npy", row(2))
    assert seen(feeds_of(tmp_path, ONE)) == [1, 2]
    with pytest.raises(GraphoptError, match="for one input, but the model's inputs are: x, i"):
        feeds_of(tmp_path, TWO)


def test_folders_with_a_file_for_each_input(tmp_path):
    for value in range(3):
        (tmp_path / f"s{value}").mkdir()
        np.save(tmp_path / f"s{value}" / "x.npy", row(value))
        np.save(tmp_path / f"s{value}" / "i.npy", np.int64([value]))
    source = feeds_of(tmp_path, TWO)
    assert [(f["x"].max(), f["i"][0]) for f in source] == [(0, 0), (1, 1), (2, 2)]
    assert source.digest() == feeds_of(tmp_path, TWO).digest()
    assert [f["i"][0] for f in feeds_of(tmp_path / "s1", TWO)] == [1]
    (tmp_path / "s2" / "i.npy").unlink()
    with pytest.raises(GraphoptError, match=r"s2'.*'i' \(int64\[N\]\) is missing"):
        list(source)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_batched_archives_are_read_row_by_row(tmp_path, save):
    save(tmp_path / "d.npz", x=np.concatenate([row(v) for v in range(6)]), i=np.arange(6))
    save(tmp_path / "e.npz", x=np.concatenate([row(v) for v in range(6, 9)]), i=np.arange(6, 9))
    source = feeds_of(tmp_path, TWO, batched=True)
    assert source.size == 9
    assert [(f["x"].shape, f["x"].max(), f["i"].tolist()) for f in source] == [((1, 3), v, [v]) for v in range(9)]
    assert [f["i"][0] for f in pickle.loads(pickle.dumps(source.part(4, 8)))] == [4, 5, 6, 7]
    assert [f["i"][0] for f in source.since(7)] == [7, 8]


def test_an_axis_that_counts_samples_goes(tmp_path):
    np.save(tmp_path / "d.npy", np.stack([row(v, 2) for v in range(4)]))
    assert [f["x"].shape for f in feeds_of(tmp_path / "d.npy", ONE, batched=True)] == [(2, 3)] * 4
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(np.stack([row(v, 2) for v in range(4)])))
    assert seen(feeds_of(tmp_path / "d.npz", ONE, batched=True)) == [0, 1, 2, 3]


def test_batches_of_a_fixed_size(tmp_path):
    fixed = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }'
    )
    np.savez(tmp_path / "d.npz", x=np.concatenate([row(v) for v in range(4)]))
    assert [f["x"].shape for f in feeds_of(tmp_path, fixed, batched=True)] == [(2, 3)] * 2
    with pytest.raises(GraphoptError, match=r"axis 0 must be 2.*--batched"):
        feeds_of(tmp_path, fixed)
    np.savez(tmp_path / "d.npz", x=np.concatenate([row(v) for v in range(5)]))
    with pytest.raises(GraphoptError, match="5 rows, which is no multiple of its batch, 2"):
        feeds_of(tmp_path, fixed, batched=True)


def test_batched_faults(tmp_path):
    np.savez(tmp_path / "d.npz", x=row(1, 4), i=np.arange(5))
    with pytest.raises(GraphoptError, match="4 of 'x', 5 of 'i'"):
        feeds_of(tmp_path, TWO, batched=True)
    np.savez(tmp_path / "d.npz", x=np.float32(1))
    with pytest.raises(GraphoptError, match="x is a scalar"):
        feeds_of(tmp_path, ONE, batched=True)
    np.savez(tmp_path / "d.npz", y=row(1))
    with pytest.raises(GraphoptError, match="'y' is no input"):
        feeds_of(tmp_path, ONE, batched=True)
    np.savez(tmp_path / "d.npz", x=np.empty((0, 3), np.float32))
    with pytest.raises(GraphoptError, match="empty"):
        feeds_of(tmp_path, ONE, batched=True)
    np.savez(tmp_path / "d.npz", x=np.array([{}]))
    with pytest.raises(GraphoptError, match="pickled objects"):
        feeds_of(tmp_path, ONE, batched=True)


def test_iterables():
    feeds = [{"x": row(1)}, {"x": row(2)}]
    assert seen(feeds_of(feeds, ONE)) == [1, 2]
    assert seen(feeds_of(feeds[0], ONE)) == [1]
    assert seen(feeds_of(lambda: iter(feeds), ONE)) == [1, 2]
    once = feeds_of(iter(feeds), ONE)
    assert once.size is None
    assert seen(once) == [1, 2]
    assert once.size == 2
    with pytest.raises(GraphoptError, match="serves once and is used up"):
        list(once)
    part = feeds_of([*feeds, {"x": row(3)}], ONE).part(1, 3)
    assert (seen(part), part.label(0)) == ([2, 3], "sample 1")


def test_digests_tell_data_apart(folder):
    feeds = [{"x": row(1)}, {"x": row(2)}]
    assert feeds_of(feeds, ONE).digest() == feeds_of(feeds[:], ONE).digest()
    assert feeds_of(feeds, ONE).digest() != feeds_of(feeds[:1], ONE).digest()
    assert feeds_of(iter(feeds), ONE).digest() != feeds_of(iter(feeds[1:]), ONE).digest()
    before = feeds_of(folder, ONE).digest()
    assert before == feeds_of(folder, ONE).digest() != feeds_of(folder, ONE, samples=4).digest()
    np.savez(folder / "s1.npz", x=row(9, 2))
    assert feeds_of(folder, ONE).digest() != before


def test_a_function_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_feeds_a.py").write_text(
        "import numpy as np\n"
        "def samples():\n    for v in range(3):\n        yield {'x': np.full((1, 3), v, np.float32)}\n"
        "def wrong():\n    return 5\n"
        "def fails():\n    raise KeyError('k')\n"
        "def late():\n    yield {'x': np.ones((1, 3), np.float32)}\n    raise ValueError('half way')\n"
        "def none():\n    return []\n"
        "number = 3\n"
    )
    Path("my_feeds_b.py").write_text("raise RuntimeError('boom')\n")
    Path("my_feeds_c.py").write_text("import no_such_library\n")
    source = feeds_of("my_feeds_a:samples", ONE)
    assert seen(source) == seen(source) == [0, 1, 2]
    for text, words in {
        "my_feeds_a:wrong": "returned a int, not feeds",
        "my_feeds_a:fails": "failed: KeyError",
        "my_feeds_a:none": "gives no samples",
        "my_feeds_a:number": "is a int, not a function",
        "my_feeds_a:simples": "has no 'simples'; it has samples, wrong",
        "my_feeds_b:f": "failed: RuntimeError: boom",
        "my_feeds_c:f": "needs 'no_such_library'",
        "my_feeds_z:f": "no module 'my_feeds_z'",
    }.items():
        with pytest.raises(GraphoptError) as caught:
            feeds_of(text, ONE)
        assert words in str(caught.value), text
    late = feeds_of("my_feeds_a:late", ONE)
    with pytest.raises(GraphoptError, match="my_feeds_a:late failed: ValueError: half way"):
        list(late)


def test_bad_data_is_refused_before_any_work(tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "box.npz", x=np.array([{}]), allow_pickle=True)
    (tmp_path / "junk.npz").write_bytes(b"PK\3\4 nothing")
    (tmp_path / "junk.npy").write_bytes(b"junk")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps({}))
    (tmp_path / "readme.txt").write_text("hello")
    np.savez(tmp_path / "good.npz", x=row(1))
    np.save(tmp_path / "good.npy", row(1))
    for data, words in {
        "nowhere": "does not exist",
        "empty": "holds no calibration data",
        "box.npz": "pickled objects",
        "junk.npz": "no plain arrays",
        "junk.npy": "no plain arrays",
        "zip.npz": "no plain arrays",
        "readme.txt": "is no calibration data",
    }.items():
        with pytest.raises(GraphoptError) as caught:
            feeds_of(tmp_path / data, ONE)
        assert words in str(caught.value), data
        assert data in str(caught.value)
    with pytest.raises(GraphoptError, match="several kinds"):
        feeds_of([tmp_path / "good.npz", tmp_path / "good.npy"], ONE)
    with pytest.raises(GraphoptError, match="preprocessing is for images"):
        feeds_of(tmp_path / "good.npz", ONE, preprocess="unit")
    with pytest.raises(GraphoptError, match="preprocess it there"):
        feeds_of([{"x": row(1)}], ONE, preprocess="unit")
    for empty in ([], iter([]), ()):
        with pytest.raises(GraphoptError, match=r"at least one sample|gives no samples"):
            feeds_of(empty, ONE)
    with pytest.raises(GraphoptError, match="is no calibration data"):
        feeds_of(5, ONE)
    with pytest.raises(GraphoptError, match="0 samples"):
        feeds_of([{"x": row(1)}], ONE, samples=0)


def test_a_later_file_is_named(folder):
    np.savez(folder / "s7.npz", x=np.float32([[1, np.nan, 2]]))
    with pytest.raises(GraphoptError, match=r"s7\.npz': 'x' contains NaN"):
        list(feeds_of(folder, ONE))
