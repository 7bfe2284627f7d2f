"""Imports a user's function by the name FILE.py:FUNCTION."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def own_function(place: str, option: str) -> Callable[..., Any]:
    """The function FILE.py:FUNCTION; ValueError, which names the option, where there is none.

    The file is imported under its own name, with its folder on `sys.path`, so that worker processes
    of this machine can unpickle its functions; nodes of a Ray cluster need that folder on their
    PYTHONPATH.
    """
    file, separator, name = place.rpartition(":")
    path = Path(file)
    if not separator or path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{option}: {place} is not FILE.py:FUNCTION of a file that exists")
    if not path.stem.isidentifier():
        raise ValueError(f"{option}: {path.name} cannot be imported by its name; rename the file")
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.import_module(path.stem)
    if Path(str(module.__file__)).resolve() != path.resolve():
        raise ValueError(
            f"{option}: another module is called {path.stem} ({module.__file__}); rename {path}"
        )
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{option}: {path} has no function {name}")
    found: Callable[..., Any] = function
    return found
