"""What this backend cannot do, one class per kind."""

from __future__ import annotations

from ...ir.errors import AttncError


class UnsupportedKernelError(AttncError):
    """A tile program in a form that has no CPU lowering."""


class CpuTargetError(AttncError):
    """A CPU that does not exist, or not here."""


class CpuCompileError(AttncError):
    """MLIR or LLVM rejected generated code: a defect of this backend."""


class ObjectFileError(AttncError):
    """An object file that cannot be placed in memory."""


class ArgumentError(AttncError):
    """Tensors or sizes that a compiled kernel cannot run on."""
