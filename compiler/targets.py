"""Finding the function that a command line names: ``path/file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..ir.errors import AttncError
from .errors import nearest


class UsageError(AttncError):
    """A command that was called the wrong way; the command line exits with status 2."""

    exit_status = 2


class TargetError(UsageError):
    """A target that names no function."""


@dataclass(frozen=True)
class Target:
    """A function, and the module around it."""

    text: str
    function: Callable[..., Any]
    module: ModuleType

    @property
    def example_inputs(self) -> Callable[[], Any] | None:
        """The module's ``example_inputs``, where it has one."""
        found = getattr(self.module, "example_inputs", None)
        return found if callable(found) else None


def load_target(text: str) -> Target:
    """Import what ``text`` names.  Raises :class:`TargetError`, saying which part was not found."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(
            f"cannot read the target {text!r}: write path/file.py:function or package.module:function"
            + _callables_hint(text)
        )
    module = load_module(Path(place)) if place.endswith(".py") else _import_module(place)
    return Target(text, _find(module, name, place), module)


def _callables_hint(text: str) -> str:
    # A bare file is the likely mistake: say what it could have been.
    if not text.endswith(".py") or not Path(text).is_file():
        return ""
    names = _callables(load_module(Path(text)))
    return f"\n{text} has: {', '.join(names)}" if names else f"\n{text} defines no function"


def load_module(path: Path) -> ModuleType:
    """Import a file as ``python file.py`` would find it."""
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(str(path), siblings, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise TargetError(f"no such file: {path}{hint}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # as `python file.py` does, so that the file's neighbours can be imported
        sys.path.insert(0, folder)
    name = path.stem if path.stem not in sys.modules else f"attnc_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TargetError(f"importing {path} failed: {_blame(error, path)}") from error
    return module


def _import_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script's path lacks the working directory
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(
                f"no such module: {name} (a file is written with its .py: path/file.py:function)"
            ) from None
        raise TargetError(f"importing {name} failed: {error}") from error
    except Exception as error:
        raise TargetError(f"importing {name} failed: {_blame(error, None)}") from error


def _blame(error: Exception, path: Path | None) -> str:
    """The error in one line, with the user's line where there is one."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()]
    return f"{text} (line {own[-1].lineno}: {own[-1].line})" if own else text


def _find(module: ModuleType, name: str, place: str) -> Callable[..., Any]:
    found: Any = module
    owner: type | None = None
    for part in name.split("."):
        if not hasattr(found, part):
            holder = vars(found) if owner else _callables(module)
            names = [n for n in holder if not n.startswith("_")]
            raise TargetError(f"{place} has no {name!r}" + (nearest(part, names) if names else ""))
        owner = found if inspect.isclass(found) else None
        found = getattr(found, part)
    if inspect.isclass(found):
        raise TargetError(f"{place}:{name} is a class; name one of its methods: {place}:{name}.forward")
    if not callable(found):
        raise TargetError(f"{place}:{name} is {type(found).__name__}, not a function")
    return _bind(owner, name, place) if owner is not None else found


def _bind(owner: type, name: str, place: str) -> Callable[..., Any]:
    """The method ``name`` of a fresh ``owner()``; static and class methods need no instance."""
    method = name.rsplit(".", 1)[-1]
    if isinstance(inspect.getattr_static(owner, method), staticmethod | classmethod):
        return getattr(owner, method)
    try:
        return getattr(owner(), method)
    except TypeError as error:
        raise TargetError(
            f"{place}:{name} needs an instance, but {owner.__name__}() failed: {error}; "
            "make one in the file and name a function that calls it"
        ) from None


def _callables(module: ModuleType) -> list[str]:
    """Functions and compiled functions that the module itself defines, in order."""
    own = module.__name__
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and name != "example_inputs"
        and (getattr(value, "__module__", None) == own or hasattr(value, "eager"))
    ]
