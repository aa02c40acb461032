"""Forward and backward on the CPU against SDPA and compiled FlexAttention: float32, B=1 H=8 N=4096 D=64, 2 threads.

FlexAttention is compiled with ``torch.compile`` and gets its block mask in advance; SDPA gets its boolean mask in
advance.  What attnc computes from the function's text at run time is inside its time.  A backward is timed alone, with
its forward done before, and gives the gradients of queries, keys and values; FlexAttention has none on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
Attention = Callable[..., Tensor]
Gradients = tuple[Tensor, ...]


def in_window(i: Tensor, j: Tensor) -> Tensor:
    return (i - j).abs() <= WINDOW // 2


def on_tap(i: Tensor, j: Tensor) -> Tensor:
    return ((i - j).abs() <= DILATION * TAPS // 2) & ((i - j) % DILATION == 0)


@attnc.compile
def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


@attnc.compile
def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, torch.ge)


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


def backward(attention: Attention, inputs: Sequence[Tensor], given: Tensor) -> Callable[[], Gradients]:
    """The backward, from the gradient ``given`` of the output, of one call, which is made here."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return lambda: torch.autograd.grad(out, leaves, given, retain_graph=True)


def error(found: Sequence[Tensor], oracle: Sequence[Tensor]) -> float:
    """Largest difference, checked on the first head."""
    return max((x[:, :1].double() - y).abs().max().item() for x, y in zip(found, oracle, strict=True))


def forwards(inputs: Sequence[Tensor], rounds: int) -> Iterator[Comparison]:
    n = inputs[0].shape[-2]
    cases: list[tuple[str, float, attnc.CompiledAttention, dict[str, Attention]]] = [
        ("dense", 1.0, dense, {"SDPA": F.scaled_dot_product_attention}),
        ("window 256", 2.0, windowed, {"FlexAttention": flex(in_window, n), "SDPA with mask": sdpa(in_window, n)}),
        ("dilated 8 x 64 taps", 3.0, dilated, {"FlexAttention": flex(on_tap, n), "SDPA with mask": sdpa(on_tap, n)}),
    ]
    for case, goal, ours, others in cases:
        contenders: dict[str, Attention] = {"attnc": ours, **others}
        calls: dict[str, Call] = {name: partial(f, *inputs) for name, f in contenders.items()}
        with torch.no_grad():
            found = compare(case, calls, rounds, goal)
            oracle = ours.eager(*(x[:, :1].double() for x in inputs))
            found.error = {name: error([call()], [oracle]) for name, call in calls.items()}
        yield found


def backwards(inputs: Sequence[Tensor], rounds: int) -> Iterator[Comparison]:
    n = inputs[0].shape[-2]
    given = torch.randn_like(inputs[2])
    cases: list[tuple[str, float | None, attnc.CompiledAttention, dict[str, Attention]]] = [
        ("dense", 1.0, dense, {"SDPA": F.scaled_dot_product_attention}),
        ("causal", None, causal, {"SDPA": partial(F.scaled_dot_product_attention, is_causal=True)}),
        ("window 256", 8.0, windowed, {"SDPA with mask": sdpa(in_window, n)}),
        ("dilated 8 x 64 taps", None, dilated, {"SDPA with mask": sdpa(on_tap, n)}),
    ]
    for case, goal, ours, others in cases:
        contenders: dict[str, Attention] = {"attnc": ours, **others}
        calls: dict[str, Call] = {name: backward(f, inputs, given) for name, f in contenders.items()}
        found = compare(f"{case}, backward", calls, rounds, goal)
        oracle = backward(ours.eager, [x[:, :1].double() for x in inputs], given[:, :1].double())()
        found.error = {name: error(call(), oracle) for name, call in calls.items()}
        yield found


def main() -> None:
    args = arguments((__doc__ or "").split("\n", 1)[0], rounds=15, length=4096, heads=8, width=64, threads=2)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inputs = tuple(torch.randn(3, 1, args.heads, args.length, args.width))
    rounds = 3 if args.quick else args.rounds
    found = [*forwards(inputs, rounds), *backwards(inputs, rounds)]
    setup = f"B=1 H={args.heads} N={args.length} D={args.width} float32, {args.threads} threads"
    show(found, setup)
    if not args.quick:
        print(save("cpu", found, {"sizes": setup, "rounds": args.rounds}))


if __name__ == "__main__":
    main()
