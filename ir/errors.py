"""Errors: one class per kind of mistake, each saying what was wrong, where, and what to do."""

from __future__ import annotations


class AttncError(Exception):
    """Base of every error that attnc raises on purpose."""


class IRSyntaxError(AttncError):
    """Text that is not IR."""


class IRVerifyError(AttncError):
    """IR that breaks a rule of its dialect."""
