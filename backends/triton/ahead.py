"""Compiling a printed module for a GPU that this machine does not have."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .config import Config
from .errors import TritonMissingError
from .importing import import_file
from .module import Module
from .targets import Target


def compile_ahead(
    module: Module, target: Target, config: Config, texts: dict[str, str], stages: Collection[str]
) -> tuple[bytes, int]:
    """Compile for ``target``; adds the text stages asked for to ``texts``, returns the binary and its shared memory.

    Assumes what usual tensors give: pointers and strides are multiples of 16, innermost strides are 1.
    """
    try:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from triton.compiler import compile as triton_compile
    except ImportError:
        raise TritonMissingError("printing GPU stages needs the package triton: pip install 'triton>=3.6'") from None

    with tempfile.TemporaryDirectory(prefix="attnc-") as folder:
        path = Path(folder) / f"{module.function}.py"
        path.write_text(module.text)
        function = getattr(import_file(path), module.function)
        signature, constants, attributes = _signature(module)
        source = ASTSource(function, signature, constants, attributes)
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
        kernel = triton_compile(source, target=GPUTarget(target.backend, target.arch, target.warp), options=options)
    texts |= {s: text for s in stages if isinstance(text := kernel.asm.get(s), str)}
    binary = kernel.asm.get("cubin" if target.backend == "cuda" else "hsaco", b"")
    return bytes(binary), kernel.metadata.shared


def _signature(module: Module) -> tuple[dict[str, str], dict[tuple[int, ...], int], dict[tuple[int, ...], list[Any]]]:
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], int] = {}
    attributes: dict[tuple[int, ...], list[Any]] = {}
    for n, (name, kind) in enumerate(module.parameters):
        if kind in ("unit", "flag"):
            signature[name] = "constexpr"
            constants[(n,)] = 1
            continue
        signature[name] = kind if kind.startswith("*") else "i32"
        if kind != "size":
            attributes[(n,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes
