from __future__ import annotations

import builtins

import numpy as np
import pytest
from onnx import parser

from graphopt.calibration.data import feeds_of
from graphopt.calibration.images import PRESETS, Preprocessing
from graphopt.errors import GraphoptError

Image = pytest.importorskip("PIL.Image")


def model(type_and_dims):
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({type_and_dims} x) => ({type_and_dims} y) {{ y = Identity(x) }}'
    )


NCHW = model("float[N, 3, H, W]")


@pytest.fixture
def pictures(tmp_path, rng):
    """Three pictures, 40 wide and 20 high, in two folders."""
    pixels = rng.integers(0, 256, (3, 20, 40, 3), np.uint8)
    for index, name in enumerate(("cat/1.png", "cat/10.png", "cat/2.png")):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.fromarray(pixels[index]).save(tmp_path / name)
    return tmp_path, pixels[[0, 2, 1]]


def test_a_folder_of_images(pictures):
    folder, pixels = pictures
    source = feeds_of(folder, NCHW, preprocess="raw")
    assert source.size == 3
    for feeds, want in zip(source, pixels, strict=True):
        assert feeds["x"].dtype == np.float32
        np.testing.assert_array_equal(feeds["x"], want.transpose(2, 0, 1)[None])


def test_layouts_types_and_colors(pictures):
    folder, pixels = pictures
    for text, options, want in (
        ("float[1, 20, 40, 3]", "raw", pixels[:1].astype(np.float32)),
        ("uint8[N, H, W, 3]", "raw", pixels[:1]),
        ("uint8[3, H, W]", "colors=BGR", pixels[0, ..., ::-1].transpose(2, 0, 1)),
        ("float16[N, C, H, W]", "unit,layout=NCHW", pixels[:1].transpose(0, 3, 1, 2) * np.float32(1 / 255)),
        ("int8[N, 3, H, W]", "mean=128,std=1", (pixels[:1].astype(int) - 128).transpose(0, 3, 1, 2)),
    ):
        found = next(iter(feeds_of(folder, model(text), preprocess=options)))["x"]
        np.testing.assert_array_equal(found, want.astype(found.dtype))
    grey = next(iter(feeds_of(folder, model("uint8[N, 1, H, W]"))))["x"]  # uint8 needs no preprocessing
    assert grey.shape == (1, 1, 20, 40)


def test_the_model_says_the_size(pictures):
    folder, _ = pictures
    assert next(iter(feeds_of(folder, model("float[N, 3, 8, 16]"), preprocess="unit")))["x"].shape == (1, 3, 8, 16)
    found = next(iter(feeds_of(folder, model("float[N, 3, 10, 10]"), preprocess="resize=12,crop=10")))["x"]
    assert found.shape == (1, 3, 10, 10)
    with pytest.raises(GraphoptError, match=r"1\.png'.*\[1, 3, 12, 24\].*axis 3 must be 10"):
        feeds_of(folder, model("float[N, 3, 12, 10]"), preprocess="resize=12")


def test_batches_of_a_fixed_size(pictures):
    folder, pixels = pictures
    source = feeds_of(folder, model("uint8[2, 3, H, W]"))
    np.testing.assert_array_equal(next(iter(source))["x"], pixels[:2].transpose(0, 3, 1, 2))
    assert source.size == 1
    with pytest.raises(GraphoptError, match="a batch of the model has 4 images, but there are 3"):
        feeds_of(folder, model("uint8[4, 3, H, W]"))
    Image.fromarray(pixels[0, :10]).save(folder / "cat" / "10.png")
    Image.fromarray(pixels[0, :10]).save(folder / "cat" / "2.png")
    with pytest.raises(GraphoptError, match="several sizes"):
        feeds_of(folder, model("uint8[2, 3, H, W]"))


def test_resize_and_crop_are_those_of_torchvision(tmp_path, rng):
    pixels = rng.integers(0, 256, (33, 47, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    steps = PRESETS["imagenet"].of(feeds_of_input())
    found = steps.load(str(tmp_path / "a.png"), np.dtype(np.float32))
    resized = Image.fromarray(pixels).resize((256 * 47 // 33, 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), 16
    want = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32) / 255
    want = (want - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0], want.transpose(2, 0, 1), atol=1e-6)


def feeds_of_input():
    from graphopt.calibration.checks import inputs_of

    return inputs_of(NCHW)["x"]


def test_a_letterbox_keeps_proportions(pictures):
    folder, _ = pictures
    found = next(iter(feeds_of(folder, model("uint8[N, 3, 32, 32]"), preprocess="letterbox=32")))["x"][0]
    assert (found[:, :8] == 114).all() and (found[:, 24:] == 114).all()
    assert (found[:, 8:24] != 114).any(axis=0).all()


def test_text_and_back():
    text = "resize=256,crop=224x192,scale=1/255,mean=0.485:0.456:0.406,std=0.5,layout=nhwc,interpolation=bicubic"
    steps = Preprocessing.parse(text)
    assert (steps.resize, steps.crop, steps.scale, steps.layout) == ((256,), (224, 192), 1 / 255, "NHWC")
    for other in (steps, *PRESETS.values()):
        assert Preprocessing.parse(str(other)) == other
    assert Preprocessing.parse("imagenet,crop=192").crop == (192,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no KEY=VALUE"),
        ("scales=1", "'scales=1' is no KEY=VALUE of these keys: resize, crop"),
        ("scale=1/0", "scale=1/0 cannot be read"),
        ("scale=x", "scale=x cannot be read"),
        ("resize=1x2x3", "no HEIGHTxWIDTH"),
        ("crop=0", "crop=0 is no edge"),
        ("std=0", "std has a 0"),
        ("colors=CMYK", "none of RGB, BGR, L"),
        ("layout=NWHC", "none of NCHW"),
        ("interpolation=cubic", "none of nearest"),
        ("letterbox=32,crop=3", "letterbox is instead"),
    ],
)
def test_what_is_no_preprocessing(text, words):
    with pytest.raises(GraphoptError) as caught:
        Preprocessing.parse(text)
    assert words in str(caught.value)


def test_bad_images_and_models(pictures):
    folder, _ = pictures
    for dims, options, words in (
        ("float[N, 3, H, W]", None, "is an image: give the preprocessing"),
        ("float[N, C, H, W]", "unit", "add layout=NCHW or layout=NHWC"),
        ("float[N, T]", "unit", "is no image: 4 dims"),
        ("float[N, 3, H, W]", "mean=1:2", "mean has 2 numbers for 3 channels"),
        ("float[N, 3, H, W]", "layout=CHW", "layout=CHW does not fit"),
    ):
        with pytest.raises(GraphoptError) as caught:
            feeds_of(folder, model(dims), preprocess=options)
        assert words in str(caught.value)
    with pytest.raises(GraphoptError, match=r"only \.npz and \.npy files hold batches"):
        feeds_of(folder, NCHW, preprocess="unit", batched=True)
    (folder / "cat" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(GraphoptError, match=r"1\.png' is no image that can be read"):
        feeds_of(folder, NCHW, preprocess="unit")
    content = (folder / "cat" / "10.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(GraphoptError, match=r"1\.png' is no image that can be read"):
        feeds_of(folder, NCHW, preprocess="unit")


def test_without_pillow(pictures, monkeypatch):
    folder, _ = pictures
    real = builtins.__import__

    def importing(name, *more):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[images\]'"):
        feeds_of(folder, NCHW, preprocess="unit")
