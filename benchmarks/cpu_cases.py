"""The cases of ``cpu.py``: function, sizes, rivals, and the speed over each that is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import cpu_patterns as p
import torch
import torch.nn.functional as F
from torch import Tensor

import attnc

SHORT, LONG = 4096, 16384
f32, bf16 = torch.float32, torch.bfloat16
NAMES = {f32: "f32", bf16: "bf16"}
sdpa = F.scaled_dot_product_attention


@dataclass(frozen=True)
class Case:
    """One comparison.  ``rivals`` are made when the case runs; ``goals`` are speeds over them."""

    name: str
    ours: attnc.CompiledAttention
    shapes: tuple[tuple[int, ...], ...]
    rivals: Mapping[str, Callable[[], p.Attention]]
    goals: Mapping[str, float] = field(default_factory=dict)
    dtype: torch.dtype = f32
    backward: bool = False
    flops: float = 0  # multiplications and additions that the pattern needs
    rounds: int = 1  # how often each contender runs in one turn: short calls are timed together
    quick: bool = True  # is it one of the quick run's?
    check: tuple[tuple[int, ...], ...] = ()  # smaller shapes, where float64 with all scores is too much

    @cached_property
    def inputs(self) -> list[Tensor]:
        return self.random(self.shapes)

    def random(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(s, generator=generator).to(self.dtype) for s in shapes]

    def contenders(self) -> dict[str, Callable[[], Any]]:
        attentions: dict[str, p.Attention] = {"attnc": self.ours, **{n: make() for n, make in self.rivals.items()}}
        call = self._backward if self.backward else self._forward
        return {name: call(attention) for name, attention in attentions.items()}

    def _forward(self, attention: p.Attention) -> Callable[[], Any]:
        def run() -> None:
            with torch.no_grad():
                for _ in range(self.rounds):
                    attention(*self.inputs)

        return run

    def _backward(self, attention: p.Attention) -> Callable[[], Any]:
        """The gradients of all inputs from one call, which is made here."""
        leaves = [x.detach().requires_grad_() for x in self.inputs]
        out = attention(*leaves)
        given = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)

        def run() -> None:
            for _ in range(self.rounds):
                torch.autograd.grad(out, leaves, given, retain_graph=True)

        return run

    def error(self) -> float:
        """Our largest difference from float64 eager PyTorch, forward and backward."""
        inputs = [x.requires_grad_() for x in self.random(self.check or self.shapes)]
        double = [x.detach().double().requires_grad_() for x in inputs]
        if not self.backward:
            with torch.no_grad():
                return _difference([self.ours(*inputs)], [self.ours.eager(*double)])
        outs = self.ours(*inputs), self.ours.eager(*double)
        given = torch.randn(outs[1].shape, generator=torch.Generator().manual_seed(1)).to(self.dtype)
        found = torch.autograd.grad(outs[0], inputs, given)
        return _difference(found, torch.autograd.grad(outs[1], double, given.double()))


def _difference(found: Sequence[Tensor], oracle: Sequence[Tensor]) -> float:
    return max((x.double() - y).abs().max().item() for x, y in zip(found, oracle, strict=True))


def cases(heads: int) -> Iterator[Case]:
    """All cases, forward and backward."""
    for make in (_dense, _causal, _window, _dilated, _images, _swin, _hierarchical, _groups, _short, _decode):
        yield from make(heads)


def _shape(heads: int, length: int, width: int) -> tuple[tuple[int, ...], ...]:
    return ((1, heads, length, width),) * 3


def _dense(heads: int) -> Iterator[Case]:
    goals = {(f32, 64): (1.3, 1.4), (f32, 128): (1.2, 1.3), (bf16, 64): (2.4, 1.9), (bf16, 128): (2.3, 1.7)}
    for (dtype, width), pair in goals.items():
        for backward, goal in zip((False, True), pair, strict=True):
            yield Case(
                f"dense {NAMES[dtype]} D{width}", p.dense, _shape(heads, SHORT, width), {"SDPA": lambda: sdpa},
                {"SDPA": goal}, dtype, backward,
                flops=heads * SHORT**2 * width * (10 if backward else 4), quick=width == 64,
                check=_shape(1, 1024, width),
            )  # fmt: skip


def _causal(heads: int) -> Iterator[Case]:
    ours = p.masked(p.causally)
    by_sdpa: dict[str, Callable[[], p.Attention]] = {"SDPA": lambda: partial(sdpa, is_causal=True)}
    both = by_sdpa | {"FlexAttention": lambda: p.flex(p.causally, SHORT)}
    for dtype, forward, backward in ((f32, (1.45, 2.0), 1.75), (bf16, (2.7, 6.0), 2.3)):
        name, shape, check = f"causal {NAMES[dtype]} D64", _shape(heads, SHORT, 64), _shape(1, 1024, 64)
        flops = heads * SHORT * (SHORT + 1) / 2 * 64
        yield Case(name, ours, shape, both, dict(zip(both, forward, strict=True)), dtype, flops=4 * flops, check=check)
        yield Case(name, ours, shape, by_sdpa, {"SDPA": backward}, dtype, True, flops=10 * flops, check=check)


def _banded(
    heads: int, name: str, live: p.Live, keys: int, goals: Mapping[torch.dtype, tuple[Mapping[str, float], float]]
) -> Iterator[Case]:
    ours = p.masked(live)
    for dtype, (forward, backward) in goals.items():
        rivals: dict[str, Callable[[], p.Attention]] = {"FlexAttention": lambda: p.flex(live, LONG)}
        if "FlexAttention, permuted" in forward:
            rivals["FlexAttention, permuted"] = lambda: p.flex_permuted(LONG)
        check, flops = _shape(1, 2048, 64), heads * keys * 64
        title = f"{name} {NAMES[dtype]}"
        yield Case(
            title, ours, _shape(heads, LONG, 64), rivals, forward, dtype,
            flops=4 * flops * LONG, rounds=3, quick=dtype == f32, check=check,
        )  # fmt: skip
        masked: dict[str, Callable[[], p.Attention]] = {"SDPA with mask": lambda: p.sdpa_masked(live, SHORT)}
        yield Case(
            title, ours, _shape(heads, SHORT, 64), masked, {"SDPA with mask": backward}, dtype, True,
            flops=10 * flops * SHORT, quick=dtype == f32, check=check,
        )  # fmt: skip


def _window(heads: int) -> Iterator[Case]:
    goals = {f32: ({"FlexAttention": 2.8}, 20.0), bf16: ({"FlexAttention": 7.5}, 25.0)}
    yield from _banded(heads, "window 256", p.in_window, p.WINDOW + 1, goals)


def _dilated(heads: int) -> Iterator[Case]:
    permuted = "FlexAttention, permuted"
    goals = {
        f32: ({"FlexAttention": 15.0, permuted: 6.0}, 50.0),
        bf16: ({"FlexAttention": 35.0, permuted: 12.0}, 60.0),
    }
    yield from _banded(heads, "dilated 8 x 64 taps", p.on_tap, p.TAPS + 1, goals)


def _images(heads: int) -> Iterator[Case]:
    length = p.GRID * p.GRID
    for side in (7, 13):
        live = p.nearby(side // 2)
        shape, check = _shape(heads, length, 32), _shape(1, length, 32)
        flops = heads * length * side**2 * 32
        name = f"neighbourhood {side} x {side}, f32 D32"
        ours = p.masked(live)
        rivals = {"FlexAttention": lambda live=live: p.flex(live, length)}
        quick = side == 7
        yield Case(name, ours, shape, rivals, {"FlexAttention": 5.0}, flops=4 * flops, quick=quick, check=check)
        masked = {"SDPA with mask": lambda live=live: p.sdpa_masked(live, length)}
        yield Case(name, ours, shape, masked, backward=True, flops=10 * flops, quick=quick, check=check)


def _swin(heads: int) -> Iterator[Case]:
    shapes = (*((8, heads, 56, 56, 32),) * 3, ((2 * p.SIDE - 1) ** 2, heads))
    check = (*((1, heads, 56, 56, 32),) * 3, shapes[-1])
    rivals: dict[str, Callable[[], p.Attention]] = {
        "eager": lambda: p.swin.eager,
        "SDPA with bias": lambda: p.swin_by_sdpa,
    }
    flops = 8 * heads * 56**2 * p.SIDE**2 * 32
    name = "Swin 7 x 7, shifted, bias, f32"
    yield Case(name, p.swin, shapes, rivals, dict.fromkeys(rivals, 4.0), flops=4 * flops, check=check)
    yield Case(name, p.swin, shapes, rivals, {"eager": 4.0}, backward=True, flops=10 * flops, check=check)


def _hierarchical(heads: int) -> Iterator[Case]:
    rivals: dict[str, Callable[[], p.Attention]] = {
        "eager in slices": lambda: p.hierarchical_in_slices,
        "two SDPA, merged": lambda: p.hierarchical_by_sdpa,
    }
    shape, check = _shape(heads, LONG, 64), _shape(1, 2048, 64)
    flops = heads * LONG * ((p.BLOCK + 1) / 2 + (LONG / p.BLOCK - 1) / 2) * 64
    name = "hierarchical f32"
    yield Case(
        name, p.hierarchical, shape, rivals, dict(zip(rivals, (8.0, 2.0), strict=True)), flops=4 * flops, check=check
    )
    slices = {"eager in slices": rivals["eager in slices"]}
    yield Case(name, p.hierarchical, shape, slices, backward=True, flops=10 * flops, quick=False, check=check)


def _groups(heads: int) -> Iterator[Case]:
    shapes = ((8, 4, 3136, 6),) * 3  # 196 groups an image
    flops = 8 * 4 * 3136 * p.GROUP * 6
    rivals: dict[str, Callable[[], p.Attention]] = {"SDPA on groups": lambda: p.grouped_by_sdpa}
    name = "groups of 16, f32 D6"
    yield Case(name, p.grouped, shapes, rivals, {"SDPA on groups": 4.0}, flops=4 * flops, rounds=5)
    yield Case(name, p.grouped, shapes, rivals, backward=True, flops=10 * flops, rounds=5)


def _short(heads: int) -> Iterator[Case]:
    for length in (64, 128, 256, 512, 1024):
        yield Case(
            f"dense f32 N{length}", p.dense, _shape(heads, length, 64), {"SDPA": lambda: sdpa}, {"SDPA": 1.3},
            flops=4 * heads * length**2 * 64, rounds=max(1, 4 * (1024 // length) ** 2 // 4),
        )  # fmt: skip


def _decode(heads: int) -> Iterator[Case]:
    shapes = ((1, 32, 1, 128), (1, 8, LONG, 128), (1, 8, LONG, 128))
    rivals: dict[str, Callable[[], p.Attention]] = {"SDPA": lambda: partial(sdpa, enable_gqa=True)}
    rivals["one read of keys and values"] = lambda: _read
    goals = {"SDPA": 20.0, "one read of keys and values": 0.8}
    yield Case("decode bf16, 32 heads on 8, 16k keys", p.decode, shapes, rivals, goals, bf16, flops=4 * 32 * LONG * 128)


def _read(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What memory allows: the fastest way in which PyTorch reads keys and values once."""
    for x in (k, v):
        torch.count_nonzero(x.view(torch.int64))
    return q
