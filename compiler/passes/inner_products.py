"""Scores with inner products of their own, ``inner(p[b, h, i, d], r[h, i - j + 511, d])``, in kernels.

A tile of pairs takes the rows of ``r`` from a band: row and key count in their distance alone.  ``tile.band_dot`` is
the product of a tile of ``p`` with that band, each pair with its own row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.ir import SSAValue

from ...ir import attn
from ...ir.distance import by_distance
from ...ir.errors import AttncError
from ...ir.expr import Lambda, Load, Op, Var, free_vars, inners, rewrite
from .kernel_builder import KernelBuilder, fresh


class NotABandError(AttncError):
    """An inner product that no kernel computes."""


def operands(product: Op) -> tuple[Load, Load]:
    """The read that the row decides, and the one that row and key decide together."""
    left, right = product.args
    assert isinstance(left, Load)
    assert isinstance(right, Load)
    return left, right


def products_of(op: attn.Attention) -> list[Op]:
    """The inner products that scores hold themselves."""
    return list(dict.fromkeys(x for s in op.source_list for x in inners(s.score.body)))


def check(product: Op, row: str, key: str) -> None:
    """Raise :class:`NotABandError` unless a tile of pairs reads a band."""
    left, right = operands(product)
    wrong = key in free_vars(left) or not {row, key} <= free_vars(right)
    if wrong or by_distance(right.index, row, key) is None:
        raise NotABandError(
            f"the score holds {product}; a kernel computes one of a row {row} with what its distance from the key "
            f"{key} says, such as r[{row} - {key}]"
        )


def load_lefts(
    b: KernelBuilder, memory: Mapping[str, SSAValue], sources: Sequence[attn.Source], row: str
) -> dict[Load, SSAValue]:
    """A tile of each operand that the row decides; ``memory`` is by the captured tensors' names."""
    reads = dict.fromkeys(operands(x)[0] for s in sources for x in inners(s.score.body))
    return {read: b.load("left", memory[read.tensor], read.index, row, "d") for read in reads}


def tiles_of(
    b: KernelBuilder,
    memory: Mapping[str, SSAValue],
    source: attn.Source,
    row: str,
    lefts: Mapping[Load, SSAValue],
    *axes: str,
) -> dict[Op, SSAValue]:
    """The inner products of a source's score for a tile of pairs."""
    found = {}
    for product in inners(source.score.body):
        check(product, row, source.key)
        left, right = operands(product)
        found[product] = b.band("band", lefts[left], memory[right.tensor], right.index, *axes)
    return found


def named(score: Lambda, given: Mapping[Op, SSAValue]) -> tuple[Lambda, list[SSAValue]]:
    """``score`` with an argument for each inner product that it holds, and these."""
    taken = set(score.params) | free_vars(score.body)
    names = {x: Var(fresh("band", taken), "float") for x in inners(score.body)}
    body = rewrite(score.body, lambda e: names.get(e) if isinstance(e, Op) else None)
    return Lambda((*score.params, *(v.name for v in names.values())), body), [given[x] for x in names]
