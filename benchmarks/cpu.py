"""The forward on the CPU against SDPA and compiled FlexAttention: float32, B=1 H=8 N=4096 D=64, 2 threads.

FlexAttention is compiled with ``torch.compile`` and gets its block mask in advance; SDPA gets its boolean mask in
advance.  What attnc computes from the function's text at run time is inside its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from harness import Call, Comparison, arguments, compare, save, show
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attnc

WINDOW = 256  # keys in view, half of them to each side
DILATION, TAPS = 8, 64

Live = Callable[[Tensor, Tensor], Tensor]


def in_window(i: Tensor, j: Tensor) -> Tensor:
    return (i - j).abs() <= WINDOW // 2


def on_tap(i: Tensor, j: Tensor) -> Tensor:
    return ((i - j).abs() <= DILATION * TAPS // 2) & ((i - j) % DILATION == 0)


@attnc.compile
def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


@attnc.compile
def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, in_window)


@attnc.compile
def dilated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, on_tap)


def masked(q: Tensor, k: Tensor, v: Tensor, live: Live) -> Tensor:
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~live(i, j), float("-inf")).softmax(-1) @ v


def flex(live: Live, length: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention compiled for a mask."""
    mask = create_block_mask(lambda b, h, i, j: live(i, j), None, None, length, length, device="cpu")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def sdpa(live: Live, length: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """SDPA with the mask as a tensor."""
    position = torch.arange(length)
    mask = live(position[:, None], position[None, :])
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def errors(calls: dict[str, Call], eager: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Largest difference from eager in float64, checked on the first head."""
    oracle = eager(*(x[:, :1].double() for x in inputs))
    return {name: (call()[:, :1].double() - oracle).abs().max().item() for name, call in calls.items()}


def main() -> None:
    args = arguments((__doc__ or "").split("\n", 1)[0], rounds=15, length=4096, heads=8, width=64, threads=2)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    n = args.length
    inputs = tuple(torch.randn(3, 1, args.heads, n, args.width))
    cases: list[tuple[str, float, attnc.CompiledAttention, dict[str, Callable[..., Tensor]]]] = [
        ("dense", 1.0, dense, {"SDPA": F.scaled_dot_product_attention}),
        ("window 256", 2.0, windowed, {"FlexAttention": flex(in_window, n), "SDPA with mask": sdpa(in_window, n)}),
        ("dilated 8 x 64 taps", 3.0, dilated, {"FlexAttention": flex(on_tap, n), "SDPA with mask": sdpa(on_tap, n)}),
    ]
    found: list[Comparison] = []
    with torch.no_grad():
        for case, goal, ours, others in cases:
            contenders: dict[str, Callable[..., Tensor]] = {"attnc": ours, **others}
            calls: dict[str, Call] = {name: partial(f, *inputs) for name, f in contenders.items()}
            comparison = compare(case, calls, 3 if args.quick else args.rounds, goal)
            comparison.error = errors(calls, ours.eager, inputs)
            found.append(comparison)
    setup = f"B=1 H={args.heads} N={n} D={args.width} float32, {args.threads} threads"
    show(found, setup)
    if not args.quick:
        print(save("cpu", found, {"sizes": setup, "rounds": args.rounds}))


if __name__ == "__main__":
    main()
