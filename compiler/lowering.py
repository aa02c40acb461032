"""One compilation: which passes run with which options, and the kernels compiled after them."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from ..backends.api import Artifact, Backend, BackgroundBackend
from .errors import BackendError, InternalError, OptionError, nearest
from .figures import measured_target
from .settings import SETTING_OPTIONS, Settings

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass

    from ..ir.attn import FuncOp
    from ..ir.tile import KernelOp
    from .autotune.lookup import Tuned
    from .pass_manager import Instrument

log = logging.getLogger("attnc")

# backend -> (folder under backends/, package that compiling needs, how to install it)
BACKENDS: dict[str, tuple[str, str, str]] = {
    "cpu": ("mlir_cpu", "torch_mlir", "pip install torch-mlir"),
    "triton": ("triton", "triton", "pip install triton"),
    "reference": ("reference", "xdsl", "pip install xdsl"),
}


@cache
def load_backend(name: str) -> Backend:
    """The backend called ``name``.  Raises :class:`BackendError`."""
    if name not in BACKENDS:
        raise BackendError(f"there is no backend {name!r}{nearest(name, ['auto', *BACKENDS])}")
    return cast(Backend, import_module(f"...backends.{BACKENDS[name][0]}", __name__).backend())


def need_package(name: str) -> None:
    """Raise :class:`BackendError` if what the backend compiles with is not installed."""
    _, package, command = BACKENDS[name]
    if find_spec(package) is None:
        raise BackendError(
            f"the {name} backend compiles with the package {package}, which is not installed; install it with "
            f"`{command}`, or use backend='reference'"
        )


@dataclass(frozen=True)
class Gradient:
    """Which gradients of a function are asked for: of the arguments ``wanted``, from those of the outputs ``given``."""

    wanted: tuple[str, ...]
    given: tuple[int, ...]

    @staticmethod
    def of(func: FuncOp, wanted: Sequence[int], given: Sequence[int]) -> Gradient:
        """The same by the numbers of the arguments."""
        return Gradient(tuple(func.names[n] for n in wanted), tuple(given))


@dataclass(frozen=True)
class Request:
    """Everything about a compilation but the program."""

    backend: str
    dtype: str
    device: torch.device
    settings: Settings = field(default_factory=Settings)
    pass_options: Mapping[str, Any] = field(default_factory=dict)  # field of a pass -> value, from the user
    target: str | None = None  # None asks the backend
    gradient: Gradient | None = None  # None asks for the function itself
    sizes: Mapping[str, int] = field(default_factory=dict)  # those of the call at hand, which plans may rely on
    launch: str = ""  # how kernels are launched, such as "num_warps=8,num_stages=2"; empty leaves it to the backend
    tuned: Tuned | None = None  # an autotuner's result in force

    @staticmethod
    def of(
        backend: str, dtype: str, device: torch.device, options: Mapping[str, Any] | None, target: str | None = None
    ) -> Request:
        """Sort the user's options into settings and options of passes."""
        options = dict(options or {})
        target = options.pop("target", None) or target
        launch = str(options.pop("launch", ""))
        rest = {k: v for k, v in sorted(options.items()) if k not in SETTING_OPTIONS}
        return Request(backend, dtype, device, Settings.of(options), rest, target, launch=launch)

    def at(self, hints: Mapping[str, int | float] | None) -> Request:
        """The same for a call of these sizes and scalar arguments."""
        return dataclasses.replace(self, sizes={k: v for k, v in (hints or {}).items() if isinstance(v, int)})

    def use_tuned(
        self,
        graph: str,
        make_module: Callable[[], ModuleOp],
        hints: Mapping[str, int | float] | None,
        direction: str = "forward",
    ) -> Request:
        """The same with what autotuning found for the program that the text of a captured graph stands for."""
        from .cache import tuned_results

        if not tuned_results(self.settings.cache_dir).is_dir():
            return self
        from .autotune.lookup import tuned

        return dataclasses.replace(self, tuned=tuned(self, graph, make_module, hints, direction))

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Options of passes that come from the user, or from the autotuner."""
        options = self.tuned.options if self.tuned else {}
        return {**self.pass_options, **{k: v for k, v in options.items() if k != "launch"}}

    @property
    def launch_attributes(self) -> dict[str, int]:
        """Attributes of kernels that the option ``launch``, or the autotuner, sets.  Raises :class:`OptionError`."""
        text = self.tuned.options.get("launch", "") if self.tuned else self.launch
        found: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = (p.strip() for p in part.partition("="))
            if not name.isidentifier() or not value.isdigit():
                raise OptionError(f"cannot read {part!r} in the option launch; write num_warps=8,num_stages=2")
            found[name] = int(value)
        return found

    def _launched(self, kernel: KernelOp) -> KernelOp:
        """The kernel with these attributes."""
        from xdsl.dialects.builtin import IntegerAttr

        if not (launch := self.launch_attributes):
            return kernel
        known = self._launch_names(kernel)  # others are for other kernels of the program
        kernel = kernel.clone()
        kernel.attributes.update({name: IntegerAttr(value, 64) for name, value in launch.items() if name in known})
        return kernel

    def _launch_names(self, kernel: KernelOp) -> set[str]:
        return {name for way in load_backend(self.backend).launches(kernel, self.target) for name in way}

    def _check_launch(self, module: ModuleOp) -> None:
        """Raise :class:`OptionError` for an attribute that no kernel takes."""
        from ..ir.tile import kernels_of

        if not (launch := self.launch_attributes) or not (kernels := kernels_of(module)):
            return
        known = set().union(*map(self._launch_names, kernels.values()))
        if strange := sorted(launch.keys() - known):
            hint = nearest(strange[0], known) if known else f"; the {self.backend} backend leaves nothing to choose"
            raise OptionError(f"the option launch cannot set {strange[0]!r}{hint}")

    def pipeline_options(self) -> dict[str, Any]:
        """What the passes are told: the backend's choice, then the user's."""
        chosen = load_backend(self.backend).pipeline_options(self.dtype, self.device, self.target)
        if self.backend == "cpu" and self.target is None:
            chosen["target"] = measured_target(chosen["target"], self.settings.cache_dir)
        return {**chosen, **self.chosen}

    def passes(self) -> list[ModulePass]:
        """The pipeline.  Raises :class:`OptionError` for an option that no pass has."""
        passes = self._pipeline(self.gradient)
        for name in self.pass_options:
            if name not in _fields(passes):  # an option for the gradient is given with the function
                known = _fields([*self._pipeline(None), *self._pipeline(self.gradient or Gradient((), ()))])
                if name not in known:
                    raise OptionError(f"there is no option {name!r}{nearest(name, known | SETTING_OPTIONS)}")
        return [_with_options(p, self.chosen) for p in passes]

    def _pipeline(self, gradient: Gradient | None) -> list[ModulePass]:
        from . import pipelines

        options = self.pipeline_options()
        target, narrow = options["target"], options["narrow"]
        if gradient is None:
            return pipelines.forward(target, narrow, self.sizes)
        return pipelines.gradient(target, narrow, options["fused"], gradient.wanted, gradient.given, self.sizes)

    def run_passes(self, module: ModuleOp, *extra: Instrument) -> ModuleOp:
        """Lower ``module`` in place, under the instruments that the settings ask for and ``extra`` ones."""
        module = self._run(self.passes(), module, *extra)
        self._check_launch(module)
        return module

    def differentiate(self, module: ModuleOp) -> ModuleOp:
        """Put the gradient in the module's place, no kernels yet."""
        return self._run([p for p in self.passes() if p.name == "differentiate"], module)

    def _run(self, passes: list[ModulePass], module: ModuleOp, *extra: Instrument) -> ModuleOp:
        from ..ir.text import print_module
        from .crash import reproducer
        from .instruments import instruments
        from .pass_manager import PassManager, pipeline_text

        show_log(self.settings.debug)
        before = module.clone()  # printing takes much longer, and only a crash needs the text
        command = f"-p '{pipeline_text(passes)}'"
        with reproducer("lowering", lambda: print_module(before), command, crash_folder(self.settings)):
            PassManager(passes, [*instruments(self.settings), *extra]).run(module)
            if self.settings.verify == "end":
                verify_result(module)
        return module

    def compile_kernel(self, kernel: KernelOp, stages: Collection[str] = ()) -> Artifact:
        """One kernel through the backend."""
        return self.begin_kernel(kernel, stages)()

    def begin_kernel(self, kernel: KernelOp, stages: Collection[str] = ()) -> Callable[[], Artifact]:
        """Begin to compile a kernel, where the backend can do that beside Python; the result waits for it."""
        need_package(self.backend)
        kernel = self._launched(kernel)
        backend = load_backend(self.backend)
        with self._reproducer(kernel):
            compiled: Callable[[], Artifact]
            if isinstance(backend, BackgroundBackend):
                compiled = backend.begin(kernel, stages=stages, target=self.target)
            else:
                compiled = partial(backend.compile, kernel, stages=stages, target=self.target)

        def finish() -> Artifact:
            with self._reproducer(kernel):
                artifact = compiled()
            if self.settings.debug >= 3:
                for stage, text in artifact.stages.items():
                    log.info("%s of %s:\n%s", stage, artifact.kernel, text)
            return artifact

        return finish

    def _reproducer(self, kernel: KernelOp) -> AbstractContextManager[None]:
        from xdsl.dialects.builtin import ModuleOp

        from ..ir.text import print_module
        from .crash import reproducer

        return reproducer(
            f"compiling the kernel {kernel.sym_name.data} for {self.backend}",
            lambda: print_module(ModuleOp([kernel.clone()])),
            f"--backend {self.backend}" + (f" --target {self.target}" if self.target else ""),
            crash_folder(self.settings),
        )


def verify_result(module: ModuleOp) -> None:
    from ..ir.errors import IRVerifyError
    from ..ir.text import verify

    try:
        verify(module)
    except IRVerifyError as error:
        raise InternalError(
            f"the passes made IR that is not valid; with ATTNC_VERIFY=structure you see which of them did: {error}"
        ) from error


def _fields(passes: Iterable[ModulePass]) -> set[str]:
    """What a user may set; what is differentiated, and the sizes of a call, are no options."""
    return {f.name for p in passes for f in dataclasses.fields(p)} - {"wanted", "given", "names", "values"}


def _with_options(pass_: ModulePass, options: Mapping[str, Any]) -> ModulePass:
    mine = {f.name: options[f.name] for f in dataclasses.fields(pass_) if f.name in options}
    return dataclasses.replace(pass_, **mine) if mine else pass_


def crash_folder(settings: Settings) -> Any:
    from .cache import default_dir

    return settings.dump or settings.cache_dir or default_dir()


def show_log(debug: int) -> None:
    """Send the log to stderr once ``ATTNC_DEBUG`` asks for it; programs that configure logging keep their own way."""
    if debug and not log.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("attnc: %(message)s"))
        log.addHandler(handler)
    if debug:
        log.setLevel(logging.INFO)
