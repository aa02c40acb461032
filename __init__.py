"""attnc, an attention compiler: eager PyTorch attention in, fused CPU and GPU kernels out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import patterns as patterns
    from .compiler.autotune.shipping import load_tuned as load_tuned
    from .compiler.autotune.tuner import autotune as autotune
    from .compiler.driver import STAGES as STAGES
    from .compiler.lowered import Lowered as Lowered
    from .compiler.pages import release_memory as release_memory
    from .compiler.validation import validate as validate
    from .frontends.attention import attention as attention
    from .frontends.compiled import CompiledAttention as CompiledAttention
    from .frontends.compiled import compile as compile
    from .frontends.errors import FallbackError as FallbackError
    from .frontends.errors import FallbackWarning as FallbackWarning
    from .frontends.flex import create_block_mask as create_block_mask
    from .frontends.flex import flex_attention as flex_attention
    from .ir.errors import AttncError as AttncError

__version__ = "0.1.0"

_ERRORS = """ArgumentError DataDependentError DeviceError DtypeError FallbackError FallbackWarning GradientNotAvailable
LeakedTracerError MutationError NotAFunctionError ProgramError RankError RecompileWarning ShapeError TransformError
UnknownTensorError UnsupportedOpError UsageError"""
# public name -> module that defines it, imported on first use (``attnc opt`` must not import torch)
_HOME = {
    "compile": ".frontends.compiled",
    "CompiledAttention": ".frontends.compiled",
    "STAGES": ".compiler.driver",
    "Lowered": ".compiler.lowered",
    "Explanation": ".compiler.explain",
    "validate": ".compiler.validation",
    "ValidationReport": ".compiler.validation",
    "autotune": ".compiler.autotune.tuner",
    "TuningReport": ".compiler.autotune.tuner",
    "load_tuned": ".compiler.autotune.shipping",
    "TuningError": ".compiler.autotune.errors",
    "TunedFileError": ".compiler.autotune.errors",
    "TuningWarning": ".compiler.autotune.errors",
    "release_memory": ".compiler.pages",
    "attention": ".frontends.attention",
    "flex_attention": ".frontends.flex",
    "create_block_mask": ".frontends.flex",
    "BlockMask": ".frontends.flex",
    "AttncError": ".ir.errors",
    **dict.fromkeys(_ERRORS.split(), ".frontends.errors"),
    "BackendError": ".compiler.errors",
    "OptionError": ".compiler.errors",
}

__all__ = ["__version__", "patterns", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "patterns":
        return importlib.import_module(".patterns", __name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .compiler.late_methods import late_methods

    with late_methods():
        value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
