"""Runs passes in order, with instruments around each.

A pass knows nothing of dumping, timing, checking, skipping or bisecting: these are instruments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import ArgSpec, parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError

from ..ir.text import context, parse_module, print_module
from .errors import PipelineError, nearest
from .passes import PASSES, load_pass

# Without these no kernel comes out, so neither ``ATTNC_SKIP`` nor bisection may leave them out.
REQUIRED = frozenset({"choose-tiles", "online-softmax"})


class Instrument(Protocol):
    """What may be done around passes."""

    def should_run(self, pass_: ModulePass, module: ModuleOp) -> bool:
        """May this pass run?  All instruments must agree."""
        ...

    def before(self, pass_: ModulePass, module: ModuleOp) -> None: ...

    def after(self, pass_: ModulePass, module: ModuleOp) -> None: ...


@dataclass
class PassManager:
    """A pipeline and its instruments; one object compiles one module."""

    passes: Sequence[ModulePass]
    instruments: Sequence[Instrument] = ()

    def run(self, module: ModuleOp) -> ModuleOp:
        """Apply the passes to ``module`` itself, and return it."""
        ctx = context()
        for pass_ in self.passes:
            # Every instrument is asked, also after a refusal: some count.
            verdicts = [i.should_run(pass_, module) for i in self.instruments]
            if not all(verdicts):
                continue
            for instrument in self.instruments:
                instrument.before(pass_, module)
            pass_.apply(ctx, module)
            for instrument in reversed(self.instruments):
                instrument.after(pass_, module)
        return module


def is_optional(pass_: ModulePass) -> bool:
    return pass_.name not in REQUIRED


# ---- pipelines as text ----------------------------------------------------------------------------------


def parse_passes(text: str) -> list[ModulePass]:
    """Passes from ``"dilation,choose-tiles{target=cpu-avx512}"``.  Raises :class:`PipelineError`."""
    try:
        specs = list(parse_pipeline(text))
    except ArgSpecParseError as error:
        raise PipelineError(f"cannot read the pipeline {text!r}: {error}") from None
    return [_pass(spec) for spec in specs]


def _pass(spec: ArgSpec) -> ModulePass:
    if spec.name not in PASSES:
        raise PipelineError(f"there is no pass {spec.name!r}{nearest(spec.name, PASSES)}")
    cls = load_pass(spec.name)
    spec = spec.normalize_parameter_names()
    known = [f.name for f in fields(cls)]
    for option in spec.parameters:
        if option not in known:
            raise PipelineError(f"the pass {spec.name} has no option {option!r}{nearest(option, known)}")
    try:
        return cls.from_spec(spec)
    except (ValueError, TypeError) as error:
        raise PipelineError(f"the pass {spec.name}: {error}") from None


def pipeline_text(passes: Sequence[ModulePass]) -> str:
    """The text that :func:`parse_passes` reads back."""
    return ",".join(str(p.spec(include_default=False)) for p in passes)


# ---- bisection ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Culprit:
    """The first optional pass, counted from 1, whose running makes the check fail."""

    count: int
    name: str


def bisect(
    module: ModuleOp, check: Callable[[ModuleOp], bool], passes: Callable[[], Sequence[ModulePass]]
) -> Culprit | None:
    """Find the optional pass that breaks ``check``, running the pipeline about log2(number of passes) times.

    ``check`` says whether a lowered module is right.  None means that it is right with all passes; a
    :class:`PipelineError` that it is wrong with none.
    """
    from .instruments import Limit

    text = print_module(module)

    def right(limit: int) -> bool:
        return check(PassManager(passes(), [Limit(limit)]).run(parse_module(text)))

    optional: list[Any] = [p for p in passes() if is_optional(p)]
    if right(len(optional)):
        return None
    if not right(0):
        raise PipelineError("the result is wrong even without any optional pass, so bisection cannot help")
    low, high = 0, len(optional)  # right at low, wrong at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if right(middle) else (low, middle)
    return Culprit(high, optional[high - 1].name)
