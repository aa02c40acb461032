"""The order of a step where products run beside other instructions, as on Hopper.

A warp starts such a product and goes on; it waits where the result is needed, or at the next product but one that
depends on nothing.  Assemblers move nothing across these places.  So products start as early as they can, first those
that need no other, and what no product needs is computed behind the last one, while that runs::

    dot = tl.dot(query, tl.trans(key))
    p = ...
    acc = tl.dot(p, value, acc=scaled)         runs until the next step waits for its first product
    l = l * alpha + tl.sum(p, 1)               meanwhile

Backwards the product with values comes before exponentials, and gradients of scores are computed while that of values
is summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation

from ...ir.dtypes import itemsize
from ...ir.expr import loads
from ...ir.tile import DotOp, LoadOp, MapOp, MaskOp, ReduceOp, op_exprs, tile_type


def products_first(ops: Sequence[Operation]) -> list[Operation]:
    """The ops of a step, which end in a yield, in this order.

    They stay as they are where one of them writes to memory; where products of float32 run on ordinary units; and where
    captured tensors are read for pairs, whose addresses would be held across products.
    """
    *body, end = ops
    wide = any(itemsize(tile_type(v).element) > 2 for op in body if isinstance(op, DotOp) for v in (op.lhs, op.rhs))
    reads = any(loads(e) for op in body for e in op_exprs(op))
    if wide or reads or not all(isinstance(op, DotOp | LoadOp | MapOp | MaskOp | ReduceOp) for op in body):
        return list(ops)
    needs = _needs(body)
    depth: dict[Operation, int] = {}  # how many products are computed one after the other for this one
    for op in body:
        if isinstance(op, DotOp):
            depth[op] = max((depth[x] + 1 for x in needs[op] if x in depth and x is not op), default=0)
    found: dict[Operation, None] = {}
    first = set().union(*(needs[op] for op, before in depth.items() if before == 0))
    found |= dict.fromkeys(op for op in body if op in first and isinstance(op, LoadOp))  # the copy engine's one wait
    for product in sorted(depth, key=depth.__getitem__):
        found |= dict.fromkeys(op for op in body if op in needs[product])
    return [*found, *(op for op in body if op not in found), end]


def _needs(body: Sequence[Operation]) -> dict[Operation, set[Operation]]:
    """Each op with all that it is computed from within the step."""
    needs: dict[Operation, set[Operation]] = {}
    for op in body:
        own = [v.owner for v in op.operands]
        needs[op] = {op}.union(*(needs[x] for x in own if isinstance(x, Operation) and x in needs))
    return needs
