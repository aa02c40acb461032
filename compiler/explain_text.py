"""An :class:`~.explain.Explanation` as plain text."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from .analysis.cost import device

if TYPE_CHECKING:
    from .explain import EagerOp, Explanation, KernelInfo
    from .explain_backward import Backward
    from .machine_code import CompiledKernel

WIDTH = 118
_LABEL = 12


def text(e: Explanation) -> str:
    """The whole page."""
    verdict = "fused" if e.fused else "NOT fused"
    count = f"{len(e.kernels)} kernel{'s' * (len(e.kernels) != 1)}"
    lines = [f"{e.name}: {verdict}, {count} for {e.backend} ({e.target}), {e.dtype}"]
    lines += _row("sizes", ", ".join(f"{k}={v:,}" for k, v in e.sizes.items()))
    if e.kernels:
        about = "" if all(k.exact for k in e.kernels) else "about "
        live = (
            "data decides how many are live"
            if e.live_fraction is None
            else f"{about}{percent(e.live_fraction)} are live"
        )
        lines += _row("computed", f"{percent(e.computed_fraction)} of {e.pairs:,} query-key pairs; {live}")
        core = "core" if e.target.startswith("cpu") else "multiprocessor"
        cost = f"{unit(e.flops, 1000, 'FLOP')}, at least {unit(e.bytes, 1024, 'B')} moved"
        lines += _row("work", f"{cost}; about {unit(e.seconds, 1000, 's')} predicted on one {core}")
        lines += _row("roofline", e.roofline.text(e.seconds, core))
    if e.expected_seconds is not None:
        lines += _row("expected", f"{unit(e.expected_seconds, 1000, 's')} on the whole GPU")
    for kernel in e.kernels:
        lines += ["", *_kernel(kernel)]
    if e.eager_ops:
        lines += ["", "stays with PyTorch"]
        for op in e.eager_ops:
            lines += _eager(op)
    if advice := e.advice:
        lines += ["", "what would make it faster"]
        for each in advice:
            lines += _row("-", each, width=2)
    return "\n".join(lines)


def _kernel(k: KernelInfo) -> list[str]:
    c = k.coverage
    lines = [f"kernel {k.name}" + (f", from {k.at}" if k.at else "")]
    lines += _row("sees", k.pattern) + _row("as a set", k.live_set) + _row("score", k.score)
    if k.domain:
        lines += _row("split into", k.domain)
    share = f"{c.full:,} full (no mask), {c.partial:,} partial, {c.empty:,} empty (skipped)"
    lines += _row("tiles", f"{k.tiles[0]} queries x {k.tiles[1]} keys: {share}" + (", estimated" if c.sampled else ""))
    lines += _row("", f"why: {k.why}")
    for n, r in enumerate(k.ranges):
        lines += _row("keys" if n == 0 else "", r)
    return lines + (compiled_text(k.compiled) if k.compiled else [])


def compiled_text(k: CompiledKernel) -> list[str]:
    """What the machine code says, and the time expected."""
    code, times = k.code, k.expected
    spills = f"spills {code.spilled_bytes} bytes a thread" if code.spilled_bytes else "no spills"
    shared = f"{unit(code.shared_bytes, 1024, 'B')} of {unit(code.shared_limit, 1024, 'B')} shared memory"
    lines = _row(code.target, f"{code.registers} registers, {spills}; {shared}")
    at_a_time = f"{code.resident} task{'s' * (code.resident != 1)} of {code.warps} warps at a time"
    lines += _row("", f"a multiprocessor runs {at_a_time}; loads are {code.stages} stages deep")
    if code.matrix:
        lines += _row("matrix", f"{code.matrix} {code.matrix_name} instructions")
    for loop in code.loops:
        parts = [f"{loop.matrix} matrix", f"{loop.on_chip} shared memory", f"{loop.memory} memory"]
        parts += [f"{loop.special} special"] + ([f"{loop.spill} SPILLS"] if loop.spill else [])
        lines += _row("main loop", f"{loop.instructions} instructions a turn: {', '.join(parts)}")
    processors = device(code.target).processors
    share = f"{k.tasks / processors:.1f} for each of {processors} multiprocessors"
    rounds = f"{k.tasks:,} tasks, {share}, in {times.rounds:,} round{'s' * (times.rounds != 1)}"
    parts = [f"arithmetic {unit(times.arithmetic, 1000, 's')}", f"memory {unit(times.memory, 1000, 's')}"]
    return lines + _row("expected", f"{unit(times.seconds, 1000, 's')} on the whole GPU, {rounds}; {', '.join(parts)}")


def backward_text(b: Backward) -> str:
    """The page about the gradient."""
    if b.reason:
        return "\n".join(["gradient: by PyTorch", *_row("", b.reason)])
    count = f"{len(b.kernels)} kernel{'s' * (len(b.kernels) != 1)}"
    lines = [f"gradient: {count}, {b.computed_pairs:,} query-key pairs, {unit(b.flops, 1000, 'FLOP')}"]
    if b.seconds is not None:
        lines += _row("predicted", f"about {unit(b.seconds, 1000, 's')} on one core")
    if b.expected_seconds is not None:
        lines += _row("expected", f"{unit(b.expected_seconds, 1000, 's')} on the whole GPU")
    lines += _row("tiles", b.why) if b.why else []
    for k in b.kernels:
        rows, step = k.tiles
        c = k.coverage
        lines += ["", f"kernel {k.name}"]
        if not step:
            lines += _row("tiles", f"{rows} queries, no loop")
            lines += compiled_text(k.compiled) if k.compiled else []
            continue
        share = f"{c.full:,} full (no mask), {c.partial:,} partial" + (", estimated" if c.sampled else "")
        lines += _row("tiles", f"{rows} {k.order.replace(' x', f' x {step}')}: {share}")
        lines += _row("work", f"{c.computed_pairs:,} pairs, {unit(k.flops, 1000, 'FLOP')}")
        for n, r in enumerate(k.ranges):
            lines += _row(k.order.split()[-1] if n == 0 else "", r)
        lines += compiled_text(k.compiled) if k.compiled else []
    if b.eager:
        lines += ["", "stays with PyTorch", *_row("", ", ".join(f"{n} x {name}" for name, n in b.eager.items()))]
    return "\n".join(lines)


def _eager(op: EagerOp) -> list[str]:
    size = f" ({unit(op.bytes, 1024, 'B')})" if op.bytes else ""
    lines = _row(op.at or "?", f"{op.reason}{size}", width=max(_LABEL, len(op.at) + 2))
    return lines + (_row("", op.call) if op.call else [])


def _row(label: str, value: str, width: int = _LABEL) -> list[str]:
    indent = " " * (width + 2)
    wrapped = textwrap.wrap(value, WIDTH - len(indent), break_long_words=False) or [""]
    return [f"  {label:<{width}}{wrapped[0]}".rstrip(), *(indent + line for line in wrapped[1:])]


def percent(x: float) -> str:
    """``1.6 %``; small ones keep two digits."""
    return f"{100 * x:.3g} %"


def unit(x: float, base: int, name: str) -> str:
    """``4.29 GFLOP``, ``33.6 MiB``, ``12 ms``."""
    if 0 < x < 1:
        steps = min(3, math.ceil(-math.log(x, base)))
        return f"{x * base**steps:.3g} {('', 'm', 'µ', 'n')[steps]}{name}"
    prefixes = ("", "Ki", "Mi", "Gi", "Ti", "Pi") if base == 1024 else ("", "k", "M", "G", "T", "P")
    for prefix in prefixes:
        if x < base or prefix == prefixes[-1]:
            break
        x /= base
    return f"{x:.3g} {prefix}{name}" if x < 1000 else f"{x:,.0f} {prefix}{name}"
