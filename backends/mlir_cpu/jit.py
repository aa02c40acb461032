"""MLIR text to an object file, by the MLIR and LLVM inside torch-mlir."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .errors import CpuCompileError
from .mlir_c import HANDLER, Text, library, printed, registry

# Emission leaves little to improve: code motion and cse, one conversion for all dialects, and LLVM's code generator.
# LLVM's own optimiser would take longer than all of that together, and make hardly any kernel faster.
PASSES = (
    "TransformsLoopInvariantCodeMotion",
    "TransformsCSE",
    "ConversionSCFToControlFlow",
    "ConversionConvertToLLVM",
)

# A loop as kernels have them, all in one: compiling it brings the parts of LLVM into memory that kernels need.
_SAMPLE = """
llvm.func @sample(%p: !llvm.ptr, %n: i64) {
  %c0 = arith.constant 0 : i64
  %c1 = arith.constant 1 : i64
  %zero = arith.constant dense<0.0> : vector<16xf32>
  %sum = scf.for %i = %c0 to %n step %c1 iter_args(%s = %zero) -> (vector<16xf32>) : i64 {
    %at = llvm.getelementptr %p[%i] : (!llvm.ptr, i64) -> !llvm.ptr, f32
    %x = llvm.load %at {alignment = 4 : i64} : !llvm.ptr -> f32
    %y = llvm.load %at {alignment = 4 : i64} : !llvm.ptr -> vector<16xf32>
    %z = vector.shuffle %y, %s [0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29]
      : vector<16xf32>, vector<16xf32>
    %more = arith.cmpf olt, %y, %z : vector<16xf32>
    %b = vector.broadcast %x : f32 to vector<16xf32>
    %t = math.fma %b, %y, %s : vector<16xf32>
    %u = arith.select %more, %t, %z : vector<16xi1>, vector<16xf32>
    scf.yield %u : vector<16xf32>
  }
  llvm.store %sum, %p {alignment = 4 : i64} : vector<16xf32>, !llvm.ptr
  llvm.return
}
"""


@cache
def warm_up() -> None:
    """Load the compiler, beside what Python does before it has a kernel to compile."""
    compile_object(_SAMPLE, "sample")


def compile_object(text: str, name: str, *, want_llvm: bool = False, native: bool = True) -> tuple[bytes, str]:
    """The relocatable object, empty for architectures other than this host's, and the LLVM IR if wanted."""
    mlir = library()
    with _context() as (context, said), tempfile.TemporaryDirectory() as folder:
        module = mlir.mlirModuleCreateParse(context, Text.of(text))
        try:
            if not module or not _run_passes(context, mlir.mlirModuleGetOperation(module)):
                raise CpuCompileError(f"kernel {name}: MLIR rejected the generated code: {'; '.join(said)}")
            llvm = _llvm_ir(mlir.mlirModuleGetOperation(module)) if want_llvm else ""
            path = Path(folder, "kernel.o")
            if native:
                if f"@{name}(" not in text:  # looking it up would end the process
                    raise CpuCompileError(f"kernel {name}: the generated code has no function of this name")
                _generate(module, name, path)
            return path.read_bytes() if native else b"", llvm
        finally:
            if module:
                mlir.mlirModuleDestroy(module)


@contextmanager
def _context() -> Iterator[tuple[int, list[str]]]:
    """A context, and the errors that are found in it."""
    mlir, said = library(), list[str]()

    def hear(diagnostic: int, _: Any) -> int:
        where = printed("mlirLocationPrint", mlir.mlirDiagnosticGetLocation(diagnostic))
        said.append(f"{where}: {printed('mlirDiagnosticPrint', diagnostic)}")
        return 1

    handler = HANDLER(hear)
    context = mlir.mlirContextCreateWithThreading(False)
    try:
        mlir.mlirContextAppendDialectRegistry(context, registry())
        mlir.mlirRegisterAllLLVMTranslations(context)
        mlir.mlirContextAttachDiagnosticHandler(context, handler, None, None)
        yield context, said
    finally:
        mlir.mlirContextDestroy(context)


def _run_passes(context: int, operation: int) -> bool:
    mlir = library()
    manager = mlir.mlirPassManagerCreate(context)
    try:
        mlir.mlirPassManagerEnableVerifier(manager, False)  # half of the time, for what parsing has checked
        for name in PASSES:
            mlir.mlirPassManagerAddOwnedPass(manager, getattr(mlir, f"mlirCreate{name}Pass")())
        return bool(mlir.mlirPassManagerRunOnOp(manager, operation))
    finally:
        mlir.mlirPassManagerDestroy(manager)


def _generate(module: int, name: str, path: Path) -> None:
    """Machine code of a module, as an object file."""
    mlir = library()
    engine = mlir.mlirExecutionEngineCreate(module, 0, 0, None, True, False)
    if not engine:
        raise CpuCompileError(f"kernel {name}: LLVM cannot compile for this host")
    try:
        mlir.mlirExecutionEngineLookup(engine, Text.of(name))  # code is generated on the first lookup
        mlir.mlirExecutionEngineDumpToObjectFile(engine, Text.of(str(path)))
    finally:
        mlir.mlirExecutionEngineDestroy(engine)


def _llvm_ir(operation: int) -> str:
    mlir = library()
    text = mlir.mlirTranslateModuleToLLVMIRToString(operation)
    try:
        return ctypes.string_at(text).decode()
    finally:
        mlir.LLVMDisposeMessage(text)
