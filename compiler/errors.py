"""Errors of the driver: one class per kind of mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from ..ir.errors import AttncError


class OptionError(AttncError):
    """An option or environment variable that does not exist, or a value that it cannot take."""


class BackendError(AttncError):
    """A backend that does not exist, or whose package is not installed."""


class StageError(AttncError):
    """A stage of compilation that does not exist."""


class PipelineError(AttncError):
    """A pass pipeline that cannot be read: an unknown pass or a wrong pass option."""


class InputError(AttncError):
    """Tensors that a compiled plan does not accept."""


class PassVerifyError(AttncError):
    """A pass that changed what the program computes (``ATTNC_VERIFY=each``)."""


class InternalError(AttncError):
    """A defect of the compiler; the message names a folder that replays it."""

    folder: Path | None = None


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'? Known: x, y``, the end of a message about an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(known)}"
