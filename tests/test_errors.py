from __future__ import annotations

import inspect
import pickle

import pytest

from graphopt import errors
from graphopt.errors import GraphoptError, PipelineSyntaxError, UnknownPassError

SAMPLES = [
    GraphoptError("m"),
    errors.ModelError("m"),
    errors.ExternalDataError("m"),
    UnknownPassError("a-pass", ["b-pass"]),
    PipelineSyntaxError("expected a name", "a,,b", 2),
    errors.OutputError("m"),
    errors.PassError("m", "fuse"),
    errors.RewriteCycle("m", "fuse"),
    errors.VerificationError("m", None),
]


def test_every_error_is_sampled_exported_and_says_when():
    classes = {item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, GraphoptError)}
    assert {type(sample) for sample in SAMPLES} == classes
    assert {item.__name__ for item in classes} == set(errors.__all__)
    assert all(item.__doc__ for item in classes)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_with_message_and_exit_code(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.exit_code == (1 if isinstance(error, errors.VerificationError) else 2)
    assert vars(again) == vars(error)


def test_unknown_pass_suggests_the_nearest_name():
    assert "did you mean 'fuse-conv-bn'?" in str(UnknownPassError("fuse-conv-bm", ["dce", "fuse-conv-bn"]))
    assert "did you mean" not in str(UnknownPassError("xyz", ["dce"]))


def test_syntax_errors_point_at_the_place():
    error = PipelineSyntaxError("expected a name", "a,,b", 2)
    assert (str(error), error.text, error.position) == ("expected a name", "a,,b", 2)
