"""What the GPU run measures, the most important first.  Imports nothing heavy: the plan can be read anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

PATTERNS = ("dense", "causal", "window", "dilated", "neighbourhood", "hierarchical", "swin", "block-sparse")
LENGTHS = (16384, 65536, 4096)
KEYS = (65536, 524288, 8192)  # of a decode step
WIDTHS = (128, 64)
TOKENS, MODEL_WIDTH = 16384, 2048  # a shorter sequence has a larger batch; heads are narrow or few
QUERY_HEADS, KEY_HEADS = 32, 8  # of a decode step
DRY_LENGTH = 128

FLEX, CUDNN, FLASH = "FlexAttention", "SDPA cuDNN", "SDPA flash"
RIVALS = (FLEX, CUDNN, FLASH)
# what this version aims at, on an H100 or H200: our speed over the rival's
_DENSE = {FLEX: 1.05, CUDNN: 0.85}
GOALS: dict[tuple[str, int, int, str], dict[str, float]] = {
    ("dense", 16384, 128, "forward"): _DENSE,
    ("causal", 16384, 128, "forward"): _DENSE,
    ("window", 65536, 128, "forward"): {FLEX: 1.3},
    ("dilated", 16384, 128, "forward"): {FLEX: 5.0},
    ("neighbourhood", 16384, 128, "forward"): {FLEX: 3.0},
    ("hierarchical", 16384, 128, "forward"): {FLEX: 2.0},
    ("decode", 65536, 128, "forward"): {FLEX: 1.5},
    ("dense", 16384, 128, "backward"): {FLEX: 1.05},
    ("causal", 16384, 128, "backward"): {FLEX: 1.05},
}
BANDWIDTH_GOAL = 0.85  # of a copy's bytes per second, in a decode step at 64k keys
FIRST_CALL_GOAL = 5.0  # seconds, nothing cached


@dataclass(frozen=True)
class Case:
    """One comparison: a pattern at one size, forward or backward."""

    pattern: str
    length: int  # nominal tokens; keys of a decode step
    width: int
    direction: str = "forward"
    dry: bool = False

    @property
    def name(self) -> str:
        length = f"{self.length // 1024}k" if self.length >= 1024 else str(self.length)
        return f"{self.pattern} {length} D{self.width} {self.direction}"

    @property
    def side(self) -> int:
        """Of the square grid of tokens that the two-dimensional patterns lie on."""
        side = math.isqrt(self.length)
        return side // 7 * 7 if self.pattern == "swin" else side

    @property
    def tokens(self) -> int:
        return self.side**2 if self.pattern in ("neighbourhood", "swin") else self.length

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
        """Of the query, and of the key and value: (batch, heads, tokens, width)."""
        if self.pattern == "decode":
            heads = (4, 2) if self.dry else (QUERY_HEADS, KEY_HEADS)
            return (1, heads[0], 1, self.width), (1, heads[1], self.length, self.width)
        batch, heads = (1, 2) if self.dry else (max(TOKENS // self.length, 1), MODEL_WIDTH // self.width)
        shape = (batch, heads, self.tokens, self.width)
        return shape, shape

    @property
    def goals(self) -> dict[str, float]:
        return GOALS.get((self.pattern, self.length, self.width, self.direction), {})

    @property
    def tuned(self) -> bool:
        """Does FlexAttention search for its best tiles?  Where a goal depends on it: the search takes long."""
        return bool(self.goals)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(quick: bool = False, dry: bool = False) -> list[Case]:
    """All cases: those with goals, then by length and width, forward before backward."""
    if dry:
        found = [Case(p, DRY_LENGTH, 16, d, dry=True) for p in PATTERNS for d in ("forward", "backward")]
        return [*found, Case("decode", DRY_LENGTH, 16, dry=True)]
    cases = list(_all())
    if quick:
        return [c for c in cases if c.length == (8192 if c.pattern == "decode" else 4096)]
    return sorted(cases, key=lambda c: list(GOALS).index(_key(c)) if c.goals else len(GOALS))


def _all() -> Iterator[Case]:
    for length, keys in zip(LENGTHS, KEYS, strict=True):
        for direction in ("forward", "backward"):
            for width in WIDTHS:
                if direction == "forward":
                    yield Case("decode", keys, width)
                yield from (Case(p, length, width, direction) for p in PATTERNS)


def _key(case: Case) -> tuple[str, int, int, str]:
    return case.pattern, case.length, case.width, case.direction
