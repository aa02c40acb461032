"""What can be done around passes: skip, bisect, dump, time, verify."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ..ir import attn
from ..ir.errors import IRVerifyError
from ..ir.text import print_module, verify
from .errors import InternalError, PipelineError, nearest
from .pass_manager import REQUIRED, Instrument, is_optional
from .passes import PASSES
from .settings import Settings

log = logging.getLogger("attnc")


class Quiet:
    """Does nothing; the base of instruments that need one of the three hooks."""

    def should_run(self, pass_: ModulePass, module: ModuleOp) -> bool:
        return True

    def before(self, pass_: ModulePass, module: ModuleOp) -> None: ...

    def after(self, pass_: ModulePass, module: ModuleOp) -> None: ...


class Skip(Quiet):
    """Leave passes out by name (``ATTNC_SKIP``)."""

    def __init__(self, names: tuple[str, ...]):
        for name in names:
            if name not in PASSES:
                raise PipelineError(f"cannot skip {name!r}: there is no such pass{nearest(name, PASSES)}")
            if name in REQUIRED:
                raise PipelineError(f"cannot skip {name}: no kernel comes out without it")
        self.names = names

    def should_run(self, pass_: ModulePass, module: ModuleOp) -> bool:
        return pass_.name not in self.names


class Limit(Quiet):
    """Run only the first ``limit`` optional passes (``ATTNC_OPT_BISECT_LIMIT``)."""

    def __init__(self, limit: int):
        self.limit = limit
        self.seen = 0

    def should_run(self, pass_: ModulePass, module: ModuleOp) -> bool:
        if not is_optional(pass_):
            return True
        self.seen += 1
        if self.seen <= self.limit:
            return True
        log.info("bisect: not running pass %d, %s", self.seen, pass_.name)
        return False


class Keep(Quiet):
    """Keep a copy of the module after every pass that ran."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleOp] = {}

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        self.modules[pass_.name] = module.clone()


class Dump(Quiet):
    """Write the module before the first and after every pass to ``<folder>/<function>-<digest>/`` (``ATTNC_DUMP``)."""

    def __init__(self, folder: Path):
        self.root = folder
        self.folder: Path | None = None
        self.count = 0

    def before(self, pass_: ModulePass, module: ModuleOp) -> None:
        if self.folder is None:
            text = print_module(module)
            name = attn.func_of(module).sym_name.data
            self.folder = self.root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "00-input.mlir").write_text(text)

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        assert self.folder is not None
        self.count += 1
        (self.folder / f"{self.count:02}-{pass_.name}.mlir").write_text(print_module(module))


@dataclass
class Time(Quiet):
    """Seconds spent in each pass."""

    seconds: dict[str, float] = field(default_factory=dict)
    _start: float = 0.0

    def before(self, pass_: ModulePass, module: ModuleOp) -> None:
        self._start = time.perf_counter()

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        spent = time.perf_counter() - self._start
        self.seconds[pass_.name] = self.seconds.get(pass_.name, 0.0) + spent
        log.info("%-16s %8.2f ms", pass_.name, spent * 1e3)


class Print(Quiet):
    """Log the module after each pass (``ATTNC_DEBUG=4``)."""

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        log.info("after %s:\n%s", pass_.name, print_module(module))


class VerifyStructure(Quiet):
    """Run the verifier after each pass (``ATTNC_VERIFY=structure``)."""

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        try:
            verify(module)
        except IRVerifyError as error:
            raise InternalError(f"the pass {pass_.name} made IR that is not valid: {error}") from error


def instruments(settings: Settings) -> list[Instrument]:
    """The instruments that the settings ask for.  Time comes last, so that it measures the pass alone."""
    chosen: list[Instrument] = []
    if settings.skip:
        chosen.append(Skip(settings.skip))
    if settings.opt_bisect_limit is not None:
        chosen.append(Limit(settings.opt_bisect_limit))
    if settings.dump:
        chosen.append(Dump(settings.dump))
    if settings.debug >= 4:
        chosen.append(Print())
    if settings.verify == "each":
        from .verify_each import VerifyMeaning

        chosen.append(VerifyMeaning())
    if settings.verify in ("structure", "each"):
        chosen.append(VerifyStructure())
    if settings.debug >= 2:
        chosen.append(Time())
    return chosen
