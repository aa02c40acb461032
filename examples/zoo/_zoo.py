"""What the files of the zoo share: run as a program, each is ``attnc zoo`` of itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnc.compiler.cli.app import main


def run(module_globals: dict[str, Any]) -> None:
    """Validate, explain and time every function of a file, and draw what its queries see."""
    path = Path(module_globals["__file__"])
    picture = ["--picture", f"{path.stem}.png"] if find_spec("matplotlib") else []
    main(["zoo", str(path), *picture])
