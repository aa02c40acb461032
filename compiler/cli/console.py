"""Output: plain text into a pipe or file, highlighted and folded in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets import UsageError

if TYPE_CHECKING:
    from rich.text import Text

# Stages whose text is Python; the rest is MLIR-like or assembly, which MLIR's colours suit well enough.
PYTHON_STAGES = ("capture", "triton")


def write(text: str, output: str | None, *, language: str = "mlir", fold: bool | None = None) -> None:
    """Write ``text`` to a file, or to standard output: in a terminal coloured, and folded unless told otherwise."""
    if fold if fold is not None else _in_terminal(output):
        from .folding import fold as folded

        text = folded(text)
    if output is not None and output != "-":
        path = Path(output)
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {output}: there is no folder {path.parent}")
        try:
            path.write_text(_lines(text))
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from None
    elif _in_terminal(output):
        _highlighted(text, language)
    else:
        sys.stdout.write(_lines(text))


def _in_terminal(output: str | None) -> bool:
    return output in (None, "-") and sys.stdout.isatty()


def _lines(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _highlighted(text: str, language: str) -> None:
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    if language != "mlir":
        console.print(
            Syntax(text.rstrip("\n"), language, theme="ansi_dark", background_color="default", word_wrap=True)
        )
    else:
        console.print(mlir_text(text), soft_wrap=True)


def mlir_text(text: str) -> Text:
    """MLIR-like text with colours, as a ``rich.text.Text``."""
    from rich.text import Text

    styled = Text(text.rstrip("\n"))
    for pattern, style in (
        (r"\b[a-z_]+\.[a-z_0-9.]+\b", "cyan"),
        (r"(?<![\w.])-?\d+(\.\d+)?(e[-+]?\d+)?\b", "green"),
        (r"![\w.]+|\b(f16|bf16|f32|f64|i1|i8|i16|i32|i64|index)\b", "magenta"),
        (r"%[\w#]+", "yellow"),
        (r"@[\w.]+", "bold blue"),
        (r'"[^"\n]*"', "bright_green"),
        (r"//.*$", "dim"),
    ):
        styled.highlight_regex(rf"(?m){pattern}", style)
    return styled


def track(items: Iterable[Any], description: str) -> Iterable[Any]:
    """The items, with a progress bar on standard error while they last."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description, console=Console(stderr=True), transient=True)


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"warning: {message}", file=sys.stderr)
