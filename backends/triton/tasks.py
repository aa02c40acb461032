"""Tasks and the order in which they start: the program id, and what it numbers.

Processors take tasks in the order of program ids, each the next one when it is done.  So where tasks differ in length
the long ones come first, and what is left for the end are short ones.  A task is a tile of rows of one head; with all
heads at once, long tiles first, keys of all of them would compete for the last-level cache, so heads come in sections
whose keys fit it::

    section = pid // (together * t_count)            together: heads of a section
    width = min(together, heads - section * together)   the last section may be narrower
    place = pid % (together * t_count)
    t = t_count - 1 - place // width                 long tiles first, all heads of the section side by side
    rest = section * together + place % width        which head

On 132 processors causal attention of 4k tokens and 8 heads so takes 1.00 of the time that an even division would, 1.65
with tiles in order; 32 heads of 16k tokens take 1.00 and 1.04.  The same tasks divided in advance among programs that
stay (``persistent``) take 1.0 to 1.58: no order that is fixed in advance adapts as the hardware's own does.  So
persistence is no default, but something that a search may try: what it can save is the start of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.ir import SSAValue

from ...ir.attributes import Dim
from ...ir.expr import Var, evaluate, free_vars, loads
from ...ir.tile import ForOp, KernelOp, LoadOp, Range

if TYPE_CHECKING:
    from .emit import Emitter

RAGGED = 1.25  # the longest task over the mean from which their order matters
FEW = 3.0  # from which on the long ones are so few that all of them start before any other
_LENGTH, _BATCH, _SAMPLES = 8192, 2, 64


# printed before a kernel whose programs stay
PROCESSORS = '''\
def processors(x):
    """The processors of the device of x; a few where the kernel is interpreted."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 3
'''


@dataclass(frozen=True)
class Order:
    """The dimension of the grid that tells how long a task is, at which end the long ones are, and if they are few."""

    dim: str
    last_first: bool
    few: bool


def tasks_of(kernel: KernelOp) -> tuple[Dim, ...]:
    """The grid dimensions that are not sequential."""
    dims = kernel.grid.data
    return dims[: len(dims) - kernel.sequential.data]


def order_of(kernel: KernelOp) -> Order | None:
    """How tasks of different lengths are ordered; None where they are of one length, or data decide."""
    dim = [d for d in tasks_of(kernel) if d.name in free_vars(kernel.rows.data.base)]
    loops = [op for op in kernel.body.block.ops if isinstance(op, ForOp)]
    ranges = [r for op in loops for r in op.range_list]
    if len(dim) != 1 or not loops or any(loads(e) for r in ranges for e in (r.lo, r.hi)):
        return None
    try:
        lengths = _lengths(kernel, dim[0], ranges)
    except (ArithmeticError, KeyError):  # sizes that are told from others only by the call
        return None
    if len(lengths) < 2 or max(lengths) * len(lengths) < RAGGED * sum(lengths) or not sum(lengths):
        return None
    half = len(lengths) // 2
    last_first = sum(lengths[-half:]) > sum(lengths[:half])
    return Order(dim[0].name, last_first, max(lengths) * len(lengths) > FEW * sum(lengths))


def _lengths(kernel: KernelOp, dim: Dim, ranges: Sequence[Range]) -> list[int]:
    """Keys that tasks walk, for some values of ``dim`` at equal distances, in the middle of the other dimensions."""
    alone = {d.extent.name for d in kernel.grid.data if isinstance(d.extent, Var)}
    env: dict[str, int | float] = {n: _BATCH if n in alone else _LENGTH for n in kernel.size_names}
    env |= {d.name: int(evaluate(d.extent, env)) // 2 for d in kernel.grid.data}
    count = int(evaluate(dim.extent, env))
    lengths = []
    for n in range(0, count, max(1, count // _SAMPLES)):
        env[dim.name] = n
        lengths.append(sum(max(0, int(evaluate(r.hi, env)) - int(evaluate(r.lo, env))) for r in ranges))
    return lengths


def streamed(kernel: KernelOp) -> list[SSAValue]:
    """Memories whose tiles loops read: what should stay in the cache."""
    loops = [op for op in kernel.body.walk() if isinstance(op, ForOp)]
    found = [op.memory for loop in loops for op in loop.body.walk() if isinstance(op, LoadOp)]
    return list(dict.fromkeys(found))


class Numbering:
    """Prints which task a program runs."""

    def __init__(self, kernel: KernelOp):
        self.dims, self.order = tasks_of(kernel), order_of(kernel)
        self.heads = self.together = ""  # how many heads there are, and in a section, which is a parameter

    @property
    def others(self) -> Sequence[Dim]:
        return [d for d in self.dims if self.order is None or d.name != self.order.dim]

    def emit(self, emitter: Emitter) -> None:
        """Program id -> grid dimensions that are tasks."""
        rest = "pid"
        if self.order is not None:
            rest = self._ordered(emitter, self.order)
        for n, dim in reversed(list(enumerate(self.others))):
            name = emitter.scalars[dim.name].code
            if n == 0:
                emitter.line(f"{name} = {rest}")
                break
            count = _count(emitter, dim)
            emitter.line(f"{name} = {rest} % {count}")
            rest = f"{rest} // {count}"
            if n > 1:
                following = emitter.names.fresh("rest")
                emitter.line(f"{following} = {rest}")
                rest = following

    def _ordered(self, emitter: Emitter, order: Order) -> str:
        names, name = emitter.names, emitter.scalars[order.dim].code
        count = _count(emitter, next(d for d in self.dims if d.name == order.dim))
        first = f"{count} - 1 - " if order.last_first else ""
        if not self.others:
            emitter.line(f"{name} = {first}pid  # long tasks first")
            return ""
        heads = self.heads = names.fresh("heads")
        emitter.line(f"{heads} = {' * '.join(emitter.scalar(d.extent).at_least(11) for d in self.others)}")
        rest = names.fresh("rest")
        if order.few:
            emitter.line(f"{name} = {first}pid // {heads}  # long tasks first")
            emitter.line(f"{rest} = pid % {heads}")
            return rest
        self.together = names.fresh("together")
        section, width, place = (names.fresh(x) for x in ("section", "width", "place"))
        emitter.line(f"{section} = pid // ({self.together} * {count})  # heads whose keys share the cache")
        emitter.line(f"{width} = tl.minimum({self.together}, {heads} - {section} * {self.together})")
        emitter.line(f"{place} = pid % ({self.together} * {count})")
        emitter.line(f"{name} = {first}{place} // {width}  # long tasks first")
        emitter.line(f"{rest} = {section} * {self.together} + {place} % {width}")
        return rest


def _count(emitter: Emitter, dim: Dim) -> str:
    extent = emitter.scalar(dim.extent)
    if extent.strength < 20 or "(" in extent.code:
        count = emitter.names.fresh(f"{dim.name}_count")
        emitter.line(f"{count} = {extent.code}")
        return count
    return extent.code
