"""A whole Triton module from a tile kernel: header, kernel, launch function, and a runnable footer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.attributes import Dim
from ...ir.dtypes import name_of
from ...ir.expr import Const, Expr, Op, Var, rewrite
from ...ir.tile import ForOp, KernelOp, memory_type
from .config import Config
from .descriptors import DESCRIBE, FLAG, guards
from .emit import Emitter
from .footer import footer
from .glossary import glossary
from .helpers import HELPERS
from .layout import DTYPES, dtype, padded
from .scalars import Text
from .source import Names, Source
from .targets import target_named
from .tasks import PROCESSORS, Numbering, streamed, tasks_of
from .widths import features


@dataclass(frozen=True)
class Module:
    """A printed module and the kernel's parameters, in order, as ``(name, kind)``.

    A kind is a Triton pointer type such as ``*bf16``, ``stride``, ``unit`` (an innermost stride) or ``size``.
    """

    text: str
    check: str  # what makes it a program when it stands behind the text
    function: str
    parameters: tuple[tuple[str, str], ...]


def print_module(kernel: KernelOp, config: Config) -> Module:
    """Print a kernel as a module that can be imported, or run by itself."""
    names = Names()
    function = names.fresh(kernel.sym_name.data.removesuffix("_kernel") + "_kernel")
    pointers = [names.fresh(n) for n in kernel.names]
    ranks = [memory_type(a).rank.data for a in kernel.args]
    strides = [[names.fresh(f"{p}_s{n}") for n in range(rank)] for p, rank in zip(pointers, ranks, strict=True)]
    lengths = [[names.fresh(f"{p}_n{n}") for n in range(rank)] for p, rank in zip(pointers, ranks, strict=True)]
    sizes = {n: names.fresh(n) for n in kernel.size_names}
    dims = {d.name: names.fresh(d.name) for d in kernel.grid.data}

    body = Source()
    emitter = Emitter(kernel, names, pointers, {**sizes, **dims}, body, config)
    numbering = Numbering(kernel)
    with body.indented():
        for name, arg in zip(pointers, kernel.args, strict=True):
            type = dtype(memory_type(arg).element)
            if type != "tl.int1":
                body.line(f'tl.static_assert({name}.dtype.element_ty == {type}, "{name} must be {type}")')
        emitter.name_common()
        if not config.persistent:
            if numbering.dims:
                body.line("pid = tl.program_id(0)")
            numbering.emit(emitter)
            emitter.run()
        else:
            body.line("for pid in range(tl.program_id(0), tasks, tl.num_programs(0)):")
            with body.indented():
                numbering.emit(emitter)
                emitter.run()

    axes = [(p, n) for p, rank in enumerate(ranks) for n in range(rank)]
    guarded = [lengths[p][n] for p, n in axes if (pointers[p], n) in emitter.guarded]
    told = [numbering.together] if numbering.together else []
    told += ["tasks"] if config.persistent else []
    parameters = _parameters(kernel, pointers, strides, guarded, [*sizes.values(), *told])
    described = list(emitter.descriptors.axes)
    if described:
        parameters += ((FLAG, "flag"),)

    out = Source()
    ordered = numbering.order is not None
    for line in _header(kernel, config, pointers, list(sizes), emitter.named, bool(described), ordered):
        out.line(line)
    for helper in sorted(emitter.helpers):
        for line in HELPERS[helper].splitlines():
            out.line(line)
        out.line()
        out.line()
    for helper in [*([DESCRIBE] if described else []), *([PROCESSORS] if config.persistent else [])]:
        for line in [*helper.splitlines(), "", ""]:
            out.line(line)
    unspecialised = ", ".join(f'"{n}"' for n in [*guarded, *sizes.values(), *told])
    out.line(f"@triton.jit(do_not_specialize=[{unspecialised}])" if unspecialised else "@triton.jit")
    _wrapped(out, f"def {function}(", [f"{n}: tl.constexpr" if k == "flag" else n for n, k in parameters], "):")
    text = out.text() + body.text()
    out = Source()
    _launch(out, kernel, function, pointers, ranks, emitter.guarded, sizes, numbering, described, config)
    return Module(text + out.text(), footer(kernel, pointers, sizes), function, parameters)


def _parameters(
    kernel: KernelOp, pointers: list[str], strides: list[list[str]], guarded: list[str], sizes: list[str]
) -> tuple[tuple[str, str], ...]:
    result = [(p, "*" + DTYPES[name_of(memory_type(a).element)][1]) for p, a in zip(pointers, kernel.args, strict=True)]
    for own in strides:
        result += [(s, "unit" if n == len(own) - 1 else "stride") for n, s in enumerate(own)]
    return tuple(result + [(n, "size") for n in [*guarded, *sizes]])


def _header(
    kernel: KernelOp,
    config: Config,
    pointers: list[str],
    sizes: Sequence[str],
    named: Mapping[Expr, Text],
    described: bool,
    ordered: bool,
) -> list[str]:
    def show(e: Expr) -> Expr:
        for whole, text in reversed([*named.items()]):  # the longest first
            e = rewrite(e, lambda x, whole=whole, text=text: Var(text.code) if x == whole else None)  # type: ignore[misc]
        return e

    rows = kernel.rows.data
    loops = [op for op in kernel.body.walk() if isinstance(op, ForOp)]
    inputs = pointers[: len(pointers) - kernel.outputs.data]
    outputs = pointers[len(inputs) :]
    memories = [memory_type(a) for a in kernel.args]
    types = {p: f"{name_of(m.element)}[{m.rank.data} axes]" for p, m in zip(pointers, memories, strict=True)}
    lines = [
        f'"""Attention kernel {kernel.sym_name.data}, printed by attnc for {config.target}.',
        "",
        "Notation",
        f"  reads    {', '.join(f'{p}: {types[p]}' for p in inputs)}",
        f"  writes   {', '.join(f'{p}: {types[p]}' for p in outputs)}",
        f"  sizes    {', '.join(sizes) or 'none'}",
        *(f"  {text.code:<8} {e}" for e, text in named.items()),
        f"  grid     {', '.join(str(Dim(d.name, show(d.extent))) for d in tasks_of(kernel)) or 'one task'}, "
        f"folded into one program id, {'long tasks first' if ordered else 'last one fastest'}",
        *(f"  in order {d}, within one program" for d in kernel.grid.data[len(tasks_of(kernel)) :]),
        f"  {rows.name:<8} rows {rows.base} .. {rows.base} + {rows.size}, ending at {show(rows.bound)}"
        + (f"; a tile holds {padded(rows.size)}" if padded(rows.size) != rows.size else ""),
    ]
    for op in loops:
        ranges = "; ".join(f"[{show(r.lo)}, {show(r.hi)})" for r in op.range_list)
        lines.append(f"  {op.axis.data:<8} loop over {ranges}, {op.step.data} at a time, {op.kind.data}")
    if zeroed := [pointers[n] for n in kernel.zeroed]:
        lines.append(f"  adds to  {', '.join(zeroed)}, which hold zeros at first")
    lines += [
        *(f"  {line}" for line in (*features(kernel), *glossary(kernel))),
        "  x_s0     stride of axis 0 of x, in elements; x_n0 its length",
        '"""',
        "",
        *(["import contextvars", ""] if described else []),
        *(["import torch"] if described or config.persistent else []),
        "import triton",
        "import triton.language as tl",
        "",
        f"NUM_WARPS = {config.num_warps}",
        f"NUM_STAGES = {config.num_stages}",
        "",
        "",
    ]
    return lines


def _wrapped(out: Source, head: str, items: list[str], tail: str) -> None:
    """``head items tail`` over lines of at most 110 characters."""
    out.line(head)
    with out.indented():
        line = ""
        for item in items:
            if line and len(line) + len(item) > 104:
                out.line(line.rstrip())
                line = ""
            line += f"{item}, "
        out.line(line.rstrip())
    out.line(tail)


def _launch(
    out: Source,
    kernel: KernelOp,
    function: str,
    pointers: list[str],
    ranks: list[int],
    guarded: set[tuple[str, int]],
    sizes: Mapping[str, str],
    numbering: Numbering,
    described: Sequence[tuple[str, int]],
    config: Config,
) -> None:
    tasks = " * ".join(_host(d.extent, sizes, 11) for d in tasks_of(kernel)) or "1"
    arguments = list(pointers)
    arguments += [f"*{p}.stride()" for p, rank in zip(pointers, ranks, strict=True) if rank]
    arguments += [f"{p}.shape[{n}]" for p, rank in zip(pointers, ranks, strict=True) for n in range(rank)
                  if (p, n) in guarded]  # fmt: skip
    arguments += list(sizes.values())
    arguments += [numbering.together] if numbering.together else []
    arguments += ["tasks"] if config.persistent else []
    arguments += [FLAG] if described else []
    arguments += ["num_warps=NUM_WARPS", "num_stages=NUM_STAGES", "enable_fp_fusion=True"]
    for line in ("", "", f"def launch({', '.join([*pointers, *sizes.values()])}):"):
        out.line(line)
    with out.indented():
        zeros = f" {' and '.join(added)} must hold zeros." if (added := [pointers[n] for n in kernel.zeroed]) else ""
        out.line(f'"""Run the kernel; tensors may have any strides.{zeros}"""')
        out.line(f"tasks = {tasks}")
        out.line("if tasks > 2**31 - 1:")
        with out.indented():
            out.line('raise OverflowError(f"{tasks} tasks do not fit one launch; split the batch")')
        out.line("if tasks > 0:")
        with out.indented():
            if numbering.together:
                heads = " * ".join(_host(d.extent, sizes, 11) for d in numbering.others)
                out.line(f"{numbering.heads} = {heads}")
                of = dict(zip(kernel.args, pointers, strict=True))
                keys = " + ".join(f"{of[m]}.numel() * {of[m]}.element_size()" for m in streamed(kernel))
                share = f"{target_named(config.target).cache // 2} * {numbering.heads} // max(1, {keys})"
                out.line(f"{numbering.together} = max(1, min({numbering.heads}, {share}))")
                sections = f"-(-{numbering.heads} // {numbering.together})"
                out.line(f"{numbering.together} = -(-{numbering.heads} // ({sections}))  # sections alike")
            grid = f"min(tasks, {config.persistent} * processors({pointers[0]}))" if config.persistent else "tasks"
            if described:
                out.line(f"{FLAG} = {guards(described)}")
            call = f"{function}[({grid},)]("
            if not described:
                _wrapped(out, call, arguments, ")")
                return
            out.line()
            out.line("def launch_kernel():")
            with out.indented():
                _wrapped(out, call, arguments, ")")
            out.line()
            out.line(f"with_scratch({pointers[0]}.device, launch_kernel) if {FLAG} else launch_kernel()")


def _host(e: Expr, sizes: Mapping[str, str], strength: int = 0) -> str:
    """An expression over sizes as plain Python."""
    match e:
        case Var(name):
            return sizes[name]
        case Const(value):
            return repr(value) if value >= 0 else f"({value!r})"
        case Op("where", (c, a, b)):
            return f"({_host(a, sizes)} if {_host(c, sizes)} else {_host(b, sizes)})"
        case Op("not", (a,)):
            return f"(not {_host(a, sizes)})"
        case Op(("min" | "max" | "abs" | "int" | "float" | "pow") as name, args):
            return f"{name}({', '.join(_host(a, sizes) for a in args)})"
        case Op(name, (a, b)):
            code = f"{_host(a, sizes, 1)} {name} {_host(b, sizes, 1)}"
            return f"({code})" if strength else code
    raise TypeError(f"cannot print {e} for the host")
