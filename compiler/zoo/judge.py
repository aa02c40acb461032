"""What attnc makes of a system, at its published sizes, and whether it is right, at small ones."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..validation import Entry, validate
from .systems import System


@dataclass(frozen=True)
class Facts:
    """One function at its published size, by closed forms: nothing is run."""

    function: str
    fused: bool  # forward and backward
    kernels: int
    pairs: int
    live_pairs: int | None  # None: the mask depends on data
    computed_pairs: int
    patterns: tuple[str, ...]  # the masks in words
    eager: tuple[str, ...]  # what stays with PyTorch, where, and why


@dataclass(frozen=True)
class Check:
    """One function against float64 at its small size: the tensor that comes nearest to its limit."""

    function: str
    ok: bool
    tensor: str
    error: float
    limit: float
    fallbacks: tuple[str, ...]

    @property
    def share(self) -> float:
        """The error as a part of what it may be."""
        return self.error / self.limit if self.limit else float(self.error > 0)


def facts(system: System, backend: str = "auto", target: str | None = None) -> list[Facts]:
    """What attnc makes of every function of a system, for this device or for ``target``."""
    return [_facts(_compiled(system, name, backend), name, args, target) for name, args in system.inputs().items()]


def check(system: System, backend: str = "auto") -> list[Check]:
    """Every function of a system, outputs and gradients, against the same function in float64."""
    found = []
    for name, args in system.inputs(small=True).items():
        report = validate(_compiled(system, name, backend), *args)
        worst = max(report.entries, key=_share)
        found.append(Check(name, report.ok, worst.name, worst.error, worst.limit, tuple(report.fallbacks)))
    return found


def live_fraction(found: Sequence[Facts]) -> float | None:
    """Live pairs of all pairs of all functions; None where a mask depends on data."""
    if any(f.live_pairs is None for f in found):
        return None
    return sum(f.live_pairs or 0 for f in found) / max(sum(f.pairs for f in found), 1)


def computed_fraction(found: Sequence[Facts]) -> float:
    """Computed pairs of all pairs of all functions."""
    return sum(f.computed_pairs for f in found) / max(sum(f.pairs for f in found), 1)


def to_json(found: Sequence[Facts | Check]) -> dict[str, dict[str, Any]]:
    """By the name of the function."""
    return {f.function: {k: v for k, v in asdict(f).items() if k != "function"} for f in found}


def _compiled(system: System, name: str, backend: str) -> Any:
    function = system.function(name)
    # The decorator belongs to a frontend, which the compiler may not import when it is itself imported.
    package = importlib.import_module(__package__.removesuffix(".compiler.zoo"))
    return package.compile(function.eager, backend=backend, fallback="warn")


def _facts(function: Any, name: str, args: Sequence[Any], target: str | None) -> Facts:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what stays eager is told below
        page = function.lower(*args, target=target).explain()
    live = [k.live_pairs for k in page.kernels]
    backward = page.backward
    stays = [f"{op.call or 'an operation'} at {op.at}: {op.reason}" for op in page.eager_ops if op.quadratic]
    stays += [f"the gradient: {backward.reason}"] if backward.reason else []
    return Facts(
        name,
        page.fused and backward.compiled,
        len(page.kernels),
        page.pairs,
        None if None in live else sum(x or 0 for x in live),
        sum(k.coverage.computed_pairs for k in page.kernels),
        tuple(dict.fromkeys(k.pattern for k in page.kernels)),
        tuple(dict.fromkeys(stays)),
    )


def _share(entry: Entry) -> tuple[bool, float]:
    return not entry.ok, entry.error / entry.limit if entry.limit else entry.error
