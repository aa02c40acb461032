"""One step of ``examples/train_bytes.py``, attnc against eager: float32, context 4,096, 2 threads.

A step is forward, backward and update of the whole model.  The memory of attention is the most that the attention of
all layers holds, forward and backward, beyond its inputs.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

import torch
from harness import Call, arguments, compare, save, show

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
train_bytes = importlib.import_module("train_bytes")
report = importlib.import_module("_train_bytes_report")

MEMORY_GOAL = 10.0  # eager's memory for attention over ours


def main() -> None:
    args = arguments((__doc__ or "").split("\n", 1)[0], rounds=10, context=4096, threads=2)
    torch.set_num_threads(args.threads)
    model = train_bytes.initial(0)
    text = next(train_bytes.passages(args.context, 0))
    memory = report.memory(model, args.context)
    runs = (
        train_bytes.Run("attnc", model, train_bytes.COMPILED),
        train_bytes.Run("eager", model, train_bytes.EAGER),
    )
    calls: dict[str, Call] = {run.name: partial(run.step, text) for run in runs}
    found = compare("training step", calls, 3 if args.quick else args.rounds, {"eager": 5.0})
    sizes = f"B=1 N={args.context}, {train_bytes.LAYERS} layers of {3 * train_bytes.HEADS} heads, width"
    sizes += f" {train_bytes.WIDTH}, float32, {args.threads} threads"
    show([found], sizes)
    ratio = memory["eager"] / memory["attnc"]
    mib = {name: f"{size / 2**20:,.1f} MiB" for name, size in memory.items()}
    print(f"memory of attention: {ratio:.0f}x less (goal {MEMORY_GOAL:g}), {mib['attnc']} against {mib['eager']}")
    if not args.quick:
        attention = {"ratio": round(ratio, 1), "goal": MEMORY_GOAL, "bytes": memory}
        print(save("training", [found], {"sizes": sizes, "rounds": args.rounds, "memory of attention": attention}))


if __name__ == "__main__":
    main()
