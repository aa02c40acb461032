"""How often each size occurs in a shape: what tells an image whose pixels attend from a square of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .expr import Expr, free_vars

Powers = Counter[str]


def powers(shape: Iterable[Expr]) -> Powers:
    """How often each size occurs in a shape."""
    return Counter(name for size in shape for name in free_vars(size))


def no_larger(mine: Powers, operands: Sequence[Powers]) -> bool:
    """Has a tensor no more of the tokens than one of an attention's operands?

    Sizes that no operand has are channels of its own: they are no tokens.
    """
    tokens = set().union(*operands)
    own = Counter({name: count for name, count in mine.items() if name in tokens})
    return any(own <= operand for operand in operands)
