"""Which values of a plan may share memory, so that one that nobody reads again can be written in place.

Elementwise work on a value that the plan itself made, and that nothing reads afterwards, overwrites it: memory that is
there already need not be mapped, cleared and read into the cache first.  So do writes to a part, of which
:mod:`.plan_writes` tells.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from .plan_writes import SCATTERS

_UNARY = """abs acos asin atan ceil cos cosh digamma erf erfc exp exp2 expm1 floor frac lgamma log log10 log1p log2 neg
relu round rsqrt sigmoid sign sin sinc sinh sqrt tan tanh trunc"""
_OTHERS = "amax amin cat cumsum full masked_fill matmul mean repeat_interleave softmax sum where zeros"
_FUNCTIONAL = """avg_pool1d avg_pool2d avg_pool3d conv1d conv2d conv3d gelu layer_norm linear max_pool1d max_pool2d
max_pool3d silu"""
UNARY = frozenset(_UNARY.split())  # functions of one tensor, each with a method that overwrites it
ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
# results in memory of their own, without overlaps
FRESH = frozenset(
    [*SCATTERS, *(f"torch.{f}" for f in (*UNARY, *_OTHERS.split()))]
    + [f"torch.nn.functional.{f}" for f in _FUNCTIONAL.split()]
)


def called(tree: ast.Expression) -> str:
    """The function that an expression calls; empty if it is no call."""
    return ast.unparse(tree.body.func) if isinstance(tree.body, ast.Call) else ""


def is_fresh(tree: ast.Expression, casts: bool) -> bool:
    """Does a call surely give a tensor in memory of its own?  ``casts``: its dtype is none of its operands'."""
    match tree.body:
        case ast.Call(ast.Attribute(_, "to")):
            return casts
        case ast.BinOp(_, operator, _):
            return type(operator) in ARITHMETIC
        case ast.UnaryOp(ast.USub(), _):
            return True
    return called(tree) in FRESH


def updates(tree: ast.Expression) -> Iterator[tuple[str, ast.expr, str]]:
    """Of elementwise work: an operand that may take the result, what else is read, and the call that writes there."""
    nothing = ast.Tuple([])
    match tree.body:
        case ast.BinOp(a, operator, b) if name := ARITHMETIC.get(type(operator)):
            if isinstance(a, ast.Name):
                yield a.id, b, f"{a.id}.{name}_({ast.unparse(b)})"
            if isinstance(b, ast.Name) and isinstance(operator, ast.Add | ast.Mult):
                yield b.id, a, f"{b.id}.{name}_({ast.unparse(a)})"
        case ast.UnaryOp(ast.USub(), ast.Name(x)):
            yield x, nothing, f"{x}.neg_()"
        case ast.Call(ast.Attribute(ast.Name("torch"), name), [ast.Name(x)], []) if name in UNARY:
            yield x, nothing, f"{x}.{name}_()"
        case ast.Call(ast.Attribute(ast.Name("torch"), "masked_fill"), [ast.Name(x), mask, value], []):
            yield x, ast.Tuple([mask, value]), f"{x}.masked_fill_({ast.unparse(mask)}, {ast.unparse(value)})"


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

    def free(self, whole: str, others: Collection[str], live: Callable[[str], bool]) -> bool:
        """May ``whole`` be overwritten while ``others`` are read?  ``live`` says whether a value is read later on."""
        if whole not in self.fresh or live(whole) or any(whole in self.of(x) for x in others):
            return False
        return not any(whole in homes and live(name) for name, homes in self.homes.items() if name != whole)
