"""The C interface of the MLIR and LLVM inside torch-mlir, as far as compiling a kernel needs it.

Python lets other threads run during a foreign call, so kernels compile beside one another and beside Python.  The
Python bindings of torch-mlir would not, and they take as long to import as a small kernel to compile.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import CpuCompileError

POINTER, INT, FLAG, RESULT = ctypes.c_void_p, ctypes.c_int, ctypes.c_bool, ctypes.c_int8


class Text(ctypes.Structure):
    """``MlirStringRef``."""

    _fields_ = (("data", ctypes.c_char_p), ("length", ctypes.c_size_t))

    @staticmethod
    def of(text: str) -> Text:
        data = text.encode()
        return Text(data, len(data))


class TextAt(ctypes.Structure):
    """``MlirStringRef`` to what need not end with a zero."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t))


HANDLER = ctypes.CFUNCTYPE(RESULT, POINTER, POINTER)
SINK = ctypes.CFUNCTYPE(None, TextAt, POINTER)

# All handles are structures of one pointer, which are passed like the pointer.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "mlirDialectRegistryCreate": (POINTER,),
    "mlirRegisterAllDialects": (None, POINTER),
    "mlirRegisterAllLLVMTranslations": (None, POINTER),
    "mlirContextCreateWithThreading": (POINTER, FLAG),
    "mlirContextAppendDialectRegistry": (None, POINTER, POINTER),
    "mlirContextAttachDiagnosticHandler": (ctypes.c_uint64, POINTER, HANDLER, POINTER, POINTER),
    "mlirContextDestroy": (None, POINTER),
    "mlirDiagnosticGetLocation": (POINTER, POINTER),
    "mlirDiagnosticPrint": (None, POINTER, SINK, POINTER),
    "mlirLocationPrint": (None, POINTER, SINK, POINTER),
    "mlirModuleCreateParse": (POINTER, POINTER, Text),
    "mlirModuleGetOperation": (POINTER, POINTER),
    "mlirModuleDestroy": (None, POINTER),
    "mlirPassManagerCreate": (POINTER, POINTER),
    "mlirPassManagerEnableVerifier": (None, POINTER, FLAG),
    "mlirPassManagerAddOwnedPass": (None, POINTER, POINTER),
    "mlirPassManagerRunOnOp": (RESULT, POINTER, POINTER),
    "mlirPassManagerDestroy": (None, POINTER),
    "mlirCreateTransformsCSEPass": (POINTER,),
    "mlirCreateTransformsLoopInvariantCodeMotionPass": (POINTER,),
    "mlirCreateConversionSCFToControlFlowPass": (POINTER,),
    "mlirCreateConversionConvertToLLVMPass": (POINTER,),
    "mlirTranslateModuleToLLVMIRToString": (POINTER, POINTER),
    "LLVMDisposeMessage": (None, POINTER),
    # module, level of optimisation, shared libraries: how many and which, keep the object, position-independent
    "mlirExecutionEngineCreate": (POINTER, POINTER, INT, INT, POINTER, FLAG, FLAG),
    "mlirExecutionEngineLookup": (POINTER, POINTER, Text),
    "mlirExecutionEngineDumpToObjectFile": (None, POINTER, Text),
    "mlirExecutionEngineDestroy": (None, POINTER),
}


@cache
def library() -> Any:
    """The library with its functions declared.  Raises :class:`CpuCompileError`."""
    found = find_spec("torch_mlir")  # which imports nothing
    if found is None or not found.submodule_search_locations:
        raise CpuCompileError("compiling for the CPU needs the package torch-mlir; install it with pip")
    folders = [Path(place, "_mlir_libs") for place in found.submodule_search_locations]
    files = sorted(file for folder in folders for file in folder.glob("libTorchMLIRAggregateCAPI.*"))
    try:
        library = ctypes.CDLL(str(files[0]))
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError, IndexError) as error:
        raise CpuCompileError(f"this torch-mlir lacks what compiling for the CPU needs: {error}") from None
    return library


@cache
def registry() -> Any:
    """All dialects; a context loads those that a text names."""
    made = library().mlirDialectRegistryCreate()
    library().mlirRegisterAllDialects(made)
    return made


def printed(name: str, thing: int) -> str:
    """What a printing function says of a thing."""
    parts: list[bytes] = []
    sink = SINK(lambda text, _: parts.append(ctypes.string_at(text.data, text.length)))
    getattr(library(), name)(thing, sink, None)
    return b"".join(parts).decode(errors="replace")
