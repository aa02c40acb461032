"""A process that runs tasks of the GPU run: one JSON line in, one out.  What a task prints goes to stderr.

An illegal access to memory ends the CUDA context of its process, so tasks live in processes that may be replaced.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any


def run(task: dict[str, Any]) -> dict[str, Any]:
    kind = task.pop("kind")
    if kind == "machine":
        import gpu_machine

        return gpu_machine.facts(**task)
    if kind == "check":
        import gpu_checks

        return gpu_checks.check(**task)
    import gpu_measure
    from gpu_plan import Case

    case = Case(**task.pop("case"))
    return gpu_measure.prepare(case, **task) if kind == "prepare" else gpu_measure.measure(case, **task)


def _tidy() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # raises if the context is lost
        torch.cuda.empty_cache()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print where they like
    warnings.simplefilter("ignore")
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 1000  # each mask is another FlexAttention
    from gpu_measure import reason

    for line in sys.stdin:
        lost = False
        try:
            answer = run(json.loads(line))
        except Exception as error:
            answer = {"error": reason(error)}
        try:
            _tidy()
        except Exception:
            lost = True
        answers.write(json.dumps(answer) + "\n")
        if lost:
            os._exit(1)


if __name__ == "__main__":
    main()
