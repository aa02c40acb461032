"""Lowered: one program at every stage of its compilation, each produced when asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..backends.api import Artifact
from ..ir.errors import AttncError
from .driver import STAGES
from .errors import PipelineError, StageError, nearest
from .lowering import Gradient, Request

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

    from .explain import Explanation
    from .machine_code import Track

# Which backend has a stage, and on which target if the program was not lowered for that backend.
_CPU, _GPU = ("cpu", None), ("triton", "sm_90")
_STAGE_BACKEND = {"mlir": _CPU, "llvm": _CPU, "triton": _GPU, "ttir": _GPU, "ttgir": _GPU, "ptx": _GPU}
_SOURCE = {"cpu": "mlir", "triton": "triton", "reference": "tile"}
_COMMENT = {"mlir": "//", "llvm": ";", "triton": "#", "ttir": "//", "ttgir": "//", "ptx": "//"}


@dataclass
class Lowered:
    """What ``fn.lower(...)`` returns; :meth:`backward` is the same for its gradient."""

    key: str  # text of the captured graph
    make_module: Callable[[], ModuleOp]
    backend: str  # "cpu", "triton" or "reference"; never "auto"
    dtype: str
    device: torch.device
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None  # such as "sm_90"; None asks the backend
    hints: Mapping[str, int | float] = field(default_factory=dict)  # sizes and scalar arguments at hand
    eager: Any = ()  # what the frontend keeps eager and why
    files: Mapping[str, str] = field(default_factory=dict)  # name of a file of the user's -> its path
    gradient: Gradient | None = None  # which gradients, if this is the program of gradients
    set_aside: str = field(default="", repr=False)  # why a tuned result is not used, once ``request`` was asked
    _artifacts: dict[str, list[Artifact]] = field(default_factory=dict, repr=False)

    @cached_property
    def request(self) -> Request:
        """The compilation that the stages ``attn`` and ``tile`` belong to."""
        request = Request.of(self.backend, self.dtype, self.device, self.options, self.target).at(self.hints)
        request = dataclasses.replace(request, gradient=self.gradient)
        found = request.use_tuned(self.key, self.make_module, self.hints, "backward" if self.gradient else "forward")
        if found.tuned is None:
            return request
        try:
            found.run_passes(self._fresh())
        except AttncError as error:  # it was found at other sizes, where other attentions may leave tiles open
            self.set_aside = f"the result of autotuning on {found.tuned.record.date} does not fit these sizes: {error}"
            return request
        return found

    @cached_property
    def _start(self) -> str:
        from ..ir.text import print_module

        return print_module(self.make_module())

    def _fresh(self) -> ModuleOp:
        """The module that the passes start from."""
        from ..ir.text import parse_module

        return parse_module(self._start, "<attn>")

    @cached_property
    def _attn(self) -> str:
        from ..ir.text import print_module

        return print_module(self.after("differentiate")) if self.gradient else self._start

    @cached_property
    def _passes(self) -> dict[str, ModuleOp]:
        """The module after each pass that ran."""
        from .instruments import Keep

        keep = Keep()
        self.request.run_passes(self._fresh(), keep)
        return keep.modules

    @cached_property
    def with_lines(self) -> dict[str, ModuleOp]:
        """The module as raised (``"attn"``) and after each pass that ran; ops know the user's lines they came from."""
        from .instruments import Keep

        keep, module = Keep(), self.make_module()
        start = module.clone()
        self.request.run_passes(module, keep)
        return {"attn": start, **keep.modules}

    @cached_property
    def _tile(self) -> str:
        from ..ir.text import print_module

        return print_module(list(self._passes.values())[-1])

    def _lowered_text(self, request: Request) -> str:
        from ..ir.text import print_module

        return print_module(request.run_passes(self._fresh()))

    def ir(self, stage: str) -> str:
        """The program's text after ``stage``, one of ``attnc.STAGES``.

        Stages of another device than the one lowered for are made for a default device of that kind.
        """
        if stage == "capture":
            return self.key
        if stage == "attn":
            return self._attn
        if stage == "tile":
            return self._tile
        if stage not in STAGES:
            raise StageError(f"there is no stage {stage!r}{nearest(stage, STAGES)}")
        parts: list[str] = []
        artifacts = self.artifacts(stage)
        for artifact in artifacts:
            text = artifact.stages.get(stage) or artifact.stages.get("amdgcn" if stage == "ptx" else stage)
            if text is None:
                raise StageError(f"the {artifact.backend} backend gave no {stage} text for {artifact.kernel}")
            title = f"{_COMMENT[stage]} kernel {artifact.kernel}\n" if len(artifacts) > 1 else ""
            parts.append(title + text)
        return "\n".join(parts)

    def on(self, target: str) -> Lowered:
        """The same program lowered for another device: ``"sm_90"``, ``"cpu-avx2"``."""
        import torch

        backend, device = ("cpu", "cpu") if target.startswith("cpu") else ("triton", "cuda")
        return self._with(backend=backend, device=torch.device(device), target=target)

    def backward(self, wanted: Sequence[str] | None = None, given: Sequence[int] | None = None) -> Lowered:
        """The program that computes the gradients of this one, at every stage.

        Its results are the gradients of the arguments called ``wanted``, from those of the outputs numbered
        ``given``; None stands for all that are floating.  The stage ``attn`` is the function differentiated.
        """
        from ..ir.attn import func_of

        if self.gradient:
            raise StageError("this is the program of gradients already; what it computes has none")
        func = func_of(self._fresh())
        wanted = tuple(wanted or ())
        if strange := [name for name in wanted if name not in func.names]:
            raise StageError(f"{func.sym_name.data} has no argument {strange[0]!r}{nearest(strange[0], func.names)}")
        return self._with(gradient=Gradient(wanted, tuple(given or ())))

    def _with(self, **changes: Any) -> Lowered:
        return dataclasses.replace(self, **changes, _artifacts={})

    def module(self, stage: str) -> ModuleOp:
        """A fresh copy of the module after ``"attn"`` or ``"tile"``."""
        from ..ir.text import parse_module

        if stage not in ("attn", "tile"):
            raise StageError(f"only the stages attn and tile are modules, not {stage!r}")
        return parse_module(self.ir(stage), f"<{stage}>")

    def after(self, name: str) -> ModuleOp:
        """A fresh copy of the module right after the pass called ``name``."""
        names = [p.name for p in self.request.passes()]
        if name not in names:
            raise PipelineError(f"the pipeline has no pass {name!r}{nearest(name, names)}")
        ran = [n for n in names[: names.index(name) + 1] if n in self._passes]
        return self._passes[ran[-1]].clone() if ran else self._fresh()

    def artifacts(self, stage: str) -> list[Artifact]:
        """The compiled kernels, with the text of ``stage``; empty if the program has none."""
        if stage not in self._artifacts:
            from ..ir.text import parse_module
            from ..ir.tile import kernels_of

            request = self._request_for(stage)
            text = self._tile if request is self.request else self._lowered_text(request)
            kernels = kernels_of(parse_module(text, "<tile>"))
            self._artifacts[stage] = [request.compile_kernel(k, (stage,)) for k in kernels.values()]
        return self._artifacts[stage]

    def _request_for(self, stage: str) -> Request:
        import torch

        backend, target = _STAGE_BACKEND[stage]
        if backend == self.backend:
            return self.request
        device = torch.device("cpu" if backend == "cpu" else "cuda")
        return dataclasses.replace(self.request, backend=backend, device=device, target=target, tuned=None)

    def source(self) -> str:
        """Source of the generated kernels, in the backend's language."""
        return self.ir(_SOURCE[self.backend])

    def _repr_html_(self) -> str:
        from .report.notebook import lowered

        return lowered(self)

    def explain(self, *, compiled: bool = False, track: Track | None = None) -> Explanation:
        """What was recognised, how it is tiled, what it costs, what stays eager and why.

        ``compiled`` adds what the machine code says: the kernels of a GPU program are compiled, about a second each.
        """
        from .explain import explain

        return explain(self, compiled=compiled, track=track)
