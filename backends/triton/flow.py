"""The flow of control in a listing: which jumps back really close a loop.

Assemblers put what is rarely run at the end, such as waiting for a copy that is late: a jump to there, and one back.
That jump back closes no loop, for what it goes back to need not have been run before.  So a loop is a jump to an
instruction that lies on every way to the jump: one that *dominates* it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class Flow:
    """Blocks of instructions that run one after the other, and the blocks on every way to each of them."""

    def __init__(self, count: int, jumps: Mapping[int, int], ends: Collection[int]):
        """``jumps`` leads from an instruction to another; behind one of ``ends`` the next is not reached."""
        self.starts = sorted({0, *jumps.values(), *(n + 1 for n in (*jumps, *ends))} - {count})
        self.of = {start: b for b, start in enumerate(self.starts)}
        self.lasts = [start - 1 for start in [*self.starts[1:], count]]
        before: list[list[int]] = [[] for _ in self.starts]
        for b, last in enumerate(self.lasts):
            if last in jumps and jumps[last] in self.of:
                before[self.of[jumps[last]]].append(b)
            if last not in ends and b + 1 < len(self.starts):
                before[b + 1].append(b)
        self.dominators = _dominators(before)

    def closes(self, jump: int, target: int) -> bool:
        """Is the jump at the end of a loop that begins at ``target``?"""
        block = next(b for b, last in enumerate(self.lasts) if last == jump)
        return self.of[target] in self.dominators[block]


def _dominators(before: list[list[int]]) -> list[set[int]]:
    """The blocks on every way from the first to each; a block that no jump names is a way in of its own."""
    every = set(range(len(before)))
    found = [{b} if b == 0 or not before[b] else set(every) for b in range(len(before))]
    changed = True
    while changed:
        changed = False
        for b, sources in enumerate(before):
            if b and sources:
                new = set.intersection(*(found[s] for s in sources)) | {b}
                if new != found[b]:
                    found[b], changed = new, True
    return found
