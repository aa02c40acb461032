"""Importing a printed module from its file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def import_file(path: str | Path) -> ModuleType:
    """Import a file as a module of its own; its functions keep their source lines."""
    spec = importlib.util.spec_from_file_location(f"attnc_kernel_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
