"""Convolutions, pooling, resampling: operators over the spatial axes of [N, C, ...]."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import FLOATS, Call, Shape, plain
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit, Var


def window(c: Call, spatial: Shape, kernel: Shape) -> None:
    """strides, dilations, pads and auto_pad that leave something."""
    n = len(spatial)
    c.attr("strides", None, [1] * n, [2] * n, [*[1] * (n - 1), 2])
    small = all((k - 1) * 2 < s for k, s in zip(kernel, spatial, strict=False))
    if small and "auto_pad" not in c.attrs:
        c.attr("dilations", None, None, None, [1] * n, [2] * n)
    if not {"auto_pad", "pads", "dilations"} & set(c.attrs) and c.chooser.chance(15):
        # ORT computes negative pads where the stride is larger than the kernel.
        same = ("SAME_UPPER", "SAME_LOWER") if min(kernel) > 1 or "strides" not in c.attrs else ()
        c.attrs["auto_pad"] = c.chooser.pick(("VALID", *same, "NOTSET"))
    if c.attrs.get("auto_pad", "NOTSET") == "NOTSET" and min(kernel) > 1:
        c.attr("pads", None, [1] * (2 * n), [0] * (2 * n), [0] * n + [1] * n, [1] * n + [0] * n)


def image(c: Call, slot: int, channels: int | None, rank: int) -> Var:
    """A new operand [N, C, ...] with a few pixels."""
    spatial = [c.chooser.pick((4, 5, 3, 6)) for _ in range(rank - 2)]
    return c.make(slot, (c.chooser.pick((1, 2)), channels or c.chooser.pick((2, 3, 1, 4)), *spatial))


def operands(c: Call, x_slot: int = 0, w_slot: int = 1, *, transposed: bool = False) -> None:
    """Input and weights of a convolution, with `group` and `kernel_shape`."""
    x, w = c.given(x_slot), c.given(w_slot)
    rank = (
        x.rank if x is not None else w.rank if w is not None else c.chooser.pick((4, 3, 5) if not c.bound else (4, 3))
    )
    if rank is None or rank < 3:
        raise DoesNotFit(f"{c.op} needs spatial axes")
    group = c.attrs.get("group", 1 if w is not None or not c.chooser.chance(40) else 2)
    if x is not None and w is not None and not transposed and c.shape(w_slot)[1]:
        group = c.shape(x_slot)[1] // c.shape(w_slot)[1]
    if x is not None and (not group or c.shape(x_slot)[1] % group):
        group = 1
    if group != 1:
        c.attrs["group"] = group
    if x is None:
        channels = None if w is None else c.shape(w_slot)[0] if transposed else c.shape(w_slot)[1] * group
        image(c, x_slot, channels or group * c.chooser.pick((2, 1, 3)), rank)
    shape = c.shape(x_slot)
    if 0 in shape:
        raise DoesNotFit(f"{c.op} of nothing")
    if w is None:
        wanted = c.attrs.get("kernel_shape")
        kernel = wanted or [1] * len(shape[2:])
        if not wanted and c.chooser.chance(75):
            kernel = [c.chooser.pick([k for k in (1, 3, 2) if k <= size]) for size in shape[2:]]
        out = c.chooser.pick((2, 1, 3))
        first, second = (shape[1], out) if transposed else (group * out, shape[1] // group)
        c.make(w_slot, (first, second, *kernel))
    kernel_shape = c.shape(w_slot)[2:]
    if 0 in c.shape(w_slot) or len(kernel_shape) != rank - 2:
        raise DoesNotFit("no weights")
    if not transposed and any(k > size for k, size in zip(kernel_shape, shape[2:], strict=True)):
        raise DoesNotFit("the kernel is larger than the image")
    if c.chooser.chance(60):
        c.attrs.setdefault("kernel_shape", list(kernel_shape))


def _conv(c: Call) -> None:
    operands(c)
    window(c, c.shape(0)[2:], c.shape(1)[2:])
    if c.wants(2):
        c.exact(2, (c.shape(1)[0],))


def _conv_transpose(c: Call) -> None:
    operands(c, transposed=True)
    n = len(c.shape(0)) - 2
    c.attr("strides", None, [1] * n, [2] * n)
    c.attr("dilations", None, None, [1] * n, [2] * n)
    if min(c.shape(1)[2:]) > 2:
        c.attr("pads", None, [1] * (2 * n), [0] * (2 * n))
    if c.attrs.get("strides") == [2] * n:
        c.attr("output_padding", None, None, [1] * n)
    if c.wants(2):
        c.exact(2, (c.shape(1)[1] * c.attrs.get("group", 1),))


def _pool(c: Call) -> None:
    if c.given(0) is None:
        image(c, 0, None, c.chooser.pick((4, 3, 5)))
    c.any(0, (4, 3, 5))
    shape = c.shape(0)
    kernel = c.attr("kernel_shape", *([k] * (len(shape) - 2) for k in (2, 1, 3) if k <= min(shape[2:])))
    if kernel is None:
        raise DoesNotFit("no kernel fits")
    if c.opset < 10 or c.op == "LpPool" or (c.op == "AveragePool" and c.opset < 19):
        c.attrs.setdefault("dilations", None)
    window(c, shape[2:], tuple(kernel))
    c.attrs = {k: v for k, v in c.attrs.items() if v is not None}
    if c.attrs.get("auto_pad", "NOTSET") == "NOTSET":
        c.attr("ceil_mode", None, None, 1, 0)
    c.attr("count_include_pad", None, 1)
    c.attr("p", None, 1, 2)
    if c.op == "MaxPool" and c.opset >= 8 and c.n_out is None and c.chooser.chance(15):
        c.n_out = 2
        c.attr("storage_order", None, 1)


def _global(c: Call) -> None:
    if c.given(0) is None:
        image(c, 0, None, c.chooser.pick((4, 3, 5)))
    c.any(0, (4, 3, 5))
    c.attr("p", None, 1, 2)


def _max_unpool(c: Call) -> list[Var]:
    if c.given(0) is not None or c.given(1) is not None:
        raise DoesNotFit("MaxUnpool undoes a MaxPool of its own")
    x = c.make(0, (1, c.chooser.pick((2, 1)), 4, c.chooser.pick((4, 2))), None, (TensorProto.FLOAT,))
    n = 2
    pooled = c.draft.node("MaxPool", [x], 2, kernel_shape=[2] * n, strides=[2] * n)
    return c.draft.node("MaxUnpool", pooled, 1, kernel_shape=[2] * n, strides=[2] * n)


def _upsample(c: Call) -> None:
    x = image(c, 0, None, 4) if c.given(0) is None else c.any(0, (4,))
    mode = c.attr("mode", None, "nearest", "linear")
    scales = [1.0, 1.0, *c.chooser.pick(((2.0, 2.0), (1.0, 1.0), (1.5, 2.0) if mode != "linear" else (2.0, 2.0)))]
    if c.has_attr("scales"):
        c.attr("scales", scales)
    elif x is not None:
        c.parameter(1, np.array(scales, np.float32))


def _resize(c: Call) -> None:
    if c.given(0) is None:
        image(c, 0, None, 4)
    c.any(0, (4,))
    shape = c.shape(0)
    smooth = ("linear", "cubic" if c.opset >= 11 else "linear") if c.dtype(0) in FLOATS else ()
    mode = c.attr("mode", None, "nearest", *smooth)
    scales = (1.0, 1.0, *c.chooser.pick(((2.0, 2.0), (1.0, 1.0), (0.5, 0.5), (1.5, 2.0))))
    if c.opset < 11:
        c.parameter(1, np.array(scales, np.float32))
        return
    transforms = ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]
    c.attr("coordinate_transformation_mode", None, *transforms)
    if mode in (None, "nearest"):
        c.attr("nearest_mode", None, "floor", "ceil", "round_prefer_ceil", "round_prefer_floor")
    elif c.opset >= 18 and mode == "linear" and scales[2] < 1:
        c.attr("antialias", None, None, 1)
    if mode == "cubic":
        c.attr("exclude_outside", None, 1)
        c.attr("cubic_coeff_a", None, -0.5)
    if c.opset < 13:  # roi and scales are required inputs, which may be empty
        c.exact(1, (0,), plain)
    if c.given(3) is None and (c.given(2) is not None or 2 in c.const_slots or c.chooser.chance(70)):
        c.parameter(2, np.array(scales, np.float32))
        return
    if c.opset < 13:
        c.exact(2, (0,), plain)
    wanted = [max(1, int(size * scale)) for size, scale in zip(shape, scales, strict=True)]
    c.parameter(3, np.array(wanted, np.int64))


def _grid_sample(c: Call) -> None:
    if c.given(0) is None:
        image(c, 0, None, 4)
    c.any(0, (4,))
    c.exact(1, (c.shape(0)[0], 2, 3, 2), plain)
    linear = "bilinear" if c.opset < 20 else "linear"
    c.attr("mode", None, "nearest", linear)
    c.attr("padding_mode", None, "zeros", "border", "reflection")
    c.attr("align_corners", None, 1)


def _affine_grid(c: Call) -> None:
    batch = c.shape(0)[0] if c.given(0) is not None else c.chooser.pick((1, 2))
    c.exact(0, (batch, 2, 3), plain)
    c.parameter(1, np.array([batch, 1, 2, 3], np.int64))
    c.attr("align_corners", None, 1)


def _rois(c: Call) -> None:
    if c.given(0) is None:
        image(c, 0, None, 4)
    c.any(0, (4,), FLOATS)
    if c.op == "MaxRoiPool":
        c.exact(1, (2, 5), np.array([[0, 0, 0, 2, 2], [0, 1, 1, 2, 2]], np.float32))
        c.attr("pooled_shape", [1, 1], [2, 2])
        return
    c.exact(1, (2, 4), np.array([[0, 0, 2, 2], [1, 0, 3, 2.5]], np.float32))
    c.parameter(2, np.zeros(2, np.int64))
    c.attr("output_height", None, 2)
    c.attr("output_width", None, 1, 2)
    c.attr("sampling_ratio", None, 2)
    c.attr("mode", None, "avg")
    c.attr("spatial_scale", None, 0.5)


def _nms(c: Call) -> list[Var]:
    boxes = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32)
    c.exact(0, (1, 3, 4), boxes)
    c.exact(1, (1, 2, 3), plain)
    if c.wants(2, 90):
        c.parameter(2, np.array(2, np.int64))
    if c.wants(3):
        c.parameter(3, np.array(0.5, np.float32))
    if c.wants(4):
        c.parameter(4, np.array(0.1, np.float32))
    c.attr("center_point_box", None, 1)
    return c.emit((None, 3))


def _col2im(c: Call) -> None:
    c.exact(0, (1, 4 * c.chooser.pick((1, 2)), 6), plain, FLOATS)
    c.parameter(1, np.array([3, 4], np.int64))
    c.parameter(2, np.array([2, 2], np.int64))


def _deform_conv(c: Call) -> None:
    c.exact(0, (1, 2, 4, 4), plain)
    c.exact(1, (2, 2, 2, 2), plain)
    c.exact(2, (1, 8, 3, 3), plain)
    if c.wants(3):
        c.exact(3, (2,), plain)
    c.attr("kernel_shape", None, [2, 2])


ENTRIES = [
    Entry("Conv", _conv),
    Entry("ConvTranspose", _conv_transpose),
    Entry("AveragePool", _pool),
    Entry("MaxPool", _pool),
    Entry("LpPool", _pool),
    Entry("GlobalAveragePool", _global),
    Entry("GlobalMaxPool", _global),
    Entry("GlobalLpPool", _global, until=21),
    Entry("MaxUnpool", _max_unpool),
    Entry("Upsample", _upsample, until=9),
    Entry("Resize", _resize),
    Entry("GridSample", _grid_sample),
    Entry("AffineGrid", _affine_grid),
    Entry("RoiAlign", _rois),
    Entry("MaxRoiPool", _rois, until=21),
    Entry("NonMaxSuppression", _nms),
    Entry("Col2Im", _col2im),
    Entry("DeformConv", _deform_conv),
]
