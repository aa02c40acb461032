"""Points of a domain, to find out quickly what does not hold everywhere."""

from __future__ import annotations

import random
from collections.abc import Mapping

from .expr import OPS, Const, Expr, Op, Var
from .poly import Poly

POINTS = 10
Values = tuple[int, ...]


class Samples:
    """Values of integer expressions at a few points: first the low end of each range, then its high end."""

    def __init__(self, ranges: Mapping[str, tuple[Expr | None, Expr | None]], witness: Mapping[str, int]):
        self.ranges, self.witness = ranges, witness
        self._memo: dict[Expr, Values | None] = {}

    def refutes(self, p: Poly) -> bool:
        """Is ``p`` negative somewhere?  A point outside what is known costs a proof, never a wrong one."""
        totals = [0] * POINTS
        for monomial, factor in p.items():
            product = [factor] * POINTS
            for atom in monomial:
                values = self.of(atom)
                if values is None:
                    return False
                product = [x * y for x, y in zip(product, values, strict=True)]
            totals = [x + y for x, y in zip(totals, product, strict=True)]
        return min(totals) < 0

    def of(self, e: Expr) -> Values | None:
        """``e`` at the points; None where it reads a tensor or a variable without bounds."""
        if e not in self._memo:
            self._memo[e] = None  # a range that speaks of itself has no value
            self._memo[e] = self._of(e)
        return self._memo[e]

    def _of(self, e: Expr) -> Values | None:
        match e:
            case Const(value):
                return (value,) * POINTS  # type: ignore[return-value]
            case Var(name):
                if name in self.witness:
                    return (self.witness[name],) * POINTS
                low, high = self.ranges.get(name, (None, None))
                lows, highs = (None if x is None else self.of(x) for x in (low, high))
                if lows is None or highs is None or any(a > b for a, b in zip(lows, highs, strict=True)):
                    return None
                pick = random.Random(name)
                inner = (pick.randint(a, b) for a, b in zip(lows[2:], highs[2:], strict=True))
                return (lows[0], highs[1], *inner)
            case Op(name, args):
                of_args = [self.of(x) for x in args]
                if any(x is None for x in of_args):
                    return None
                try:
                    return tuple(OPS[name][1](*at) for at in zip(*of_args, strict=True))  # type: ignore[arg-type]
                except (ArithmeticError, ValueError, TypeError):
                    return None
        return None
