"""What the machine code of the pattern table says, forward and backward, for GPUs that need not be there.

For every kernel at its default tiles: registers, spills, shared memory against the limit of the device, matrix
instructions, and what a turn of each main loop issues.  Results go to ``benchmarks/results/gpu_static.json``;
``--check`` compares with it instead, and ends with 1 where a kernel became worse.  A case whose kernels are printed as
they were when it was recorded, by the same Triton, is not compiled again.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
RECORD = Path(__file__).parent / "results" / "gpu_static.json"
TARGETS = ("sm_90", "sm_80", "sm_100", "gfx942")
# Heads are 64 wide in the whole table, and 128 in the patterns that stand for the rest: one of each kind of mask.
WIDE = ("dense", "causal", "window", "dilated", "window_2d", "block_mask", "hierarchical", "gqa", "dense_bias")
# Features that are two tiles, of 64 and of 16.
DIVIDED = ("dense", "causal")
# In float32, whose products run on ordinary units with their operands in registers: one of each number of main loops.
SINGLE = ("dense", "causal")
# What may change without being worse: the assembler schedules anew whenever anything changes.
MORE_REGISTERS, MORE_INSTRUCTIONS = 8, 1.03


@dataclass(frozen=True)
class Case:
    """One compilation: a pattern with heads of a width, forward or backward, for a target and a dtype."""

    pattern: str
    width: int
    direction: str
    target: str
    dtype: str = "bf16"

    @property
    def name(self) -> str:
        of_other_dtype = "" if self.dtype == "bf16" else f" {self.dtype}"
        return f"{self.pattern} D{self.width} {self.direction} {self.target}{of_other_dtype}"


def table_of_patterns() -> Mapping[str, Any]:
    """The pattern table of the tests, which is no module for a type checker to find."""
    return importlib.import_module("patterns").BY_NAME  # type: ignore[no-any-return]


def plan(targets: Sequence[str] = TARGETS) -> Iterator[Case]:
    """Every case, target by target."""
    for target in targets:
        for pattern in table_of_patterns():
            for width in (64, 128) if pattern in WIDE else (64,):
                for direction in ("forward", "backward"):
                    yield Case(pattern, width, direction, target)
        for pattern in DIVIDED:
            yield from (Case(pattern, 80, direction, target) for direction in ("forward", "backward"))
        for pattern, width in itertools.product(SINGLE, (64, 128)):
            yield from (Case(pattern, width, direction, target, "f32") for direction in ("forward", "backward"))


def measure(case: Case, known: Mapping[str, Any] = MappingProxyType({})) -> dict[str, dict[str, Any]]:
    """The machine code of a case's kernels, by name; ``wrong`` lists what no kernel may do.

    ``known`` is what was found before, and is found again where all kernels have the same source.
    """
    import torch

    import attnc
    from attnc.compiler.machine_code import machine_code
    from attnc.ir.tile import DotOp, kernels_of

    pattern = table_of_patterns()[case.pattern]
    dtype = torch.bfloat16 if case.dtype == "bf16" else torch.float32
    inputs = pattern.inputs(1, 8, 256, 256, case.width, dtype=dtype)
    lowered = attnc.compile(pattern.fn, backend="triton", fallback="error").lower(*inputs).on(case.target)
    if case.direction == "backward":
        lowered = lowered.backward()
    kernels = kernels_of(lowered.module("tile"))
    sources = {name: source_hash(lowered.request.compile_kernel(kernel).payload) for name, kernel in kernels.items()}
    if sources == {name: kernel.get("source") for name, kernel in known.items()}:
        return dict(known)
    products = {n for n, k in kernels.items() if any(isinstance(op, DotOp) for op in k.body.walk())}
    found = {}
    for name, code in machine_code(lowered).items():
        wrong = [] if code.fits else [f"{code.shared_bytes} bytes of shared memory, of {code.shared_limit}"]
        wrong += [f"{code.loop_spills} spills in main loops"] if code.loop_spills else []
        if name in products:
            wrong += ["no matrix instruction"] if case.dtype == "bf16" and not code.matrix else []
            wrong += ["no main loop"] if case.dtype == "f32" and not code.loops else []
        found[name] = code.to_json() | {"wrong": wrong, "source": sources[name]}
    return found


def source_hash(module: bytes) -> str:
    """Of a printed module as the compiler sees it: without comments, texts on top of functions, and choice of names."""
    tree = ast.parse(module)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        for field in ("id", "arg", "name"):
            if isinstance(name := getattr(node, field, None), str):
                setattr(node, field, names.setdefault(name, f"x{len(names)}"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = names.get(node.value, node.value)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def worse(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """How a kernel became worse than it was."""
    found = []
    for what, allowed in (("registers", MORE_REGISTERS), ("spilled_bytes", 0), ("shared_bytes", 0)):
        if now[what] > before[what] + allowed:
            found.append(f"{what.replace('_', ' ')}: {before[what]} -> {now[what]}")
    if now["matrix_name"] != before["matrix_name"]:
        found.append(f"matrix instruction: {before['matrix_name'] or 'none'} -> {now['matrix_name'] or 'none'}")
    # a turn of all main loops: they may be split in other ways
    for what in ("instructions", "on_chip", "memory", "special"):
        then, new = (sum(loop[what] for loop in kernel["loops"]) for kernel in (before, now))
        if new > then * MORE_INSTRUCTIONS + 2:
            found.append(f"{what} of main loops: {then} -> {new}")
    return found


def problems(case: Case, found: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a case's kernels, and where they became worse than the record says."""
    if "error" in found:
        yield f"{case.name}: {found['error']}"
        return
    recorded = record.get("kernels", {}).get(case.name, {})
    comparable = record.get("triton") == version("triton")
    for name, kernel in found.items():
        for text in kernel["wrong"]:
            yield f"{case.name}: {name}: {text}"
        if comparable and name in recorded:
            yield from (f"{case.name}: {name}: {text}" for text in worse(kernel, recorded[name]))


def load() -> dict[str, Any]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def attempt(case: Case, known: Mapping[str, Any]) -> tuple[Case, dict[str, Any]]:
    """The result, or the error: one kernel that does not compile must not hide the others."""
    try:
        return case, measure(case, known)
    except Exception as error:
        return case, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def run(
    cases: Sequence[Case], jobs: int, known: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Results as they come; ``known`` are those of before, by the names of cases."""
    work = [(case, dict(known.get(case.name, {}))) for case in cases]
    if jobs == 1:
        yield from itertools.starmap(attempt, work)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(attempt, *one) for one in work]):
            yield done.result()


def table(kernels: Mapping[str, Mapping[str, Any]]) -> Any:
    from rich.table import Table

    page = Table(title="machine code; main loops in instructions a turn", title_justify="left", title_style="")
    heads = "case", "kernel", "registers", "spills", "shared KiB", "tasks", "matrix", "main loops", "in it", "wrong"
    for n, head in enumerate(heads):
        page.add_column(head, justify="left" if n in (0, 1, 6, 9) else "right")
    for case, found in kernels.items():
        if "error" in found:
            page.add_row(case, *[""] * (len(heads) - 2), str(found["error"])[:60])
            continue
        for name, k in found.items():
            spills = f"{k['spilled_bytes']} B" if k["spilled_bytes"] else ""
            loops = (", ".join(str(loop[what]) for loop in k["loops"]) for what in ("instructions", "matrix"))
            shared = f"{k['shared_bytes'] / 1024:.0f} of {k['shared_limit'] // 1024}"
            matrix = f"{k['matrix']} {k['matrix_name']}" if k["matrix"] else ""
            row = str(k["registers"]), spills, shared, str(k["resident"]), matrix, *loops
            page.add_row(case, name, *row, "; ".join(k["wrong"]))
            case = ""
    return page


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--target", action="append", metavar="|".join(TARGETS), help="may be repeated; default: all")
    parser.add_argument("--only", default="", metavar="WORDS", help='cases whose name holds these words: "causal D128"')
    parser.add_argument("--check", action="store_true", help="compare with the record instead of writing it")
    parser.add_argument("--missing", action="store_true", help="only what the record lacks")
    parser.add_argument("--anew", action="store_true", help="compile also what has the source that was recorded")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile; default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    from rich.console import Console
    from rich.progress import track

    args = arguments(argv)
    words = args.only.split()
    cases = [c for c in plan(args.target or TARGETS) if all(word in c.name.split() for word in words)]
    record = load()
    kernels: dict[str, Any] = {}
    wrong: list[str] = []
    if args.missing:
        cases = [c for c in cases if c.name not in record.get("kernels", {})]
    known = {} if args.anew or record.get("triton") != version("triton") else dict(record.get("kernels", {}))
    screen = Console(stderr=True)
    for case, found in track(run(cases, args.jobs, known), "compiling", len(cases), console=screen):
        kernels[case.name] = found
        wrong += problems(case, found, record if args.check else {})
        if not args.check and "error" not in found:  # after each, so that a run that is cut short is not in vain
            write(record, case, found)
    kernels = {c.name: kernels[c.name] for c in cases}
    if args.json:
        print(json.dumps(kernels, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 170).print(table(kernels))
    for text in sorted(wrong):
        print(text, file=sys.stderr)
    return 1 if wrong else 0


def write(record: dict[str, Any], case: Case, found: Mapping[str, Any]) -> None:
    """Keep a case in the record; one made by another Triton is made anew."""
    if record.get("triton") != version("triton"):
        record.clear()
    record.update(triton=version("triton"), kernels={**record.get("kernels", {}), case.name: dict(found)})
    record["kernels"] = dict(sorted(record["kernels"].items()))
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(n)}: {json.dumps(k)}" for n, k in record["kernels"].items())
    RECORD.write_text(f'{{"triton": {json.dumps(record["triton"])}, "kernels": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    sys.exit(main())
