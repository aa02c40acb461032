"""``attnc opt``: IR in, passes, IR out.  Imports no torch."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass


def opt(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="A file of attn or tile IR; - is standard input.")
    ] = "-",
    pipeline: Annotated[
        str,
        typer.Option("-p", "--passes", metavar="PASSES", help='Such as "dilation,choose-tiles{target=cpu-avx512}".'),
    ] = "",
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write the result.")
    ] = None,
    generic: Annotated[bool, typer.Option("--generic", help="Print generic MLIR syntax.")] = False,
    print_ir_after_all: Annotated[
        bool, typer.Option("--print-ir-after-all", help="Show the IR after each pass, on standard error.")
    ] = False,
    time_passes: Annotated[
        bool, typer.Option("--time-passes", help="Show the time of each pass, on standard error.")
    ] = False,
    verify_each: Annotated[
        bool,
        typer.Option(
            "--verify-each",
            help="After each pass also run the program as before and after it, and compare (needs torch).",
        ),
    ] = False,
    bisect_limit: Annotated[
        int | None, typer.Option("--bisect-limit", min=0, metavar="N", help="Run only the first N optional passes.")
    ] = None,
    bisect: Annotated[
        str | None,
        typer.Option(
            "--bisect",
            metavar="COMMAND|meaning",
            help="Find the optional pass that makes a check fail: a command that reads the IR, or a comparison of what "
            "the program computes (needs torch).",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="cpu|triton|reference",
            help="Then compile the kernels and show their source.",
            show_default=False,
        ),
    ] = None,
    machine: options.MachineOption = None,
) -> None:
    """Run passes over IR, as mlir-opt does.  The IR is verified before, between and after them."""
    from xdsl.utils.exceptions import VerifyException

    from ...ir.errors import IRVerifyError
    from ...ir.text import parse_module, print_module
    from ..instruments import Limit, VerifyStructure
    from ..pass_manager import Instrument, PassManager, parse_passes
    from . import console

    passes = parse_passes(pipeline) if pipeline.strip() else []
    name, text = _read(file)
    start = time.perf_counter()
    module = parse_module(text, name)
    if bisect is not None:
        from .bisection import culprit

        found = culprit(module, bisect, pipeline)
        print(found or "the check holds after all passes")
        raise typer.Exit(1 if found else 0)
    timer = _Stopwatch(time.perf_counter() - start)
    instruments: list[Instrument] = [Limit(bisect_limit)] if bisect_limit is not None else []
    if print_ir_after_all:
        instruments.append(_Show())
    if verify_each:
        from ..verify_each import VerifyMeaning

        instruments.append(VerifyMeaning())
    instruments += [VerifyStructure(), timer]  # the timer last, so that it measures the pass alone
    try:
        PassManager(passes, instruments).run(module)
    except VerifyException as error:  # the IR is right, but not of the kind that a pass is for
        raise IRVerifyError(str(error).strip()) from None
    result = print_module(module, generic=generic) if backend is None else _compiled(module, backend, machine)
    console.write(result, output, language="python" if backend == "triton" else "mlir")
    if time_passes:
        print(timer.table(), file=sys.stderr)


def _read(file: str) -> tuple[str, str]:
    """The name to show in messages, and the text."""
    from ..targets import UsageError

    if file == "-":
        if sys.stdin.isatty():
            raise UsageError(
                "no input: name a file of IR, or pipe it in (attnc dump f.py:f --stage attn | attnc opt -p dilation)"
            )
        file = "<stdin>"
    try:
        return file, sys.stdin.read() if file == "<stdin>" else Path(file).read_text()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {file}: it is not text") from None


def _compiled(module: ModuleOp, backend: str, machine: str | None) -> str:
    """Source of the module's kernels from a backend; this needs what the backend needs."""
    from ...ir.tile import kernels_of
    from ..lowering import load_backend, need_package

    compiler = load_backend(backend)
    need_package(backend)
    stage = {"cpu": "mlir", "triton": "triton"}.get(backend)
    kernels = kernels_of(module).values()
    artifacts = [compiler.compile(k, stages=(stage,) if stage else (), target=machine) for k in kernels]
    return "\n".join(a.stages.get(stage, "") if stage else a.payload.decode() for a in artifacts)


class _Show:
    """Shows the IR after each pass."""

    def should_run(self, pass_: ModulePass, module: ModuleOp) -> bool:
        return True

    def before(self, pass_: ModulePass, module: ModuleOp) -> None: ...

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        from ...ir.text import print_module

        print(f"// after {pass_.name}\n{print_module(module)}", file=sys.stderr)


class _Stopwatch:
    """Measures each pass."""

    def __init__(self, parsing: float):
        self.rows = [("parse and verify", parsing)]
        self.start = 0.0

    def should_run(self, pass_: ModulePass, module: ModuleOp) -> bool:
        return True

    def before(self, pass_: ModulePass, module: ModuleOp) -> None:
        self.start = time.perf_counter()

    def after(self, pass_: ModulePass, module: ModuleOp) -> None:
        self.rows.append((pass_.name, time.perf_counter() - self.start))

    def table(self) -> str:
        rows = [*self.rows, ("total", sum(seconds for _, seconds in self.rows))]
        return "\n".join(f"{name:<18} {seconds * 1e3:9.2f} ms" for name, seconds in rows)
