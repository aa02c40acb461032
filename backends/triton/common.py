"""Long expressions of sizes that a kernel uses more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ...ir.expr import Expr, Op, free_vars, walk
from ...ir.tile import KernelOp, op_exprs

LONG = 7  # nodes of an expression worth a name
OFTEN = 3


def common(kernel: KernelOp, sizes: Iterable[str]) -> list[Expr]:
    """The expressions worth a name, those that others contain first."""
    known = set(sizes)
    counts: Counter[Expr] = Counter()
    rows = kernel.rows.data
    exprs = [d.extent for d in kernel.grid.data] + [rows.base, rows.bound]
    for op in kernel.body.walk():
        exprs += op_exprs(op)
    for e in exprs:
        counts.update(x for x in walk(e) if isinstance(x, Op) and x.name in ("//", "min", "max"))
    found = [e for e, n in counts.items() if n >= OFTEN and free_vars(e) <= known and _nodes(e) >= LONG]
    # what never occurs but within another one that is named needs no name
    outer = [e for e in found if not any(e != x and counts[x] == counts[e] and e in set(walk(x)) for x in found)]
    return sorted(outer, key=_nodes)


def _nodes(e: Expr) -> int:
    return sum(1 for _ in walk(e))
