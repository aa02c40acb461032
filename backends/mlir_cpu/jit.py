"""MLIR text to an object file, by the MLIR and LLVM inside torch-mlir."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .errors import CpuCompileError

# Emission leaves little to improve: code motion and cse, one conversion for all dialects, and LLVM's code generator.
# LLVM's own optimiser would take longer than all of that together, and make hardly any kernel faster.
PIPELINE = "builtin.module(loop-invariant-code-motion,cse,convert-scf-to-cf,convert-to-llvm)"


def _llvm_ir(module: Any) -> str:
    from torch_mlir.dialects.llvm import translate_module_to_llvmir

    return translate_module_to_llvmir(module.operation)


def compile_object(text: str, name: str, *, want_llvm: bool = False, native: bool = True) -> tuple[bytes, str]:
    """The relocatable object, empty for architectures other than this host's, and the LLVM IR if wanted."""
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
            pipeline = PassManager.parse(PIPELINE)
            pipeline.enable_verifier(False)  # after each pass: half of their time, for what parsing has checked
            pipeline.run(module.operation)
        except MLIRError as error:
            raise CpuCompileError(f"kernel {name}: MLIR rejected the generated code: {error}") from None
        llvm = _llvm_ir(module) if want_llvm else ""
        if not native:
            return b"", llvm
        engine = ExecutionEngine(module, opt_level=0)
        engine.raw_lookup(name)  # code is generated on the first lookup
        path = Path(folder, "kernel.o")
        engine.dump_to_object_file(str(path))
        return path.read_bytes(), llvm
