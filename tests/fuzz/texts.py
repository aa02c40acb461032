"""Texts that are almost IR, and command lines that are almost right: what reads them may only say what is wrong.

    python -m tests.fuzz.texts --minutes 10

Valid modules are cut, shuffled, spliced, nested, and filled with numbers, names and bytes that nobody writes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from hypothesis import strategies as st

from attnc.compiler.cli.app import main as attnc_main
from attnc.compiler.passes import PASSES
from attnc.ir.errors import IRSyntaxError, IRVerifyError
from attnc.ir.text import parse_module, print_module

from .search import smallest_failure

IR = Path(__file__).parents[1] / "ir"
SEEDS = [
    *((IR / name).read_text() for name in ("attn_ops.mlir", "gradient_ops.mlir", "tile_ops.mlir")),
    *(text for case in (IR / "invalid.mlir").read_text().split("// -----\n") for text in case.split("\n", 1)[1:]),
]
TOKENS = re.compile(r"\w+|\s+|[^\w\s]")
WORDS = sorted({t for text in SEEDS for t in TOKENS.findall(text) if not t.isspace()})
ODD = [
    "", "0", "-1", "1e999", "-0.0", "nan", "inf", "9" * 25, "9" * 5000, "0x" + "f" * 40, "1 << 70", "pow(2, 1 << 40)",
    "i // 0", "i % 0", "i % -3", "N * N * N", "\x00", "\ud800", "é", "\U0001f600", '"', "\\", "%", "@", "//", "\n", "<",
    ">", "{", "}", "(" * 300, "-" * 300, "not " * 300, "[" * 3000, "lambda: 0", "lambda dot, dot: dot", "a.b.c", "f(",
    "min()", "where(1, 2)", "abs(1, 2)", "i[", "i[j][k]", "x.int[", "**", "%0#1", "!attn.tensor<", "dense<0x1>",
    "builtin.module {", "memref<4xf32>", "i < j < k", "True", "None", "__import__('os')", "yield", "i := 3", "...",
]  # fmt: skip
SECONDS = 10  # for one text: beyond, it hangs
MEMORY = 8 << 30  # address space


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A module of the tests after some mutations."""
    tokens = TOKENS.findall(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(tokens) - 1, 0)))
        size = draw(st.integers(1, 8))
        match draw(st.integers(0, 9)):
            case 0:
                tokens = tokens[:at]
            case 1:
                del tokens[at : at + size]
            case 2:
                tokens[at:at] = tokens[at : at + size]
            case 3 | 4 if tokens:
                other = draw(st.integers(0, len(tokens) - 1))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 5:
                tokens[at : at + 1] = [draw(st.sampled_from(ODD))]
            case 6:
                tokens[at : at + 1] = [draw(st.sampled_from(WORDS))]
            case 7:
                tokens[at:at] = tokens[at : at + size] * draw(st.sampled_from([2, 50, 2000]))
            case 8:
                other = TOKENS.findall(draw(st.sampled_from(SEEDS)))
                cut = draw(st.integers(0, len(other)))
                tokens[at : at + size] = other[cut : cut + 5 * size]
            case 9:
                tokens[at:at] = [draw(st.text(max_size=5))]
    return "".join(tokens)


def check_text(text: str) -> str:
    """Read a text: a module that prints and reads back, or one of two errors."""
    try:
        module = parse_module(text)
    except (IRSyntaxError, IRVerifyError) as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert len(said) < 20_000 + 4 * len(text), "a message longer than what it is about"
        return "refused"
    for generic in (False, True):
        printed = print_module(module, generic=generic)
        again = print_module(parse_module(printed), generic=generic)
        assert again == printed, "the text does not read back"
    return "read"


NAMES = sorted(PASSES)
VALUES = st.one_of(
    st.sampled_from(
        ["cpu", "triton", "reference", "cpu-avx512", "sm_90", "attn", "tile", "-", "0", "-1", "99999999999999999999",
         "f32", "B=1,H=2,N=9,D=4", "B=0,H=0,N=0,D=0", "B=1,H=2,N=-9,D=4", "B=,", "N=9999999999999999,B=1,H=1,D=1",
         "meaning", "bias=[N, N]", "x=1", "=", "/nowhere/x", "/", "/dev/null", "json", "html"]
    ),
    st.text(max_size=8),
)  # fmt: skip
OPTIONS = [
    "-p", "--passes", "-o", "--output", "--generic", "--print-ir-after-all", "--time-passes", "--verify-each",
    "--bisect-limit", "--backend", "--machine", "--target", "--shape", "--dtype", "--device", "--arg", "--stage",
    "--json", "--backward", "--format", "--help", "-h", "--debu", "--", "-", "-x", "--seed", "--sizes",
]  # fmt: skip


@st.composite
def pipelines(draw: st.DrawFn) -> str:
    """Passes with and without options."""
    found = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)):
        option = draw(
            st.sampled_from(["", "", "{target=cpu-avx512 rows=16 keys=16}", "{rows=0}", "{wanted=q}", "{", "{x}"])
        )
        found.append(name + option)
    return draw(st.sampled_from([",", ",", ",", ";", ",,"])).join(found)


@st.composite
def commands(draw: st.DrawFn) -> tuple[list[str], str]:
    """A command line, in which {file} is a module and {program} a Python file, and the module's text."""
    if draw(st.integers(0, 2)):
        words = ["opt", "{file}", "-p", draw(pipelines()), *draw(st.lists(st.sampled_from(OPTIONS), max_size=2))]
    else:
        command = draw(
            st.sampled_from(["opt", "dump", "explain", "inspect", "validate", "passes", "doctor", "zoo", "nonsense"])
        )
        target = draw(
            st.sampled_from(["{program}:f", "{program}", "{program}:g", "{file}", "{file}:f", "nowhere.py:f", ":", ""])
        )
        words = [command, target]
        for option in draw(st.lists(st.sampled_from(OPTIONS), max_size=3)):
            words += [option, draw(VALUES)] if draw(st.booleans()) else [option]
    return words, draw(st.one_of(st.sampled_from(SEEDS), texts()))


PROGRAM = "def f(q, k, v):\n    return (q @ k.mT).softmax(-1) @ v\n\n\ndef g(q):\n    return q.nothing\n"


def check_command(folder: Path, drawn: tuple[list[str], str]) -> str:
    """Run a command line in this process: it ends with a status, and says at most a few lines about what is wrong."""
    words, text = drawn
    (folder / "in.mlir").write_bytes(
        text.encode("utf-8", "surrogateescape" if "\ud800" not in text else "surrogatepass")
    )
    (folder / "program.py").write_text(PROGRAM)
    places = {"{file}": "in.mlir", "{program}": "program.py"}
    for mark, name in places.items():
        words = [w.replace(mark, str(folder / name)) for w in words]
    out, err = io.StringIO(), io.StringIO()
    shown = warnings.showwarning
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            attnc_main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        warnings.showwarning = shown
    said = err.getvalue()
    assert "Traceback" not in said, said
    assert "not an error that attnc foresees" not in said, said
    assert status in (0, 1, 2), status
    assert status == 0 or said.strip(), "a failure without a word"
    return f"status {status}"


class Hangs(BaseException):
    """The time of one text is up."""


@contextlib.contextmanager
def bounded(seconds: int = SECONDS) -> Iterator[None]:
    """Stop what takes longer."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hangs(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def search(number: int, count: int, what: st.SearchStrategy, check: Callable[..., str]) -> Counter[str]:
    """Check ``count`` random values; raises on the smallest that fails."""
    kinds: Counter[str] = Counter()

    def attempt(value: object) -> None:
        with bounded():
            try:
                kinds[check(value)] += 1
            except Hangs as hang:
                raise AssertionError(str(hang)) from None

    smallest_failure(number, count, what, attempt)
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.texts", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--only", choices=("ir", "cli"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    until, number = time.monotonic() + 60 * arguments.minutes, arguments.seed
    tally: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < until:
            number += 1
            for name, count, what, check in (
                ("ir", 2000, texts(), check_text),
                ("cli", 100, commands(), lambda drawn: check_command(Path(scratch), drawn)),
            ):
                if arguments.only in (None, name):
                    try:
                        found = search(number, count, what, check)
                        tally.update({f"{name} {kind}": n for kind, n in found.items()})
                    except Exception:
                        failed += 1
                        print(f"seed {number}, {name}:\n{traceback.format_exc()[-4000:]}", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{dict(sorted(tally.items()))} from seed {arguments.seed}, {failed} searches failed, {memory} MiB at most")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
