"""The user's line that is running now."""

from __future__ import annotations

import linecache
import os
import sys
from functools import cache

import torch

from .graph import Location

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# not the package folder itself: a checkout holds tests and examples, which are users
_INSIDE = tuple(os.path.join(_PACKAGE, part) + os.sep for part in ("frontends", "compiler", "ir", "backends"))
_INSIDE += (
    os.path.dirname(os.path.abspath(torch.__file__)) + os.sep,
    os.path.dirname(os.__file__) + os.sep + "context",
)


@cache
def _inside(file: str) -> bool:
    path = os.path.abspath(file)
    return path.startswith(_INSIDE) or os.path.realpath(path).startswith(_INSIDE) or file.startswith("<frozen")


def user_line() -> Location:
    """The innermost line outside PyTorch and attnc."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _inside(frame.f_code.co_filename):
        frame = frame.f_back
    return Location(frame.f_code.co_filename, frame.f_lineno)


def with_text(location: Location) -> str:
    """``file.py:12: the line``, for messages."""
    text = location.text or linecache.getline(location.file, location.line).strip()
    return f"{location}: {text}" if text else str(location)
