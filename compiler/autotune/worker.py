"""The process that measures candidates: what crashes here, ends here.

It is started with a file that :mod:`.subject` wrote, then answers one line of JSON with another until its input ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(job: str) -> None:
    """Answer requests from standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print goes where errors go
    bench = _bench(Path(job))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(bench, request.pop("do"))(**request)
        except Exception as error:  # whatever it is, the candidate failed and the next one may not
            answer = {"failed": _reason(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _bench(job: Path) -> Any:
    import torch

    from .bench import Bench
    from .judge import Expected
    from .subject import program_from, read

    value = read(job)
    torch.set_num_threads(value["threads"])
    return Bench(program_from(value["program"]), value["inputs"], value["known"], Expected(**value["expected"]))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    kind = type(error).__name__
    return lines[0] if kind == "WrongResultError" else f"{kind}: {lines[0]}"
