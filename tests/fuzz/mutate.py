"""One mutated file from a seed and a number, always the same one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from fuzz import structure, wire
from fuzz.bombs import BOMBS
from fuzz.seeds import Seed, backend_seeds, own_seeds


@dataclass(frozen=True)
class Mutant:
    """A file to be optimized: its bytes, and where they come from."""

    number: int
    origin: str
    kind: str
    data: bytes


def mutant(seed: int, number: int) -> Mutant:
    """The file `number` of the campaign `seed`: a bomb, damaged bytes, or a model with absurd parts; often several
    faults in one."""
    rng = Random(f"{seed}:{number}")
    draw = rng.random()
    if draw < 0.2:
        name = rng.choice(sorted(BOMBS))
        made, done = BOMBS[name](rng), [name]
        if isinstance(made, bytes):
            return Mutant(number, "bomb", name, made)
        if rng.random() < 0.15:
            done += _change(made, rng, 1)
        return Mutant(number, "bomb", "+".join(done), _bytes(made))
    base = _choose(rng)
    if draw < 0.45:
        data, done = base.data, []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change = rng.choice(wire.MUTATIONS)
            data = change(data, rng)
            done.append(change.__name__)
        return Mutant(number, base.name, "+".join(done), data)
    model = ModelProto.FromString(base.data)
    done = _change(model, rng, rng.choice((1, 1, 1, 1, 2, 3, 5)))
    data = _bytes(model)
    if rng.random() < 0.05:
        change = rng.choice(wire.MUTATIONS)
        data = change(data, rng)
        done.append(change.__name__)
    return Mutant(number, base.name, "+".join(done), data)


def _choose(rng: Random) -> Seed:
    return rng.choice(own_seeds() if rng.random() < 0.5 else backend_seeds())


def _change(model: ModelProto, rng: Random, times: int) -> list[str]:
    done = []
    for _ in range(times):
        change = rng.choice(structure.MUTATIONS)
        try:
            change(model, rng)
        except (ValueError, DecodeError, EncodeError):  # protobuf takes no such value there: then it is not there
            continue
        done.append(change.__name__)
    return done


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString())
