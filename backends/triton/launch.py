"""Running a printed module: compiled on a GPU's tensors, interpreted on a CPU's.

The text is kept as a real file, because Triton reads a kernel's source from its file, and tracebacks and
profilers show it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import GridTooLargeError, WrongDeviceError

if TYPE_CHECKING:
    import torch

    from ..api import Artifact, Launch


def launcher(artifact: Artifact) -> Launch:
    """A function that launches the artifact's kernel; the module is imported at the first launch."""
    compiled: Any = None
    interpreted: Any = None

    def launch(tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> None:
        nonlocal compiled, interpreted
        device = tensors[0].device
        if device.type == "cuda":
            if compiled is None:
                compiled = _bind(_import(artifact, interpret=False), artifact)
            import torch

            with torch.cuda.device(device):
                _guarded(compiled, tensors, sizes)
        elif device.type == "cpu":
            if interpreted is None:
                interpreted = _bind(_import(artifact, interpret=True), artifact)
            _guarded(interpreted, tensors, sizes)
        else:
            raise WrongDeviceError(
                f"the triton backend runs on cuda and hip tensors (and interprets on cpu), not on {device.type}"
            )

    return launch


def _guarded(launch: Callable[..., None], tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> None:
    try:
        launch(tensors, sizes)
    except OverflowError as error:
        raise GridTooLargeError(str(error)) from None


def _bind(module: ModuleType, artifact: Artifact) -> Callable[[Sequence[Any], Mapping[str, int]], None]:
    wanted = artifact.meta["sizes"]
    run = module.launch

    def call(tensors: Sequence[Any], sizes: Mapping[str, int]) -> None:
        run(*tensors, *[sizes[n] for n in wanted])

    return call


def _import(artifact: Artifact, *, interpret: bool) -> ModuleType:
    path = source_file(artifact.kernel, artifact.payload)
    if interpret:
        from . import interpreter

        return interpreter.load(path)
    from .importing import import_file

    return import_file(path)


def source_file(name: str, text: bytes) -> Path:
    """A file that holds ``text``, written anew if it is missing or holds something else."""
    digest = hashlib.sha256(text).hexdigest()[:24]
    for folder in _folders():
        path = folder / f"{name}_{digest}.py"
        try:
            if path.is_file() and path.read_bytes() == text:
                return path
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
                file.write(text)
            os.replace(file.name, path)
            return path
        except OSError:
            continue  # a cache folder that cannot be written: use the next
    raise OSError("no folder to keep generated Triton source in")


def _folders() -> list[Path]:
    from platformdirs import user_cache_path

    chosen = os.environ.get("ATTNC_CACHE_DIR")
    cache = Path(chosen).expanduser() if chosen else user_cache_path("attnc")
    return [cache / "triton", Path(tempfile.gettempdir()) / f"attnc-triton-{os.getuid()}"]
