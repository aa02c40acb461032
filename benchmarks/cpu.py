"""Forward and backward on the CPU against SDPA, compiled FlexAttention and eager PyTorch: 2 threads, 8 heads.

FlexAttention is compiled with ``torch.compile`` and gets its block mask in advance; SDPA gets its mask in advance.
What attnc computes from the function's text at run time is inside its time.  A backward is timed alone, with its
forward done before; FlexAttention has none on the CPU.  ``--quick`` takes about two minutes.
"""

from __future__ import annotations

import cpu_table
import torch
from cpu_cases import Case, cases
from harness import Comparison, arguments, compare, save, show

from attnc.compiler.lowering import load_backend

LEFT_OUT = "D128, bf16 of windows and of dilated masks, the 13 x 13 neighbourhood and the hierarchical backward"


def title(case: Case) -> str:
    return f"{case.name}, {'backward' if case.backward else 'forward'}"


def measure(case: Case, rounds: int) -> Comparison:
    found = compare(title(case), case.contenders(), rounds, case.goals)
    found.seconds = {who: [t / case.rounds for t in times] for who, times in found.seconds.items()}
    found.error = {"attnc": case.error()}
    found.gflops = case.flops / found.medians["attnc"] / 1e9
    return found


def main() -> None:
    description = (__doc__ or "").split("\n", 1)[0]
    args = arguments(description, left_out=LEFT_OUT, rounds=11, heads=8, threads=2, only="")
    torch.set_num_threads(args.threads)
    chosen = [c for c in cases(args.heads) if args.only in title(c) and (c.quick or not args.quick)]
    found = [measure(case, 3 if args.quick else args.rounds) for case in chosen]
    setup = f"H={args.heads}, {args.threads} threads"
    show(found, setup)
    if not args.quick and not args.only:
        on = load_backend("cpu").pipeline_options("f32", torch.device("cpu"))["target"]
        print(save(on, found, {"sizes": setup, "rounds": args.rounds}))
        cpu_table.PAGE.write_text(cpu_table.page())


if __name__ == "__main__":
    main()
