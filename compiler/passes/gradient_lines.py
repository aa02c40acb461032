"""Give the keys of every row of an image their own tiles, where a mask looks at rows and columns.

before::

    rows "j, t * 16, 16, N" ... mask "abs(i // 56 - j // 56) <= 3 and abs(i % 56 - j % 56) <= 3"

after::

    over "..., y < (N + 55) // 56" rows "j, t * 16, 16, min(56, N - y * 56)" ...
      mask "abs(i // 56 - y) <= 3 and abs(i % 56 - j) <= 3"

This is what ``image-rows`` does to the queries of the forward kernel: a tile of keys then meets short pieces of a few
image rows of queries.

Legality: a change of variables of the keys, one to one.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import attn
from ...ir.expr import Expr, Var, free_vars
from ..analysis.cost import NOMINAL_LENGTH
from ..analysis.live_area import computed_pairs, nominal_sizes
from ..analysis.segments import widths
from .common import moved
from .gradient_problem import Problem
from .image_rows import line_of
from .kernel_builder import fresh

WORTHWHILE = 0.8  # the share of pairs that may be left


def by_lines(problem: Problem, n: int) -> tuple[Problem, str]:
    """The problem with the keys of source ``n`` in lines, if that is worth it, and the dimension that counts lines."""
    source = problem.sources[n]
    if not free_vars(source.extent) & {d.name for d in problem.batch}:
        for width in widths([source.mask], lambda x: x == Var(source.key)):
            lined, name = _lined(problem, n, width)
            if _pairs(lined, n) <= WORTHWHILE * _pairs(problem, n):
                return lined, name
    return problem, ""


def _lined(problem: Problem, n: int, width: int) -> tuple[Problem, str]:
    taken, key = set(problem.taken), problem.key(n)
    line, part = line_of(key, width, fresh("y", taken))
    batch = (*problem.batch, line)
    keys: dict[str, Expr] = {key.name: Var(line.name) * width + Var(key.name)}
    source = moved(problem.sources[n], (*batch, problem.row), part.extent, keys, problem.facts)
    sources = tuple(source if k == n else s for k, s in enumerate(problem.sources))
    return replace(problem, batch=batch, sources=sources, taken=taken), line.name


def _pairs(problem: Problem, n: int) -> int:
    """Pairs that tiles of keys compute, at a nominal length."""
    key, source, row = problem.key(n), problem.sources[n], problem.row
    queries = attn.Source(row.name, row.extent, (), (), source.mask, source.score)
    domain = (*problem.batch, key)
    rows, sizes = problem.sizes(key.name)[key.name], nominal_sizes(domain, [queries], NOMINAL_LENGTH, problem.facts)
    return computed_pairs(domain, queries, sizes, rows=rows, padded=[(rows, 1)], facts=problem.facts)[0]
