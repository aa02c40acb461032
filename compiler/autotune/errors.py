"""Errors of the autotuner: one class per kind of mistake."""

from __future__ import annotations

from ...ir.errors import AttncError


class TuningError(AttncError):
    """A function that cannot be tuned as asked."""


class TuningWarning(UserWarning):
    """A first call that was to be tuned runs with the compiler's own choice."""


class StorageError(AttncError):
    """A storage of trials that Optuna cannot open, or that fails."""


class TunedFileError(AttncError):
    """A file of tuned results that is none, is damaged, or was written by another attnc."""


class WrongResultError(AttncError):
    """A candidate whose numbers are beyond their limits."""
