"""The measured half of ``quickstart.py``: numbers, times, memory, and everything that the compiler wrote."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import quickstart
import torch
import torch.nn.functional as F
from _common import mebibytes, median_seconds, milliseconds, peak_bytes, times
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import attnc
from attnc.compiler.pictures import tile_map

# stage -> file; the GPU stages need a compiler for the GPU but no GPU
FILES = {
    "capture": "1-capture.txt",
    "attn": "2-attn.mlir",
    "tile": "3-tile.mlir",
    "mlir": "4-cpu.mlir",
    "triton": "4-triton.py",
}
PICTURED = {"N": 1024}  # tokens in the pictures


def sdpa_inputs(name: str, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The same attention for ``scaled_dot_product_attention``, its mask built in advance."""
    i, j = quickstart.positions(q, k)
    match name:
        case "dense":
            return q, k, v, None
        case "block":
            return q, k, v, quickstart.in_block(i, j)
        case "windowed":
            return q, k, v, quickstart.in_window(i, j)
        case "dilated":
            return q, k, v, quickstart.on_tap(i, j)
        case _:
            keys, values = (torch.cat([quickstart.pooled(x), x], -2) for x in (k, v))
            return q, keys, values, quickstart.in_hierarchy(q, k)


NAMES = ("block", "windowed", "dilated", "hierarchical", "dense")
PATTERNS: dict[str, attnc.CompiledAttention] = {name: getattr(quickstart, name) for name in NAMES}


@dataclass
class Row:
    """What was measured of one pattern."""

    error: float
    limit: float
    live: float
    computed: float
    seconds: dict[str, float]
    peak: dict[str, int]

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


def measure(name: str, inputs: tuple[Tensor, Tensor, Tensor], rounds: int) -> Row:
    compiled = PATTERNS[name]
    report = attnc.validate(compiled, *inputs, backward=False)
    explanation = compiled.lower(*inputs).explain()
    q, k, v, mask = sdpa_inputs(name, *inputs)
    calls: dict[str, Callable[[], Tensor]] = {
        "attnc": lambda: compiled(*inputs),
        "eager": lambda: compiled.eager(*inputs),
        "SDPA": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    }
    return Row(
        max(e.error for e in report.entries),
        min(e.limit for e in report.entries),
        explanation.live_fraction or 0.0,  # None only where a mask depends on data
        explanation.computed_fraction,
        median_seconds(calls, rounds),
        {who: peak_bytes(call, inputs[0].device.type) for who, call in calls.items()},
    )


def write(name: str, inputs: tuple[Tensor, Tensor, Tensor], folder: Path) -> None:
    """The program after each stage, what the compiler says about it, and a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    lowered = PATTERNS[name].lower(*inputs)
    for stage, file in FILES.items():
        (folder / file).write_text(lowered.ir(stage))
    (folder / "explain.txt").write_text(f"{lowered.explain()}\n")
    tile_map(lowered, PICTURED, folder / "tiles.png")


def table(rows: dict[str, Row], title: str) -> Table:
    out = Table(title=title, title_justify="left", title_style="")
    columns = ("error", "limit", "", "attnc ms", "eager ms", "", "SDPA ms", "", "live", "computed")
    out.add_column("pattern")
    for head in (*columns, "attnc MiB", "eager MiB", "SDPA MiB"):
        out.add_column(head, justify="right", no_wrap=True)
    for name, row in rows.items():
        s = row.seconds
        out.add_row(
            name, f"{row.error:.1e}", f"{row.limit:.1e}", "ok" if row.ok else "WRONG",
            milliseconds(s["attnc"]), milliseconds(s["eager"]), times(s["eager"], s["attnc"]),
            milliseconds(s["SDPA"]), times(s["SDPA"], s["attnc"]),
            f"{row.live:.1%}", f"{row.computed:.1%}", *(mebibytes(row.peak[who]) for who in ("attnc", "eager", "SDPA")),
        )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare five attention patterns with eager PyTorch and SDPA.")
    parser.add_argument("--length", type=int, default=4096, help="tokens, a multiple of 64 (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=64, help="head width (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for IR, sources and pictures (default: a new one)")
    args = parser.parse_args()
    if args.length % quickstart.POOL:
        parser.error(f"--length {args.length}: hierarchical pools {quickstart.POOL} tokens, so give a multiple of it")
    folder = args.out or Path(tempfile.mkdtemp(prefix="attnc-"))

    # The table has more columns than a pipe's default width of 80.
    console = Console() if Console().is_terminal else Console(width=160)
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, args.heads, args.length, args.width)
    q, k, v = torch.randn(shape, generator=generator).to(args.device)
    rows: dict[str, Row] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=2 * len(PATTERNS))
        for name in PATTERNS:
            progress.update(task, description=f"{name}: measuring")
            rows[name] = measure(name, (q, k, v), args.rounds)
            progress.update(task, advance=1, description=f"{name}: writing IR and picture")
            write(name, (q, k, v), folder / name)
            progress.update(task, advance=1)

    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    console.print(table(rows, f"B=1 H={args.heads} N={args.length} D={args.width} float32, {where}"))
    console.print("error, limit: largest difference from float64, and twice eager's own plus 4 ulp")
    console.print("live, computed: part of all query-key pairs that the mask keeps, and that the kernel works on")
    console.print("MiB: most memory held beyond the inputs; SDPA's mask, built in advance, is not in it")
    console.print(f"IR after each stage, MLIR, Triton source and tile maps: {folder}/", soft_wrap=True)
    wrong = [name for name, row in rows.items() if not row.ok]
    if wrong:
        raise SystemExit(f"error above the limit: {', '.join(wrong)}")
