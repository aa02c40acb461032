"""What the function of a plan knows at some point: which values there are, and expressions of sizes as Python."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Sequence

import torch

from ..ir.expr import OPS, Expr, Op, free_vars, loads, parse
from .errors import InputError
from .plan import Plan, ReorderStep, ScatterStep, TensorSpec, inputs_of, outputs_of
from .plan_calls import CALLS, Kind
from .plan_memory import Memory
from .plan_reorder import HELPERS
from .plan_writes import inner_writes

# Names of the generated function that are neither sizes nor tensors.
RESERVED = frozenset(
    {"torch", "device", "tensors", "empty", "zeros", "inf", "nan", "strict", "saving", *OPS, *HELPERS, *CALLS}
)


def dtypes_of(plan: Plan) -> set[str]:
    """The dtypes that a plan names."""
    specs = list(plan.inputs)
    for step in plan.steps:
        specs += [step.output] if isinstance(step, ReorderStep | ScatterStep) else step.outputs
    strange = sorted({s.dtype for s in specs if not isinstance(getattr(torch, s.dtype, None), torch.dtype)})
    if strange:
        raise InputError(f"the plan {plan.name} names dtypes that this PyTorch lacks: {', '.join(strange)}")
    return {s.dtype for s in specs}


class Values:
    """The values of a plan while its steps are written."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.lines: list[str] = []
        self.bound: set[str] = set()  # size symbols with a value
        self.known: set[str] = set()  # tensors with a value
        self.shapes: dict[str, tuple[str, ...]] = {}
        self.kinds: dict[str, Kind] = {}
        self.negated: set[str] = set()  # float tensors that may be lazily negated: a kernel reads their memory
        self.dtypes = dtypes_of(plan)
        self.inner = inner_writes(plan.steps, {*plan.results, *plan.saved})
        self.parts = {after: before for before, after in self.inner.items()}
        self.uses = self.last_uses()
        self.memory = Memory()

    def last_uses(self) -> dict[str, int]:
        """Temporary -> the step after which nobody reads it.  Arguments belong to the caller."""
        last: dict[str, int] = {}
        for n, step in enumerate(self.plan.steps):
            names = (*inputs_of(step), *outputs_of(step))
            at = self.read_at(n)
            last |= {name: max(at, last.get(name, at)) for name in names}
        keep = {*self.plan.results, *(i.name for i in self.plan.inputs)}
        return {name: n for name, n in last.items() if name not in keep}

    def read_at(self, n: int) -> int:
        """The step with which step ``n`` is run."""
        while n in self.inner:
            n = self.inner[n]
        return n

    def name(self, name: str) -> str:
        if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED | self.dtypes:
            raise InputError(f"the plan {self.plan.name} uses {name!r} as a name, which it may not")
        return name

    def define(self, spec: TensorSpec) -> None:
        if self.name(spec.name) in self.known | self.bound:
            raise InputError(f"the plan {self.plan.name} defines {spec.name} twice")
        self.known.add(spec.name)
        self.shapes[spec.name] = spec.shape
        self.kinds[spec.name] = spec.shape, spec.dtype
        if "float" in spec.dtype:
            self.negated.add(spec.name)

    def targets(self, specs: Sequence[TensorSpec]) -> str:
        for spec in specs:
            self.define(spec)
        return ", ".join(s.name for s in specs) + ("," if len(specs) == 1 else "")

    def read(self, names: Iterable[str]) -> None:
        missing = [n for n in names if n not in self.known]
        if missing:
            raise InputError(f"the plan {self.plan.name} reads {', '.join(missing)} before it is computed")

    def expr(self, e: str | Expr, extra: Iterable[str] = ()) -> str:
        """Python text of a size expression."""
        e = parse(e) if isinstance(e, str) else e
        loose = free_vars(e) - self.bound - set(extra)
        if loose or loads(e):
            what = ", ".join(sorted(loose)) or "a tensor"
            raise InputError(f"the plan {self.plan.name} uses {e}, but {what} has no value")
        return python_text(e)

    def shape(self, shape: Sequence[str]) -> str:
        return tuple_text(map(self.expr, shape))

    def sizes(self, names: Iterable[str]) -> str:
        return "{" + ", ".join(f"{s!r}: {self.expr(s)}" for s in names) + "}"


def tuple_text(parts: Iterable[str]) -> str:
    """A tuple of these texts."""
    return "(" + "".join(f"{p}, " for p in parts) + ")"


def python_text(e: Expr) -> str:
    """Text of an expression in plain Python, with ``where`` evaluating one branch only."""
    if isinstance(e, Op) and e.name == "where":
        cond, a, b = map(python_text, e.args)
        return f"({a} if {cond} else {b})"
    if isinstance(e, Op):
        parts = [python_text(a) for a in e.args]
        if e.name == "not":
            return f"(not {parts[0]})"
        if e.name.isidentifier() and e.name not in ("and", "or"):
            return f"{e.name}({', '.join(parts)})"
        return f"({parts[0]} {e.name} {parts[1]})"
    return str(e)
