"""Programs: specialisations that ops of PyTorch call by name (see :mod:`.library`).

The name holds a digest of all that the program depends on, so that equal names mean equal programs in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..compiler.oracle import EagerMode
from ..compiler.plan import TensorSpec
from ..ir.expr import evaluate, loads, parse
from . import autocast
from .errors import ProgramError, TransformError
from .locate import with_text
from .replay import replay
from .specialise import Specialisation
from .standin import size_hint

if TYPE_CHECKING:
    from .compiled import CompiledAttention

Tensors = Sequence[torch.Tensor]
_programs: dict[str, Program] = {}


@dataclass(eq=False)
class Program:
    """A specialisation whose inputs, captured tensors included, are all given by the caller.

    Running it gives the results and, for a gradient, the ``residuals``: what the plan saves besides the results.
    Tensors are new and contiguous, as those who plan memory around an op expect.
    """

    name: str
    found: Specialisation
    fallback: str
    residuals: list[str] = field(init=False)

    def __post_init__(self) -> None:
        plan = self.found.plan
        self.results = len(plan.results)
        self.residuals = [name for name in dict.fromkeys(plan.saved) if name not in plan.results]
        order = [*plan.results, *self.residuals]
        self.saved = [order.index(name) for name in plan.saved]  # where they are among what `forward` gives
        self.scalars = dict(self.found.scalars)
        self.size_guards = [g for g in self.found.guards if not loads(g)]

    # ---- running

    def forward(self, inputs: Tensors, saving: bool) -> list[torch.Tensor]:
        """The results; if ``saving`` the residuals too."""
        inputs = self._typed(inputs)
        with autocast.off(inputs[0].device.type):
            if saving:
                done = self.found.run_saving(inputs, inputs)
                outputs = None if done is None else [*done[0], *self._unsaved(done[1])]
            else:
                outputs = self.found.run(inputs)
        if outputs is None:
            raise self._refusal("inputs")
        return _own(outputs, inputs)

    def _unsaved(self, saved: Tensors) -> list[torch.Tensor]:
        named = dict(zip(self.found.plan.saved, saved, strict=True))
        return [named[name] for name in self.residuals]

    def backward(
        self, inputs: Tensors, kept: Tensors, gradients: Sequence[torch.Tensor | None], needs: Sequence[bool]
    ) -> list[torch.Tensor]:
        """The gradients of the inputs that need one.  ``kept`` is what the gradient needs of the forward run."""
        inputs = self._typed(inputs)
        if not kept and self.saved:  # the forward run did not expect to be differentiated
            outputs = self.forward(inputs, True)
            kept = [outputs[n] for n in self.saved]
        wanted = [n for n, need in enumerate(needs) if need]
        given = [n for n, g in enumerate(gradients) if g is not None]
        some = [g for g in gradients if g is not None]
        with _autograd():  # ops of PyTorch between the kernels are differentiated by it
            found, why = self.found.differentiate(tuple(needs), [*inputs, *kept], gradients)
            if found is None:
                full = self.written(inputs, wanted, given, some, why)
            else:
                full = [torch.zeros_like(inputs[n]) if (g := found[n]) is None else g for n in wanted]
        return _own(full, [*inputs, *kept, *some])

    def written(
        self, inputs: Tensors, wanted: Sequence[int], given: Sequence[int], gradients: Tensors, why: str
    ) -> list[torch.Tensor]:
        """The gradients of the ``wanted`` inputs by PyTorch through the function as written, loudly.

        They come by functorch, so that they can be differentiated once more, and batched.
        """
        graph = self.found.graph
        if cut := self.found.cut():
            raise TransformError(
                f"{with_text(cut)}: gradients of {graph.name} need its detach() or no_grad(), which only plain "
                "eager calls respect; detach outside of it"
            )
        self.warn(inputs, why)

        def results(*new: torch.Tensor) -> list[torch.Tensor]:
            both = list(inputs)
            for n, x in zip(wanted, new, strict=True):
                both[n] = x
            outputs = replay(graph, both)
            return [outputs[n] for n in given]

        # an empty row has gradient zero, where PyTorch's own softmax would spread NaN
        with EagerMode(double=False), autocast.switched(inputs[0].device.type, None):
            _, pull = torch.func.vjp(results, *(inputs[n] for n in wanted))
            return list(pull(list(gradients)))

    def warn(self, inputs: Tensors, why: str) -> None:
        """Report once that a gradient is eager, and why."""
        bindings = self.found.graph.bindings.items()
        sizes = {name: size_hint(inputs[n].shape[axis]) for name, (n, axis) in bindings}
        self.found.report_backward(self.fallback, sizes, why)

    def _typed(self, inputs: Tensors) -> list[torch.Tensor]:
        """Numbers in the type and on the device that the plan expects."""
        tensors = list(inputs)
        device = next(x.device for x in tensors if x.dim())
        for n, dtype in self.scalars.items():
            tensors[n] = tensors[n].to(device=device, dtype=dtype)
        return tensors

    # ---- without data

    def shapes(
        self, inputs: Tensors, saving: bool, late: Callable[[], Any]
    ) -> list[tuple[tuple[Any, ...], torch.dtype]]:
        """Shape and type of what :meth:`forward` gives; ``late`` makes sizes that only running tells."""
        sizes = self.sizes(inputs)
        for name in sorted(self.found.graph.late):
            sizes[name] = late()
        nodes = self.found.graph.output_nodes()
        result = [(tuple(evaluate(e, sizes) for e in node.shape), node.dtype) for node in nodes]
        if saving:
            specs = _specs(self.found)
            for spec in (specs[name] for name in self.residuals):
                shape = tuple(evaluate(parse(e), sizes) for e in spec.shape)
                result.append((shape, getattr(torch, spec.dtype)))
        return result

    def sizes(self, inputs: Tensors) -> dict[str, Any]:
        """Size symbols for these inputs, after checking what the program relies on; sizes may be symbolic."""
        graph = self.found.graph
        for node, x in zip(graph.inputs, inputs, strict=True):
            if x.dim() != node.rank or (x.dtype != node.dtype and node.rank):
                raise self._refusal(f"{node.name} of {x.dim()} dimensions and {x.dtype}")
        sizes = {name: inputs[n].shape[axis] for name, (n, axis) in graph.bindings.items()}
        for guard in self.size_guards:
            if not evaluate(guard, sizes):
                raise self._refusal(f"sizes that break {guard}")
        return sizes

    def _refusal(self, what: str) -> ProgramError:
        graph = self.found.graph
        return ProgramError(
            f"{with_text(graph.location)}: the program {self.name} was given {what} other than those it was compiled "
            f"for; call {graph.name} itself with them"
        )


def program_of(found: Specialisation, compiled: CompiledAttention) -> Program:
    """The program of a specialisation of a compiled function."""
    options = sorted(compiled.options.items())
    # PyTorch keeps code that calls a program by its name, from one process to the next: what it gives belongs to it
    specs = _specs(found)
    saved = [(specs[name].shape, specs[name].dtype) for name in found.plan.saved]
    parts = (found.graph.text(), found.plan.guards, found.plan.backend, compiled.fallback, options, saved)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    name = f"{found.graph.name}_{digest}"
    return _programs.get(name) or _programs.setdefault(name, Program(name, found, compiled.fallback))


def program(name: str) -> Program:
    """The program of this name.  Raises :class:`ProgramError` if this process has not compiled it."""
    found = _programs.get(name)
    if found is None:
        raise ProgramError(
            f"there is no program {name} in this process; a graph that calls it by name runs only where the function "
            f"{name.rpartition('_')[0]} was compiled: call it once, or compile or export the model anew"
        )
    return found


@contextmanager
def _autograd() -> Iterator[None]:
    """Autograd inside an op, which PyTorch runs with autograd switched off at the dispatcher."""
    keys = torch._C.DispatchKey
    off = torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.AutogradNestedTensor):
        off = off - torch._C.DispatchKeySet(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), off):
        yield


def _own(outputs: Tensors, inputs: Tensors) -> list[torch.Tensor]:
    """Contiguous tensors that share memory neither with the inputs nor with each other."""
    seen = {x.untyped_storage().data_ptr() for x in inputs if x.numel()}
    result: list[torch.Tensor] = []
    for x in outputs:
        place = x.untyped_storage().data_ptr() if x.numel() else 0
        fresh = x.is_contiguous() and (not place or place not in seen)
        owned = x if fresh and not any(x is r for r in result) else x.clone(memory_format=torch.contiguous_format)
        seen.add(place)
        result.append(owned)
    return result


def _specs(found: Specialisation) -> dict[str, TensorSpec]:
    """All tensors of a plan by name."""
    specs = {spec.name: spec for spec in found.plan.inputs}
    for step in found.plan.steps:
        outputs: Any = getattr(step, "outputs", None) or (step.output,)  # type: ignore[union-attr]
        specs |= {spec.name: spec for spec in outputs}
    return specs
