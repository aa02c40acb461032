"""The meaning of both dialects, as plain PyTorch.

Slow and always right: every pass and every backend is compared with it.  Arithmetic is done in float64 for
float64 tensors and in float32 for all narrower floats.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from . import attn, tile
from .attributes import Dim
from .calls import compile_call
from .dtypes import accumulator, to_torch
from .expr import Const, Expr, Load, Op, Var, evaluate

Tensor = torch.Tensor
Env = dict[str, Any]


# ---- expressions over tensors -------------------------------------------------------------------------

_TORCH_OPS: dict[str, Callable[..., Tensor]] = {
    "+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.true_divide, "%": torch.remainder,
    "//": lambda a, b: torch.div(a, b, rounding_mode="floor"), "min": torch.minimum, "max": torch.maximum,
    "abs": torch.abs, "pow": torch.pow, "&": torch.bitwise_and, "|": torch.bitwise_or, "^": torch.bitwise_xor,
    "<<": torch.bitwise_left_shift, ">>": torch.bitwise_right_shift, "<": torch.lt, "<=": torch.le, ">": torch.gt,
    ">=": torch.ge, "==": torch.eq, "!=": torch.ne, "and": torch.logical_and, "or": torch.logical_or,
    "not": torch.logical_not, "where": torch.where, "floor": torch.floor, "ceil": torch.ceil, "exp": torch.exp,
    "exp2": torch.exp2, "log": torch.log, "log2": torch.log2, "sqrt": torch.sqrt, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "sin": torch.sin, "cos": torch.cos,
}  # fmt: skip


def tensor_value(e: Expr, env: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The value of ``e`` for broadcastable tensors of index values; floats are computed in ``dtype``.

    A read outside its tensor (a dead element) gives some element of it, or zero from an empty tensor.
    """
    match e:
        case Const(value):
            kind = torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else dtype
            return torch.tensor(value, dtype=kind)
        case Var(name, _):
            return torch.as_tensor(env[name])
        case Load(name, index, kind):
            source = tensors[name]
            at = [tensor_value(x, env, tensors, dtype) for x in index]
            value = read(source, at)
            return value.to(dtype) if kind == "float" else value.to(torch.int64) if kind == "int" else value.bool()
        case Op(name, args):
            values = [tensor_value(a, env, tensors, dtype) for a in args]
            if name in ("int", "floor", "ceil"):
                values[0] = values[0].to(dtype) if name != "int" and not values[0].is_floating_point() else values[0]
                return (_TORCH_OPS[name](values[0]) if name != "int" else values[0]).to(torch.int64)
            if name == "float":
                return values[0].to(dtype)
            if name in ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "sin", "cos", "/"):
                values = [v if v.is_floating_point() else v.to(dtype) for v in values]
            elif any(v.is_floating_point() for v in values) and name != "where":
                values = [v if v.is_floating_point() or v.dtype == torch.bool else v.to(dtype) for v in values]
            elif name in ("+", "-", "*"):
                values = [v.to(torch.int64) if v.dtype == torch.bool else v for v in values]
            return _TORCH_OPS[name](*values)
    raise TypeError(f"not an expression: {e!r}")


def read(source: Tensor, index: Sequence[Tensor]) -> Tensor:
    """``source[index]`` with every index clamped into range."""
    if not index:
        return source
    index = torch.broadcast_tensors(*index)
    if source.numel() == 0:
        return source.new_zeros(index[0].shape)
    return source[tuple(x.clamp(0, n - 1) for x, n in zip(index, source.shape, strict=True))]


# ---- functions ----------------------------------------------------------------------------------------


def bind_sizes(func: attn.FuncOp, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Size symbols from the shapes of the arguments."""
    return {name: inputs[a].shape[axis] for name, (a, axis) in func.sizes().items()}


def interpret(module: ModuleOp, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run the module's one function on tensors."""
    func = attn.func_of(module)
    kernels = tile.kernels_of(module)
    sizes = bind_sizes(func, inputs)
    values: dict[SSAValue, Tensor] = dict(zip(func.args, inputs, strict=True))
    for op in func.body.block.ops:
        args = [values[v] for v in op.operands]
        match op:
            case attn.ReturnOp():
                return args
            case attn.CallOp():
                device = inputs[0].device if inputs else torch.device("cpu")
                env = {f"x{n}": x for n, x in enumerate(args)} | sizes | {"device": device}
                outs = compile_call(op.call.data)(env)
                outs = list(outs) if isinstance(outs, tuple | list) else [outs]
                for value, out in zip(op.outputs, outs, strict=True):
                    for size, n in zip(attn.tensor_type(value).shape, out.shape, strict=True):
                        if isinstance(size, Var):
                            sizes.setdefault(size.name, n)
            case attn.ReorderOp():
                shape = [int(evaluate(s, sizes)) for s in attn.tensor_type(op.output).shape]
                axes = {f"x{n}": _along(torch.arange(s), n, len(shape)) for n, s in enumerate(shape)}
                index = [tensor_value(e, sizes | axes, {}, torch.float64) for e in op.index.data]
                outs = [read(args[0], [x.expand(shape) for x in index])]
            case attn.AttendOp():
                outs = list(_attend(op, args, sizes))
            case tile.LaunchOp():
                outs = [_empty(v, sizes, args) for v in op.outputs]
                run_kernel(kernels[op.kernel.root_reference.data], [*args, *outs], sizes)
            case _:
                raise TypeError(f"the interpreter does not know {op.name}")
        values.update(zip(op.results, outs, strict=True))
    raise TypeError("a function must end in attn.return")


def _empty(value: SSAValue, sizes: Mapping[str, int], like: Sequence[Tensor]) -> Tensor:
    type = attn.tensor_type(value)
    shape = [int(evaluate(s, sizes)) for s in type.shape]
    return torch.empty(shape, dtype=to_torch(type.element), device=like[0].device)


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    return values.reshape([-1 if n == axis else 1 for n in range(rank)])


def points(dims: Sequence[Dim], sizes: Mapping[str, int]) -> list[dict[str, int]]:
    """All points of a domain, in order."""
    result: list[dict[str, int]] = [{}]
    for dim in dims:
        result = [p | {dim.name: n} for p in result for n in range(int(evaluate(dim.extent, {**sizes, **p})))]
    return result


def _attend(op: attn.AttendOp, args: Sequence[Tensor], sizes: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    count = len(op.keys)
    query, keys, values = args[0], args[1 : 1 + count], args[1 + count : 1 + 2 * count]
    captured = dict(zip((n.data for n in op.capture_names), args[1 + 2 * count :], strict=True))
    dtype = to_torch(accumulator(attn.tensor_type(op.query).element))
    out, lse = _empty(op.out, sizes, args).zero_(), _empty(op.lse, sizes, args).fill_(-torch.inf)
    row = op.domain[-1]
    d = torch.arange(op.width.data)
    e = torch.arange(op.value_width.data)
    for point in points(op.domain[:-1], sizes):
        env: Env = {**sizes, **point}
        i = torch.arange(int(evaluate(row.extent, env)))
        q = read(query, _index(op.query_map.data, env, {row.name: i, "d": d}, dtype)).to(dtype)
        scores, v = [], []
        for source, key, value in zip(op.source_list, keys, values, strict=True):
            j = torch.arange(int(evaluate(source.extent, env)))
            k = read(key, _index(source.key_map, env, {source.key: j, "d": d}, dtype)).to(dtype)
            dot = q @ k.T
            names = env | {row.name: i[:, None], source.key: j[None, :], "dot": dot}
            score = tensor_value(source.score.body, names, captured, dtype).expand(len(i), len(j))
            mask = tensor_value(source.mask, names, captured, dtype)
            scores.append(torch.where(mask, score, -torch.inf))
            v.append(read(value, _index(source.value_map, env, {source.key: j, "e": e}, dtype)).to(dtype))
        s = torch.cat(scores, -1)
        # not exp(s - logsumexp(s)), which has no digits left for a row of scores around a fill of -1e9
        peak = s.amax(-1, keepdim=True) if s.shape[-1] else s.new_full((len(i), 1), -torch.inf)
        p = torch.exp(s - torch.where(peak == -torch.inf, 0.0, peak))
        norm = p.sum(-1, keepdim=True)
        total = (peak + norm.log())[:, 0]
        p = p / torch.where(norm == 0.0, 1.0, norm)
        at = tuple(_index(op.out_map.data, env, {row.name: i, "e": e}, dtype))
        out[at] = (p @ torch.cat(v, 0)).to(out.dtype)
        lse[tuple(_index(op.lse_map.data, env, {row.name: i}, dtype))] = total.to(lse.dtype)
    return out, lse


def _index(index: Sequence[Expr], env: Env, axes: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """An index map at all points of ``axes``."""
    names = {n: _along(x, k, len(axes)) for k, (n, x) in enumerate(axes.items())}
    shape = [len(x) for x in axes.values()]
    return [tensor_value(x, env | names, {}, dtype).expand(shape) for x in index]


# ---- kernels ------------------------------------------------------------------------------------------


def run_kernel(kernel: tile.KernelOp, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> None:
    """Run a kernel; its outputs, the last tensors, are written in place."""
    dims = kernel.grid.data
    grid = [range(int(evaluate(d.extent, sizes))) for d in dims]
    for point in itertools.product(*grid):
        task = _Task(kernel, tensors, {**sizes, **dict(zip((d.name for d in dims), point, strict=True))})
        if task.extents[kernel.rows.data.name]:
            task.run(kernel.body.block.ops)


class _Task:
    """One grid point: tiles are tensors in the order of their type's axes, cut to their live part."""

    def __init__(self, kernel: tile.KernelOp, tensors: Sequence[Tensor], env: Env):
        self.env = env
        self.memory = dict(zip(kernel.args, tensors, strict=True))
        self.captured = dict(zip(kernel.names, tensors, strict=True))
        self.values: dict[SSAValue, Tensor] = {}
        self.starts: dict[str, int] = {}
        self.extents: dict[str, int] = {}
        rows = kernel.rows.data
        base, bound = int(evaluate(rows.base, env)), int(evaluate(rows.bound, env))
        self.set_axis(rows.name, base, min(rows.size, bound - base))

    def set_axis(self, name: str, start: int, extent: int) -> None:
        self.starts[name], self.extents[name] = start, max(extent, 0)

    def shape(self, value: SSAValue) -> dict[str, int]:
        return {a: min(n, self.extents.get(a, n)) for a, n in tile.tile_type(value).shape.items()}

    def dtype(self, value: SSAValue) -> torch.dtype:
        return to_torch(tile.tile_type(value).element)

    def axes(self, value: SSAValue) -> Env:
        shape = self.shape(value)
        return {
            a: _along(torch.arange(n) + self.starts.get(a, 0), k, len(shape)) for k, (a, n) in enumerate(shape.items())
        }

    def broadcast(self, value: SSAValue, to: SSAValue) -> Tensor:
        own, target = list(self.shape(value)), list(self.shape(to))
        x = self.values[value].permute([own.index(a) for a in target if a in own])
        x = x.reshape([x.shape[[a for a in target if a in own].index(a)] if a in own else 1 for a in target])
        return x.to(to_torch(accumulator(tile.tile_type(value).element)))

    def run(self, ops: Any) -> Sequence[SSAValue]:
        for op in ops:
            if isinstance(op, tile.YieldOp):
                return op.values
            self.step(op)
        return ()

    def step(self, op: Operation) -> None:
        match op:
            case tile.FullOp():
                value, shape = evaluate(op.value.data.body, {}), list(self.shape(op.result).values())
                self.values[op.result] = torch.full(shape, value, dtype=self.dtype(op.result))
            case tile.LoadOp():
                at = self.index(op.index.data, op.result)
                self.values[op.result] = read(self.memory[op.memory], at)
            case tile.StoreOp():
                memory = self.memory[op.memory]
                memory[tuple(self.index(op.index.data, op.value))] = self.values[op.value].to(memory.dtype)
            case tile.DotOp():
                self.values[op.result] = self.dot(op)
            case tile.MapOp():
                inputs = [self.broadcast(v, op.result) for v in op.inputs]
                names = self.env | self.axes(op.result) | dict(zip(op.function.data.params, inputs, strict=True))
                dtype = to_torch(accumulator(tile.tile_type(op.result).element))
                value = tensor_value(op.function.data.body, names, self.captured, dtype)
                self.values[op.result] = value.expand(list(self.shape(op.result).values())).to(self.dtype(op.result))
            case tile.MaskOp():
                x = self.values[op.input]
                mask = tensor_value(op.condition.data, self.env | self.axes(op.result), self.captured, x.dtype)
                self.values[op.result] = torch.where(mask, x, -torch.inf)
            case tile.ReduceOp():
                axis = list(self.shape(op.input)).index(op.axis)
                x = self.values[op.input]
                empty = -torch.inf if op.kind.data == "max" else 0.0
                rest = [n for k, n in enumerate(x.shape) if k != axis]
                if x.shape[axis] == 0:
                    self.values[op.result] = x.new_full(rest, empty)
                else:
                    self.values[op.result] = x.amax(axis) if op.kind.data == "max" else x.sum(axis)
            case tile.ForOp():
                self.loop(op)
            case _:
                raise TypeError(f"the interpreter does not know {op.name}")

    def index(self, index: Sequence[Expr], value: SSAValue) -> list[Tensor]:
        names = self.env | self.axes(value)
        shape = list(self.shape(value).values())
        return [tensor_value(e, names, self.captured, torch.float64).expand(shape) for e in index]

    def dot(self, op: tile.DotOp) -> Tensor:
        letters = {a: chr(97 + n) for n, a in enumerate({**self.shape(op.lhs), **self.shape(op.rhs)})}
        lhs, rhs, out = ("".join(letters[a] for a in self.shape(v)) for v in (op.lhs, op.rhs, op.result))
        dtype = self.dtype(op.result)
        x = torch.einsum(f"{lhs},{rhs}->{out}", self.values[op.lhs].to(dtype), self.values[op.rhs].to(dtype))
        return x if op.acc is None else x + self.values[op.acc]

    def loop(self, op: tile.ForOp) -> None:
        carried = [self.values[v] for v in op.initial]
        for r in op.range_list:
            lo, hi = int(evaluate(r.lo, self.env)), int(evaluate(r.hi, self.env))
            for start in range(lo, hi, op.step.data):
                self.set_axis(op.axis.data, start, min(op.step.data, hi - start))
                self.values.update(zip(op.carried, carried, strict=True))
                carried = [self.values[v] for v in self.run(op.body.block.ops)]
        self.values.update(zip(op.results_, carried, strict=True))
