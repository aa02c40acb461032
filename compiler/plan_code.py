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

import linecache
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch

from ..ir.calls import call_gradient
from ..ir.expr import OPS, Load, Var, free_vars, loads, parse, rewrite
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
)
from .plan_call_lines import CallLines, comment_text, names_in
from .plan_calls import CALLS
from .plan_check import check_inputs, check_value
from .plan_reorder import HELPERS, reorder_lines
from .plan_values import RESERVED, dtypes_of, python_text, tuple_text

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
    names |= {d: getattr(torch, d) for d in dtypes_of(plan)}
    names["check_inputs"] = lambda tensors: check_inputs(plan, tensors)
    names["check_value"] = check_value
    for n, step in enumerate(plan.steps):
        if isinstance(step, LaunchStep):
            if plan.load is None:
                raise InputError(f"the plan {plan.name} has kernels but no backend to load them")
            launch = plan.load(plan.artifacts[step.artifact])
            names[f"_launch_{n}"] = getattr(launch, "start", launch)
            names |= {f"_spare_{n}_{k}": _Spare() for k in range(len(step.outputs))}
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


def _scatter(step: ScatterStep) -> Callable[..., torch.Tensor]:
    dims = [SimpleNamespace(name=name, extent=parse(extent)) for name, extent in step.dims]
    index = [parse(e) for e in step.index]
    names = [name for name, _ in step.captures]

    def run(source: Any, shape: Sequence[int], captures: Sequence[Any], sizes: Mapping[str, int]) -> torch.Tensor:
        tensors = dict(zip(names, captures, strict=True))
        return scatter(source, dims, index, shape, tensors, sizes)  # type: ignore[arg-type]  # dims without xDSL

    return run


def plan_source(plan: Plan) -> str:
    """The text of the function."""
    return _Writer(plan).text()


class _Writer(CallLines):
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

    def call_gradient(self, n: int, step: CallGradientStep) -> None:
        sizes = self.sizes(sorted({node.id for node in names_in(self.tree(step))} & self.bound))
        self.read(step.gradients)
        inputs, gradients = (tuple_text(x) for x in (step.inputs, step.gradients))
        value = f"_gradient_{n}({inputs}, {gradients}, {sizes}, device)"
        self.lines.append(f"{self.targets(step.outputs)} = {value}  # gradient of {step.text}".replace("\n", " "))

    def scatter(self, n: int, step: ScatterStep) -> None:
        self.read([step.input, *(tensor for _, tensor in step.captures)])
        exprs = [parse(e) for e in (*step.index, *(extent for _, extent in step.dims))]
        sizes = self.sizes(sorted(set().union(*map(free_vars, exprs)) & self.bound))
        captures = tuple_text(tensor for _, tensor in step.captures)
        value = f"_scatter_{n}({step.input}, {self.shape(step.output.shape)}, {captures}, {sizes})"
        self.define(step.output)
        self.lines.append(f"{step.output.name} = {value}.to({step.output.dtype}){comment_text(step.at)}")

    def launch(self, n: int, step: LaunchStep) -> None:
        self.read(step.inputs)
        for name in sorted(self.negated.intersection(step.inputs)):  # as x.conj().imag is
            self.lines += [f"if {name}.is_neg():", f"    {name} = {name}.resolve_neg()"]
        for k, spec in enumerate(step.outputs):
            new = "zeros" if spec.name in step.zeroed else "empty"
            if new == "empty" and self.unread(n, spec.name):
                new = f"(empty if saving else _spare_{n}_{k})" if spec.name in self.plan.saved else f"_spare_{n}_{k}"
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

    def unread(self, n: int, name: str) -> bool:
        """Does nobody but a gradient read this output of step ``n``, which a CPU computes?"""
        return self.plan.device_type == "cpu" and self.uses.get(name) == n

    def described(self, name: str) -> list[str]:
        """Address, sizes and strides of a tensor."""
        return [f"{name}.data_ptr()", *map(self.expr, self.shapes[name]), f"*{name}.stride()"]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{n}" for n in count(2))
