"""From a plan to the one Python function that runs it.

::

    def run(tensors, strict=True, saving=False):
        q, k, v = tensors
        B, H, N, q_3 = q.shape
        ...argument checks; where they fail an error if strict, else None...
        o = empty((B, H, N, 64), dtype=float32, device=device)
        lse = empty((B, H, N), dtype=float32, device=device)
        _launch_0((q, k, v, o, lse), {"B": B, "H": H, "N": N})
        return ([o], [o, lse]) if saving else [o]

All names and expressions come from parsed text, never from raw strings, so a plan read from disk can hold no
code of its own.
"""

from __future__ import annotations

import ast
import keyword
import linecache
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch

from ..ir.calls import call_gradient, parse_call
from ..ir.expr import OPS, Expr, Load, Op, Var, free_vars, loads, parse, rewrite
from ..ir.tensors import scatter
from . import pages
from .errors import InputError
from .plan import (
    CallGradientStep,
    CallStep,
    InterpretStep,
    LaunchStep,
    Plan,
    ReorderStep,
    ScatterStep,
    TensorSpec,
    inputs_of,
    outputs_of,
)
from .plan_calls import CALLS, Kind, faster
from .plan_check import check_inputs, check_value
from .plan_memory import Memory, is_fresh, updates
from .plan_reorder import HELPERS, reorder_lines
from .plan_writes import inner_writes, on_values, write_of

# Names of the generated function that are neither sizes nor tensors.
RESERVED = frozenset(
    {"torch", "device", "tensors", "empty", "zeros", "inf", "nan", "strict", "saving", *OPS, *HELPERS, *CALLS}
)

SPARE = 1 << 14  # elements kept between calls: what is larger takes longer to compute than to allocate

_FUNCTIONS: dict[str, Any] = {
    "inf": float("inf"),
    "nan": float("nan"),
    **{name: fold for name, (_, fold) in OPS.items() if name.isidentifier()},
}


def compile_guards(plan: Plan) -> Callable[[Mapping[str, int | float]], bool]:
    """All guards as one function of sizes and scalar arguments, which guards write as reads of rank 0."""
    guards = [rewrite(parse(g), lambda e: Var(e.tensor, "float") if isinstance(e, Load) and not e.index else None)
              for g in plan.guards]  # fmt: skip
    tensors = sorted({load.tensor for g in guards for load in loads(g)})
    if tensors:
        raise InputError(f"a guard of the plan {plan.name} reads {', '.join(tensors)}; guards read scalars only")
    code = compile(" and ".join(map(python_text, guards)) or "True", f"<attnc guards of {plan.name}>", "eval")
    names = {**_FUNCTIONS, "__builtins__": {}}
    return lambda values: bool(eval(code, names, values))


def compile_plan(plan: Plan) -> Callable[..., Any]:
    """The plan as a function of tensors, ``strict`` and ``saving``; kernels are loaded here."""
    source = plan_source(plan)
    filename = f"<attnc plan {plan.name}>"
    # Tracebacks through a call step show the line.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    memory = pages if plan.device_type == "cpu" else torch
    names: dict[str, Any] = {
        "torch": torch,
        "empty": memory.empty,
        "zeros": memory.zeros,
        **_FUNCTIONS,
        **HELPERS,
        **CALLS,
    }
    names |= {d: getattr(torch, d) for d in _dtypes(plan)}
    names["check_inputs"] = lambda tensors: check_inputs(plan, tensors)
    names["check_value"] = check_value
    for n, step in enumerate(plan.steps):
        if isinstance(step, LaunchStep):
            if plan.load is None:
                raise InputError(f"the plan {plan.name} has kernels but no backend to load them")
            launch = plan.load(plan.artifacts[step.artifact])
            names[f"_launch_{n}"] = getattr(launch, "start", launch)
            names[f"_spare_{n}"] = _Spare()
        elif isinstance(step, InterpretStep):
            names[f"_interpret_{n}"] = _interpreter(step.module)
        elif isinstance(step, CallGradientStep):
            names[f"_gradient_{n}"] = _call_gradient(step)
        elif isinstance(step, ScatterStep):
            names[f"_scatter_{n}"] = _scatter(step)
    exec(compile(source, filename, "exec"), names)
    return names["run"]


class _Spare(threading.local):
    """In place of ``torch.empty``: memory that a kernel writes and nobody reads, used again by the next call."""

    kept: torch.Tensor | None = None

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        kept = self.kept
        if kept is not None and kept.shape == shape and kept.dtype is dtype:
            return kept
        made = torch.empty(shape, dtype=dtype, device=device)
        self.kept = made if made.numel() <= SPARE else None
        return made


def _interpreter(text: str) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    module: list[Any] = []

    def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        from ..ir.interpret import interpret
        from ..ir.text import parse_module

        if not module:
            module.append(parse_module(text, "<plan>"))
        return list(interpret(module[0], list(tensors)))

    return run


def _call_gradient(step: CallGradientStep) -> Callable[..., list[torch.Tensor]]:
    def run(inputs: Sequence[Any], gradients: Sequence[Any], sizes: Mapping[str, int], device: Any) -> list[Any]:
        return call_gradient(step.text, inputs, step.given, gradients, step.wanted, sizes, device)

    return run


class _Dim(NamedTuple):
    name: str
    extent: Expr


def _scatter(step: ScatterStep) -> Callable[..., torch.Tensor]:
    dims = [_Dim(name, parse(extent)) for name, extent in step.dims]
    index = [parse(e) for e in step.index]
    names = [name for name, _ in step.captures]

    def run(source: Any, shape: Sequence[int], captures: Sequence[Any], sizes: Mapping[str, int]) -> torch.Tensor:
        tensors = dict(zip(names, captures, strict=True))
        return scatter(source, dims, index, shape, tensors, sizes)  # type: ignore[arg-type]  # dims without xDSL

    return run


def _dtypes(plan: Plan) -> set[str]:
    specs = list(plan.inputs)
    for step in plan.steps:
        specs += [step.output] if isinstance(step, ReorderStep | ScatterStep) else step.outputs
    strange = sorted({s.dtype for s in specs if not isinstance(getattr(torch, s.dtype, None), torch.dtype)})
    if strange:
        raise InputError(f"the plan {plan.name} names dtypes that this PyTorch lacks: {', '.join(strange)}")
    return {s.dtype for s in specs}


def plan_source(plan: Plan) -> str:
    """The text of the function."""
    return _Writer(plan).text()


class _Writer:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.lines: list[str] = []
        self.bound: set[str] = set()  # size symbols with a value
        self.known: set[str] = set()  # tensors with a value
        self.shapes: dict[str, tuple[str, ...]] = {}
        self.kinds: dict[str, Kind] = {}
        self.negated: set[str] = set()  # float tensors that may be lazily negated: a kernel reads their memory
        self.dtypes = _dtypes(plan)
        self.inner = inner_writes(plan.steps, {*plan.results, *plan.saved})
        self.parts = {after: before for before, after in self.inner.items()}
        self.uses = self.last_uses()
        self.memory = Memory()

    def text(self) -> str:
        plan = self.plan
        self.inputs()
        last_use = self.uses
        launched = {name for s in plan.steps if isinstance(s, LaunchStep) for name in s.inputs}
        for n, step in enumerate(plan.steps):
            match step:
                case CallStep() if n in self.inner:
                    continue  # with the step that reads it
                case CallStep():
                    self.call(n, step, launched)
                case ReorderStep():
                    self.read([step.input])
                    self.lines += reorder_lines(step, self.expr)
                    self.define(step.output)
                    self.memory.made([step.output.name], [step.input], fresh=False)
                case CallGradientStep():
                    self.call_gradient(n, step)
                    self.memory.made([s.name for s in step.outputs], [*step.inputs, *step.gradients], fresh=False)
                case ScatterStep():
                    self.scatter(n, step)
                case LaunchStep():
                    self.launch(n, step)
                case InterpretStep():
                    self.lines.append(f"{self.targets(step.outputs)} = _interpret_{n}(tensors)")
            dead = sorted(name for name, at in last_use.items() if at == n and name in self.known)
            saved = [name for name in dead if name in plan.saved]
            gone = [name for name in dead if name not in plan.saved]
            self.lines += [f"del {', '.join(gone)}"] if gone else []
            self.lines += ["if not saving:", f"    del {', '.join(saved)}"] if saved else []
            self.known -= set(gone)
        self.read([*plan.results, *plan.saved])
        results, saved = f"[{', '.join(plan.results)}]", f"[{', '.join(plan.saved)}]"
        self.lines.append(f"return ({results}, {saved}) if saving else {results}")
        return "def run(tensors, strict=True, saving=False):\n" + "".join(f"    {line}\n" for line in self.lines)

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

    # ---- names and expressions

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
        return _tuple(map(self.expr, shape))

    # ---- steps

    def inputs(self) -> None:
        """Unpack the arguments, bind sizes, and check everything that a kernel relies on."""
        plan = self.plan
        mismatch = ["if not strict:", "    return None", "check_inputs(tensors)"]
        if not plan.inputs:
            self.lines += ["if tensors:", *_indented(mismatch), "device = torch.device('cpu')"]
            return
        self.lines += ["try:", f"    {self.targets(plan.inputs)} = tensors"]
        bound_by = {place: self.name(size) for size, place in plan.size_bindings.items()}
        taken = {*bound_by.values(), *self.known, *self.dtypes, *RESERVED}
        checks: list[tuple[str, str]] = []
        for n, spec in enumerate(plan.inputs):
            targets: list[str] = []
            for axis, size in enumerate(spec.shape):
                name = bound_by.get((n, axis))
                if name is None:
                    name = next(f for f in _numbered(f"{spec.name}_{axis}") if f not in taken)
                    taken.add(name)
                targets.append(name)
                if name != size:
                    checks.append((name, size))
            if targets:
                self.lines.append(f"    {', '.join(targets)}{',' * (len(targets) == 1)} = {spec.name}.shape")
        self.lines += ["except ValueError:", *_indented(mismatch), "    raise"]
        if clash := set(plan.size_bindings) & self.known:
            raise InputError(f"the plan {plan.name} uses {', '.join(sorted(clash))} both as a size and as a tensor")
        self.bound |= set(plan.size_bindings)

        ranked = [s for s in plan.inputs if s.shape] or list(plan.inputs)
        self.lines.append(f"device = {ranked[0].name}.device")
        on_cpu = plan.device_type == "cpu"  # then the question is a cheap one
        tests = [f"device.type != {plan.device_type!r}"] if plan.device_type and not on_cpu else []
        for spec in plan.inputs:
            tests.append(f"{spec.name}.dtype is not {spec.dtype}")
            if not spec.shape:
                tests.append(f"{spec.name}.shape")
            if on_cpu:
                tests.append(f"not {spec.name}.is_cpu")
            elif spec.shape and spec is not ranked[0]:
                tests.append(f"{spec.name}.device != device")
        tests += [f"{name} != {self.expr(size)}" for name, size in checks]
        # a guard on a size that no shape names (D == 64) is what the shapes say already
        known = [g for g in map(parse, plan.guards) if not loads(g) and free_vars(g) <= self.bound]
        tests += [f"not ({self.expr(g)})" for g in known]
        self.lines += [f"if {' or '.join(tests)}:", *_indented(mismatch)]

    def call(self, n: int, step: CallStep, launched: set[str]) -> None:
        tree, comment = self.parsed(step), _comment(step.at)
        one = len(step.outputs) == 1
        value = self.written(n, tree)
        if value is None:
            if n in self.parts:
                self.call(self.parts[n], self.plan.steps[self.parts[n]], launched)
            self.read(step.inputs)
            value = self.in_place(n, step, tree) or self.faster(n, step, tree) or ast.unparse(tree)
        self.memory.made([s.name for s in step.outputs], step.inputs, fresh=is_fresh(tree, self.casts(step)))
        self.lines.append(f"{step.outputs[0].name if one else self.targets(step.outputs)} = {value}{comment}")
        for spec in step.outputs:
            if one:
                self.define(spec)
            for axis, size in enumerate(spec.shape):
                e = parse(size)
                if size.isidentifier() and size not in self.bound and free_vars(e) == {size}:
                    if self.name(size) in self.known:
                        raise InputError(f"the plan {self.plan.name} uses {size} both as a size and as a tensor")
                    self.lines.append(f"{size} = {spec.name}.shape[{axis}]")
                    self.bound.add(size)
            if spec.name in launched:  # a kernel trusts shapes and dtypes
                shape = self.shape(spec.shape)
                self.lines.append(f"if {spec.name}.dtype is not {spec.dtype} or {spec.name}.shape != {shape}:")
                self.lines.append(f"    check_value({spec.name}, {spec.dtype}, {shape}, {step.text!r}, {step.at!r})")

    def is_live(self, n: int) -> Callable[[str], bool]:
        """Is a value read after step ``n``?"""
        return lambda name: name in self.plan.saved or self.uses.get(name, n + 1) > n

    def written(self, n: int, tree: ast.Expression) -> str | None:
        """The tensor of which a call replaces a part, after the part is written to it; None where it may not be."""
        write = write_of(tree)
        if write is None:
            return None
        view, part, inner = write.view(write.whole), write.part, self.parts.get(n)
        while inner is not None:
            step = self.plan.steps[inner]
            assert isinstance(step, CallStep)
            more = write_of(self.parsed(step))
            assert more is not None
            view, part, inner = more.view(view), more.part, self.parts.get(inner)
        if not self.memory.free(write.whole, {part}, self.is_live(n)):
            return None
        self.read([write.whole, part])
        self.lines.append(f"{view}.copy_({part})")
        return write.whole

    def in_place(self, n: int, step: CallStep, tree: ast.Expression) -> str | None:
        """The call as one that overwrites an operand of the result's kind, where nobody misses the operand."""
        if len(step.outputs) != 1 or n in self.inner:
            return None
        for operand, others, call in updates(tree):
            if self.kinds.get(operand) == (step.outputs[0].shape, step.outputs[0].dtype):
                rest = set(step.inputs) & {node.id for node in _names(others)}
                if self.memory.free(operand, rest, self.is_live(n)):
                    return call
        return None

    def faster(self, n: int, step: CallStep, tree: ast.Expression) -> str | None:
        """Another call that gives the same, on a CPU."""
        if self.plan.device_type != "cpu":
            return None
        read = [self.uses.get(s.name) != n or s.name in self.plan.saved for s in step.outputs]
        results = [(s.shape, s.dtype) if used else None for s, used in zip(step.outputs, read, strict=True)]
        return faster(tree, results, {x: self.kinds[x] for x in step.inputs if x in self.kinds})

    def casts(self, step: CallStep) -> bool:
        """Has the result another dtype than any operand?"""
        return all(self.kinds[x][1] != spec.dtype for x in step.inputs if x in self.kinds for spec in step.outputs)

    def parsed(self, step: CallStep) -> ast.Expression:
        """The call with the names of its operands; all else that it uses has a value."""
        tree = parse_call(step.text)
        self.check(tree, step)
        return on_values(tree, step.inputs)

    def tree(self, step: CallGradientStep) -> ast.Expression:
        """The call, read; all that it uses has a value."""
        self.read(step.inputs)
        tree = parse_call(step.text)
        self.check(tree, step)
        return tree

    def check(self, tree: ast.Expression, step: CallStep | CallGradientStep) -> None:
        """Has all that a call uses a value?"""
        allowed = {f"x{k}" for k in range(len(step.inputs))} | self.bound | {"torch", "device", "inf", "nan"}
        for node in _names(tree):
            if node.id not in allowed:
                raise InputError(f"the call {step.text!r} uses {node.id}, which has no value there")

    def call_gradient(self, n: int, step: CallGradientStep) -> None:
        sizes = self.sizes(sorted({node.id for node in _names(self.tree(step))} & self.bound))
        self.read(step.gradients)
        inputs, gradients = (_tuple(x) for x in (step.inputs, step.gradients))
        value = f"_gradient_{n}({inputs}, {gradients}, {sizes}, device)"
        self.lines.append(f"{self.targets(step.outputs)} = {value}  # gradient of {step.text}".replace("\n", " "))

    def scatter(self, n: int, step: ScatterStep) -> None:
        self.read([step.input, *(tensor for _, tensor in step.captures)])
        exprs = [parse(e) for e in (*step.index, *(extent for _, extent in step.dims))]
        sizes = self.sizes(sorted(set().union(*map(free_vars, exprs)) & self.bound))
        captures = _tuple(tensor for _, tensor in step.captures)
        value = f"_scatter_{n}({step.input}, {self.shape(step.output.shape)}, {captures}, {sizes})"
        self.define(step.output)
        self.lines.append(f"{step.output.name} = {value}.to({step.output.dtype}){_comment(step.at)}")

    def sizes(self, names: Iterable[str]) -> str:
        return "{" + ", ".join(f"{s!r}: {self.expr(s)}" for s in names) + "}"

    def launch(self, n: int, step: LaunchStep) -> None:
        self.read(step.inputs)
        for name in sorted(self.negated.intersection(step.inputs)):  # as x.conj().imag is
            self.lines += [f"if {name}.is_neg():", f"    {name} = {name}.resolve_neg()"]
        for spec in step.outputs:
            new = "zeros" if spec.name in step.zeroed else "empty"
            if new == "empty" and self.only_saved(n, spec.name):
                new = f"(empty if saving else _spare_{n})"
            self.lines.append(f"{spec.name} = {new}({self.shape(spec.shape)}, dtype={spec.dtype}, device=device)")
            self.define(spec)
        self.negated -= {*step.inputs, *(s.name for s in step.outputs)}
        tensors = [*step.inputs, *(s.name for s in step.outputs)]
        some = " or ".join(f"{s.name}.numel()" for s in step.outputs)
        if self.plan.artifacts[step.artifact].meta.get("flat"):  # its launcher takes numbers: all is known here
            parts = [part for name in tensors for part in self.described(name)]
            arguments = ", ".join([*parts, *map(self.expr, step.sizes)])
        else:
            arguments = f"({', '.join(tensors)},), {self.sizes(step.sizes)}"
        comment = f"  # {step.kernel}" + (f" ({step.at})" if step.at else "")
        self.lines.append(f"if {some}:")
        self.lines.append(f"    _launch_{n}({arguments}){comment}")

    def only_saved(self, n: int, name: str) -> bool:
        """Does nobody but the gradient read this output of step ``n``, which a CPU computes?"""
        return self.plan.device_type == "cpu" and name in self.plan.saved and self.uses.get(name) == n

    def described(self, name: str) -> list[str]:
        """Address, sizes and strides of a tensor."""
        return [f"{name}.data_ptr()", *map(self.expr, self.shapes[name]), f"*{name}.stride()"]


def _names(tree: ast.AST) -> list[ast.Name]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _tuple(parts: Iterable[str]) -> str:
    return "(" + "".join(f"{p}, " for p in parts) + ")"


def _comment(at: str) -> str:
    return f"  # {at}".replace("\n", " ") if at else ""


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{n}" for n in count(2))


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
