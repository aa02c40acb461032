"""The weights of few rows, measured by the gradient itself.

A kernel of few rows sums the features of an inner product in another order than those that a gradient consists of.  The
last places of a score of 100 differ then, and with another kernel's sum the weights of a row would not add up to 1.  So
one more kernel walks the keys of the rows, few as they are::

    %w = tile.launch @f_weights(%q, %k)    // rows i: the peak, and the inverse of the sum
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import SSAValue

from ...ir import attn
from ...ir.expr import Const
from . import running_softmax
from .gradient_frame import Frame
from .gradient_pairs import Keys, Pairs, captured
from .gradient_problem import Problem
from .inner_products import load_lefts


def weights_kernel(problem: Problem, name: str) -> Frame:
    """For each row what its attention would keep as its weights."""
    i, rows = problem.row.name, problem.rows
    type = attn.TensorType.of([Const(2), *rows.shape], rows.element)
    frame = Frame(problem, name, problem.row, {"weights": type})
    b = frame.builder
    query = b.load("query", frame.memory["query"], problem.query_map, i, "d")
    lefts = load_lefts(b, captured(frame), problem.sources, i)
    state = running_softmax.start(b, i)
    for n, source in enumerate(problem.sources):
        pairs = Pairs(frame, n, [])

        def step(carried: Sequence[SSAValue], n: int = n, pairs: Pairs = pairs) -> list[SSAValue]:
            _, s = pairs.scores(query, Keys.load(frame, n), lefts, i, pairs.source.key)
            masked = b.mask(s, pairs.source.mask)
            return list(
                running_softmax.fold(b, carried, masked, pairs.factor, problem.own_units, i, pairs.source.key)[:2]
            )

        state = b.loop(problem.key(n), source.mask, state, step)
    m, l = state
    inverse = running_softmax.inverse(b, l, i)
    running_softmax.store_weights(b, m, inverse, frame.memory["weights"], problem.weights_maps, i)
    return frame
