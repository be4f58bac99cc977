"""Images as feeds: decoded by Pillow, then the preprocessing that the model was trained with.

Resize and centre crop are those of torchvision (`Resize(256), CenterCrop(224)`: the shorter edge becomes 256, the
longer one int(256 * longer / shorter); antialiased bilinear interpolation), so that ranges are of what the model sees
in use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from graphopt.calibration.checks import Input
from graphopt.errors import GraphoptError

NDArray = np.ndarray[Any, Any]
Size = tuple[int, ...]

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3, "lanczos": 1}  # as in PIL.Image.Resampling
_COLORS = ("RGB", "BGR", "L")
_LAYOUTS = ("NCHW", "NHWC", "CHW", "HWC")
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: resize, crop, scale, then (x - mean) / std.

    resize: (edge,), what the shorter edge becomes; (height, width), stretched; (), the model's own size, stretched (or,
    where the crop says the size, none at all). crop: (edge,) or (height, width) out of the centre. letterbox: (edge,)
    or (height, width) that the image is fitted into, keeping its proportions, in grey 114 (the YOLO family). scale:
    factor on pixels, which are 0 to 255. mean, std: one number, or one a channel, of scaled pixels. colors: "RGB",
    "BGR" or "L"; layout: "NCHW", "NHWC", "CHW" or "HWC"; both follow from the input's dims if left empty.
    interpolation: "bilinear", "bicubic", "nearest" or "lanczos".

    >>> Preprocessing.parse("resize=256,crop=224,mean=0.5,std=0.25:0.5:1,scale=1/255").crop
    (224,)
    >>> str(Preprocessing(scale=1.0, colors="BGR"))
    'colors=BGR'
    """

    resize: Size = ()
    crop: Size = ()
    letterbox: Size = ()
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    colors: str = ""
    layout: str = ""
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("resize", "crop", "letterbox"):
            size = getattr(self, name)
            if len(size) > 2 or any(edge < 1 for edge in size):
                raise GraphoptError(f"preprocessing: {name}={_spell(size)} is no edge and no HEIGHTxWIDTH")
        if self.letterbox and (self.resize or self.crop):
            raise GraphoptError("preprocessing: letterbox is instead of resize and crop; give one of them")
        if 0.0 in self.std:
            raise GraphoptError("preprocessing: std has a 0, by which nothing can be divided")
        for name, known in (("colors", _COLORS), ("layout", _LAYOUTS), ("interpolation", tuple(_FILTERS))):
            value = getattr(self, name)
            if value not in known and (value or name == "interpolation"):
                raise GraphoptError(f"preprocessing: {name}={value} is none of {', '.join(known)}")

    @classmethod
    def parse(cls, text: str) -> Preprocessing:
        """Out of text: a preset ("imagenet", "unit", "yolo", "raw"), "key=value" fields, or a preset and then fields.

        Numbers are decimal or fractions ("1/255"), lists are separated by colons, sizes are "256" or "256x192".
        """
        found = cls()
        for index, part in enumerate(text.split(",")):
            key, given, value = (word.strip() for word in part.partition("="))
            if not given and index == 0 and key in PRESETS:
                found = PRESETS[key]
                continue
            if not given or key not in _READERS:
                known = f"{', '.join(_READERS)}; presets: {', '.join(PRESETS)}"
                raise GraphoptError(f"preprocessing {part.strip()!r} is no KEY=VALUE of these keys: {known}")
            try:
                parsed = _READERS[key](value)
            except (ValueError, ZeroDivisionError):
                raise GraphoptError(f"preprocessing {key}={value} cannot be read; see --help for examples") from None
            found = replace(found, **{key: parsed})
        return found

    def __str__(self) -> str:
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return ",".join(f"{name}={_spell(value)}" for name, value in given) or "raw"

    def of(self, given: Input) -> Preprocessing:
        """The same with layout and colors, and the size if need be, as a model's input has them. Raises GraphoptError
        where the input is no image's, or its dims do not say the layout."""
        dims, layout = given.dims or (), self.layout
        if not layout:
            if len(dims) not in (3, 4):
                raise GraphoptError(f"input {given.name!r} ({given}) is no image: 4 dims, or 3 without a batch")
            first, last = dims[-3], dims[-1]
            if (first in _CHANNELS) == (last in _CHANNELS):
                why = "its dims do not say where the channels are; add layout=NCHW or layout=NHWC"
                raise GraphoptError(f"input {given.name!r} ({given}): {why} to the preprocessing")
            layout = ("NCHW" if first in _CHANNELS else "NHWC")[4 - len(dims) :]
        if dims and len(layout) != len(dims):
            raise GraphoptError(f"preprocessing: layout={layout} does not fit input {given.name!r} ({given})")
        sizes = dict(zip(layout, dims, strict=True)) if dims else {}
        channels = sizes.get("C")
        colors = self.colors or ("L" if channels == 1 else "RGB")
        size: Size = self.resize
        height, width = sizes.get("H"), sizes.get("W")
        if not (size or self.crop or self.letterbox) and isinstance(height, int) and isinstance(width, int):
            size = (height, width)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, len(colors)):
                raise GraphoptError(f"preprocessing: {name} has {len(values)} numbers for {len(colors)} channels")
        return replace(self, layout=layout, colors=colors, resize=size)

    def load(self, path: str, dtype: np.dtype[Any]) -> NDArray:
        """One image, [1, ...] where the layout has N. Raises GraphoptError where the file is no image.

        To be called on what `of` returned.
        """
        pixels = self.pixels(path)
        if self.colors == "BGR":
            pixels = pixels[..., ::-1]
        if (self.scale, self.mean, self.std) != (1.0, (0.0,), (1.0,)):
            # float32 as in torchvision: ToTensor, then Normalize.
            pixels = pixels.astype(np.float32) * np.float32(self.scale)
            pixels = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        if "CHW" in self.layout:
            pixels = pixels.transpose(2, 0, 1)
        if dtype.kind in "iu" and pixels.dtype.kind == "f":
            limits = np.iinfo(dtype)
            pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        array: NDArray = np.ascontiguousarray(pixels, dtype)
        return array[None] if self.layout.startswith("N") else array

    def pixels(self, path: str) -> NDArray:
        """Resized and cropped, uint8 [height, width, channels]."""
        image_module = pillow()
        try:
            with image_module.open(path) as image:
                image = self._fit(image.convert("L" if self.colors == "L" else "RGB"), image_module)
                pixels = np.asarray(image, np.uint8)
        except FileNotFoundError:
            raise GraphoptError(f"image {path!r} does not exist; check the path") from None
        except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
            raise GraphoptError(f"{path!r} is no image that can be read ({_first_line(error)})") from error
        return pixels.reshape(*pixels.shape[:2], -1)

    def _fit(self, image: Any, image_module: Any) -> Any:
        quality = _FILTERS[self.interpolation]
        if self.letterbox:
            return self._letterboxed(image, image_module)
        if len(self.resize) == 2:
            image = image.resize((self.resize[1], self.resize[0]), quality)
        elif self.resize:
            width, height = image.size
            edge, shorter = self.resize[0], min(width, height)
            if shorter != edge:
                image = image.resize((edge * width // shorter, edge * height // shorter), quality)
        if self.crop:
            width, height = image.size
            rows, columns = self.crop[0], self.crop[-1]
            left, top = round((width - columns) / 2.0), round((height - rows) / 2.0)
            image = image.crop((left, top, left + columns, top + rows))
        return image

    def _letterboxed(self, image: Any, image_module: Any) -> Any:
        width, height = image.size
        rows, columns = self.letterbox[0], self.letterbox[-1]
        ratio = min(columns / width, rows / height)
        inner = max(1, round(width * ratio)), max(1, round(height * ratio))
        grey = 114 if self.colors == "L" else (114, 114, 114)
        box = image_module.new(image.mode, (columns, rows), grey)
        box.paste(
            image.resize(inner, _FILTERS[self.interpolation]), ((columns - inner[0]) // 2, (rows - inner[1]) // 2)
        )
        return box


def pillow() -> Any:
    """The module PIL.Image. Raises GraphoptError where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise GraphoptError("images need Pillow: pip install 'graphopt[images]'") from error
    return Image


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(text)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(":"))


def _size(text: str) -> Size:
    return tuple(int(part) for part in text.lower().split("x"))


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return ("x" if all(isinstance(item, int) for item in value) else ":").join(str(item) for item in value)
    return str(value)


_READERS: dict[str, Callable[[str], Any]] = {
    "resize": _size,
    "crop": _size,
    "letterbox": _size,
    "scale": _number,
    "mean": _numbers,
    "std": _numbers,
    "colors": str.upper,
    "layout": str.upper,
    "interpolation": str.lower,
}
PRESETS = {
    "raw": Preprocessing(),
    "unit": Preprocessing(scale=1 / 255),
    "yolo": Preprocessing(letterbox=(640,), scale=1 / 255),
    "imagenet": Preprocessing(
        resize=(256,), crop=(224,), scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
}
