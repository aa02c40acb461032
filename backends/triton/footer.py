"""The footer that makes a printed module a program: random inputs, one launch, a comparison with its meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp

from ...ir.dtypes import name_of
from ...ir.expr import OPS, Const, Expr, Load, Op, Var, walk
from ...ir.text import print_module
from ...ir.tile import BandAddOp, BandDotOp, ForOp, KernelOp, LoadOp, StoreOp, memory_type, op_exprs, tile_type

Interval = tuple[int, int]
_TORCH = {
    "f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "ui8": "uint8", "i1": "bool",
}  # fmt: skip


def footer(kernel: KernelOp, pointers: Sequence[str], sizes: Mapping[str, str]) -> str:
    """Source of ``if __name__ == "__main__":``; shapes are the smallest that hold every element read.

    A program of several kernels is their modules one after the other, each of which runs before the next is defined.
    """
    example = example_sizes(kernel)
    shapes = argument_shapes(kernel, example)
    inputs = len(pointers) - kernel.outputs.data
    lines = [
        "",
        "",
        'if __name__ == "__main__":  # check the kernel: compare it with the tile program that it was printed from',
        "    import torch",
        "",
        '    device = "cuda" if torch.cuda.is_available() else "cpu"',
        "    torch.manual_seed(0)",
    ]
    for n, (name, original, arg) in enumerate(zip(pointers, kernel.names, kernel.args, strict=True)):
        type = name_of(memory_type(arg).element)
        shape = f"({', '.join(str(x) for x in shapes[original])}{',' if len(shapes[original]) == 1 else ''})"
        how = f"torch.randn({shape}, device=device).to(torch.{_TORCH[type]})"
        if n >= inputs:
            how = f"torch.zeros({shape}, dtype=torch.{_TORCH[type]}, device=device)"
        elif type == "i1":
            how = f"torch.rand({shape}, device=device) < 0.5"
        elif type.lstrip("u").startswith("i"):
            how = f"torch.zeros({shape}, dtype=torch.{_TORCH[type]}, device=device)"
        lines.append(f"    {name} = {how}")
    values = [*pointers, *(f"{sizes[s]}={example[s]}" for s in sizes)]
    lines += [
        '    if device == "cpu":  # no GPU: interpret the kernel',
        "        from attnc.backends.triton import interpreter",
        "",
        "        launch = interpreter.interpreted(globals())",
        f"    launch({', '.join(values)})",
    ]
    for name in pointers[inputs:]:
        checksum = f"{name}.double().nan_to_num(0, 0, 0).sum().item()"
        lines.append(f'    print("{name}", tuple({name}.shape), "checksum", {checksum})')
    named = ", ".join(f"{s}={example[s]}" for s in sizes)
    lines += [
        "    try:",
        "        from attnc.backends.triton import selfcheck",
        "    except ImportError:",
        '        print("nothing to compare with: attnc is not installed")',
        "    else:",
        "        TILE = r'''",
        print_module(ModuleOp([kernel.clone()])).strip(),
        "'''",
        f"        selfcheck.check(TILE, ({', '.join(pointers)},), {named})",
    ]
    return "\n".join(lines) + "\n"


def example_sizes(kernel: KernelOp) -> dict[str, int]:
    """Small values for the size symbols: 2 for one that is a grid dimension by itself, else 256."""
    batch = {d.extent.name for d in kernel.grid.data if isinstance(d.extent, Var)}
    return {n: 2 if n in batch else 256 for n in kernel.size_names}


def argument_shapes(kernel: KernelOp, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """For each argument the smallest shape that holds every element that the kernel may touch."""
    env: dict[str, Interval] = {n: (v, v) for n, v in sizes.items()}
    for d in kernel.grid.data:
        env[d.name] = (0, max(bounds(d.extent, env)[1] - 1, 0))
    rows = kernel.rows.data
    env[rows.name] = (0, max(bounds(rows.bound, env)[1] - 1, 0))
    for op in kernel.body.walk():
        if isinstance(op, ForOp):
            top = max((bounds(r.hi, env)[1] for r in op.range_list), default=1)
            old = env.get(op.axis.data, (0, 0))
            env[op.axis.data] = (0, max(top - 1, old[1], 0))
    shapes = {n: [1] * memory_type(a).rank.data for n, a in zip(kernel.names, kernel.args, strict=True)}
    memory = dict(zip(kernel.args, kernel.names, strict=True))
    for op in kernel.body.walk():
        index: list[tuple[str, Sequence[Expr]]] = []
        local = dict(env)
        if isinstance(op, LoadOp | StoreOp):
            index.append((memory[op.memory], op.index.data))
            shape = tile_type(op.result if isinstance(op, LoadOp) else op.value).shape
            local |= {a: (0, n - 1) for a, n in shape.items() if a not in env}
        if isinstance(op, BandDotOp | BandAddOp):
            index.append((memory[op.memory], op.index.data))
        index += [(x.tensor, x.index) for e in op_exprs(op) for x in walk(e) if isinstance(x, Load)]
        for name, exprs in index:
            for n, e in enumerate(exprs):
                shapes[name][n] = max(shapes[name][n], bounds(e, local)[1] + 1)
    return shapes


def bounds(e: Expr, env: Mapping[str, Interval]) -> Interval:
    """Interval arithmetic."""
    match e:
        case Const(value):
            return int(value), int(value)
        case Var(name):
            return env.get(name, (0, 0))
        case Op("where", (_, a, b)):
            x, y = bounds(a, env), bounds(b, env)
            return min(x[0], y[0]), max(x[1], y[1])
        case Op("%", (_, b)):
            return 0, max(bounds(b, env)[1] - 1, 0)
        case Op("abs", (a,)):
            x = bounds(a, env)
            return max(x[0], -x[1], 0), max(abs(x[0]), abs(x[1]))
        case Op(("+" | "-" | "*" | "//" | "min" | "max" | ">>" | "<<") as name, (a, b)):
            x, y = bounds(a, env), bounds(b, env)
            corners = [int(OPS[name][1](p, q)) for p in x for q in y if not (name == "//" and q == 0)]
            return min(corners, default=0), max(corners, default=0)
    return 0, 0
