"""Convolutions: PyTorch computes them; what is known here is how many positions they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ir.expr import Expr, const
from .. import shapes
from ..errors import Mismatch
from ..sizes import as_expr
from ..traced import Traced
from .registry import rule

if TYPE_CHECKING:
    from ..tracer import Tracer


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    t: Tracer, input: Traced, weight: Traced, bias: Traced | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: Any = 1,
) -> Traced:  # fmt: skip
    rank = int(t.op[-2])
    if input.dim() not in (rank + 1, rank + 2):
        raise Mismatch(f"{t.op} takes a tensor of {rank + 1} or {rank + 2} dimensions, not {input.dim()}")

    def each(x: Any) -> list[Expr]:
        values = list(x) if isinstance(x, tuple | list) else [x]
        return [as_expr(e) for e in (values * rank if len(values) == 1 else values)]

    outputs, channels, *widths = weight.node.shape
    shape = list(input.node.shape)
    t.graph.unify(shape[-rank - 1], channels * as_expr(groups))
    shape[-rank - 1] = outputs
    steps, spreads = each(stride), each(dilation)
    for n, width in enumerate(widths):
        reach = (const(t.graph.specialise(width)) - 1) * spreads[n]  # of a weight: the same in every call
        if padding == "same":
            continue
        pad = const(0) if padding == "valid" else each(padding)[n]
        shape[n - rank] = shapes.window_count(shape[n - rank], reach + 1, steps[n], pad, pad)
    args: dict[str, Any] = {"input": input, "weight": weight, "bias": bias}
    args |= {"stride": tuple(steps), "padding": padding if isinstance(padding, str) else tuple(each(padding))}
    args |= {"dilation": tuple(spreads), "groups": as_expr(groups)}
    holes = ", ".join(f"{{{k}}}" for k in args)
    return t.emit(t.op, args, shape, f"torch.nn.functional.{t.op}({holes})", dtype=input.dtype)
