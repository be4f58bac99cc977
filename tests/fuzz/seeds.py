"""The models that are mutated: small ones of many kinds, as bytes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

from onnx import ModelProto

LARGEST = 256 << 10  # bytes: larger models would only make mutations slower and rarer


@dataclass(frozen=True)
class Seed:
    """A model to start from."""

    name: str
    data: bytes


@lru_cache(maxsize=1)
def own_seeds() -> tuple[Seed, ...]:
    """What the other tests are made of: the models that passes run on, the traps, the demo."""
    from conformance.models import MODELS
    from traps.case import all_cases

    from graphopt.demo import demo_model

    found = [Seed(f"conformance/{name}", _bytes(make())) for name, make in MODELS.items()]
    found += [Seed(f"traps/{case.group}/{case.name}", _bytes(case.build())) for case in all_cases()]
    found.append(Seed("demo", _bytes(demo_model())))
    return tuple(seed for seed in found if len(seed.data) <= LARGEST)


@lru_cache(maxsize=1)
def backend_seeds() -> tuple[Seed, ...]:
    """The single-operator models of onnx's own backend tests, made from the installed package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its data overflow on purpose
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    found = sorted((Seed(f"onnx/{case.name}", _bytes(case.model)) for case in cases), key=lambda seed: seed.name)
    return tuple(seed for seed in found if len(seed.data) <= LARGEST)


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
