"""What a compiler crash leaves behind: a folder with the input, and the one command that replays it."""

from __future__ import annotations

import hashlib
import platform
import shlex
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..ir.errors import AttncError
from .errors import InternalError

PACKAGES = ("attnc", "torch", "xdsl", "islpy", "sympy", "torch-mlir", "triton")


def versions() -> dict[str, str]:
    """Installed versions of what a compilation depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@contextmanager
def reproducer(what: str, text: Callable[[], str], arguments: str, folder: Path | None) -> Iterator[None]:
    """Turn an unexpected exception into an :class:`InternalError` that names a folder.

    ``text`` gives the IR that went in, ``arguments`` the options with which ``attnc opt`` runs the same step.
    """
    try:
        yield
    except AttncError as error:
        if not isinstance(error, InternalError) or getattr(error, "folder", None):
            raise
        raise _report(what, error, text, arguments, folder) from error
    except Exception as error:
        raise _report(what, error, text, arguments, folder) from error


def _report(what: str, error: Exception, text: Callable[[], str], arguments: str, root: Path | None) -> InternalError:
    source = text()
    trace = "".join(traceback.format_exception(error))
    name = f"crash-{hashlib.sha256((source + arguments + str(error)).encode()).hexdigest()[:12]}"
    folder = _folder(root, name)
    path = folder / "input.mlir"
    path.write_text(source)
    command = f"attnc opt {arguments} {shlex.quote(str(path))}"
    (folder / "command.txt").write_text(command + "\n")
    (folder / "error.txt").write_text(trace)
    (folder / "versions.txt").write_text("".join(f"{k} {v}\n" for k, v in versions().items()))
    problem = InternalError(
        f"{what} failed: {type(error).__name__}: {error}\n"
        f"This is a defect of attnc.  The folder {folder} holds what a report needs; replay it with\n  {command}"
    )
    problem.folder = folder
    return problem


def _folder(root: Path | None, name: str) -> Path:
    try:
        if root is None:
            raise OSError("no folder given")
        folder = root / "crashes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"attnc-{name}-"))
