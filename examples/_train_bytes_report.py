"""The measured half of ``train_bytes.py``: both trainings side by side, their curves, and what each needs."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import train_bytes
from _common import mebibytes, milliseconds, peak_bytes, times
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor
from train_bytes import COMPILED, EAGER, Model, Run

CHECKED = 2  # steps at which the float64 curve itself is compared with eager
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass
class Agreement:
    """A curve held against one of more exact arithmetic, step by step."""

    name: str
    apart: list[float]
    allowed: list[float]

    @property
    def wrong(self) -> list[int]:
        """The steps at which the curve is further away than it may be; NaN always is."""
        return [n for n, (x, most) in enumerate(zip(self.apart, self.allowed, strict=True), 1) if not x <= most]

    def __str__(self) -> str:
        n = max(range(len(self.apart)), key=lambda n: self.apart[n] / self.allowed[n])
        count = f"{len(self.apart)} step" + "s" * (len(self.apart) > 1)
        verdict = f"WRONG at steps {', '.join(map(str, self.wrong))}" if self.wrong else f"ok in all {count}"
        nearest = f"nearest to its limit in step {n + 1}: {self.apart[n]:.1e} of {self.allowed[n]:.1e}"
        return f"{self.name}: {verdict}; {nearest}"


def agreement(name: str, run: Run, eager: Run, oracle: Run, dtype: torch.dtype) -> Agreement:
    """How far the losses of ``run``, computed in ``dtype``, are from ``oracle``, and how far they may be.

    Trainings that differ only in roundings drift apart, and how fast depends on the model and the text, so it is
    measured: float32 ``eager`` shows it.  As for a single result, the limit is twice eager's own error plus 4 units
    in the last place of the loss; what has drifted stays apart, so eager's error is the largest so far.  A float64
    run may drift as float32 eager does, scaled by the ratio of the roundings, and once more for the oracle's own.
    """
    eps = torch.finfo(dtype).eps
    factor = 2.0 if dtype == torch.float32 else 3 * eps / torch.finfo(torch.float32).eps
    found, own = Agreement(name, [], []), 0.0
    for loss, own_loss, exact in zip(run.losses, eager.losses, oracle.losses, strict=False):
        own = max(own, abs(own_loss - exact))
        found.apart.append(abs(loss - exact))
        found.allowed.append(factor * own + 4 * eps * exact)
    return found


def train(model: Model, texts: Sequence[Tensor], console: Console) -> tuple[Run, Run, Run, Run]:
    """Both trainings in turns, then the float64 curve, and its first steps in eager."""
    double = copy.deepcopy(model).double()
    ours, eager = Run("attnc", model, COMPILED), Run("eager", model, EAGER)
    oracle, check = Run("attnc, float64", double, COMPILED), Run("eager, float64", double, EAGER)
    loss = TextColumn("{task.fields[loss]}")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), loss)
    with Progress(*columns, console=console, transient=True) as progress:
        for title, runs, count in (
            ("attnc and eager in turns", (ours, eager), len(texts)),
            (oracle.name, (oracle,), len(texts)),
            (check.name, (check,), min(CHECKED, len(texts))),
        ):
            task = progress.add_task(title, total=count, loss="")
            for text in texts[:count]:
                for run in runs:
                    run.step(text)
                progress.update(task, advance=1, loss=f"loss {runs[0].losses[-1]:.3f}")
    return ours, eager, oracle, check


def memory(model: Model, context: int) -> dict[str, int]:
    """The most bytes that the attention of one training step holds: all layers forward, then all backward."""
    count = len(COMPILED) * train_bytes.HEADS
    shape = (len(model.layers), 3, 1, count, context, train_bytes.WIDTH // count)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slopes = [p for name, p in model.named_parameters() if name.endswith("slopes")]

    def step(attention: train_bytes.Attention, layers: Tensor) -> None:
        pairs = zip(model.layers, layers, strict=True)
        outputs = [layer.heads(*qkv, attention) for layer, qkv in pairs]  # type: ignore[operator]
        torch.autograd.grad([x.sum() for x in outputs], [inputs, *slopes])

    found = {}
    for name, attention in (("attnc", COMPILED), ("eager", EAGER)):  # the smaller peak first
        step(attention, inputs[..., :2, :])  # compiles, for one length as for any
        found[name] = peak_bytes(partial(step, attention, inputs))
    return found


def sparkline(losses: Sequence[float], width: int = 60) -> str:
    """The curve in one line of blocks."""
    shown = [losses[n * len(losses) // width] for n in range(width)] if len(losses) > width else losses
    low, high = min(losses), max(losses)
    return "".join(BLOCKS[round((x - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for x in shown)


def picture(ours: Run, eager: Run, oracle: Run, allowed: Sequence[float], path: Path) -> None:
    """Both curves, and below them how far each is from float64."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = range(1, len(ours.losses) + 1)
    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6), height_ratios=(2, 1))
    for run, width, alpha in ((eager, 5, 0.35), (ours, 1.2, 1)):
        top.plot(steps, run.losses, linewidth=width, alpha=alpha, label=run.name)
        apart = [abs(x - y) for x, y in zip(run.losses, oracle.losses, strict=True)]
        bottom.plot(steps, apart, linewidth=width, alpha=alpha)
    bottom.plot(steps, allowed, "k--", linewidth=0.8)
    bottom.annotate("limit", (1, allowed[0]), (0, 4), textcoords="offset points")
    bottom.margins(y=0.2)
    top.set(ylabel="loss, nats a byte", title="one training, twice")
    bottom.set(xlabel="step", ylabel="distance from float64", yscale="log")
    top.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def table(ours: Run, eager: Run, memories: dict[str, int]) -> Table:
    out = Table()
    out.add_column("")
    for head in ("attnc", "eager", "ratio", "goal"):
        out.add_column(head, justify="right")
    fast, slow = (statistics.median(run.seconds[1:] or run.seconds) for run in (ours, eager))
    out.add_row("training step, ms", milliseconds(fast), milliseconds(slow), times(slow, fast), "5x")
    out.add_row("steps a second", f"{1 / fast:.2f}", f"{1 / slow:.2f}", times(slow, fast))
    held, more = memories["attnc"], memories["eager"]
    out.add_row("memory of attention, MiB", mebibytes(held), mebibytes(more), times(more, held), "10x")
    out.add_row("loss, first step", f"{ours.losses[0]:.4f}", f"{eager.losses[0]:.4f}", "")
    out.add_row("loss, last step", f"{ours.losses[-1]:.4f}", f"{eager.losses[-1]:.4f}", "")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a byte-level language model with attnc and in eager PyTorch.")
    parser.add_argument("--steps", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--context", type=int, default=4096, help="bytes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and places in the text (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the picture (default: a new one)")
    args = parser.parse_args()
    if args.steps < 1 or args.context <= train_bytes.FIRST:
        parser.error(f"--steps must be positive and --context more than {train_bytes.FIRST}")
    console = Console() if Console().is_terminal else Console(width=120)
    model = train_bytes.initial(args.seed)
    texts = list(islice(train_bytes.passages(args.context, args.seed), args.steps))

    memories = memory(model, args.context)
    ours, eager, oracle, check = train(model, texts, console)
    checks = [
        agreement("attnc against float64", ours, eager, oracle, torch.float32),
        agreement("attnc's float64 against eager's", oracle, eager, check, torch.float64),
    ]
    for run in (eager, ours):
        console.print(f"{run.name}  {sparkline(run.losses)}  {run.losses[0]:.3f} to {run.losses[-1]:.3f}")
    parameters = sum(p.numel() for p in model.parameters())
    sizes = f"{args.steps} steps, {args.context:,} bytes of context, {parameters:,} parameters"
    console.print(f"{sizes}, {torch.get_num_threads()} threads")
    console.print(table(ours, eager, memories))
    console.print("memory of attention: the most that all layers hold, forward and backward, beyond their inputs")
    for found in checks:
        console.print(str(found), soft_wrap=True)
    if importlib.util.find_spec("matplotlib"):
        folder = args.out or Path(tempfile.mkdtemp(prefix="attnc-"))
        folder.mkdir(parents=True, exist_ok=True)
        picture(ours, eager, oracle, checks[0].allowed, folder / "curves.png")
        console.print(f"both curves: {folder / 'curves.png'}", soft_wrap=True)
    else:
        console.print("for a picture of the curves: pip install matplotlib")
    if any(found.wrong for found in checks):
        raise SystemExit("a loss curve is further from float64 than it may be")
