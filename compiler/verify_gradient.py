"""What ``differentiate`` is compared with: PyTorch's gradient through the interpreted forward function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.dialects.builtin import ModuleOp

from ..ir import attn
from ..ir.calls import vector_jacobian
from ..ir.interpret import interpret
from .passes.differentiate import Differentiate

Tensor = torch.Tensor


def by_autograd(forward: ModuleOp, pass_: Differentiate, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of the gradient function that ``pass_`` makes of ``forward``, and the results that it must give.

    ``inputs`` are those of the forward function; the gradients of its results are random, the same every time.
    """
    func = attn.func_of(forward)
    wanted, given = pass_.wanted_of(func), pass_.given_of(func)
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_(n in wanted) for n, x in enumerate(inputs)]
        outs = interpret(returning_residuals(forward), leaves)
        count = len(func.last.values)
        results, residuals = [outs[n] for n in given], [x.detach() for x in outs[count:]]
        generator = torch.Generator().manual_seed(1)
        seeds = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in results]
        pairs = [(x, seed) for x, seed in zip(results, seeds, strict=True) if x.requires_grad]
        found = vector_jacobian(pairs, [leaves[n] for n in wanted])
    return [*(x.detach() for x in leaves), *residuals, *seeds], found


def returning_residuals(module: ModuleOp) -> ModuleOp:
    """A copy whose function also returns what its gradient needs, after its results."""
    module = module.clone()
    func = attn.func_of(module)
    func.last.operands = [*func.last.operands, *func.residuals()]
    return module
