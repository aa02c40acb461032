"""The traced program: PyTorch ops in one canonical spelling, with symbolic sizes and the user's lines.

A :class:`Node` keeps its arguments by name, defaults filled in and dimensions counted from 0, so that a reader
matches one spelling.  The spellings that the tracer folds together:

=====================================================  =========================================================
written                                                node
=====================================================  =========================================================
``+ - *``, ``add_``, ``rsub``, ``alpha=``              ``add sub mul`` (input, other)
``/``, ``//``, ``%``, ``**``                           ``div floor_divide remainder pow`` (input, other)
``== != < <= > >=``                                    ``eq ne lt le gt ge`` (input, other)
``& | ^ ~`` on booleans, ``logical_*``                 ``logical_and logical_or logical_xor logical_not``
``& | ^ ~ << >>`` on integers                          ``bitwise_and bitwise_or bitwise_xor bitwise_not
                                                       bitwise_left_shift bitwise_right_shift``
``minimum``, ``torch.max(a, b)``, ``clamp``            ``minimum maximum`` (input, other); one side may be a number
``exp log sqrt abs neg tanh sigmoid relu ...``         the same (input)
``where``                                              ``where`` (condition, input, other)
``masked_fill``, ``x[mask] = number``                  ``masked_fill`` (input, mask, value)
``sum mean amax amin prod any all``                    the same (input, dim: tuple[int, ...], keepdim)
``max(dim=)``, ``argmax``                              ``amax``, ``argmax`` (input, dim: int, keepdim)
``softmax log_softmax logsumexp``                      ``softmax log_softmax`` (input, dim), ``logsumexp`` as ``sum``
``cumsum cumprod``                                     the same (input, dim)
``@ mm bmm mv dot``                                    ``matmul`` (input, other)
``baddbmm addmm``                                      ``matmul`` and ``add``
``einsum``                                             ``einsum`` (equation, operands: tuple[Node, ...]); no ellipsis,
                                                       always with ``->``
``linear``, ``scaled_dot_product_attention``           the same, PyTorch's argument names
``transpose permute mT T movedim swapaxes``            ``permute`` (input, dims)
``view reshape flatten unflatten``                     ``reshape`` (input, shape)
``unsqueeze``, ``x[None]``                             ``unsqueeze`` (input, dim)
``squeeze``                                            ``squeeze`` (input, dim: tuple[int, ...])
``expand broadcast_to expand_as``                      ``expand`` (input, shape)
``x[a:b:c] narrow chunk split``                        ``slice`` (input, dim, start, stop, step); bounds are Exprs
                                                       already clamped to [0, size]
``x[n] select unbind``                                 ``select`` (input, dim, index: Expr)
``x[tensor] index_select take_along_dim``              ``index`` (input, indices: tuple[Node | None, ...]),
                                                       ``gather`` (input, dim, index)
``cat stack hstack ...``                               ``cat`` (tensors, dim); stack is cat of unsqueeze
``roll flip repeat repeat_interleave tril triu``       ``roll`` (input, shifts, dims), ``flip`` (input, dims),
                                                       ``repeat`` (input, repeats), ``repeat_interleave``
                                                       (input, repeats, dim),
                                                       ``tril triu`` (input, diagonal)
``F.pad`` (constant)                                   ``pad`` (input, pad: PyTorch's order, value)
``Tensor.unfold``                                      ``unfold`` (input, dim, size, step)
``arange``                                             ``arange`` (start, stop, step)
``zeros full new_* *_like tensor(3.)``                 ``full`` (shape, value)
``to float type_as ...``                               ``to`` (input); the type is the node's
``clone contiguous detach``, a move to the same        nothing: the same value
device, ``dropout`` that drops nothing
anything else that PyTorch runs                        its own name; arguments as written
=====================================================  =========================================================

An op with several results is followed by ``result`` nodes (input, index), which hold the shapes.
An argument is a Node, a Python literal, a dtype, an :class:`~attnc.ir.expr.Expr` over size symbols, or a tuple of
these.  A Python float argument of the user's function is a rank-0 Input, and is ``Load(name, ())`` in an Expr.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ir.expr import TRUE, Const, Expr, Number, Op, Var, conjuncts, evaluate, free_vars, loads, op, rewrite, substitute
from ..ir.simplify import simplify
from .errors import Mismatch, UnknownSizeError

Source = tuple[str, str]  # ("arg", "q") or ("capture", "self.bias"): where a call finds the tensor


def _loose(a: Expr, b: Expr) -> frozenset[str]:
    return free_vars(a) - free_vars(b)


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's program."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


@dataclass(eq=False, slots=True)
class Node:
    """One tensor value.  ``call`` is ``op`` as Python text over ``x0, x1, ...``, the tensors of ``inputs``."""

    id: int
    op: str
    args: dict[str, Any]
    shape: tuple[Expr, ...]
    dtype: torch.dtype
    location: Location
    call: str = ""
    inputs: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        return str(self.id)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def __str__(self) -> str:
        args = ", ".join(f"{k}={_arg_text(v)}" for k, v in self.args.items())
        return f"%{self.name} = {self.op}({args}) : {type_text(self)}"


@dataclass(eq=False, slots=True)
class Input(Node):
    """A tensor the program starts from: an argument, or one that the function reaches by itself."""

    label: str = ""
    source: Source = ("arg", "")

    @property
    def name(self) -> str:
        return self.label

    def __str__(self) -> str:
        return f"%{self.name} = {self.source[0]} {self.source[1]} : {type_text(self)}"


@dataclass(slots=True)
class Graph:
    """A traced function.

    ``hints`` are the sizes (and scalar arguments) seen while tracing.  ``guards`` are the facts about them that
    the trace relied on; a call that breaks one needs another trace.  A guard ``N_k == N`` or ``D == 64`` also
    makes ``N`` or ``64`` the one way that the size is written from then on (see :meth:`canon`).
    """

    name: str
    location: Location
    inputs: list[Input] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: Any = None  # nested tuples, lists and dicts of Nodes, Exprs and plain values
    guards: list[Expr] = field(default_factory=list)
    value_guards: list[Expr] = field(default_factory=list)  # the same about scalar arguments
    hints: dict[str, Number] = field(default_factory=dict)
    bindings: dict[str, tuple[int, int]] = field(default_factory=dict)  # size symbol -> (input, axis)
    late: set[str] = field(default_factory=set)  # sizes that are known only after a call to PyTorch inside
    cut: Location | None = None  # a line where the function keeps gradients out, by detach() or torch.no_grad()
    peak: Location | None = None  # a line where it does so for a maximum only
    aliases: dict[str, Expr] = field(default_factory=dict)
    traced: int = 0  # how many of the guards come from the trace, and so are part of :meth:`text`
    exact: set[tuple[Expr, Expr]] = field(default_factory=set)  # (N, 128) where N % 128 == 0 is a guard

    # ---- sizes

    def canon(self, e: Expr) -> Expr:
        """``e`` with sizes that are known to be equal written as one."""
        while free_vars(e) & self.aliases.keys():
            e = substitute(e, self.aliases)
        return rewrite(e, self._undivided) if self.exact else e

    def _undivided(self, e: Expr) -> Expr | None:
        match e:
            case Op("*", (Op("//", (whole, part)), other)) | Op("*", (other, Op("//", (whole, part)))):
                return whole if part == other and (whole, part) in self.exact else None
        return None

    def hint(self, e: Expr, other: Mapping[str, Number] | None = None) -> Number:
        """The value of ``e`` in the traced call, or where ``other`` sizes differ from its."""
        return evaluate(_scalars_as_vars(e), {**self.hints, **other} if other else self.hints)

    def assume(self, cond: Expr) -> bool:
        """Is ``cond`` true in the traced call?  The answer becomes a guard."""
        cond = self.canon(cond)
        truth = bool(self.hint(cond))
        self._record(cond if truth else op("not", cond))
        return truth

    def specialise(self, e: Expr) -> int:
        """The value of the size ``e`` as a number, which becomes a guard."""
        value = self.hint(self.canon(e))
        assert isinstance(value, int), f"{e} is not a size"
        self.assume(op("==", e, value))
        return value

    def _record(self, fact: Expr) -> None:
        for term in conjuncts(fact):
            if term == TRUE or _trivial(term):
                continue
            if unknown := sorted(free_vars(term) & self.late):
                raise UnknownSizeError(
                    f"needs to know {term} before {', '.join(unknown)} exists, the size of a result that attnc has no "
                    "rule for"
                )
            match term:
                case Op("==", (Var(a), Var(b))):  # the older name stays
                    older, newer = sorted((a, b), key=list(self.hints).index)
                    term = op("==", Var(newer), Var(older))
                    self.aliases[newer] = Var(older)
                case Op("==", (Var(name, "int"), other)) | Op("==", (other, Var(name, "int"))):
                    term = op("==", Var(name), other)
                    if name not in free_vars(other):
                        self.aliases[name] = other
                case Op("==", (Op("%", (whole, part)), Const(0))):
                    self.exact.add((whole, part))
                case Op("==", (Op("//", (Var() as whole, Const() as part)), Const() as value)) if (
                    whole,
                    part,
                ) in self.exact:
                    self._record(op("==", whole, part * value))
                    continue
            kept = self.value_guards if loads(term) else self.guards
            if term != TRUE and not _trivial(term) and term not in kept:
                kept.append(term)

    def unify(self, a: Expr, b: Expr) -> Expr:
        """Record that two sizes are equal.  Raises :class:`Mismatch` if they are not in the traced call."""
        a, b = self.canon(a), self.canon(b)
        if self.hint(a) != self.hint(b):
            raise Mismatch(f"sizes {self._shown(a)} and {self._shown(b)} must be equal")
        # M + M // 8 and N + N // 8, or M + 1 and N + 1: as M is N, nearly always
        left, right = (sorted(x, key=lambda n: (self.hint(Var(n)), n)) for x in (_loose(a, b), _loose(b, a)))
        pairs = [(Var(x), Var(y)) for x, y in zip(left, right, strict=False) if self.hint(Var(x)) == self.hint(Var(y))]
        renamed = substitute(a, {x.name: y for x, y in pairs})
        if pairs and len(pairs) == len(left) == len(right) and simplify(renamed) == simplify(b):
            for x, y in pairs:
                self.assume(op("==", x, y))
        self.assume(op("==", a, b))
        return self.canon(a)

    def _shown(self, e: Expr) -> str:
        return str(e) if isinstance(e, Const) else f"{e} = {self.hint(e)}"

    # ---- reading

    def settle(self) -> None:
        """Write every size in its final form; called when the trace, or a reader that assumes more, is done."""
        self.guards = list(dict.fromkeys(self._settled(g) for g in self.guards))
        for node in self.all_nodes():
            node.shape = tuple(self.canon(e) for e in node.shape)
            node.args = {
                k: map_arg(v, lambda x: self.canon(x) if isinstance(x, Expr) else x) for k, v in node.args.items()
            }
        self.outputs = map_arg(self.outputs, lambda x: self.canon(x) if isinstance(x, Expr) else x)

    def news(self) -> list[Expr]:
        """Guards for a reader of the settled graph: without those of the trace that only say how a size is written."""
        found = []
        for n, guard in enumerate(self.guards):
            match guard:
                case Op("==", (Var(name), _)) if n < self.traced and name in self.aliases:
                    continue
            if (settled := self._settled(guard) if n < self.traced else guard) != TRUE:
                found.append(settled)
        return found

    def _settled(self, guard: Expr) -> Expr:
        match guard:
            case Op("==", (Var(name), other)) if name in self.aliases:  # says what the other guards are written with
                return op("==", Var(name), self.canon(other))
        return self.canon(guard)

    def all_nodes(self) -> Iterator[Node]:
        yield from self.inputs
        yield from self.nodes

    def output_nodes(self) -> list[Node]:
        """Tensors among the outputs, in order of appearance."""
        return [x for x in leaves(self.outputs) if isinstance(x, Node)]

    def users(self) -> dict[Node, list[Node]]:
        """For each node, the nodes that read it."""
        result: dict[Node, list[Node]] = {n: [] for n in self.all_nodes()}
        for node in self.nodes:
            for source in dict.fromkeys(node.inputs):
                result[source].append(node)
        return result

    def text(self) -> str:
        """Canonical text: the ``capture`` stage."""
        lines = [f"graph @{self.name} {{  # {self.location}"]
        lines += [f"  {node}" for node in self.inputs]
        lines += [f"  {node}  # {node.location}" for node in self.nodes]
        lines += [f"  guard {guard}" for guard in [*self.guards, *self.value_guards]]
        lines += [f"  return {_arg_text(self.outputs)}", "}"]
        return "\n".join(lines) + "\n"


def _trivial(cond: Expr) -> bool:
    """Sizes are never negative."""
    match cond:
        case Op(">=", (Var(_, "int"), Const(bound))) | Op("<=", (Const(bound), Var(_, "int"))):
            return bound <= 0
        case Op(">", (Var(_, "int"), Const(bound))) | Op("<", (Const(bound), Var(_, "int"))):
            return bound < 0
    return False


def _scalars_as_vars(e: Expr) -> Expr:
    """Scalar arguments as variables, for evaluation with their values."""
    if not loads(e):
        return e
    return rewrite(e, lambda x: Var(x.tensor, "float") if x in loads(e) else None)  # type: ignore[attr-defined]


def leaves(value: Any) -> Iterator[Any]:
    """What nested tuples, lists and dicts hold."""
    if isinstance(value, tuple | list):
        for x in value:
            yield from leaves(x)
    elif isinstance(value, dict):
        for x in value.values():
            yield from leaves(x)
    else:
        yield value


def map_arg(value: Any, f: Callable[[Any], Any]) -> Any:
    """``value`` with ``f`` applied to what its nested tuples, lists and dicts hold."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_arg(x, f) for x in value))
    if isinstance(value, tuple | list):
        return type(value)(map_arg(x, f) for x in value)
    if isinstance(value, dict):
        return {k: map_arg(x, f) for k, x in value.items()}
    return f(value)


def type_text(node: Node) -> str:
    sizes = ", ".join(str(e) for e in node.shape)
    return f"[{sizes}] {str(node.dtype).removeprefix('torch.')}"


def _arg_text(value: Any) -> str:
    if isinstance(value, Node):
        return f"%{value.name}"
    if isinstance(value, tuple | list):
        inner = ", ".join(_arg_text(x) for x in value)
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"({inner}{comma})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_arg_text(x)}" for k, x in value.items()) + "}"
    return str(value) if isinstance(value, Expr | torch.dtype) else repr(value)


def names(nodes: Iterable[Node]) -> str:
    """The nodes' names for a message."""
    return ", ".join(f"%{n.name}" for n in nodes)
