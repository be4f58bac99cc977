"""Python of the user's, by name: "module:function", found in the current folder, too."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from graphopt.errors import GraphoptError

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_reference(text: str) -> bool:
    """Whether text has the form "module:function".

    >>> is_reference("my.data:samples"), is_reference("C:/data"), is_reference("data")
    (True, False, False)
    """
    return _REFERENCE.fullmatch(text) is not None


def load_reference(text: str) -> Callable[..., Any]:
    """The function (or another callable) of that name; its module is imported, which runs it: that is trusting it.

    Raises GraphoptError where there is none.

    >>> load_reference("math:sqrt")(4.0)
    2.0
    """
    if not is_reference(text):
        raise GraphoptError(f"{text!r} is no MODULE:FUNCTION, such as my_data:samples")
    module_name, _, path = text.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise GraphoptError(
                f"there is no module {missing!r} (of {text!r}) in {here} or among what is installed"
            ) from None
        raise GraphoptError(f"module {module_name!r} needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise GraphoptError(f"module {module_name!r} failed: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise GraphoptError(f"module {module_name!r} has no {path!r}; it has {_names(sys.modules[module_name])}")
        found = getattr(found, part)
    if not callable(found):
        raise GraphoptError(f"{text!r} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _names(module: Any) -> str:
    names = [name for name, item in vars(module).items() if callable(item) and not name.startswith("_")]
    return ", ".join(names[:8]) or "no functions"
