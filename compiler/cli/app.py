"""The program ``attnc``: its commands, and how their errors end.

Exit status: 0 fine, 1 the thing asked for failed, 2 wrong usage.  A mistake shows one or a few lines; ``--debug``,
accepted anywhere, shows the traceback as well.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from ...ir.errors import AttncError
from ..errors import OptionError, PipelineError, StageError
from ..targets import UsageError
from . import autotune, bench, doctor, dump, explain, inspect, opt, passes, validate, zoo

app = typer.Typer(
    name="attnc",
    help="The attention compiler: look at, check and compile attention written in plain PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (dump, explain, inspect, validate, bench, autotune, zoo, opt, passes, doctor):
    app.command()(getattr(_module, _module.__name__.rsplit(".", 1)[-1]))

_WRONG_USAGE = (UsageError, StageError, PipelineError, OptionError)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """The attention compiler: look at, check and compile attention written in plain PyTorch."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    if argv is not None:
        sys.exit(_run(list(argv)))
    gc.set_threshold(100_000, 50, 100)  # what is imported stays: looking through it again and again is in vain
    status = _run(sys.argv[1:])
    _leave(status)
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    warnings.showwarning = _show_warning
    try:
        try:
            app(args=[a for a in arguments if a != "--debug"], prog_name="attnc")
        except SystemExit as end:
            sys.stdout.flush()
            return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BrokenPipeError:  # the reader of the pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if debug:
            raise
        return _report(error)
    return 0


def _leave(status: int) -> None:
    """End the process here: to free what PyTorch holds, object by object, takes longer than most commands."""
    if any(not t.daemon for t in threading.enumerate() if t is not threading.main_thread()):
        return  # somebody's threads are still at work
    atexit._run_exitfuncs()
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(status)


def _report(error: Exception) -> int:
    """Print a message for ``error``; the exit status that it stands for."""
    if isinstance(error, AttncError):
        print(f"error: {str(error).strip()}", file=sys.stderr)
        return 2 if isinstance(error, _WRONG_USAGE) or type(error).__name__ == "UnknownPassError" else 1
    print(
        f"error: {type(error).__name__}: {error}\n(not an error that attnc foresees; --debug shows where)",
        file=sys.stderr,
    )
    return 1


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
