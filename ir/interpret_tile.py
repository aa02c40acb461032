"""The meaning of dialect ``tile`` on PyTorch tensors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from xdsl.ir import Operation, SSAValue

from . import tile
from .attributes import where
from .dtypes import accumulator, to_torch
from .errors import AttncError
from .expr import Expr, evaluate
from .tensors import Env, Tensor, along, read, tensor_value


class TasksMeetError(AttncError):
    """A kernel whose tasks depend on each other."""


def run_kernel(kernel: tile.KernelOp, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> None:
    """Run a kernel; its outputs, the last tensors, are written in place."""
    for n in kernel.zeroed:
        tensors[n].zero_()
    dims = kernel.grid.data
    grid = [range(int(evaluate(d.extent, sizes))) for d in dims]
    writers: dict[SSAValue, Tensor] = {}
    numbers: dict[tuple[int, ...], int] = {}
    for point in itertools.product(*grid):
        env = {**sizes, **dict(zip((d.name for d in dims), point, strict=True))}
        number = numbers.setdefault(point[: len(dims) - kernel.sequential.data], len(numbers) + 1)
        task = _Task(kernel, tensors, env, number, writers)
        if task.extents[kernel.rows.data.name]:
            task.run(kernel.body.block.ops)


class _Task:
    """One grid point: tiles are tensors in the order of their type's axes, cut to their live part.

    ``writers`` holds the number of the task that wrote each element, for tasks may not write the same one.
    """

    def __init__(
        self, kernel: tile.KernelOp, tensors: Sequence[Tensor], env: Env, number: int, writers: dict[SSAValue, Tensor]
    ):
        self.env, self.number, self.writers = env, number, writers
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
            a: along(torch.arange(n) + self.starts.get(a, 0), k, len(shape)) for k, (a, n) in enumerate(shape.items())
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
                memory, value = self.memory[op.memory], self.values[op.value]
                at = self.index(op.index.data, op.value)
                if op.add is not None:
                    inside = torch.ones(value.shape, dtype=torch.bool)
                    for x, n in zip(at, memory.shape, strict=True):
                        inside &= (x >= 0) & (x < n)
                    at, value = [x[inside] for x in at], value[inside]
                self.claim(op, at)
                if at:
                    memory.index_put_(tuple(at), value.to(memory.dtype), accumulate=op.add is not None)
                else:
                    memory.copy_(memory + value.sum() if op.add is not None else value.reshape(()))
            case tile.DotOp():
                self.values[op.result] = self.dot(op)
            case tile.BandDotOp():
                self.values[op.result] = self.band_dot(op)
            case tile.BandAddOp():
                self.band_add(op)
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

    def triples(self, index: Sequence[Expr], shape: Mapping[str, int]) -> list[Tensor]:
        """An index at all points of three axes."""
        axes = {
            a: along(torch.arange(n) + self.starts.get(a, 0), k, len(shape)) for k, (a, n) in enumerate(shape.items())
        }
        sizes = list(shape.values())
        return [tensor_value(e, self.env | axes, self.captured, torch.float64).expand(sizes) for e in index]

    def band_dot(self, op: tile.BandDotOp) -> Tensor:
        lhs, out = self.shape(op.lhs), self.shape(op.result)
        letters = dict(zip({**lhs, **out}, "abc", strict=True))
        rows = read(self.memory[op.memory], self.triples(op.index.data, {**lhs, **out})).to(self.dtype(op.result))
        names = "".join(letters[a] for a in lhs), "".join(letters[a] for a in out)
        x = torch.einsum(f"{names[0]},abc->{names[1]}", self.values[op.lhs].to(rows.dtype), rows)
        return x if op.acc is None else x + self.values[op.acc]

    def band_add(self, op: tile.BandAddOp) -> None:
        pairs, lhs, memory = self.shape(op.pairs), self.shape(op.lhs), self.memory[op.memory]
        letters = dict(zip({**pairs, **lhs}, "abc", strict=True))
        names = "".join(letters[a] for a in pairs), "".join(letters[a] for a in lhs)
        factors = (self.values[v].to(memory.dtype) for v in (op.pairs, op.lhs))
        value = torch.einsum(f"{names[0]},{names[1]}->abc", *factors)
        at = self.triples(op.index.data, {**pairs, **lhs})
        inside = torch.ones(value.shape, dtype=torch.bool)
        for x, n in zip(at, memory.shape, strict=True):
            inside &= (x >= 0) & (x < n)
        at = [x[inside] for x in at]
        self.claim(op, at)
        memory.index_put_(tuple(at), value[inside], accumulate=True)

    def claim(self, op: tile.StoreOp | tile.BandAddOp, at: Sequence[Tensor]) -> None:
        """Note that this task writes these elements.  Raises :class:`TasksMeetError` if another one did."""
        writer = self.writers.setdefault(op.memory, torch.zeros(self.memory[op.memory].shape, dtype=torch.int32))
        before = writer[tuple(at)]
        if ((before != 0) & (before != self.number)).any():
            raise TasksMeetError(f"two tasks of a kernel write the same element{where(op)}: {op}")
        writer[tuple(at)] = self.number

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
