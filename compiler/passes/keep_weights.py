"""Have attentions keep what a gradient computes their weights again from, where the log-sum-exp is too coarse.

before::

    %o, %lse = attn.attend ... normaliser softmax out "b, h, i, e" lse "b, h, i"

after::

    %o, %lse, %w = attn.attend ... normaliser softmax out "b, h, i, e" lse "b, h, i" weights base2

A weight is ``exp(score - lse)``, so an error in the last place of ``lse`` is one of all weights of a row, the larger
the larger the scores are: a score of 100 leaves 17 bits of float32 behind the point.  What the softmax itself took, the
row's maximum and the inverse of its sum, gives the very weights that the output was made of.

Where everything is 16 bits wide, these errors are far below those of the results, and ``lse`` is one number less.
Scores with fills such as -1e9 keep their maximum whatever the type: a row of nothing else has an ``lse`` without any
digits of its sum.  Such scores are subtracted in units of their own, ``natural``: in base 2 they lose what they differ
by.

Few rows keep none: their gradient measures its own (``gradient_weights.py``).  A guard tells few from many, that of
``few-rows``.

Legality: none needed; a result more.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.expr import Expr
from ..analysis.devices import device
from .common import change_attends
from .few_rows import are_few, count_of
from .kernel_builder import in_own_units, wants_weights
from .rewriting import replace


@dataclass(frozen=True)
class KeepWeights(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand."""

    name = "keep-weights"
    target: str = "cpu-avx512"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))

        def change(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> list[Expr]:
            if attend.units or not wants_weights(attend):
                return []
            *batch, row = attend.domain
            found = count_of(row.extent, batch, sizes) if sizes else None
            few, guards = are_few(*found, device(self.target)) if found else (False, [])
            if not few:
                new = attend.rebuilt(units="natural" if in_own_units(attend) else "base2")
                replace(attend, new, [new.out, new.lse])
            return guards

        change_attends(op, change)
