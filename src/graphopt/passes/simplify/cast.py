"""Cast(x, to=T)   ==   x where x is of type T;  CastLike(x, like)   ==   Cast(x, to=type of like), or x.

Guards: the type of x, or of `like`, must be known for certain.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome

E8M0 = getattr(TensorProto, "FLOAT8E8M0", None)  # from onnx 1.19 on


@rule("eliminate-cast", P.Cast("x").as_("cast"))
def eliminate_cast(m: Match, new: Builder) -> Outcome:
    """Removes a Cast or CastLike to the type that its input has."""
    return m.x if m.x.dtype is not None and m.x.dtype == m.cast.attr("to") else None


@rule("resolve-cast-like", P.CastLike("x", "like").as_("cast"))
def resolve_cast_like(m: Match, new: Builder) -> Outcome:
    """Turns a CastLike whose target type is known into a Cast."""
    dtype = m.like.dtype
    if dtype is None:
        return refuse("the type to cast to is not known")
    if dtype == m.x.dtype:
        return m.x
    # round_mode means nothing for other types, for which ONNX Runtime refuses it.
    more: dict[str, Any] = {} if dtype == E8M0 else {"round_mode": None}
    return new.Cast(m.x, like=m.cast, to=dtype, **more)
