"""softmax(scale q k^T + mask) v, with heads swapped to the front and back   ==   Attention(q, k, v, mask; scale)
                                                                            ==   MultiHeadAttention(q, k, v; scale)

From opset 23 on, the first; before, com.microsoft's for ONNX Runtime, without a mask, or for one row of q. Its kernels
take and give heads in rows, so that the Transposes go. Measured, one thread, against what ONNX Runtime makes of the
operators: MultiHeadAttention 1.2 times (8 rows), 1.0 to 1.1 (128), 1.2 (1500), 1.4 for one row of 128; with masks less
than 1 from 32 rows on. Attention 1.1 (1500 rows) to 1.7 (32), 2.8 for one row of 128.

Spellings: the scale on q, on k, on both or on the product, multiplied or divided; q, k and v apart, or packed in one
product (batch, rows, 3, heads, size) and taken apart by Split, Slice or Gather; k and v of a cache, (batch, heads,
rows, size), as they are.

Guards: float32; heads and their size known, the size a multiple of 8 (others are slower); the same batch, proven; for
Attention a mask of (rows of q, rows of k), as ONNX Runtime spreads no other, and never infinite: of a row of -inf alone
it makes 0 instead of NaN (unless fast_math=True). Where a weight underflows to 0 behind a larger one, and its v is
infinite, the sum is NaN in the original and may be infinite.
"""

from __future__ import annotations

from graphopt.ir import Value
from graphopt.passes.collapse._bounded import is_bounded
from graphopt.passes.recognition._attention import (
    Attention,
    as_heads,
    find_attention,
    gains_rows,
    in_rows,
    is_cached,
    is_in_rows,
    type_of_rows,
)
from graphopt.passes.recognition._forms import is_float
from graphopt.passes.simplify._facts import equal
from graphopt.rewrite import Builder, Match, P, Refusal, const, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

PRODUCT = P.MatMul("q", "k").as_("product")
SCALED = one_of(PRODUCT, P.op("Mul", "Div")(PRODUCT, const("scale")).as_("scaled"))
FORM = P.MatMul(P.Softmax(one_of(SCALED, P.Add(SCALED, "mask"))).as_("softmax"), "v")


@rule("recognize-attention", FORM, opset=">=23", targets=["onnx", "onnxruntime"], measure="order")
def recognize_attention(m: Match, new: Builder) -> Outcome:
    """Attention written out, of heads in rows, becomes Attention."""
    found = _find(m)
    if found is None or isinstance(found, Refusal):
        return found
    if not is_in_rows(found):
        return refuse("keys or values have their heads in front, and swapping them costs what this gains")
    if found.mask is not None and not _spreads(found, found.mask, rows=True):
        return refuse("the mask is not proven to have a number for each row of q and k")
    if found.mask is not None and not (new.graph.model.fast_math or is_bounded(found.mask)):
        return refuse("a row masked with -inf alone is NaN, of which Attention makes 0; fast_math=True allows it")
    parts: dict[Value, tuple[Value, ...]] = {}
    q, k, v = (in_rows(item, new, parts) for item in (found.q, found.k, found.v))
    heads = (found.q.shape or (0, 0))[1]
    made = new.Attention(q, k, v, found.mask, q_num_heads=heads, kv_num_heads=heads, scale=found.scale)
    made.set_type(type_of_rows(found.q, found.v))
    return as_heads(made, found.v, new)


@rule("recognize-attention-onnxruntime", FORM, opset=">=7,<23", targets=["onnxruntime"], measure="order")
def recognize_attention_onnxruntime(m: Match, new: Builder) -> Outcome:
    """Attention written out, of heads in rows, becomes com.microsoft's MultiHeadAttention."""
    found = _find(m)
    if found is None or isinstance(found, Refusal):
        return found
    cached = is_cached(found)
    if not cached and not is_in_rows(found):
        return refuse("one of keys and values has its heads in front, and swapping it costs what this gains")
    if found.mask is not None and not _spreads(found, found.mask, rows=False):
        return refuse("with a mask it pays for one row of q alone")
    new.graph.model.require_opset("com.microsoft", 1)
    parts: dict[Value, tuple[Value, ...]] = {}
    q = in_rows(found.q, new, parts)
    k, v = (item.value if cached else in_rows(item, new, parts) for item in (found.k, found.v))
    operands, heads = (q, k, v, None, None, found.mask), (found.q.shape or (0, 0))[1]
    made = new.make("MultiHeadAttention", *operands, domain="com.microsoft", num_heads=heads, scale=found.scale)
    made.set_type(type_of_rows(found.q, found.v))
    return as_heads(made, found.v, new)


def _find(m: Match) -> Attention | Refusal | None:
    found = find_attention(m)
    if isinstance(found, Attention) and not gains_rows(found, m):
        return refuse("q or the result has its heads in front, or the size of a head is no multiple of 8")
    return found


def _spreads(found: Attention, mask: Value, rows: bool) -> bool:
    """Whether a mask certainly has the scores' last two dims (of which the first is to be 1, if not rows), and spreads
    over the others."""
    q, k = found.q.shape, found.k.shape
    if q is None or k is None or not mask.shape or not is_float(mask):
        return False
    if mask.rank != 4 and not (rows and mask.rank == 2):
        return False
    *front, first, last = mask.shape
    if not (equal(first, q[2]) and equal(last, k[2])) or not (rows or first == 1):
        return False
    return all(dim == 1 or equal(dim, size) for dim, size in zip(front, q[:2], strict=False))
