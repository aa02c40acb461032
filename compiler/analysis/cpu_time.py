"""How long a CPU takes for an attention or its gradient, from what its kernels do: see ``docs/cost-model.md``.

Everything is counted for all tasks together and priced in cycles, whose length follows from the device's peak.  What a
cycle buys is that of the code that ``backends/mlir_cpu`` writes: register blocks of multiply-adds with broadcast
scalars, one pass of exponentials, tiles of matrix registers; and of two loads, two vector operations, one shuffle and
one store a cycle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ...ir.expr import Expr, Load, Op, free_vars
from ...ir.expr import walk as nodes
from .devices import ELEMENT_BYTES, Device
from .space import SIDE, Choice, converts, lanes_of, on_matrix
from .walked import Walk, Walked, rows_of, swapped, walk
from .work import Work

BLOCK = 10.0  # cycles in which a register block starts, and its loop ends: a mispredicted branch, and latencies
TRANSPOSED = 5.0  # a vector that is read, or written, across lanes: load, four shuffles, store
MOVED = 2.0  # a vector that is read, changed and written
CONVERTED = 3.0  # a vector that is widened, or whose elements are paired with the next row's
GATHER = 20.0  # a vector of elements that lie apart in memory
SQUARE = 10.0  # the same where elements of other vectors lie between: squares are read, and transposed
ROWS = 16  # of a block of matrix registers
MATRIX_BLOCK = 16.0  # cycles in which a block of matrix registers is set to zero and its loop ends
STORE_TILES = 40.0  # a block of two matrix registers that goes to memory: 32 lines
LOAD_TILES = 24.0
PACKED = 0.4  # an element that is put beside another of the next row


@dataclass(frozen=True)
class Parts:
    """Seconds of one core, by what they are spent on."""

    products: float = 0.0
    exponentials: float = 0.0
    masks: float = 0.0  # and scores, where these are more than products
    moves: float = 0.0  # accumulators that are kept in memory, and what is transposed or widened for a step
    steps: float = 0.0
    tasks: float = 0.0
    memory: float = 0.0  # waits that arithmetic does not hide

    @property
    def total(self) -> float:
        return math.fsum(getattr(self, f.name) for f in fields(self))

    def __add__(self, other: Parts) -> Parts:
        return Parts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def times(self, factor: float) -> Parts:
        return Parts(*(getattr(self, f.name) * factor for f in fields(self)))


def cpu_time(
    work: Work, on: Device, choice: Choice, sizes: Mapping[str, int], gradient: bool = False
) -> tuple[Parts, float]:
    """Seconds of one core, and how many tasks there are."""
    parts, tasks = Parts(), 0.0
    for n in range(len(work.sources)):
        part, count = _Source(work, n, on, choice, sizes, gradient).time()
        parts, tasks = parts + part, max(tasks, count)
    if gradient:
        parts += _deltas(work, on, sizes)
    return parts, tasks


class _Source:
    """One source of an attention: what is counted, and the shape of the loops."""

    def __init__(self, work: Work, n: int, on: Device, choice: Choice, sizes: Mapping[str, int], gradient: bool):
        self.work, self.on, self.sizes = work, on, sizes
        self.source, self.gradient, self.first = work.sources[n], gradient, n == 0
        self.rows, self.step = choice.tiles
        self.matrix = on_matrix(on, work.dtype)
        self.lanes = lanes_of(on, work.dtype)
        self.cycle = on.units * self.lanes / on.peak["f64" if work.dtype == "f64" else "f32"]
        self.element = 8 if work.dtype == "f64" else 4
        self.d, self.e = work.width, work.value_width
        self.domain, self.walked = swapped(work, n) if gradient else (work.domain, work.sources[n])
        self.row, self.key = self.domain[-1].name, self.walked.key

    def walk(self, rows: int, step: int, block: int = 1) -> Walk:
        return walk(self.domain, self.walked, self.work.facts, self.sizes, rows, step, block)

    def time(self) -> tuple[Parts, float]:
        if self.matrix:
            counted, parts = self._on_matrix_gradient() if self.gradient else self._on_matrix()
        else:
            counted, parts = self._in_lanes_gradient() if self.gradient else self._in_lanes()
        return parts, counted.tasks

    # ---- rows in the lanes ------------------------------------------------------------------------------

    @property
    def vectors(self) -> int:
        return -(-self.rows // self.lanes)

    @property
    def wide(self) -> int:
        """Lane vectors of a register block."""
        return max(n for n in range(1, self.on.vectors + 1) if self.vectors % n == 0)

    def _high(self, most: int) -> int:
        """Rows of a register block."""
        return max(1, min(self.on.vectors * self.on.height // self.wide, most))

    def _block(self, high: float, terms: float, wide: int, far: float = 0.0) -> float:
        """Cycles of one register block: its multiply-adds, or its loads, whichever are more.

        ``far`` are the lines that come from the second-level cache, for each term.
        """
        loads = high + wide
        waits = loads / 2 + far * self._line
        term = max(high * wide / self.on.units / self._rate, waits) + loads * self.on.load
        return terms * term + BLOCK * self._beside

    @property
    def _rate(self) -> float:
        """Products of an instruction."""
        pairs = self.on.peak[self.work.dtype] / self.on.peak["f64" if self.work.dtype == "f64" else "f32"]
        return max(1.0, pairs)

    @property
    def _beside(self) -> float:
        """The share of short waits and moves that multiply-adds do not hide: one unit leaves more room than two."""
        return self.on.units / 2

    @property
    def _operand(self) -> float:
        """Bytes of an element that is multiplied."""
        return self.element / self._rate

    @property
    def _line(self) -> float:
        """Cycles for a vector from the second-level cache."""
        return 4 * self.on.lanes / self.on.near / self.cycle

    @property
    def _groups(self) -> int:
        """Register blocks beside each other in a tile."""
        return self.vectors // self.wide

    def _over_features(self, loop: Walked, width: int) -> float:
        """Cycles to sum products over the steps of a loop into accumulators that stay in memory."""
        if not loop.steps or not loop.keys:
            return 0.0
        each = loop.keys / loop.steps
        blocks = -(-width // self._high(16))
        high = width / blocks
        scores, lines = self.rows * min(self.step, each) * self._operand, each * 64 / self._rate
        far = self.wide if scores + lines > self.on.fast else 0.0
        # lines beside those of a block arrive with them, and stay for the next block if there is room
        far += high * self._operand / 64 if scores + each * width * self._operand > self.on.fast else 0.0
        block = self._block(high, each, self.wide, far) + high * self.wide * MOVED * self._beside
        return loop.steps * blocks * self._groups * block

    def _scores(self, loop: Walked, width: int) -> float:
        """Cycles of inner products of ``width`` features, block by block of keys."""
        high = self._high(8)
        held = (self.rows + high) * width * self._operand + high * self.rows * self.element
        block = self._block(high, width, self.wide, self.wide if held > self.on.fast else 0.0) + high * self.wide
        return loop.blocks / high * self._groups * block

    def _extra(self, counted: Walk, vectors: float) -> float:
        """Cycles for what a score does beyond products, and for masks in partial ranges."""
        score = vector_cycles(self.source.score.body, self.row, self.key)
        mask = vector_cycles(self.source.mask, self.row, self.key) + 1
        times = 2 if self.gradient else 1
        return vectors * (counted.both.keys * score * times + counted.partial.keys * mask)

    def _exponentials(self, loop: Walked) -> float:
        """Seconds of one exponential for each pair, with scores that leave the first-level cache where they must."""
        moved = 0.0 if self.rows * self.step * self.element <= self.on.fast else 2 * self._line * self.cycle
        each = self.on.coarse if self._rate > 1 else self.on.exponential
        wide = 2.0 if self.work.dtype == "f64" else 1.0
        return loop.keys * self.vectors * (each * wide + moved)

    def _streamed(self, w: Walk, each: float) -> float:
        """Seconds in which what is walked arrives, ``each`` bytes of a key.

        Neighbours walk much the same keys, which are still near if all that a task walks fits the second-level cache.
        """
        keys = w.both.keys
        bandwidth = self.on.near if keys * each <= self.on.second * 0.75 * w.tasks else self.on.far
        return keys * each / bandwidth

    def _in_lanes(self) -> tuple[Walk, Parts]:
        high = self._high(8)
        w = self.walk(self.rows, self.step, high)
        loop, c = w.both, self.cycle
        products = self._scores(loop, self.d) + self._over_features(loop, self.e)
        exponentials = self._exponentials(loop)
        size = ELEMENT_BYTES[self.work.dtype]
        moves = 0.0
        if converts(self.on, self.work.dtype) or self._rate > 1:
            moves = loop.keys * (self.d + self.e) / self.lanes * CONVERTED
        step = loop.steps * (self.on.step + self.vectors * (2 * self.on.exponential + 4 * c))
        moved = self.vectors * (self.d + self.e) * (TRANSPOSED + MOVED) * c
        task = w.tasks * (self.on.task + moved) if self.first else 0.0  # sources share tasks
        arithmetic = products * c + exponentials
        streamed = self._streamed(w, (self.d + self.e) * size)
        return w, Parts(
            products=products * c,
            exponentials=exponentials,
            masks=self._extra(w, self.vectors) * c,
            moves=moves * c,
            steps=step,
            tasks=task,
            memory=max(0.0, streamed - arithmetic),
        )

    def _in_lanes_gradient(self) -> tuple[Walk, Parts]:
        high = self._high(8)
        w = self.walk(self.rows, self.step, high)
        loop, c, on = w.both, self.cycle, self.on
        products = self._scores(loop, self.d) + self._scores(loop, self.e)
        products += self._over_features(loop, self.e) + self._over_features(loop, self.d)
        # the gradient of the queries: features in the lanes, sums over the rows of the tile, added to memory
        vectors = -(-self.d // self.lanes)
        wide = -(-vectors // -(-vectors // on.vectors))
        tall = max(1, min(on.vectors * on.height // wide, 8))
        live = w.rows / w.tasks if w.tasks else 0.0
        blocks = (loop.keys / tall + loop.steps * 0.5) * -(-vectors // wide)
        products += blocks * self._block(tall, live, wide)
        moves = loop.keys * vectors * 3 * MOVED * self._beside
        size = ELEMENT_BYTES[self.work.dtype]
        if converts(on, self.work.dtype) or self._rate > 1:
            moves += loop.keys * (self.d + self.e) / self.lanes * CONVERTED
        exponentials = self._exponentials(loop) + loop.keys * self.vectors * 3 * c
        task = w.tasks * (on.task + 2 * self.vectors * (self.d + self.e) * (TRANSPOSED + MOVED) * c)
        each = (self.d + self.e) * size + 2 * self.d * self.element
        streamed = self._streamed(w, each)
        return w, Parts(
            products=products * c,
            exponentials=exponentials,
            masks=self._extra(w, self.vectors) * c,
            moves=moves * c,
            steps=loop.steps * on.step * 2,
            tasks=task,
            memory=max(0.0, streamed - products * c - exponentials),
        )

    # ---- on matrix registers ----------------------------------------------------------------------------

    @property
    def _tile(self) -> float:
        """Cycles of the product of two matrix registers: 16 x 16 sums of 32 products."""
        return 16 * 16 * 32 / self.on.peak["bf16"] / self.cycle

    def _strips(self) -> tuple[Walk, Walked, Walked]:
        """The walk of whole tiles, and what their strips walk: without and with a mask."""
        tall, strips = self.walk(self.rows, self.step, SIDE), self.walk(min(self.rows, SIDE), self.step, SIDE)
        count = -(-self.rows // SIDE)
        full = tall.full.times(count)
        if not tall.partial.keys:
            return tall, full, Walked()
        seen = strips.both
        left = max(0.0, seen.blocks - full.blocks)
        steps = min(tall.partial.steps * count, max(0.0, seen.steps - full.steps))
        keys = max(0.0, seen.keys - full.keys)
        return tall, full, Walked(max(steps, left / self.step), keys, left)

    def _on_matrix(self) -> tuple[Walk, Parts]:
        w, full, partial = self._strips()
        both, c, on = full + partial, self.cycle, self.on
        halves = both.blocks / ROWS  # blocks of 16 keys and 32 rows
        scores = halves * (-(-self.d // SIDE) * 2 * self._tile + MATRIX_BLOCK + STORE_TILES)
        groups = -(-self.e // ROWS)
        sums = groups * (both.blocks / SIDE * 2 * self._tile + both.steps * (MATRIX_BLOCK + STORE_TILES + LOAD_TILES))
        vectors = SIDE // self.lanes
        rescaled = both.steps * self.e * vectors * MOVED
        packed = w.both.keys * self.e * PACKED
        extra = vector_cycles(self.source.score.body, self.row, self.key)
        mask = vector_cycles(self.source.mask, self.row, self.key) + 1
        masks = vectors * (both.blocks * extra + partial.blocks * mask)
        strips = w.tasks * -(-self.rows // SIDE)
        # sums of a tall tile leave the first-level cache between their beginning, their steps and their end
        far = 3 * self.e * self._line * c if self.rows * self.e * 4 > on.fast else 0.0
        moved = strips * vectors * ((self.d / 2 + self.e) * (TRANSPOSED + MOVED) * c + far)
        task = w.tasks * on.task + moved if self.first else 0.0
        size = ELEMENT_BYTES[self.work.dtype]
        streamed = self._streamed(w, (self.d + self.e) * size)
        return w, Parts(
            products=(scores + sums) * c,
            exponentials=both.blocks * vectors * on.coarse,
            masks=masks * c,
            moves=(rescaled + packed) * c,
            steps=both.steps * (on.step + vectors * (2 * on.coarse + 4 * c)),
            tasks=task,
            memory=max(0.0, streamed - (scores + sums) * c),
        )

    def _on_matrix_gradient(self) -> tuple[Walk, Parts]:
        w = self.walk(self.rows, self.step, ROWS)
        loop, c, on = w.both, self.cycle, self.on
        strips, vectors = -(-self.rows // SIDE), SIDE // self.lanes * -(-self.rows // SIDE)
        widths = -(-self.d // SIDE) + -(-self.e // SIDE)
        halves = loop.blocks / ROWS * strips
        products = halves * (widths * 2 * self._tile + 2 * (MATRIX_BLOCK + STORE_TILES))
        groups = -(-self.d // ROWS) + -(-self.e // ROWS)
        kept = MATRIX_BLOCK + STORE_TILES + LOAD_TILES
        padded = loop.blocks + loop.steps * ROWS / 2  # to whole blocks of 32
        products += groups * strips * (padded / SIDE * 2 * self._tile + loop.steps * kept)
        products += loop.blocks / ROWS * -(-self.d // SIDE) * (strips * 2 * self._tile + MATRIX_BLOCK + STORE_TILES)
        added = loop.keys * -(-self.d // self.lanes) * 3 * MOVED
        packed = loop.keys * (self.d + self.e) * PACKED
        task = w.tasks * (on.task + 3 * vectors * (self.d + self.e) * (TRANSPOSED + MOVED) * c)
        exponentials = loop.blocks * vectors * (on.coarse + 6 * c)
        scores = 3 * self.rows * self.step * 4
        if scores > on.fast:
            exponentials += loop.blocks * vectors * 3 * self._line * c
        size = ELEMENT_BYTES[self.work.dtype]
        each = (self.d + self.e) * size + 2 * self.d * 4
        streamed = self._streamed(w, each)
        return w, Parts(
            products=products * c,
            exponentials=exponentials,
            masks=self._extra(w, vectors) * c,
            moves=(added + packed) * c,
            steps=loop.steps * on.step * 2,
            tasks=task,
            memory=max(0.0, streamed - products * c - exponentials),
        )


def _deltas(work: Work, on: Device, sizes: Mapping[str, int]) -> Parts:
    """The kernel that prepares rows: it reads results and their gradients once."""
    rows, size = rows_of(work.domain, sizes), ELEMENT_BYTES[work.dtype]
    return Parts(memory=rows * work.value_width * 2 * size / on.far)


_COSTLY = {"exp", "exp2", "log", "log2", "tanh", "sigmoid", "sin", "cos", "pow", "erf", "sqrt"}


def vector_cycles(e: Expr, row: str, key: str) -> float:
    """Cycles of an expression for one vector of pairs; what depends on the key, or on the row, alone is hoisted."""
    total = 0.0
    for x in set(nodes(e)):
        used = free_vars(x)
        if not ({row} <= used or "dot" in used):
            continue
        if isinstance(x, Load):
            total += _read_cycles(x, row, key) if key in used else 0.0
        elif isinstance(x, Op) and (key in used or "dot" in used):
            if x.name in _COSTLY:
                total += 8.0
            elif x.name in ("//", "%"):
                total += 6.0
            else:
                total += 0.5
    return total


def _read_cycles(x: Load, row: str, key: str) -> float:
    """Cycles to read a vector of rows for one key."""
    of_row, of_key = ([n for n, e in enumerate(x.index) if axis in free_vars(e)] for axis in (row, key))
    if set(of_row) & set(of_key):
        return GATHER
    return 2.0 if of_row == [len(x.index) - 1] else SQUARE
