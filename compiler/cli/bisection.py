"""``attnc opt --bisect``: which optional pass makes a check fail."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..targets import UsageError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

MEANING = "meaning"


def culprit(module: ModuleOp, check: str, pipeline: str) -> str | None:
    """A sentence about the first optional pass that makes ``check`` fail; None if the check never fails.

    ``check`` is a command that reads the lowered IR from its standard input and says by its exit status whether it is
    right (0), or ``meaning``: interpreted, the program must still compute what it did before the passes.
    """
    from ..pass_manager import bisect, is_optional, parse_passes

    right = _meaning(module) if check == MEANING else _command(check)
    found = bisect(module, right, lambda: parse_passes(pipeline))
    if found is None:
        return None
    count = sum(is_optional(p) for p in parse_passes(pipeline))
    return f"{found.name} is the first pass that breaks it, number {found.count} of the {count} optional ones"


def _command(text: str) -> Callable[[ModuleOp], bool]:
    from ...ir.text import print_module

    words = shlex.split(text)
    if not words:
        raise UsageError("--bisect needs a command, such as 'python check.py', or the word meaning")

    def right(module: ModuleOp) -> bool:
        try:
            done = subprocess.run(words, input=print_module(module), text=True, capture_output=True, check=False)
        except OSError as error:
            raise UsageError(f"--bisect: cannot run {words[0]}: {error.strerror}") from None
        print(done.stdout + done.stderr, end="", file=sys.stderr)
        return done.returncode == 0

    return right


def _meaning(module: ModuleOp) -> Callable[[ModuleOp], bool]:
    from ...ir.interpret import interpret
    from ..verify_each import distance, first_run, in_float64, tolerance

    inputs, expected = first_run(module)
    if expected is None:
        raise UsageError("--bisect meaning: no small inputs were found that the program accepts")

    def right(lowered: ModuleOp) -> bool:
        try:
            results = interpret(in_float64(lowered), inputs)
        except Exception:  # whatever goes wrong, the passes made a program that does not run
            return False
        limit = tolerance(lowered, inputs)
        return all(distance(a, b) <= limit for a, b in zip(expected, results, strict=True))

    return right
