"""Scripts of folders that we write, a repro or an extract: they need numpy and onnxruntime, nothing of graphopt, and
unpickle nothing."""

__all__ = ["REPLAY", "SCRIPT"]

_COMMON = '''import ctypes
import pathlib
import sys

import numpy as np
import onnxruntime as ort

here = pathlib.Path(__file__).parent
saved = np.load(here / "inputs.npz", allow_pickle=False)
# Types that numpy lacks are stored as bytes, and go in and come out as such.
CODES = {"bfloat16": 16, "float8e4m3fn": 17, "float8e4m3fnuz": 18, "float8e5m2": 19, "float8e5m2fnuz": 20, "uint4": 21,
         "int4": 22, "float4e2m1": 23, "uint2": 25, "int2": 26}


def given(path, kind):
    """The value of that name: sequences are stored as name[0], name[1], ..., maps as name{keys} and name{values}."""
    if kind.startswith("optional("):
        parts = [key for key in saved.files if key == path or key.startswith((path + "[", path + "{", path + "."))]
        return given(path, kind[9:-1]) if parts else None
    if kind.startswith("seq("):
        items = []
        while any(key.startswith(f"{path}[{len(items)}]") for key in saved.files):
            items.append(given(f"{path}[{len(items)}]", kind[4:-1]))
        return items
    if kind.startswith("map("):
        return dict(zip(saved[path + "{keys}"].tolist(), saved[path + "{values}"].tolist()))
    if kind.startswith("sparse_tensor("):
        parts = (saved[f"{path}.{part}"] for part in ("shape", "values", "indices"))
        sparse = ort.SparseTensor.sparse_coo_from_numpy(*parts, ort.OrtDevice.make("cpu", 0))
        return ort.OrtValue.ort_value_from_sparse_tensor(sparse)
    code = CODES.get(kind[7:-1])
    array = saved[path]
    if code is not None:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, code)
    return array.astype(object) if array.dtype.kind == "U" else array


def fetched(session, feeds):
    if not any(value.type[7:-1] in CODES for value in session.get_outputs()):
        return session.run(None, feeds)
    wrap = ort.OrtValue.ortvalue_from_numpy
    feeds = {name: wrap(x) if isinstance(x, np.ndarray) else x for name, x in feeds.items()}
    values = session.run_with_ort_values(None, feeds)
    return [np.frombuffer(ctypes.string_at(v.data_ptr(), v.tensor_size_in_bytes()), np.uint8) for v in values]


def run(name, level, **more):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(here / name), options, providers=["CPUExecutionProvider"], **more)
    feeds = {value.name: given(value.name, value.type) for value in session.get_inputs()}
    return session.get_outputs(), fetched(session, feeds)


def compare(name, x, y):
    """Prints how far apart two results are; returns whether they differ by more than rounding."""
    if isinstance(x, (list, dict)):
        if type(x) is not type(y) or len(x) != len(y):
            print(f"{name}: {len(x)} items became {len(y)}")
            return True
        keys = range(len(x)) if isinstance(x, list) else list(x)
        return any([key not in y if isinstance(x, dict) else False or compare(f"{name}[{key!r}]", x[key], y[key])
                    for key in keys])
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape or x.dtype != y.dtype:
        print(f"{name}: {x.dtype}{x.shape} became {y.dtype}{y.shape}")
        return True
    if x.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            both = np.isfinite(x) & np.isfinite(y)
            apart = int(np.count_nonzero(~both & (x != y) & ~(np.isnan(x) & np.isnan(y))))
            error = float(np.max(np.abs(np.where(both, x - y, 0)), initial=0))
            scale = float(np.max(np.abs(np.where(both, x, 0)), initial=0))
        odd = f", {apart} of {x.size} differ as NaN or infinity" if apart else ""
        print(f"{name}: largest difference {error:.6g} (largest value {scale:.6g}){odd}")
        return bool(apart or error > max(1e-5, 16 * float(np.finfo(x.dtype).eps)) * max(scale, 1e-30))
    count = int(np.count_nonzero(x != y))
    print(f"{name}: {count} of {x.size} elements differ")
    return count > 0


def shown(value):
    array = np.asarray(value) if not isinstance(value, (list, dict)) else value
    return " ".join(str(array).split())[:200]


'''

SCRIPT = (
    '''"""Runs both models on the inputs beside this file and prints how far apart they are.

Needs numpy and onnxruntime. Exit code: 1 when they differ, 0 when they agree.
"""

'''
    + _COMMON
    + """DISABLED = @DISABLED@  # of ONNX Runtime's optimizers: what it needs to run after.onnx right
level = ort.GraphOptimizationLevel
outputs, before = run("before.onnx", level.ORT_DISABLE_ALL)
ways = [("as it is run", level.ORT_ENABLE_ALL, {}), ("without ORT's optimizations", level.ORT_DISABLE_ALL, {})]
if DISABLED:
    ways.append((f"without ORT's {' and '.join(DISABLED)}", level.ORT_ENABLE_ALL, {"disabled_optimizers": DISABLED}))
wrong = False
for label, chosen, more in ways:
    try:
        _, after = run("after.onnx", chosen, **more)
    except Exception as error:
        print(f"{label}: after.onnx fails: {' '.join(str(error).split())}")
        wrong = True
        continue
    for value, x, y in zip(outputs, before, after):
        differs = compare(f"{label}: {value.name}", x, y)
        wrong = wrong or differs
        if differs:
            print(f"    expected {shown(x)}")
            print(f"    actual   {shown(y)}")
sys.exit(1 if wrong else 0)
"""
)

REPLAY = (
    '''"""Runs the model beside this file on its inputs and compares with what the whole model computed there.

Needs numpy and onnxruntime. Exit code: 1 when something differs, 0 when all agrees.
"""

'''
    + _COMMON
    + """kinds, results = run("part.onnx", ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
saved = np.load(here / "expected.npz", allow_pickle=False)
wrong = False
for kind, result in zip(kinds, results):
    if kind.type[7:-1] in CODES:
        expected = np.ascontiguousarray(saved[kind.name]).view(np.uint8).ravel()[: result.size]
    else:
        expected = given(kind.name, kind.type)
    wrong = compare(kind.name, expected, result) or wrong
print("differs" if wrong else "agrees")
sys.exit(1 if wrong else 0)
"""
)
