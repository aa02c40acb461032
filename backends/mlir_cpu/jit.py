"""MLIR text to an object file, by the MLIR and LLVM inside torch-mlir."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .errors import CpuCompileError

# Emission leaves little to improve: code motion and cse, one conversion for all dialects, and LLVM's code generator.
# LLVM's own optimiser would take longer than all of that together, and make no kernel faster.
PIPELINE = "builtin.module(loop-invariant-code-motion,cse,convert-scf-to-cf,convert-to-llvm)"


def compile_object(text: str, name: str, *, want_llvm: bool = False) -> tuple[bytes, str]:
    """The relocatable object for this host, and the module in the llvm dialect if wanted."""
    try:
        from torch_mlir.execution_engine import ExecutionEngine
        from torch_mlir.ir import Context, MLIRError, Module
        from torch_mlir.passmanager import PassManager
    except ImportError as error:
        raise CpuCompileError(f"compiling for the CPU needs the package torch-mlir: {error}") from None
    # dialects are loaded as the text names them; all of torch-mlir's would take as long as a small kernel
    with Context(load_on_create_dialects=[]), tempfile.TemporaryDirectory() as folder:
        try:
            module = Module.parse(text)
            PassManager.parse(PIPELINE).run(module.operation)
        except MLIRError as error:
            raise CpuCompileError(f"kernel {name}: MLIR rejected the generated code: {error}") from None
        engine = ExecutionEngine(module, opt_level=0)
        engine.raw_lookup(name)  # code is generated on the first lookup
        path = Path(folder, "kernel.o")
        engine.dump_to_object_file(str(path))
        return path.read_bytes(), str(module) if want_llvm else ""
