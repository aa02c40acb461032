"""The meaning of both dialects, as plain PyTorch.

Slow and always right: every pass and every backend is compared with it.  Arithmetic is done in float64 for
float64 tensors and in float32 for all narrower floats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from . import attn, gradient, tile
from .calls import call, call_gradient
from .expr import Var, evaluate
from .interpret_attn import attend, attend_gradient, empty, scattered
from .interpret_tile import run_kernel
from .tensors import Tensor, along, read, tensor_value

__all__ = ["bind_sizes", "interpret", "run_kernel", "tensor_value"]


def bind_sizes(func: attn.FuncOp, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Size symbols from the shapes of the arguments."""
    return {name: inputs[a].shape[axis] for name, (a, axis) in func.sizes().items()}


def interpret(module: ModuleOp, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run the module's one function on tensors."""
    func = attn.func_of(module)
    kernels = tile.kernels_of(module)
    sizes = bind_sizes(func, inputs)
    values: dict[SSAValue, Tensor] = dict(zip(func.args, inputs, strict=True))
    device = inputs[0].device if inputs else torch.device("cpu")
    for op in func.body.block.ops:
        args = [values[v] for v in op.operands]
        match op:
            case attn.ReturnOp():
                return args
            case attn.CallOp():
                outs = call(op.call.data, args, sizes, device)
                for value, out in zip(op.outputs, outs, strict=True):
                    for size, n in zip(attn.tensor_type(value).shape, out.shape, strict=True):
                        if isinstance(size, Var):
                            sizes.setdefault(size.name, n)
            case attn.ReorderOp():
                shape = [int(evaluate(s, sizes)) for s in attn.tensor_type(op.output).shape]
                axes = {f"x{n}": along(torch.arange(s), n, len(shape)) for n, s in enumerate(shape)}
                index = [tensor_value(e, sizes | axes, {}, torch.float64) for e in op.index.data]
                outs = [read(args[0], [x.expand(shape) for x in index])]
            case attn.AttendOp():
                outs = [empty(v, sizes, args) for v in op.results]
                outs = attend(op, args, outs[0], outs[1], sizes, *outs[2:])
            case gradient.AttendGradientOp():
                outs = attend_gradient(op, dict(zip(op.operands, args, strict=True)), sizes)
            case gradient.CallGradientOp():
                given, wanted = op.given_list, op.wanted_list
                count = len(op.inputs)
                outs = call_gradient(op.call.data, args[:count], given, args[count:], wanted, sizes, device)
            case gradient.ScatterOp():
                outs = [scattered(op, args, sizes)]
            case tile.LaunchOp():
                outs = [empty(v, sizes, args) for v in op.outputs]
                run_kernel(kernels[op.kernel.root_reference.data], [*args, *outs], sizes)
            case _:
                raise TypeError(f"the interpreter does not know {op.name}")
        values.update(zip(op.results, outs, strict=True))
    raise TypeError("a function must end in attn.return")
