"""Give the tiles of gradient kernels patches of an image, as ``image-patches`` does in the forward kernel.

before, the kernel of the keys of an image of 128 columns::

    over "b < B, h < H" rows "j, t * 128, 128, N" loop over "i < N"
      mask "abs(i // 128 - j // 128) <= 6 and abs(i % 128 - j % 128) <= 6"

after, with patches of keys and boxes of the queries that see them::

    over "b < B, h < H, y < (N // 128 + 7) // 8, x < 8" rows "j, t * 128, 128, min(8, N // 128 - y * 8) * 16"
      loop over "i < (rows that see the patch) * 28" ...

The kernel of the queries has patches of queries, and boxes of the keys of every source.

Legality: that of :mod:`.patches`; facts say that the image's rows, or a video's frames, are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import TRUE, Expr, Var, substitute
from ..analysis.cost import NOMINAL_LENGTH
from ..analysis.live_area import computed_pairs, nominal_sizes
from ..analysis.segments import images
from .common import facts_about
from .gradient_problem import Problem
from .kernel_builder import fresh
from .patches import NAMES, SHAPES, Patches, patches, whole_images

WORTHWHILE = 0.8  # the share of pairs that may be left
_MAPS = "query_map", "out_map", "lse_map"


def query_patches(problem: Problem) -> Problem:
    """The problem with its queries in patches, if that is worth it."""
    return _least(problem, problem.row, range(len(problem.sources)), _of_queries)


def key_patches(problem: Problem, n: int) -> Problem:
    """The problem with the keys of source ``n`` in patches, if that is worth it."""
    return _least(problem, problem.key(n), [n], _of_keys)


def _least(
    problem: Problem, held: Dim, of: Sequence[int], change: Callable[[Problem, Sequence[int], Patches], Problem]
) -> Problem:
    """The form that computes the fewest pairs of the sources ``of``, whose masks are between ``held`` and others."""
    others = [problem.key(n) if held == problem.row else problem.row for n in of]
    walked = [(d, problem.sources[n].mask) for d, n in zip(others, of, strict=True)]
    domain, extents = (*problem.batch, held), [held.extent, *(d.extent for d in others)]
    known = facts_about(domain, problem.facts, extents)
    values = nominal_sizes(domain, _sources(problem, walked), NOMINAL_LENGTH, problem.facts)
    best, least, taken = None, WORTHWHILE * _pairs(problem, domain, walked, values), set(problem.taken)
    names = tuple(fresh(n, taken) for n in NAMES)
    for inner in images([m for _, m in walked], lambda e: isinstance(e, Var) and e.name == problem.row.name):
        if not all(known.always(guard) for guard in whole_images(extents, inner)):
            continue
        for size in (s for s in SHAPES.get(problem.sizes(held.name)[held.name], ()) if len(s) == len(inner) + 1):
            found = patches(domain, walked, inner, size, names[-len(size) :], problem.facts)
            if found is not None:
                pairs = _pairs(problem, found.domain, [(box.dim, TRUE) for box in found.boxes], values)
                if pairs < least:
                    best, least = found, pairs
    return replace(change(problem, of, best), taken=taken) if best is not None else problem


def _pairs(
    problem: Problem, domain: tuple[Dim, ...], walked: Sequence[tuple[Dim, Expr]], values: dict[str, int]
) -> int:
    """Pairs that tiles of the last dimension of ``domain`` compute with others under masks, for sizes ``values``."""
    sizes, total = problem.sizes(domain[-1].name), 0
    rows = sizes[domain[-1].name]
    for source in _sources(problem, walked):
        padded = [(rows, sizes[source.key])]
        known = nominal_sizes(domain, [source], NOMINAL_LENGTH, problem.facts) | values
        total += computed_pairs(domain, source, known, rows=rows, padded=padded, facts=problem.facts)[0]
    return total


def _sources(problem: Problem, walked: Sequence[tuple[Dim, Expr]]) -> list[attn.Source]:
    return [attn.Source(other.name, other.extent, (), (), mask, problem.sources[0].score) for other, mask in walked]


def _of_queries(problem: Problem, of: Sequence[int], found: Patches) -> Problem:
    *batch, row = found.domain
    inside = facts_about(found.domain, problem.facts)

    def moved(index: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(inside.simplify(substitute(e, found.held)) for e in index)

    sources = list(problem.sources)
    for n, box in zip(of, found.boxes, strict=True):
        sources[n] = box.source(sources[n], found.domain, box.dim.extent, problem.facts)
    maps: dict[str, Any] = {name: moved(getattr(problem, name)) for name in _MAPS}
    return replace(problem, batch=tuple(batch), row=row, sources=tuple(sources), **maps)


def _of_keys(problem: Problem, of: Sequence[int], found: Patches) -> Problem:
    """Only the sources ``of`` are those of the kernel; others keep maps that it does not read."""
    *batch, key = found.domain
    (n,), (box,) = of, found.boxes
    inside = facts_about((*found.domain, box.dim), problem.facts)
    sources = list(problem.sources)
    sources[n] = box.source(sources[n], found.domain, key.extent, problem.facts)
    maps: dict[str, Any] = {name: tuple(box.moved(e, inside) for e in getattr(problem, name)) for name in _MAPS}
    return replace(problem, batch=tuple(batch), row=box.dim, sources=tuple(sources), **maps)
