"""From a lowered module to a plan."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from ..backends.api import Artifact, Launch
from ..ir import attn, gradient, tile
from ..ir.dtypes import to_torch
from ..ir.text import forget_lines, print_module
from .errors import InternalError
from .lowering import Request, load_backend
from .plan import (
    CallGradientStep,
    CallStep,
    InterpretStep,
    LaunchStep,
    Plan,
    ReorderStep,
    ScatterStep,
    Step,
    TensorSpec,
)
from .plan_values import RESERVED


def interpret_plan(module: ModuleOp, saving: bool = False) -> Plan:
    """A plan that interprets the module as it is: the reference backend."""
    module = module.clone()
    func = attn.func_of(module)
    names = _Names(module)
    last = func.last
    # The same value may be returned twice, so results have names of their own.
    outputs = tuple(_spec(names.fresh("out"), v) for v in last.values)
    more = func.residuals() if saving else []
    saved = tuple(_spec(names.fresh("saved"), v) for v in more)
    last.operands = [*last.values, *more]
    step = InterpretStep(print_module(module), (*outputs, *saved))
    results = tuple(o.name for o in outputs)
    return _plan(func, names, "reference", (step,), results, tuple(o.name for o in saved))


def begin_plan(module: ModuleOp, request: Request) -> Callable[[], Plan]:
    """Lower the module in place and begin its kernels, equal ones once; the plan that is returned waits for them."""
    saving = request.gradient is None
    forget_lines(module)
    if request.backend == "reference":
        if request.gradient:
            request.differentiate(module)
        plan = interpret_plan(module, saving)
        return lambda: plan
    request.run_passes(module)
    return _kernel_plan(module, request, saving)


def _kernel_plan(module: ModuleOp, request: Request, saving: bool) -> Callable[[], Plan]:
    """A plan that launches the module's kernels.

    With ``saving`` the kernels are those of a forward, whose first and last results a gradient reads, as it does calls
    that are kept.
    """
    func = attn.func_of(module)
    kernels = tile.kernels_of(module)
    names = _Names(module)
    for arg, name in zip(func.args, func.names, strict=True):
        names.of(arg, name)
    steps: list[Step] = []
    begun: dict[str, Callable[[], Artifact]] = {}  # compiled beside one another
    results: tuple[str, ...] = ()
    saved: list[str] = []
    kept: list[str] = []
    for op in func.needed():
        inputs = tuple(names.of(v) for v in op.operands)
        match op:
            case attn.ReturnOp():
                results = inputs
            case attn.CallOp():
                outputs = names.specs(op.outputs)
                steps.append(CallStep(op.call.data, inputs, outputs, _at(op)))
                kept += [outputs[0].name] if saving and op.is_kept else []
            case attn.ReorderOp():
                (output,) = names.specs([op.output])
                shape = tuple(str(s) for s in attn.tensor_type(op.input).shape)
                index, inverse = (tuple(str(e) for e in m.data) for m in (op.index, op.inverse))
                steps.append(ReorderStep(inputs[0], shape, index, inverse, output))
            case gradient.CallGradientOp() if _CAST.fullmatch(op.call.data) and not _complex(op):
                outputs = names.specs(op.outputs)  # autograd would take much longer to say the same
                steps.append(CallStep(f"x0.to(torch.{outputs[0].dtype})", inputs[1:], outputs, _at(op)))
            case gradient.CallGradientOp():
                count = len(op.inputs)
                steps.append(
                    CallGradientStep(
                        op.call.data,
                        inputs[:count],
                        tuple(op.given_list),
                        inputs[count:],
                        tuple(op.wanted_list),
                        names.specs(op.outputs),
                        _at(op),
                    )
                )
            case gradient.ScatterOp():
                (output,) = names.specs([op.output])
                dims = tuple((d.name, str(d.extent)) for d in op.dims.data)
                index = tuple(str(e) for e in op.index.data)
                captures = tuple(zip(op.captured, inputs[1:], strict=True))
                steps.append(ScatterStep(inputs[0], dims, index, captures, output, _at(op)))
            case tile.LaunchOp():
                kernel = kernels[op.kernel.root_reference.data]
                artifact = kernel_id(kernel)
                if artifact not in begun:
                    begun[artifact] = request.begin_kernel(kernel)
                outputs = names.specs(op.outputs)
                zeroed = tuple(outputs[n - len(inputs)].name for n in kernel.zeroed)
                sizes = tuple(kernel.size_names)
                steps.append(LaunchStep(kernel.sym_name.data, artifact, inputs, outputs, sizes, _at(op), zeroed))
                saved += [outputs[0].name, outputs[-1].name] if saving and "part" not in op.attributes else []
            case _:
                raise InternalError(f"the pipeline left {op.name} in {func.sym_name.data}; a plan cannot run it")

    def finish() -> Plan:
        artifacts = {name: compiled() for name, compiled in begun.items()}
        load, device = load_backend(request.backend).load, request.device.type
        return _plan(func, names, request.backend, tuple(steps), results, (*saved, *kept), device, artifacts, load)

    return finish


def _plan(
    func: attn.FuncOp,
    names: _Names,
    backend: str,
    steps: tuple[Step, ...],
    results: tuple[str, ...],
    saved: tuple[str, ...],
    device_type: str | None = None,
    artifacts: dict[str, Artifact] | None = None,
    load: Callable[[Artifact], Launch] | None = None,
) -> Plan:
    return Plan(
        name=func.sym_name.data,
        backend=backend,
        inputs=tuple(_spec(names.of(a, n), a) for a, n in zip(func.args, func.names, strict=True)),
        size_bindings=func.sizes(),
        guards=tuple(str(g.data) for g in func.guards),
        steps=steps,
        results=results,
        saved=saved,
        device_type=device_type,
        artifacts=artifacts or {},
        load=load,
    )


def kernel_id(kernel: tile.KernelOp) -> str:
    """A digest of what the kernel does; its own name and the user's line do not matter."""
    copy = kernel.clone()
    copy.sym_name = StringAttr("kernel")
    for op in copy.walk():
        op.attributes.pop("at", None)
    return hashlib.sha256(print_module(ModuleOp([copy])).encode()).hexdigest()[:16]


def _spec(name: str, value: SSAValue) -> TensorSpec:
    type = attn.tensor_type(value)
    return TensorSpec(name, tuple(str(s) for s in type.shape), str(to_torch(type.element)).removeprefix("torch."))


def _at(op: Operation) -> str:
    at = op.attributes.get("at")
    return at.data if isinstance(at, StringAttr) else ""


class _Names:
    """A distinct Python name for every tensor, off those of sizes and off reserved words."""

    def __init__(self, module: ModuleOp):
        import keyword

        self.names: dict[SSAValue, str] = {}
        self.taken: set[str] = {*RESERVED, *keyword.kwlist, *_DTYPE_NAMES}
        func = attn.func_of(module)
        self.taken |= set(func.sizes())
        for op in func.body.block.ops:
            for value in op.results:
                self.taken |= {str(s) for s in attn.tensor_type(value).shape}

    def fresh(self, hint: str) -> str:
        hint = "".join(c if c.isalnum() or c == "_" else "_" for c in hint)
        hint = hint if hint.isidentifier() and not hint.startswith("_") else f"t{hint}"
        name, n = hint, 1
        while name in self.taken:
            name, n = f"{hint}_{n}", n + 1
        self.taken.add(name)
        return name

    def of(self, value: SSAValue, hint: str | None = None) -> str:
        if value not in self.names:
            self.names[value] = self.fresh(hint or value.name_hint or "t")
        return self.names[value]

    def specs(self, values: Iterable[SSAValue]) -> tuple[TensorSpec, ...]:
        return tuple(_spec(self.of(v), v) for v in values)


_CAST = re.compile(r"x0\.to\(torch\.\w+\)")

_DTYPE_NAMES = {"float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
                "check_inputs", "check_value", "run"}  # fmt: skip


def _complex(op: gradient.CallGradientOp) -> bool:
    """Is this about complex numbers?  The gradient of a real number that became one is a real part."""
    return any(to_torch(attn.tensor_type(v).element).is_complex for v in (*op.operands, *op.results))
