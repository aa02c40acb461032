"""Plan: the executable form of a compiled function, free of xDSL, kept on disk as JSON.

A plan is a straight line of steps over named values.  It is turned once into one Python function, which
checks the arguments, computes sizes, allocates results, launches kernels and drops what is no longer needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..backends.api import Artifact, Launch
from .errors import InputError

if TYPE_CHECKING:
    import torch

FORMAT = 3  # raise when the JSON form changes


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: one expression over sizes per dimension, and its dtype (``float32``)."""

    name: str
    shape: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Note:
    """Something that stays with PyTorch: why, on which line (``file.py:12``), and the bytes of its result.

    ``quadratic``: the result has as many elements as there are pairs of a query and a key.
    """

    op: str
    at: str
    reason: str
    bytes: str
    quadratic: bool


@dataclass(frozen=True)
class CallStep:
    """A call to PyTorch: the text of an ``attn.call``.  New size symbols in ``outputs`` are bound here."""

    text: str
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    at: str = ""


@dataclass(frozen=True)
class CallGradientStep:
    """The gradients of a call's ``wanted`` inputs from those of its ``given`` outputs, by PyTorch."""

    text: str
    inputs: tuple[str, ...]
    given: tuple[int, ...]
    gradients: tuple[str, ...]
    wanted: tuple[int, ...]
    outputs: tuple[TensorSpec, ...]
    at: str = ""


@dataclass(frozen=True)
class ScatterStep:
    """``output[index(x)] += input[x]`` over ``dims``, pairs of a name and an extent; the rest is zero.

    ``captures`` are pairs of a name that the index reads and the tensor it stands for.
    """

    input: str
    dims: tuple[tuple[str, str], ...]
    index: tuple[str, ...]
    captures: tuple[tuple[str, str], ...]
    output: TensorSpec
    at: str = ""


@dataclass(frozen=True)
class ReorderStep:
    """``output[x0, x1, ...] = input[index]``; ``inverse`` is the index map the other way."""

    input: str
    input_shape: tuple[str, ...]
    index: tuple[str, ...]
    inverse: tuple[str, ...]
    output: TensorSpec


@dataclass(frozen=True)
class LaunchStep:
    """Run a compiled kernel: ``artifact`` names it in :attr:`Plan.artifacts`, ``sizes`` are what it reads.

    Outputs that the kernel adds to, those in ``zeroed``, start at zero.
    """

    kernel: str
    artifact: str
    inputs: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: tuple[str, ...]
    at: str = ""
    zeroed: tuple[str, ...] = ()


@dataclass(frozen=True)
class InterpretStep:
    """Interpret a whole module on the arguments: the reference backend."""

    module: str
    outputs: tuple[TensorSpec, ...]


Step = CallStep | CallGradientStep | ReorderStep | ScatterStep | LaunchStep | InterpretStep


def inputs_of(step: Step) -> tuple[str, ...]:
    """The values that a step reads."""
    match step:
        case ReorderStep():
            return (step.input,)
        case ScatterStep():
            return (step.input, *(tensor for _, tensor in step.captures))
        case CallGradientStep():
            return (*step.inputs, *step.gradients)
        case InterpretStep():
            return ()
    return step.inputs


def outputs_of(step: Step) -> tuple[str, ...]:
    """The values that a step gives, but for those of a whole module."""
    match step:
        case ReorderStep() | ScatterStep():
            return (step.output.name,)
        case InterpretStep():
            return ()
    return tuple(spec.name for spec in step.outputs)


_STEPS: dict[str, type] = {
    "call": CallStep,
    "call gradient": CallGradientStep,
    "reorder": ReorderStep,
    "scatter": ScatterStep,
    "launch": LaunchStep,
    "interpret": InterpretStep,
}
_KINDS = {cls: kind for kind, cls in _STEPS.items()}


@dataclass
class Plan:
    """A compiled function.  ``run`` may be called from several threads at once.

    ``saved`` are what the gradient needs besides the arguments: for each attention its output and its weights,
    and calls that are kept.
    """

    name: str
    backend: str
    inputs: tuple[TensorSpec, ...]
    size_bindings: dict[str, tuple[int, int]]  # size symbol -> (argument, axis)
    guards: tuple[str, ...]
    steps: tuple[Step, ...]
    results: tuple[str, ...]
    saved: tuple[str, ...] = ()
    device_type: str | None = None  # "cpu", "cuda"; None takes any
    notes: tuple[Note, ...] = ()  # from the frontend, so that a plan from a cache is as loud as a new one
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    load: Callable[[Artifact], Launch] | None = None  # the backend's loader
    _run: Callable[..., Any] | None = field(default=None, repr=False)
    _guards: Callable[[Mapping[str, int | float]], bool] | None = field(default=None, repr=False)

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels launched, in order."""
        return [s.kernel for s in self.steps if isinstance(s, LaunchStep)]

    @property
    def calls(self) -> list[str]:
        """What PyTorch is called for: the text of each call, in order."""
        texts: list[str] = []
        for step in self.steps:
            if isinstance(step, CallStep):
                texts.append(step.text)
            elif isinstance(step, InterpretStep):
                texts += re.findall(r'attn\.call "((?:[^"\\]|\\.)*)"', step.module)
        return texts

    def sizes_of(self, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
        """The value of each size symbol that the arguments bind."""
        return {name: tensors[a].shape[axis] for name, (a, axis) in self.size_bindings.items()}

    def guards_hold(self, values: Mapping[str, int | float]) -> bool:
        """Do the facts hold that the compilation relied on?  ``values`` gives sizes and scalar arguments by name."""
        if self._guards is None:
            from .plan_code import compile_guards

            self._guards = compile_guards(self)
        return self._guards(values)

    def prepare(self) -> Plan:
        """Load the kernels now instead of at the first run."""
        if self._run is None:
            from .plan_code import compile_plan

            self._run = compile_plan(self)  # two threads may both do this; either result serves
        return self

    @property
    def runner(self) -> Callable[..., Any]:
        """The Python function that the plan runs as: of tensors, ``strict`` and ``saving``."""
        run = self._run or self.prepare()._run
        assert run is not None
        return run

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Results for these arguments.  Raises :class:`InputError` if they are not what was compiled for."""
        results = self.runner(tensors)
        assert results is not None
        return results

    def attempt(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """The same, but None if the arguments are not what was compiled for."""
        return self.runner(tensors, False)

    def attempt_saving(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]] | None:
        """The same with the values of :attr:`saved`."""
        return self.runner(tensors, False, True)

    @property
    def source(self) -> str:
        """The Python function that the plan runs as."""
        from .plan_code import plan_source

        return plan_source(self)

    def to_json(self) -> str:
        """JSON text; the artifacts travel beside it."""
        data = {
            "format": FORMAT,
            "name": self.name,
            "backend": self.backend,
            "inputs": [asdict(i) for i in self.inputs],
            "size_bindings": self.size_bindings,
            "guards": self.guards,
            "steps": [{"kind": _KINDS[type(s)], **asdict(s)} for s in self.steps],
            "results": self.results,
            "saved": self.saved,
            "device_type": self.device_type,
            "notes": [asdict(n) for n in self.notes],
        }
        return json.dumps(data, sort_keys=True)

    @staticmethod
    def from_json(
        text: str, artifacts: Mapping[str, Artifact], load: Callable[[Artifact], Launch] | None = None
    ) -> Plan:
        """Read :meth:`to_json`.  Raises :class:`InputError` for another format."""
        data: dict[str, Any] = json.loads(text)
        if data.get("format") != FORMAT:
            raise InputError(f"a plan of format {data.get('format')} cannot be read; this attnc reads format {FORMAT}")
        return Plan(
            name=data["name"],
            backend=data["backend"],
            inputs=tuple(_spec(i) for i in data["inputs"]),
            size_bindings={name: (a, axis) for name, (a, axis) in data["size_bindings"].items()},
            guards=tuple(data["guards"]),
            steps=tuple(_step(s) for s in data["steps"]),
            results=tuple(data["results"]),
            saved=tuple(data["saved"]),
            device_type=data["device_type"],
            notes=tuple(Note(**n) for n in data["notes"]),
            artifacts=dict(artifacts),
            load=load,
        )


def _spec(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(data["name"], tuple(data["shape"]), data["dtype"])


def _step(data: Mapping[str, Any]) -> Step:
    values: dict[str, Any] = {k: _tuples(v) for k, v in data.items() if k != "kind"}
    if "outputs" in values:
        values["outputs"] = tuple(_spec(o) for o in values["outputs"])
    if "output" in values:
        values["output"] = _spec(values["output"])
    return _STEPS[data["kind"]](**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
