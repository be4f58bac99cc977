"""Running one rule or pass on one model, and what it said and did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError, ModelError
from graphopt.testing.rules.trace import SECONDS, Endless

__all__ = ["Applied", "apply"]


@dataclass
class Applied:
    """model: the result. fired: rewrites made. refused: reasons given. error: what the rule or its result broke.
    endless: it took too long, and was stopped."""

    model: ModelProto | None = None
    fired: int = 0
    refused: list[str] = field(default_factory=list)
    error: str = ""
    endless: bool = False


def apply(item: Any, model: ModelProto, target: str, fast_math: bool = False) -> Applied:
    """Runs a rule, or a pass, alone; fast_math: where only finite values count. Raises ModelError for a model that
    graphopt does not load."""
    from graphopt.finish import check
    from graphopt.rewrite import Context

    original = ir.from_proto(model)
    work = ir.from_proto(model)
    work.fast_math = fast_math
    ctx = Context(target)
    try:
        with np.errstate(all="ignore"):  # a warning of numpy's is no fault, and must not hide one
            item.run(work, ctx)
        for graph in work.scopes():
            graph.ensure_sorted()
        report = ctx.close()
        done = Applied(fired=ctx.count, refused=sorted(set().union(*report.refusals.values(), ())))
        if done.fired or _bytes(work) != _bytes(original):
            done.fired = max(1, done.fired)
            check(original, work)
            done.model = ir.to_proto(work)
    except Endless:
        return Applied(fired=1, error=f"it does not come to an end: stopped after {SECONDS:g} s", endless=True)
    except ModelError as error:
        return Applied(fired=1, error=f"it leaves a broken model: {error}")
    except GraphoptError as error:
        return Applied(fired=1, error=f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - a rule may fail in any way
        return Applied(fired=1, error=f"it raises {type(error).__name__}: {error}")
    return done


def _bytes(model: ir.Model) -> bytes:
    return model.commit().SerializeToString(deterministic=True)
