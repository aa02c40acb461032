"""Which values of a plan may share memory, so that one that nobody reads again can be written in place.

``x[:, n, y0:y1] = part`` is captured as new tensors, ``slice_scatter`` and ``select_scatter``, for which PyTorch copies
all of ``x`` each time.  Where the plan itself made ``x`` and nothing reads its memory afterwards, the part is written
to it instead.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence

# what gives the view that each of these replaces; their first argument is the whole, the second the part
SCATTERS = {"torch.select_scatter": "torch.select", "torch.slice_scatter": "torch.ops.aten.slice.Tensor"}
FRESH = frozenset({"torch.full", "torch.zeros", *SCATTERS})  # results in memory of their own, without overlaps


def called(tree: ast.Expression) -> str:
    """The function that an expression calls; empty if it is no call."""
    return ast.unparse(tree.body.func) if isinstance(tree.body, ast.Call) else ""


def written(tree: ast.Expression) -> tuple[str, str, str] | None:
    """Of a call that gives a tensor with one part replaced: tensor, part, and the view of the tensor to write to."""
    match tree.body:
        case ast.Call(func, [ast.Name(whole), ast.Name(part), *place], []) if ast.unparse(func) in SCATTERS:
            where = ", ".join(map(ast.unparse, place))
            return whole, part, f"{SCATTERS[ast.unparse(func)]}({whole}, {where})"
    return None


class Memory:
    """For each value the values in whose memory it may lie; arguments lie in their own."""

    def __init__(self) -> None:
        self.homes: dict[str, frozenset[str]] = {}
        self.fresh: set[str] = set()

    def made(self, outputs: Iterable[str], inputs: Sequence[str], *, fresh: bool) -> None:
        """A step gave these; without ``fresh`` they may be views of what it read."""
        shared = frozenset(home for x in inputs for home in self.of(x))
        for name in outputs:
            self.homes[name] = frozenset({name}) if fresh else shared | {name}
            self.fresh |= {name} if fresh else set()

    def of(self, name: str) -> frozenset[str]:
        return self.homes.get(name, frozenset({name}))

    def free(self, whole: str, part: str, live: Callable[[str], bool]) -> bool:
        """May ``part`` be written into ``whole``?  ``live`` says whether a value is read later on."""
        if whole not in self.fresh or whole in self.of(part) or live(whole):
            return False
        return not any(whole in homes and live(name) for name, homes in self.homes.items() if name != whole)
