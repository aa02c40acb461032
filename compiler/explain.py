"""``Lowered.explain()``: what was recognised, how it is tiled, what is computed, what it costs, what stays eager.

Everything comes from closed forms (index sets, loop ranges), so a length of a million costs no more than one of a
thousand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ..backends.api import MachineCode
from ..ir import attn, tile
from ..ir.attributes import Dim
from ..ir.errors import AttncError
from ..ir.expr import Expr, evaluate, free_vars, loads
from ..ir.powers import no_larger, powers
from .analysis import cost
from .analysis.live_area import live_pairs
from .analysis.space import Choice
from .coverage import Coverage, coverage, loops_of
from .errors import StageError
from .explain_backward import Backward, explain_backward
from .machine_code import CompiledKernel, Track, compiled_kernel, machine_code, tensor_bytes
from .passes.common import work_of
from .roofline import Roofline
from .wording import in_words, set_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .lowered import Lowered


class MissingSizeError(AttncError):
    """A size symbol without a value."""


@dataclass(frozen=True)
class KernelInfo:
    """One attention: what it sees, and how it runs."""

    name: str
    at: str  # the user's file:line
    pattern: str  # the mask in words
    live_set: str  # the mask as a set
    score: str
    domain: str  # what the passes made of it, empty when nothing
    tiles: tuple[int, int]  # queries x keys
    why: str
    ranges: tuple[str, ...]
    coverage: Coverage
    pairs: int  # queries x keys, live or not
    live_pairs: int | None  # None: the mask depends on data
    exact: bool  # is ``live_pairs`` a count, not an estimate from a sample of rows?
    flops: int
    bytes: int
    seconds: float  # predicted, of one core or multiprocessor
    compiled: CompiledKernel | None = None  # what its machine code says, where that was asked for


@dataclass(frozen=True)
class EagerOp:
    """Something that PyTorch runs, why, and where the user wrote it.

    ``quadratic`` ones hold a value of queries x keys, or are attention that was not fused.
    """

    call: str
    reason: str
    at: str
    bytes: int = 0
    quadratic: bool = False


@dataclass(frozen=True)
class Explanation:
    """What attnc makes of a function; ``str()`` is a table.

    ``fused`` is True exactly when every attention of the function runs in generated kernels and nothing of size
    queries x keys is materialised.  Fractions are of all query-key pairs; ``live_fraction`` is None when the
    mask depends on data.
    """

    name: str
    backend: str
    target: str
    dtype: str
    sizes: dict[str, int]
    kernels: list[KernelInfo] = field(default_factory=list)
    eager_ops: list[EagerOp] = field(default_factory=list)
    explain_backward: Callable[[], Backward] = field(default=Backward, repr=False, compare=False)
    subject: Lowered | None = field(default=None, repr=False, compare=False)  # what is explained

    @property
    def backward(self) -> Backward:
        """The same for the gradient by all floating arguments; it is lowered when first asked for."""
        return self.explain_backward()

    @property
    def fused(self) -> bool:
        return bool(self.kernels) and not any(op.quadratic for op in self.eager_ops)

    @property
    def pairs(self) -> int:
        return sum(k.pairs for k in self.kernels)

    @property
    def live_fraction(self) -> float | None:
        if any(k.live_pairs is None for k in self.kernels):
            return None
        return _fraction(sum(k.live_pairs or 0 for k in self.kernels), self.pairs)

    @property
    def computed_fraction(self) -> float:
        return _fraction(sum(k.coverage.computed_pairs for k in self.kernels), self.pairs)

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)

    @property
    def bytes(self) -> int:
        return sum(k.bytes for k in self.kernels)

    @property
    def expected_seconds(self) -> float | None:
        """Expected time of the kernels on the whole GPU; None where their machine code was not asked for."""
        if not self.kernels or any(k.compiled is None for k in self.kernels):
            return None
        return sum(k.compiled.expected.seconds for k in self.kernels if k.compiled is not None)

    @property
    def seconds(self) -> float:
        """Predicted time of the kernels on one core (of a GPU: one multiprocessor); it ranks, it does not measure."""
        return sum(k.seconds for k in self.kernels)

    @property
    def intensity(self) -> float:
        """Floating-point operations for each byte that must move."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def roofline(self) -> Roofline:
        """What the device could do at best, by arithmetic and by memory."""
        return Roofline.of(self.target, self.dtype, self.flops, self.bytes)

    @property
    def advice(self) -> list[str]:
        """What would make it faster, most important first."""
        from .advice import advice

        return advice(self)

    def plot(self, path: str | None = None) -> Figure:
        """The tile map of every kernel and the roofline, as a figure of matplotlib; ``path`` also writes it."""
        from .pictures import explanation_figure

        return explanation_figure(self, self.subject, path)

    def _repr_html_(self) -> str:
        from .report.notebook import explanation

        return explanation(self)

    def __str__(self) -> str:
        from .explain_text import text

        return text(self)


def explain(
    lowered: Lowered, sizes: Mapping[str, int] | None = None, *, compiled: bool = False, track: Track | None = None
) -> Explanation:
    """Explain a lowered function for the sizes it was lowered with, or for others.

    With ``compiled``, kernels of a GPU program are compiled and their machine code is reported, the gradient's too;
    ``track`` shows the progress.
    """
    if lowered.gradient:
        raise StageError("this is the program of gradients; explain the function, and look at the page's .backward")
    module = lowered.module("attn")
    func = attn.func_of(module)
    env = {k: int(v) for k, v in {**lowered.hints, **(sizes or {})}.items() if isinstance(v, int)}
    if missing := sorted(set(func.sizes()) - env.keys()):
        raise MissingSizeError(
            f"explain: no value for the size{'s'[: len(missing) > 1]} {', '.join(missing)}; pass sizes={{...}}"
        )
    target = str(lowered.request.pipeline_options()["target"])
    report = Explanation(
        func.sym_name.data,
        lowered.backend,
        target,
        lowered.dtype,
        {n: env[n] for n in sorted(func.sizes())},
        explain_backward=cache(lambda: explain_backward(lowered, env, compiled, track)),
        subject=lowered,
    )
    attends = _attends(func)
    if attends:
        tiled = _attends(attn.func_of(lowered.after("choose-tiles")))
        kernels = list(tile.kernels_of(lowered.after("key-ranges")).values())
        code = machine_code(lowered, track) if compiled else {}
        tuned = lowered.request.tuned
        forced = lowered.request.pass_options.keys() & {"rows", "keys", "choice"}
        written, merges = iter(attends), False
        for after, kernel in zip(tiled, kernels, strict=True):
            before = after if merges else next(written)
            why = tuned.record.words if tuned else _why(after, func.facts, target, bool(forced))
            why += f"; {lowered.set_aside}" if lowered.set_aside else ""
            report.kernels.append(_kernel(before, after, kernel, env, func.facts, target, code, why))
            merges = "part" in after.attributes  # an attention cut in parts is followed by the one that merges them
    report.eager_ops.extend(_eager_ops(func, attends, lowered.eager, env))
    return report


def _attends(func: attn.FuncOp) -> list[attn.AttendOp]:
    return [op for op in func.body.block.ops if isinstance(op, attn.AttendOp)]


def _kernel(
    before: attn.AttendOp,
    after: attn.AttendOp,
    kernel: tile.KernelOp,
    env: dict[str, int],
    facts: tuple[Expr, ...],
    target: str,
    code: Mapping[str, MachineCode],
    why: str,
) -> KernelInfo:
    domain = before.domain
    sources = before.source_list
    pairs = sum(_points((*domain, Dim(s.key, s.extent)), env) for s in sources)
    # The lowered domain has the same live pairs, in ranges that are easier to count.
    dynamic = any(loads(s.mask) for s in after.source_list)
    live = [] if dynamic else [live_pairs(after.domain, s, env, facts=facts) for s in after.source_list]
    covered = coverage(kernel, env)
    assert after.tiles is not None
    flops = 2 * covered.computed_pairs * (after.width.data + after.value_width.data)
    tensors = [*before.operands, before.out, before.lse]
    moved = sum(tensor_bytes(v, env) for v in tensors)
    name = kernel.sym_name.data
    return KernelInfo(
        name=name,
        at=_at(before),
        pattern=" + ".join(in_words(s.mask, domain[-1].name, s.key) for s in sources),
        live_set=" + ".join(set_text(domain, Dim(s.key, s.extent), s.mask) for s in sources),
        score=", ".join(dict.fromkeys(str(s.score.body) for s in sources)),
        domain=_changes(before, after),
        tiles=after.tiles.data,
        why=why,
        ranges=tuple(f"{x.kind} [{r.lo}, {r.hi})" for x in loops_of(kernel) for r in x.ranges),
        coverage=covered,
        pairs=pairs,
        live_pairs=None if dynamic else sum(n.count for n in live),
        exact=not dynamic and all(n.exact for n in live),
        flops=flops,
        bytes=moved,
        seconds=_seconds(after, env, facts, moved, target),
        compiled=compiled_kernel(code[name], kernel, covered, flops, env) if name in code else None,
    )


def _points(domain: tuple[Dim, ...], env: Mapping[str, int]) -> int:
    """Points of a domain, whose extents may use earlier dimensions."""
    for n, dim in enumerate(domain):
        if any(dim.name in free_vars(d.extent) for d in domain[n + 1 :]):
            around = _points(domain[:n], env)
            steps = range(max(0, int(evaluate(dim.extent, env))))
            return around * sum(_points(domain[n + 1 :], {**env, dim.name: x}) for x in steps)
    return math.prod(max(0, int(evaluate(d.extent, env))) for d in domain)


def _changes(before: attn.AttendOp, after: attn.AttendOp) -> str:
    """What the passes did to the domain, in a line."""
    if before.dims == after.dims:
        return ""
    old = {d.name for d in before.domain}
    split = [d for d in after.domain[:-1] if d.name not in old]
    row, source = after.domain[-1], after.source_list[0]
    left = "; ".join(in_words(s.mask, row.name, s.key) for s in after.source_list)
    parts = " x ".join(f"{d.extent}" for d in split) or "1"
    each = f"each {row.extent} queries x {source.extent} keys: {left}"
    return f"{parts} independent parts ({', '.join(map(str, split))}), {each}"


def _seconds(after: attn.AttendOp, env: Mapping[str, int], facts: tuple[Expr, ...], moved: int, target: str) -> float:
    """The cost model's time; what is read and written comes from memory once."""
    on = cost.device(target)
    assert after.tiles is not None
    seconds = cost.predicted(work_of(after, facts), on, Choice(*after.tiles.data), env)
    return max(seconds, moved / on.bandwidth)


def _why(after: attn.AttendOp, facts: tuple[Expr, ...], target: str, forced: bool) -> str:
    """How the tiles compare with the other candidates of the cost model."""
    assert after.tiles is not None
    on = cost.device(target)
    if forced:
        best = cost.choose_tiles(work_of(after, facts), target)
        return f"set by an option; the cost model for {on.name} takes {best[0]} x {best[1]}"
    times = dict(cost.timings(work_of(after, facts), on, cost.NOMINAL_LENGTH))  # known since the tiles were chosen
    mine = times.pop(after.tiles.data, None)
    if mine is None:
        return "so few queries have tiles of their own, which the cost model does not choose"
    if not times:
        return f"the only tiles that fit {on.name}"
    best = min(times, key=lambda t: (times[t], t))
    slower = 100 * (times[best] / mine - 1) if mine else 0.0
    other = f"{slower:.0f} % slower" if slower >= 0.5 else "no slower"
    return f"best of {len(times) + 1} sizes for {on.name} in the cost model; {best[0]} x {best[1]} is next, {other}"


def _eager_ops(func: attn.FuncOp, attends: list[attn.AttendOp], reported: Any, env: Mapping[str, int]) -> list[EagerOp]:
    """What the frontend says stays eager, then calls that hold a value of queries x keys and that it did not name."""
    found = _merged([_reported(item, env) for item in reported or ()])
    named = {op.at for op in found if op.quadratic}
    sizes = set(func.sizes())
    # of one attention each: attention by rows and attention by columns make no grid quadratic
    pairs = [
        (
            free_vars(a.domain[-1].extent) & sizes,
            free_vars(s.extent) & sizes,
            [powers(attn.tensor_type(v).shape) for v in _tensors(a)],
            _elements((a.domain[-1].extent, s.extent), env),
        )
        for a in attends
        for s in a.source_list
    ]
    for op in func.body.block.ops:
        for value in op.outputs if isinstance(op, attn.CallOp) and _at(op) not in named else ():
            shape = attn.tensor_type(value).shape
            count = _elements(shape, env)
            if any(
                # blocks have fewer elements
                _quadratic(shape, queries, keys) and not no_larger(powers(shape), own) and not count < least
                for queries, keys, own, least in pairs
            ):
                reason = f"PyTorch makes a tensor of shape ({', '.join(map(str, shape))})"
                found.append(EagerOp(op.call.data, reason, _at(op), tensor_bytes(value, env), True))
    return found


def _merged(ops: list[EagerOp]) -> list[EagerOp]:
    """Ops of one line and one reason as one."""
    groups: dict[tuple[str, str], list[EagerOp]] = {}
    for op in ops:
        groups.setdefault((op.at, op.reason), []).append(op)
    return [
        EagerOp(
            ", ".join(o.call for o in g if o.call),
            g[0].reason,
            at,
            sum(o.bytes for o in g),
            any(o.quadratic for o in g),
        )
        for (at, _), g in groups.items()
    ]


def _reported(item: Any, env: Mapping[str, int]) -> EagerOp:
    if isinstance(item, EagerOp):
        return item
    size = getattr(item, "bytes", 0) or 0
    if isinstance(size, Expr):
        size = evaluate(size, env) if free_vars(size) <= env.keys() else 0
    return EagerOp(
        str(getattr(item, "call", "") or getattr(item, "op", "")),
        str(getattr(item, "reason", item)),
        str(getattr(item, "at", "") or getattr(item, "location", "")),
        int(size),
        bool(getattr(item, "quadratic", True)),
    )


def _quadratic(shape: tuple[Expr, ...], queries: frozenset[str], keys: frozenset[str]) -> bool:
    """Does a tensor have one axis of queries and another of keys?"""
    rows = [n for n, s in enumerate(shape) if free_vars(s) & queries]
    columns = [n for n, s in enumerate(shape) if free_vars(s) & keys]
    return any(r != c for r in rows for c in columns)


def _elements(shape: tuple[Expr, ...], env: Mapping[str, int]) -> float:
    """How many elements a shape has; not a number where a size is not known."""
    known = all(free_vars(s) <= env.keys() for s in shape)
    return math.prod(evaluate(s, env) for s in shape) if known else math.nan


def _tensors(a: attn.AttendOp) -> list[Any]:
    return [a.query, *a.keys, *a.values, a.out]


def _at(op: Any) -> str:
    at = op.attributes.get("at")
    return at.data if at is not None else ""


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
