"""The flow of control in a listing: where loops begin and end.

Assemblers put what is rarely run at the end, such as waiting for a copy that is late: a jump to there, and one back.
That jump back closes no loop, for what it goes back to need not have been run before.  So a loop is a way to an
instruction that lies on every way to where it comes from: one that *dominates* it.  Assemblers also put the end of a
loop before its beginning, to go on there without a jump: the way back is then one to the next instruction.
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
        self.before = before
        self.dominators = _dominators(before)

    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of each loop, as far as it lies in one piece."""
        found: dict[int, tuple[int, int]] = {}
        for b, sources in enumerate(self.before):
            back = [s for s in sources if b in self.dominators[s]]
            if not back:
                continue
            first, last = b, max(back)
            if last < b:  # turned round: its end stands before its beginning
                body = self._body(b, back)
                last = b
                while first - 1 in body:
                    first -= 1
                while last + 1 in body:
                    last += 1
            found[b] = self.starts[first], self.lasts[last]
        return [found[b] for b in sorted(found)]

    def _body(self, header: int, back: Collection[int]) -> set[int]:
        """The blocks on the ways from the header to itself: what leads to the edges back."""
        body, waiting = {header}, list(back)
        while waiting:
            if (b := waiting.pop()) not in body:
                body.add(b)
                waiting += self.before[b]
        return body


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
