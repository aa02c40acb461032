"""Counterexamples by trying points: a point where a condition holds shows, without any set, that it is not empty.

Most questions that passes ask have the answer "no" ("is this conjunct implied?", "is everything in one block?"), and
a few thousand points in reach of every fact find it in a fraction of the time that integer sets take to build.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...ir.attributes import Dim
from ...ir.expr import Expr, free_vars
from ...ir.simplify import Facts
from .numeric import array_value, countable

POINTS = 512  # for each choice of sizes
SIDE = 96  # first rows, and keys, all pairs of which are looked at
# sizes that have awkward remainders, and sizes that have none
SIZES = (1, 2, 7, 37, 130, 384, 768, 1000)
Env = dict[str, Any]


def exists(condition: Expr, dims: Sequence[Dim], facts: Sequence[Expr] = ()) -> bool:
    """Was a point of the domain found where the condition holds?  No says nothing."""
    if not countable(condition):
        return False
    names = free_vars(condition).union(*(free_vars(d.extent) for d in dims), *(free_vars(f) for f in facts))
    env = _points(tuple(dims), tuple(facts), tuple(sorted(names - {d.name for d in dims})))
    if env is None:
        return False
    try:
        with np.errstate(all="ignore"):
            return bool(np.any(array_value(condition, env)))
    except (ArithmeticError, ValueError):
        return False  # a shift or a power out of range


def several(value: Expr, condition: Expr, dims: Sequence[Dim], facts: Sequence[Expr] = ()) -> bool:
    """Was ``value`` found to differ among pairs of the last two dimensions where the condition holds?  No says nothing.

    Pairs that a narrow mask lets through are rare among points of the whole domain, so the first ones of each size are
    looked at one and all.
    """
    exprs = (condition, value, *facts, *(d.extent for d in dims))
    if not all(map(countable, exprs)):
        return False
    *batch, row, key = dims
    names = set().union(*map(free_vars, exprs)) - {d.name for d in dims}
    for env in _sizes(tuple(facts), tuple(sorted(names))):
        try:
            with np.errstate(all="ignore"):
                for d in batch:
                    env[d.name] = 0
                if any(array_value(d.extent, env) <= 0 for d in batch):
                    continue
                for d, shape in ((row, (-1, 1)), (key, (1, -1))):
                    env[d.name] = np.arange(min(max(int(array_value(d.extent, env)), 0), SIDE)).reshape(shape)
                live, values = np.broadcast_arrays(array_value(condition, env), array_value(value, env))
        except (ArithmeticError, ValueError, TypeError):
            continue
        found = values[live.astype(bool)]
        if found.size and (found != found[0]).any():
            return True
    return False


@lru_cache(maxsize=256)
def _points(dims: tuple[Dim, ...], facts: tuple[Expr, ...], names: tuple[str, ...]) -> Env | None:
    """Points of the domain, as arrays, for several choices of sizes that the facts allow."""
    if not all(countable(e) for e in (*facts, *(d.extent for d in dims))):
        return None
    sizes = _sizes(facts, names)
    if not sizes:
        return None
    env: Env = {n: np.repeat([s[n] for s in sizes], POINTS) for n in names}
    count = len(sizes) * POINTS
    alive = np.ones(count, dtype=bool)
    last = None
    for n, d in enumerate(dims):
        extent = np.broadcast_to(np.asarray(array_value(d.extent, env), dtype=np.int64), (count,))
        alive &= extent > 0
        at = (_spread(n, count) * extent).astype(np.int64)
        if last is not None:  # a third of the points near the diagonal, where masks change
            near = last + np.arange(count) // 21 % 7 - 3
            at = np.where(np.arange(count) % 3 == 0, near, at)
        at = np.where(np.arange(count) % 7 == 0, 0, np.where(np.arange(count) % 7 == 1, extent - 1, at))
        env[d.name] = last = np.clip(at, 0, np.maximum(extent - 1, 0))
    return {n: v[alive] for n, v in env.items()}


def _spread(n: int, count: int) -> Any:
    """Numbers in [0, 1) that cover a box evenly, one sequence for each of its sides."""
    return (np.arange(1, count + 1) * (2 ** (1 / (n + 2)) + 5**0.5 * (n + 1))) % 1.0


def _sizes(facts: Sequence[Expr], names: Sequence[str]) -> list[Env]:
    """Choices of sizes: all equal, and each name its own."""
    equal = Facts({}, facts).equal
    choices = [dict.fromkeys(names, n) for n in SIZES]
    choices += [{n: SIZES[(k + 1) * step % len(SIZES)] for k, n in enumerate(names)} for step in (1, 3)]
    found = []
    for env in choices:
        for name, value in equal.items():
            if name in env and free_vars(value) <= env.keys():
                env[name] = int(array_value(value, env))
        try:
            if all(array_value(f, env) for f in facts):
                found.append(env)
        except ArithmeticError:
            continue  # a fact that divides by a size of 0
    return found
