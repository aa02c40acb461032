"""What the names of tiles stand for, for the notation on top of a printed kernel."""

from __future__ import annotations

from ...ir.expr import Op, walk
from ...ir.tile import KernelOp, MapOp

MEANINGS = {
    "m": "largest score of each row so far",
    "l": "sum of p along each row",
    "acc": "sum of p times values",
    "alpha": "what l and acc are multiplied by when m grows",
    "p": "weights of pairs",
    "delta": "sum of out times its gradient along each row",
    "grad": "gradient of the result",
    "dp": "gradient of p",
    "ds": "gradient of scores",
}


def glossary(kernel: KernelOp) -> list[str]:
    """A line for each name that the kernel has, and one for what numbers are in."""
    ops = list(kernel.body.walk())
    hints = {r.name_hint for op in ops for r in op.results}
    lines = [f"{name:<8} {meaning}" for name, meaning in MEANINGS.items() if name in hints]
    bodies = [op.function.data.body for op in ops if isinstance(op, MapOp)]
    if any(isinstance(x, Op) and x.name == "exp2" for body in bodies for x in walk(body)):
        lines.append("exp2     takes scores times log2(e) = 1.4427, which their factors contain")
    return lines
