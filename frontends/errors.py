"""What a user can get wrong, one class each: what was found, where, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.errors import AttncError

if TYPE_CHECKING:
    from .graph import Location


class NotAFunctionError(AttncError, TypeError):
    """Something that cannot be called was given to ``attnc.compile``."""


class UsageError(AttncError, ValueError):
    """An option of ``attnc.compile`` that does not exist, or a value it cannot take."""


class ArgumentError(AttncError, ValueError):
    """An argument of a call that no compiled function takes."""

    # not a TypeError: PyTorch's operators would turn that into "unsupported operand type(s)"


class RankError(ArgumentError):
    """A tensor with too few dimensions."""


class DtypeError(ArgumentError):
    """A tensor of an element type that the op, or its gradient, does not take."""


class DeviceError(ArgumentError):
    """Tensors on more than one device."""


class ShapeError(AttncError, ValueError):
    """Sizes that do not fit; the message is PyTorch's own."""


class Mismatch(Exception):
    """Sizes that do not fit, found by a shape rule; the tracer adds where."""


class MissingDimension(Mismatch):
    """The same for a dimension that a tensor does not have."""


class DataDependentError(AttncError):
    """Python code that needs a tensor's values: a branch, ``item()``, ``len`` of a result."""


class MutationError(AttncError):
    """A write that would be seen outside the function, or through a view."""


class UnsupportedOpError(AttncError):
    """A PyTorch op that cannot be traced."""


class UnknownTensorError(AttncError):
    """A tensor that is neither an argument nor reachable from the function by name."""


class LeakedTracerError(AttncError):
    """A tensor of a trace used after it."""


class FallbackWarning(UserWarning):
    """Something runs in eager PyTorch."""


class RecompileWarning(UserWarning):
    """A function is compiled again and again."""


class FallbackError(AttncError):
    """Something would run in eager PyTorch, and ``fallback="error"`` was asked for."""


class GradientNotAvailable(FallbackError):
    """A gradient that only eager PyTorch can compute."""


class ProgramError(AttncError):
    """A compiled program that is called by name is not there, or is given other tensors than it takes."""


class UnknownSizeError(UnsupportedOpError):
    """A fact about a size that only running an op tells."""

    def __init__(self, reason: str, location: Location | None = None):
        from .locate import user_line, with_text

        self.reason = reason
        super().__init__(f"{with_text(location or user_line())}: {reason}; compute that op outside and pass its result")


class TransformError(AttncError):
    """A transformation of PyTorch that a compiled function cannot take part in."""
