"""MLIR text to an object file, by the MLIR and LLVM inside torch-mlir."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .errors import CpuCompileError

# scf first: the later conversions see one function of blocks
PIPELINE = (
    "builtin.module(canonicalize,cse,loop-invariant-code-motion,convert-scf-to-cf,convert-vector-to-llvm,"
    "convert-math-to-llvm,convert-math-to-libm,convert-arith-to-llvm,convert-ub-to-llvm,convert-cf-to-llvm,"
    "convert-func-to-llvm,canonicalize,cse,reconcile-unrealized-casts)"
)


def compile_object(text: str, name: str, *, want_llvm: bool = False) -> tuple[bytes, str]:
    """The relocatable object for this host, and the module in the llvm dialect if wanted."""
    try:
        from torch_mlir.execution_engine import ExecutionEngine
        from torch_mlir.ir import Context, MLIRError, Module
        from torch_mlir.passmanager import PassManager
    except ImportError as error:
        raise CpuCompileError(f"compiling for the CPU needs the package torch-mlir: {error}") from None
    with Context(), tempfile.TemporaryDirectory() as folder:
        try:
            module = Module.parse(text)
            PassManager.parse(PIPELINE).run(module.operation)
        except MLIRError as error:
            raise CpuCompileError(f"kernel {name}: MLIR rejected the generated code: {error}") from None
        engine = ExecutionEngine(module, opt_level=3)
        engine.raw_lookup(name)  # code is generated on the first lookup
        path = Path(folder, "kernel.o")
        engine.dump_to_object_file(str(path))
        return path.read_bytes(), str(module) if want_llvm else ""
