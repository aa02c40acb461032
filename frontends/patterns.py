"""Patterns by name, for :func:`attnc.attention`: ``Causal() & Window(256) | Global(4)``.

A pattern is a function of batch, head, query and key position, which are tensors that broadcast, so it also serves as
a ``mask_mod`` for :func:`attnc.create_block_mask`.  Patterns are equal when they say the same, and joined by ``&``,
``|`` and ``~``.  ``+`` adds pooled keys, under one softmax: ``Causal() & Block(64) + Pooled(64)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .closures import ByValue
from .errors import ArgumentError


@dataclass(frozen=True)
class Pattern(ByValue):
    """Which keys a query sees.  Raises :class:`ArgumentError` for sizes that mean nothing."""

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Does query ``i`` see key ``j``, in batch ``b`` and head ``h``?"""
        raise NotImplementedError

    def __and__(self, other: Pattern | Sources) -> Any:
        return _joined("&", self, other)

    def __or__(self, other: Pattern | Sources) -> Any:
        return _joined("|", self, other)

    def __invert__(self) -> Pattern:
        return _Joined("~", (self,))

    def __add__(self, pooled: Pooled) -> Sources:
        return Sources(self, ()) + pooled


@dataclass(frozen=True)
class _Joined(Pattern):
    op: str
    parts: tuple[Pattern, ...]

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        first, *rest = (p(b, h, i, j) for p in self.parts)
        for x in rest:
            first = first & x if self.op == "&" else first | x
        return ~first if self.op == "~" else first

    def __repr__(self) -> str:
        return f"~{self.parts[0]}" if self.op == "~" else f"({f' {self.op} '.join(map(repr, self.parts))})"


def _joined(op: str, a: Pattern, b: Any) -> Any:
    if isinstance(b, Sources):  # + binds closer
        return Sources(_Joined(op, (a, b.pattern)), b.pooled)
    if not isinstance(b, Pattern):
        raise ArgumentError(f"{a!r} {op} {b!r}: only a pattern can stand on the right; + adds pooled keys")
    return _Joined(op, (a, b))


@dataclass(frozen=True)
class Everything(Pattern):
    """All keys."""

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i == i


@dataclass(frozen=True)
class Causal(Pattern):
    """The keys up to the query's own position."""

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= i


@dataclass(frozen=True)
class Window(Pattern):
    """Keys at most ``left`` before and ``right`` after the query (both ``left`` where ``right`` is not given)."""

    left: int
    right: int | None = None

    def __post_init__(self) -> None:
        _check(self, left=(self.left, 0), right=(self.right, 0))

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i - j <= self.left) & (j - i <= (self.left if self.right is None else self.right))


@dataclass(frozen=True)
class Dilated(Pattern):
    """Every ``dilation``-th key, ``taps`` to each side (Beltagy et al. 2020, Longformer, section 3.1)."""

    taps: int
    dilation: int

    def __post_init__(self) -> None:
        _check(self, taps=(self.taps, 0), dilation=(self.dilation, 1))

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ((i - j).abs() <= self.taps * self.dilation) & ((i - j) % self.dilation == 0)


@dataclass(frozen=True)
class Global(Pattern):
    """The first ``count`` tokens see all keys and are seen by all queries."""

    count: int

    def __post_init__(self) -> None:
        _check(self, count=(self.count, 1))

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i < self.count) | (j < self.count)


@dataclass(frozen=True)
class Block(Pattern):
    """The keys of the query's own block of ``size`` tokens, and of ``before`` and ``after`` blocks beside it."""

    size: int
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        _check(self, size=(self.size, 1), before=(self.before, 0), after=(self.after, 0))

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        away = j // self.size - i // self.size
        return (away >= -self.before) & (away <= self.after) if self.before or self.after else away == 0


@dataclass(frozen=True)
class Every(Pattern):
    """The last ``count`` keys of every ``stride`` (Child et al. 2019, Sparse Transformers, fixed attention)."""

    stride: int
    count: int = 1

    def __post_init__(self) -> None:
        _check(self, stride=(self.stride, 1), count=(self.count, 1))

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j % self.stride >= self.stride - self.count


@dataclass(frozen=True)
class Neighborhood(Pattern):
    """Neighbourhoods on a ``grid`` whose tokens are in row-major order: ``kernel[d]`` keys along each axis.

    Near a border the neighbourhood moves inside, so that every query sees as many keys; with ``dilation[d]`` it holds
    every so manieth token (Hassani et al. 2023, Neighborhood Attention Transformer, section 3; Hassani and Shi 2022,
    Dilated Neighborhood Attention Transformer, section 3.2).
    """

    kernel: tuple[int, ...]
    grid: tuple[int, ...]
    dilation: tuple[int, ...] | int = 1

    def __post_init__(self) -> None:
        rank = len(self.grid)
        if isinstance(self.dilation, int):
            object.__setattr__(self, "dilation", (self.dilation,) * rank)
        if not len(self.kernel) == len(self._steps) == rank:
            raise ArgumentError(f"{self!r}: kernel, grid and dilation must have as many axes")
        for k, n, d in zip(self.kernel, self.grid, self._steps, strict=True):
            _check(self, kernel=(k, 1), grid=(n, 1), dilation=(d, 1))
            if k * d > n:
                raise ArgumentError(f"{self!r}: a kernel of {k} with dilation {d} does not fit in {n} tokens")

    @property
    def _steps(self) -> Sequence[int]:
        return self.dilation if isinstance(self.dilation, tuple) else (self.dilation,)

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        live = i == i
        for kernel, size, step in list(zip(self.kernel, self.grid, self._steps, strict=True))[::-1]:
            row, key = i % size, j % size
            i, j = i // size, j // size
            at, to = row // step, key // step
            count = (size - row % step + step - 1) // step  # tokens of this residue
            start = torch.minimum((at - kernel // 2).clamp(min=0), count - kernel)
            live = live & ((row - key) % step == 0) & (to >= start) & (to < start + kernel)
        return live


@dataclass(frozen=True)
class Pooled(ByValue):
    """Blocks of ``size`` keys, each as the mean of its keys and of its values, for queries in later blocks.

    With ``within``, only the blocks in the query's own block of so many tokens: ``Causal() & Block(16) +
    Pooled(16, within=256) + Pooled(256)`` sees the far past more coarsely than the near.
    """

    size: int
    within: int | None = None

    def __post_init__(self) -> None:
        _check(self, size=(self.size, 1), within=(self.within, self.size))
        if self.within is not None and self.within % self.size:
            raise ArgumentError(f"{self!r}: within must be a multiple of size")

    def __call__(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Does query ``i`` see block ``j``?"""
        seen = j < i // self.size
        return seen if self.within is None else seen & (j // (self.within // self.size) == i // self.within)


@dataclass(frozen=True)
class Sources(ByValue):
    """Keys as they are, seen by ``pattern``, and pooled ones, under one softmax."""

    pattern: Pattern
    pooled: tuple[Pooled, ...]

    def __add__(self, pooled: Pooled) -> Sources:
        if not isinstance(pooled, Pooled):
            raise ArgumentError(f"{self!r} + {pooled!r}: only Pooled can be added; join patterns with & and |")
        return Sources(self.pattern, (*self.pooled, pooled))


MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _check(pattern: Any, **values: tuple[int | None, int]) -> None:
    for name, (value, least) in values.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ArgumentError(
                f"{type(pattern).__name__}: {name} must be an integer of at least {least}, not {value!r}"
            )
