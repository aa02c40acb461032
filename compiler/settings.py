"""What a user can set from outside: the whole list of environment variables.

Each is also a key of ``options={...}`` of :func:`attnc.compile`, in lower case without the prefix
(``options={"verify": "each"}``); an option wins over the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import OptionError, nearest

VERIFY_LEVELS = ("off", "end", "structure", "each")
CACHE_MODES = ("on", "off", "refresh")
AUTOTUNE_MODES = ("use", "on", "off")


@dataclass(frozen=True)
class Variable:
    """One row of the table: how to read a value, and what it is for."""

    name: str
    read: Callable[[str], Any]
    help: str
    changes_code: bool = False  # such a setting is part of the key in the disk cache


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return read


def _mode(text: str) -> str:
    return _choice(*AUTOTUNE_MODES)({"True": "on", "False": "off"}.get(text, text))


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError("a number from 0 up")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(sorted(part.strip() for part in text.split(",") if part.strip()))


def _path(text: str) -> Path:
    return Path(text).expanduser()


VARIABLES: tuple[Variable, ...] = (
    Variable("ATTNC_CACHE_DIR", _path, "folder of the disk cache (default: the user's cache folder)"),
    Variable("ATTNC_CACHE", _choice(*CACHE_MODES), "on, off, or refresh: rebuild and overwrite what is there"),
    Variable("ATTNC_AUTOTUNE", _mode, "use: results of `attnc autotune` are used (the default); on: also tune at the "
             "first call where there is none; off: do without"),
    Variable("ATTNC_VERIFY", _choice(*VERIFY_LEVELS), "off, end (the verifier after the last pass; the default), "
             "structure (after each pass), or each: also interpret the program before and after each pass and compare"),
    Variable("ATTNC_DUMP", _path, "folder that receives the IR before and after each pass"),
    Variable("ATTNC_SKIP", _names, "names of optional passes to leave out, with commas", changes_code=True),
    Variable("ATTNC_OPT_BISECT_LIMIT", _count, "run only this many optional passes", changes_code=True),
    Variable("ATTNC_DEBUG", _count, "1: log builds and cache use; 2: also time passes; 3: also generated source; "
             "4: also IR after each pass"),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The values in force for one compilation."""

    cache_dir: Path | None = None
    cache: str = "on"
    autotune: str = "use"
    verify: str = "end"
    dump: Path | None = None
    skip: tuple[str, ...] = ()
    opt_bisect_limit: int | None = None
    debug: int = 0

    @staticmethod
    def of(options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the environment, then the settings among ``options``.  Raises :class:`OptionError`."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for variable in VARIABLES:
            key = option_name(variable)
            if text := environ.get(variable.name):
                values[key] = _read(variable, variable.name, text)
            if options and key in options:
                values[key] = _read(variable, f"option {key!r}", options[key])
        return Settings(**values)

    def code_key(self) -> str:
        """The part of the settings that generated code depends on."""
        keys = [option_name(v) for v in VARIABLES if v.changes_code]
        return " ".join(f"{key}={getattr(self, key)}" for key in keys)


def option_name(variable: Variable) -> str:
    return variable.name.removeprefix("ATTNC_").lower()


SETTING_OPTIONS = frozenset(option_name(v) for v in VARIABLES)
assert {f.name for f in fields(Settings)} == SETTING_OPTIONS


def _read(variable: Variable, what: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = ",".join(str(v) for v in value)
    try:
        return variable.read(str(value))
    except ValueError as error:
        raise OptionError(f"{what} is {str(value)!r}; expected {error}") from None


def check_environment(environ: Mapping[str, str] | None = None) -> list[str]:
    """A line for every ``ATTNC_`` variable that is set but unknown, for ``attnc doctor``."""
    environ = os.environ if environ is None else environ
    known = {v.name for v in VARIABLES}
    strange = sorted(name for name in environ if name.startswith("ATTNC_") and name not in known)
    return [f"{name} is not a variable of attnc{nearest(name, known)}" for name in strange]
